"""Columns of rare types: read by their values, or refused by one error that names the column and the cure."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute
import pytest
from conformance import tiny

from tabmtl import IndependentTasks, SharedBottom
from tabmtl.base.schema import describe_error
from tabmtl.encode import FeatureCoder, LabelCoder, TableCoder
from tabmtl.encode.read import read_features, read_targets
from tabmtl.targets import Task

N = 12
TEXTS = pa.array(["a", "b"] * 6)
ORDERED = pa.dictionary(pa.int8(), pa.string(), ordered=True)
CHUNKS = pa.chunked_array([pa.array(part * 3).dictionary_encode() for part in ([1, 2], [2, 7])])


def pandas_of(array: Any) -> pd.Series:
    return pd.Series(pd.arrays.ArrowExtensionArray(array), name="t")


def fit(X: Any, y: Any = None, **params: Any) -> TableCoder:
    options: dict[str, Any] = {"tasks": None, "force": None, "task_column": None, "columns": {}}
    return TableCoder.fit(X, np.arange(N) / 2 if y is None else y, None, encoding={}, **(options | params))


@pytest.mark.parametrize(
    "X", [pa.table({"x": CHUNKS}), pd.DataFrame({"x": pandas_of(CHUNKS)})], ids=["arrow", "pandas"]
)
def test_numbers_in_a_chunked_dictionary_are_numbers(X):
    frame, _ = read_features(X)
    assert frame["x"].to_list() == [1, 2] * 3 + [2, 7] * 3
    assert FeatureCoder.fit(frame).columns.numeric == ("x",)


@pytest.mark.parametrize(
    "y",
    [
        CHUNKS,
        pa.table({"t": CHUNKS}),
        pandas_of(CHUNKS),
        pandas_of(pa.chunked_array([pa.array(["a", "b"] * 6).dictionary_encode()])),
        pandas_of(pa.chunked_array([pa.array(["a", "b"] * 6, pa.string())])),
        pa.chunked_array([pa.array(["a", "b"] * 6, pa.string_view())]),
        pa.chunked_array(
            [pa.array(["a", "b"] * 6).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string(), True))]
        ),
    ],
    ids=["arrow", "table", "pandas", "pandas text", "pandas plain text", "view", "ordered"],
)
@pytest.mark.filterwarnings("ignore:task .* whole numbers:tabmtl.base.schema.TabmtlWarning")
def test_class_labels_come_back_as_they_were(y):
    coder = LabelCoder.fit(y)
    values, _ = coder.encode(y)
    classes = len(coder.tasks[0].classes or ())
    back = coder.decode([np.eye(classes)[values[:, 0].astype(int)]])
    assert type(back) is type(y)
    for found, given in [(back["t"], y["t"])] if isinstance(y, pa.Table) else [(back, y)]:
        assert (
            found.to_pylist() == given.to_pylist() if hasattr(found, "to_pylist") else found.tolist() == given.tolist()
        )
        assert getattr(found, "type", None) == getattr(given, "type", None)
        assert getattr(found, "dtype", None) == getattr(given, "dtype", None)


@pytest.mark.parametrize("kind", [pa.decimal32(6, 2), pa.decimal128(20, 2), pa.decimal256(60, 2)], ids=str)
def test_decimals_of_any_width_are_floats(kind):
    array = pa.chunked_array([pa.array([Decimal("1.25"), None, Decimal(3)], kind)])
    for X in (pa.table({"x": array}), pd.DataFrame({"x": pandas_of(array)})):
        assert read_features(X)[0]["x"].to_list() == [1.25, None, 3.0]
    for y in (array, pandas_of(array), pa.table({"t": array})):
        coder = LabelCoder.fit(y)
        assert coder.tasks[0].kind.name == "regression"
        back = coder.decode([np.array([0.5, 1.5, 2.5])])
        assert type(back) is type(y)
    batch = pa.record_batch({"x": array.chunk(0)})
    assert read_features(batch)[0]["x"].to_list() == [1.25, None, 3.0], "a batch is read like a table"
    assert type(LabelCoder.fit(array.chunk(0)).decode([np.zeros(3)])) is pa.ChunkedArray


SURROGATES = np.array(["a\ud800", "b"] * 6, dtype=object)
REFUSED: dict[str, tuple[Any, str]] = {
    "signalling NaN": (pd.Series([Decimal("sNaN")] + [Decimal(1)] * 11, dtype=object), "signalling NaN .* by None"),
    "half a pair": (
        pd.Series(SURROGATES, dtype=object),
        r"no valid Unicode: replace it by text\.encode",
    ),
    "half a pair as category": (pd.Series(pd.Categorical(pd.Series(SURROGATES, dtype=object))), "no valid Unicode"),
    "runs": (
        pa.RunEndEncodedArray.from_arrays(pa.array([6, 12], pa.int32()), pa.array([1.5, 2.5])),
        r"type run_end_encoded.*cast it to numbers or text",
    ),
    "binary view": (pa.array([b"a"] * N, pa.binary_view()), "type binary_view; expected numbers, text"),
    "fixed binary": (pa.array([b"a"] * N, pa.binary(1)), r"type fixed_size_binary\[1\]"),
    "lists of bytes": (pa.array([[b"a"]] * N), r"type list<.*binary>.* lists of numbers, text"),
    "uuid": (pa.array([b"0" * 16] * N, pa.uuid()), "type extension.*uuid"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_by_name(case):
    column, message = REFUSED[case]
    frames: list[Any] = [pd.DataFrame({"^x$": column, "a": 1.0})] if isinstance(column, pd.Series) else []
    if not frames:
        frames = [pa.table({"^x$": column, "a": np.ones(N)}), pd.DataFrame({"^x$": pandas_of(column), "a": 1.0})]
    for frame in frames:
        with pytest.raises((TypeError, ValueError), match=rf"column '\^x\$'.*{message}"):
            fit(frame)
        with pytest.raises((TypeError, ValueError), match=rf"column '\^x\$'.*{message}"):
            LabelCoder.fit(frame)


LISTS: list[Any] = [[["u"], ["v"]], None, [["u"]], []] * 3
RECORDS: list[Any] = [{"k": 1, "t": "x"}, None, {"k": 2, "t": None}, {"k": 3, "t": "y"}] * 3
BYTES: list[Any] = [b"u", None, b"v", b"w"] * 3
MAPS = pa.array([[("k", 1)], None, [("k", 2)], []] * 3, pa.map_(pa.string(), pa.int64()))
#: Columns, and the words of their cure.
CURED: dict[str, tuple[Any, str]] = {
    "polars list": (pl.Series(LISTS), "inner lists in their place"),
    "polars array": (pl.Series([[[1.0], [2.0]]] * N, dtype=pl.Array(pl.Array(pl.Float64, 1), 2)), "of each number"),
    "polars struct": (pl.Series(RECORDS), "of each field"),
    "polars bytes": (pl.Series(BYTES), "value.decode"),
    "polars objects": (pl.Series([object()] * N, dtype=pl.Object), "cast it"),
    "pandas list": (pd.Series(LISTS), "inner lists in their place"),
    "pandas arrays": (pd.Series([np.ones((2, 2))] * N), "inner lists in their place"),
    "pandas dict": (pd.Series(RECORDS), "of each field"),
    "pandas bytes": (pd.Series(BYTES), "value.decode"),
    "pandas mixed": (pd.Series([1, "x", None] * 4), "cast it"),
    "pandas map of arrow": (pandas_of(MAPS), "of each field"),
    "arrow list": (pa.array(LISTS), "inner lists in their place"),
    "arrow struct": (pa.array(RECORDS), "of each field"),
    "arrow bytes": (pa.array(BYTES), "cast it"),
    "numpy list": (np.array([[["u"]], [["u"], ["v"]]] * 6, dtype=object), "inner lists in their place"),
    "numpy bytes": (np.array([b"u", b"v"] * 6), "value.decode"),
}


@pytest.mark.parametrize("case", CURED)
def test_a_refused_column_is_named_with_its_cure(case):
    column, cure = CURED[case]
    library = case.partition(" ")[0]
    frame = {"polars": pl.DataFrame, "pandas": pd.DataFrame, "arrow": pa.table}.get(library)
    with pytest.raises(TypeError, match=rf"column '(a|x0)'.*{cure}.*(drop it|'ignore'\}})$"):
        fit(column[:, None] if frame is None else frame({"a": column}))


def test_names_and_arrays_of_half_a_pair_are_refused():
    with pytest.raises(ValueError, match=r"the name of the column 'a\\ud800' is no valid Unicode; rename it"):
        LabelCoder.fit(pd.Series([1.5, 2.5], name="a\ud800"))
    for task in (
        {"name": "a\ud800", "kind": "regression"},
        {"name": "t", "kind": "binary", "classes": ("b", "a\ud800")},
    ):
        with pytest.raises(ValueError, match=r"'a\\ud800' is no valid Unicode; rename it"):
            Task(**task)
    said = describe_error(KeyError("a\ud800"))
    assert pl.Series([said]).to_list() == [r"KeyError: 'a\ud800'"]
    assert describe_error(ValueError("a\ud800")) == r"ValueError: a\ud800"
    with pytest.raises(ValueError, match=r"the name of the column 'a\\ud800' is no valid Unicode; rename it"):
        read_features(pd.DataFrame([[1.0]], columns=pd.Index(["a\ud800"], dtype=object)))
    for array in (SURROGATES[:, None], SURROGATES[:, None].astype(str)):
        with pytest.raises(ValueError, match=r"column 'x0' holds the text 'a\\ud800', which is no valid Unicode"):
            read_features(array)


@pytest.mark.parametrize("name", ["^a$", "*", "^.*$", ""])
def test_a_name_like_a_pattern_is_a_name(name):
    X = pd.DataFrame({name: pd.Categorical(["u", "v"] * 6), "a": np.arange(N), "n": pd.array([1, None] * 6, "Int64")})
    coder = fit(X)
    assert coder.features.columns.categorical == (name,)
    assert coder.read(X).x.codes.ravel().tolist() == [2, 3] * 6
    long = fit(X.rename(columns={"n": "m"}), task_column=name)
    assert [task.name for task in long.labels.tasks] == ["u", "v"]


@pytest.mark.parametrize("size", [1e308, -1e308, 1e200])
def test_huge_targets_are_refused_by_name(size):
    y = pl.DataFrame({"fine": np.arange(N) / 2, "huge": [size, 0.5] * 6})
    for cls in (SharedBottom, IndependentTasks):
        with pytest.raises(ValueError, match=r"task 'huge': a label has the size 1e\+.*divide the labels"):
            tiny(cls).fit(pl.DataFrame({"a": np.arange(N)}), y)
    coder = LabelCoder.fit(y.select(huge=pl.col("fine")))
    with pytest.raises(ValueError, match="task 'huge': a label has the size"):
        coder.encode(y.select("huge"))


@pytest.mark.parametrize("largest", [1e37, 1e-300])
def test_the_largest_targets_are_learned(largest):
    X, y = pl.DataFrame({"a": np.arange(N) % 2}), pl.DataFrame({"t": [largest, -largest] * 6})
    for cls in (SharedBottom, IndependentTasks):
        answer = tiny(cls, early_stopping=False).fit(X, y).predict(X)["t"]
        assert answer.is_finite().all()
        assert answer.abs().max() <= 1.01 * largest


@pytest.mark.parametrize(
    "column",
    [
        pl.Series([datetime.timedelta(1)] * N),
        pl.Series([object()] * N, dtype=pl.Object),
        pl.Series([datetime.date(2020, 1, 1)] * N),
        pl.Series([[1]] * N),
    ],
    ids=lambda column: str(column.dtype),
)
def test_a_task_column_of_another_type_is_named(column):
    frames: list[Any] = [pl.DataFrame({"k": column, "a": np.arange(N)})]
    if column.dtype.is_temporal():
        frames += [frames[0].lazy(), frames[0].to_pandas(), frames[0].to_arrow()]
    for frame in frames:
        with pytest.raises(TypeError, match=r"task_column 'k' has type .*; expected text, categories or whole num"):
            fit(frame, task_column="k")


def test_masked_arrays_are_refused_before_masked_values_are_read():
    for array in (np.ma.masked_invalid([[1.0, np.nan], [2.0, 3.0]]), np.ma.masked_equal([[1, -1], [2, 3]], -1)):
        with pytest.raises(TypeError, match=r"X is a masked array.*say numpy\.where\(X\.mask, None, X\.data\)$"):
            read_features(array)
        with pytest.raises(TypeError, match="y is a masked array"):
            read_targets(array)
        assert read_features(np.where(array.mask, None, array.data))[0]["x1"].to_list() == [None, 3]
    assert read_features(np.ma.array([[1.0], [2.0]]))[0]["x0"].to_list() == [1.0, 2.0]
