"""Few rows are read to the same bits as many, whatever the types, and refused with the same words."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import numpy as np
import polars as pl
import pytest

from tabmtl.columns import Category, Sequence, Text
from tabmtl.columns.kind import MOST_ROWS
from tabmtl.encode import FeatureCoder

N = 40
NUMBERS = {
    "int8": pl.Int8,
    "int64": pl.Int64,
    "uint64": pl.UInt64,
    "int128": pl.Int128,
    "float32": pl.Float32,
    "float64": pl.Float64,
    "boolean": pl.Boolean,
}


def numbers() -> pl.DataFrame:
    """Numbers of every type, some missing, some with more digits than a float has."""
    rng = np.random.default_rng(0)
    large = (rng.integers(2**62, 2**63, size=N, dtype=np.int64)).tolist()
    columns = {
        "int8": rng.integers(-100, 100, size=N).tolist(),
        "int64": large,
        "uint64": [2 * value + 1 for value in large],
        "int128": [value**2 - 3 for value in large],
        "float32": rng.normal(size=N).astype(np.float32).tolist(),
        "float64": [float("nan") if i % 7 == 0 else value for i, value in enumerate(rng.normal(size=N).tolist())],
        "boolean": (rng.random(N) < 0.5).tolist(),
    }
    holes = rng.random((N, len(columns))) < 0.2
    return pl.DataFrame(
        {
            name: pl.Series([None if holes[i, j] else value for i, value in enumerate(values)], dtype=NUMBERS[name])
            for j, (name, values) in enumerate(columns.items())
        }
    ).with_columns(nothing=None, half=pl.col("int8") / 2)


def levels() -> pl.DataFrame:
    """Categories of every type, with missing ones, and in the last rows such as fit does not see."""
    text = (["red", "green", None, "None", "true", ""] * N)[:N]
    return pl.DataFrame(
        {
            "text": text,
            "category": pl.Series(text, dtype=pl.Categorical),
            "enum": pl.Series(text, dtype=pl.Enum(["red", "green", "None", "true", ""])),
            "flag": ([True, None, False] * N)[:N],
            "whole": ([1, -20, None, 2**40] * N)[:N],
        }
    )


def moments() -> pl.DataFrame:
    """Dates of every type and unit, before 1970 too, some missing."""
    rng = np.random.default_rng(0)
    microseconds = rng.integers(-4 * 10**16, 4 * 10**16, size=N).tolist()
    microseconds[::5] = [None] * len(microseconds[::5])
    start = datetime(1970, 1, 1)
    when = [None if own is None else start + timedelta(microseconds=own) for own in microseconds]
    stamps = pl.Series([None if own is None else own * 80 + 7 for own in microseconds], dtype=pl.Int64)
    return pl.DataFrame(
        {
            "day": pl.Series([None if own is None else own.date() for own in when], dtype=pl.Date),
            "when": pl.Series(when, dtype=pl.Datetime("us")),
            "when ms": pl.Series(when, dtype=pl.Datetime("ms")),
            "when ns": stamps.cast(pl.Datetime("ns")),
            "when UTC": stamps.cast(pl.Datetime("ns", "UTC")),
            "time": pl.Series([None if own is None else own.time() for own in when], dtype=pl.Time),
            "wait": stamps.cast(pl.Duration("ns")),
        }
    )


def lists() -> pl.DataFrame:
    """Lists and text of every kind, some missing, some empty, some with items that fit has not seen."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 9, size=N).tolist()
    letters = [rng.choice([*"abcde"], n).tolist() for n in lengths]
    letters[3], letters[4] = None, ["x", None, "a"]
    numbers = [None if own is None else rng.normal(size=len(own)).tolist() for own in letters]
    numbers[7], numbers[4] = None, [1.0, None, float("nan")]
    columns = {
        "item": rng.choice([*"abcde"], N).tolist(),
        "history": letters,
        "hours": numbers,
        "colours": [None if own is None else own[::-1] for own in letters],
        "tags": letters[::-1],
        "codes": [None if own is None else [len(own), None, 7] for own in letters],
        "vector": [None if i % 6 == 0 else own for i, own in enumerate(rng.normal(size=(N, 5)).tolist())],
        "remark": [None, "", "Straße, ein Käse – ÄÖÜ", "a b a b a b", "e\u0301t\u00e9 42_x"] * (N // 5),
    }
    array = pl.Series(rng.normal(size=(N, 3)), dtype=pl.Array(pl.Float32, 3))
    return pl.DataFrame(columns).with_columns(array=array, flags=pl.Series([[True, False, True], []] * (N // 2)))


COLUMNS = {
    "history": Sequence("item"),
    "hours": Sequence("history"),
    "colours": Sequence("history"),
    "remark": Text(),
}
CATEGORIES = dict.fromkeys(levels().columns, Category())


def check(coder: FeatureCoder, frame: pl.DataFrame, *, few: bool = True) -> None:
    assert all(own.reads_rows(frame.schema) for own in coder.coders.values()) == few
    x = coder.encode(frame)
    for n in (1, 2, MOST_ROWS):
        for start in range(0, len(frame) - n, 3):
            own = coder.encode(frame[start : start + n])
            several = x.rows(slice(start, start + n)).arrays()
            for found, expected in zip(own.arrays().values(), several.values(), strict=True):
                assert found.dtype == expected.dtype
                assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("transform", ["standardize", "quantile", "none"])
def test_numbers_have_the_same_bits(transform):
    check(FeatureCoder.fit(numbers(), transform=transform), numbers())


def test_levels_have_the_same_codes():
    coder = FeatureCoder.fit(levels(), columns=CATEGORIES)
    check(coder, levels())
    check(coder, levels().with_columns(pl.lit("violet").alias("text"), whole=pl.lit(7), flag=pl.lit(None)))


def test_both_together_and_in_another_order_of_columns():
    frame = pl.concat([numbers(), levels()], how="horizontal")
    coder = FeatureCoder.fit(frame, columns=CATEGORIES)
    check(coder, frame)
    twin = pl.DataFrame({"a": [1.0, 2.0, 3.0], "b": [9.0, 7.0, 5.0]})
    coder = FeatureCoder.fit(twin)
    first = coder.encode(twin[:1]).numbers
    assert np.array_equal(coder.encode(twin[:1].select("b", "a")).numbers, first)


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("x", [1.5, 2.0, None, float("nan"), 1e-7, 1e20] * 7),
        pl.Series("x", [Decimal("1.50"), Decimal("2"), None] * 14),
    ],
    ids=["float", "decimal"],
)
def test_what_polars_alone_makes_text_of_goes_through_polars(column):
    check(FeatureCoder.fit(column.to_frame(), columns={"x": Category()}), column.to_frame(), few=False)


@pytest.mark.parametrize("flat", [False, True])
def test_dates_have_the_same_bits(flat):
    coder = FeatureCoder.fit(moments(), flat=flat)
    check(coder, moments())
    check(coder, moments().with_columns(day=pl.lit(None), time=pl.lit(None)))


@pytest.mark.filterwarnings("ignore:.* have more than 6 entries")
@pytest.mark.parametrize("flat", [False, True])
def test_lists_and_text_have_the_same_bits(flat):
    columns = COLUMNS | {"history": Sequence("item", longest=6)}
    coder = FeatureCoder.fit(lists(), columns=columns, flat=flat)
    check(coder, lists())
    check(coder, lists().with_columns(pl.lit(None).alias(name) for name in (*COLUMNS, "tags", "vector")))


def test_dates_that_python_does_not_know_go_through_polars():
    coder = FeatureCoder.fit(pl.DataFrame({"when": [datetime(2000, 1, 1), datetime(2001, 3, 4)]}))
    frame = pl.DataFrame({"when": pl.Series([10**18, 0, 0, 0, 0]).cast(pl.Datetime("us"))})
    assert np.array_equal(coder.encode(frame[:1]).numbers, coder.encode(frame).numbers[:1])


def test_zones_whose_rules_may_differ_go_through_polars():
    frame = moments().select(pl.col("when UTC").dt.convert_time_zone("Europe/Berlin"))
    check(FeatureCoder.fit(frame), frame, few=False)


def test_decimals_go_through_polars():
    frame = pl.DataFrame({"x": [Decimal("0.1"), Decimal("0.3"), None] * 14})
    check(FeatureCoder.fit(frame), frame, few=False)


def test_errors_are_the_same():
    frame = pl.concat([numbers(), levels()], how="horizontal")
    coder = FeatureCoder.fit(frame, columns=CATEGORIES)
    with pytest.raises(ValueError, match="column 'float64' holds an infinite value"):
        coder.encode(frame[:1].with_columns(float64=pl.lit(float("inf"))))
    with pytest.raises(TypeError, match="column 'int8' was numeric in fit and is now String"):
        coder.encode(frame[:1].with_columns(int8=pl.lit("one")))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    "changed",
    [
        {"vector": [[1.0, 2.0]]},
        {"vector": [[1.0, 2.0, None, 3.0, 4.0]]},
        {"vector": [[1.0, 2.0, 1e300, 3.0, 4.0]]},
        {"hours": [[1.0] * 20]},
        {"history": [None], "colours": [None]},
        {"hours": [[1.0, float("inf")]], "history": [["a", "b"]], "colours": [["a", "b"]]},
    ],
)
def test_errors_of_lists_are_the_same(changed, flat):
    frame = lists().filter(pl.col("hours").list.len() > 0)
    coder = FeatureCoder.fit(frame, columns=COLUMNS, flat=flat)
    wrong = frame[:1].with_columns(pl.Series(name, own, dtype=frame.schema[name]) for name, own in changed.items())
    wrong = pl.concat([frame[:2], wrong])
    said = []
    for several in (wrong, pl.concat([wrong, frame])):
        with pytest.raises(ValueError, match="row 2") as error:
            coder.encode(several)
        said.append(str(error.value))
    assert said[0] == said[1]
