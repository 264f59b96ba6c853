"""Text of numbers, dates and ordered levels is read as its column is declared, whole and row by row."""

from datetime import date, datetime, time

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tabmtl
from tabmtl import SharedTrees
from tabmtl.columns import Category, Date, Number
from tabmtl.columns.declared import find_declared
from tabmtl.columns.reading import read_declared

ROWS = {
    "number": (
        ["1", "1,234.5", " -.5 ", "1e3", "12 %", "nan", "", None],
        [1, 1234.5, -0.5, 1000, 0.12, None, None, None],
    ),
    "number:,": (["1.234,5", "1 234,5", "1'234", "0,5%", "-7"], [1234.5, 1234.5, 1234, 0.005, -7]),
    "category:S<M<L": (["M", "S", None, "L"], [1, 0, None, 2]),
    "date:%m/%d/%Y": (["08/27/1994", None], [date(1994, 8, 27), None]),
    "date:%d.%m.%Y %H:%M": (["27.8.1994 09:05"], [datetime(1994, 8, 27, 9, 5)]),
    "date:%H:%M": (["09:05", "23:59:01"], [time(9, 5), time(23, 59, 1)]),
    "date": (
        ["1994-08-27 09:05", "1994-08-27T09:05:00+02:00"],
        [datetime(1994, 8, 27, 9, 5), datetime(1994, 8, 27, 7, 5)],
    ),
}


@pytest.mark.parametrize("said", ROWS)
def test_values_are_those_that_the_text_says(said):
    texts, values = ROWS[said]
    kind = find_declared(said)
    assert kind.reads(pl.String())
    for column in (pl.Series("x", texts), pl.Series("x", texts, pl.Categorical)):
        frame = column.to_frame()
        read = read_declared(frame, {"x": kind, "gone": kind})
        assert read["x"].to_list() == pytest.approx(values) if said.startswith("number") else values
        assert read_declared(frame.lazy(), {"x": kind}).collect().equals(read)
        alone = [read_declared(frame[i], {"x": kind}) for i in range(len(frame))]
        assert pl.concat(alone).equals(read)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)), st.sampled_from([".", ","]))
def test_numbers_come_back(numbers, decimal):
    texts = pl.Series("x", [repr(number).replace(".", decimal) for number in numbers], pl.String)
    assert read_declared(texts.to_frame(), {"x": Number(decimal)})["x"].to_list() == numbers


@pytest.mark.parametrize(
    ("kind", "texts", "message"),
    [
        (
            Number(),
            ["1", "many"],
            r"'x' is declared 'number', which 1 of its 2 values are not, such as \['many'\]",
        ),
        (Number(), [f"{i},5" for i in range(5)], r"say columns=\{'x': 'number:,'\}"),
        (Date(), ["27.08.1994", "13.01.1995"], r"say columns=\{'x': 'date:%d.%m.%Y'\}"),
        (Category("S<M"), ["S", "XL"], r"\['XL'\]; replace them by null, or name them in the order too"),
    ],
)
def test_what_cannot_be_read_is_told_with_the_cure(kind, texts, message):
    with pytest.raises(ValueError, match=message):
        read_declared(pl.DataFrame({"x": texts}), {"x": kind})


def test_columns_of_other_types_stay():
    frame = pl.DataFrame({"x": [1.5], "y": [date(2024, 1, 1)], "z": [True]})
    assert read_declared(frame, {"x": Number(","), "y": Date("%d.%m.%Y"), "z": Category()}).equals(frame)


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_a_model_reads_text_as_it_was_declared(tmp_path, library):
    rng = np.random.default_rng(0)
    price, size, day = rng.uniform(1000, 3000, 300).round(2), rng.integers(3, size=300), rng.integers(1, 28, size=300)
    text = pl.DataFrame(
        {
            "price": [f"{value:,.2f}".translate(str.maketrans(",.", ".,")) for value in price],
            "size": [["S", "M", "L"][i] for i in size],
            "day": [f"{i:02}.03.2024" for i in day],
            "id": [f"a{i}" for i in range(300)],
        }
    )
    plain = pl.DataFrame({"price": price, "size": size.astype(float), "day": [date(2024, 3, int(i)) for i in day]})
    y = np.column_stack([price + rng.normal(size=300), size * day])
    columns = {"price": "number:,", "size": "category:S<M<L", "day": Date("%d.%m.%Y"), "id": "ignore"}
    given_text = text if library == "polars" else text.to_pandas()
    model = SharedTrees(n_estimators=10, columns=columns, random_state=0).fit(given_text, y)
    expected = SharedTrees(n_estimators=10, random_state=0).fit(plain, y).predict(plain)
    model.save(tmp_path / "model")
    for own in (model, tabmtl.load(tmp_path / "model")):
        np.testing.assert_array_equal(own.predict(given_text), expected)
        np.testing.assert_array_equal(
            own.predict(given_text[:1].drop(columns="id") if library == "pandas" else text[0]), expected[:1]
        )
    assert tabmtl.load(tmp_path / "model").columns == columns
