"""Containers: whatever library or type a column has, the coders see the same values."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from cases import later
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_series_equal
from scipy import sparse

from tabmtl.encode import FeatureCoder, join_rows, take_rows
from tabmtl.encode.read import checksum, read_features, read_targets, read_weights, without_columns
from tabmtl.encode.write import write_targets

NAN = float("nan")


def read(values: object) -> pl.Series:
    """One column as read from a pandas frame."""
    return read_features(pd.DataFrame({"x": values}))[0]["x"]


def codes(X: object) -> list[list[int]]:
    frame = read_features(X)[0]
    return FeatureCoder.fit(frame).encode(frame).codes.T.tolist()


PANDAS_TEXT = [  # further types are drawn in test_every_frame
    pd.Series(["b", None, "", "a"], dtype="str"),
    pd.Series(["b", NAN, "", "a"], dtype=object),
    pd.Series(["b", np.float64("nan"), "", np.str_("a")], dtype=object),
    pd.Series(["b", pd.NA, "", "a"], dtype=object),
    pd.Series(["b", pd.NaT, "", "a"], dtype=object),
    pd.Series(pd.Categorical(["b", None, "", "a"], categories=["z", "b", "a", ""], ordered=True)),
]


@pytest.mark.parametrize("values", PANDAS_TEXT, ids=lambda s: str(s.dtype))
def test_text_of_pandas(values):
    assert read(values).to_list() == ["b", None, "", "a"]
    assert codes(pd.DataFrame({"x": values})) == [[4, 0, 2, 3]]
    assert codes(pa.table({"x": pa.array(["b", None, "", "a"])})) == [[4, 0, 2, 3]]
    assert codes(pa.table({"x": pa.array(["b", None, "", "a"]).dictionary_encode()})) == [[4, 0, 2, 3]]
    assert codes(np.array([["b"], [None], [""], ["a"]], dtype=object)) == [[4, 0, 2, 3]]


NUMBERS = [  # further types are drawn in test_every_frame
    ("Int8", [1, None, 3]),
    ("UInt64", [1, None, 2**63]),
    (pd.ArrowDtype(pa.int16()), [1, None, 3]),
    (pd.SparseDtype("int64", 0), [1, 0, 3]),
    (object, [1, pd.NA, np.int8(3)]),
    (object, [Decimal("1.5"), Decimal("nan"), 3]),
    (object, [Fraction(3, 2), NAN, np.float32(3)]),
    (object, [True, 2, None]),
    (object, [2**70, None, 1]),
]


@pytest.mark.parametrize(("dtype", "values"), NUMBERS, ids=[str(dtype) for dtype, _ in NUMBERS])
def test_numbers_of_pandas(dtype, values):
    found = read(pd.Series(values, dtype=dtype))
    assert found.dtype.is_numeric()
    expected = [None if v is None or v is pd.NA or v != v else float(v) for v in values]
    assert found.cast(pl.Float64).fill_nan(None).to_list() == expected
    if any(v is None for v in values) and "int" in str(dtype).lower():
        assert found.dtype.is_integer(), "a hole makes no float of an integer"


@pytest.mark.parametrize(
    "dtype", ["bool", "boolean", pd.ArrowDtype(pa.bool_()), object, "category"], ids=lambda d: str(d)
)
def test_booleans_of_pandas(dtype):
    values = [True, False, True] if dtype == "bool" else [True, False, None]
    assert codes(pd.DataFrame({"x": pd.Series(values, dtype=dtype)})) == [[3, 2, 3 if dtype == "bool" else 0]]
    assert (
        read_features(pd.DataFrame({"x": pd.Series([np.bool_(True), None], dtype=object)}))[0]["x"].dtype == pl.Boolean
    )


@pytest.mark.parametrize(("categories", "texts"), [([10, 9, 3], ["10", "9", "3"]), ([2.0, 1.0, 0.0], ["2", "1", "0"])])
def test_categories_of_numbers_are_levels_like_the_plain_numbers(categories, texts):
    values = pd.Series(pd.Categorical([categories[0], None, categories[1]], categories=categories))
    assert read(values).to_list() == [texts[0], None, texts[1]]
    coder = FeatureCoder.fit(read_features(values.to_frame("x"))[0])
    assert coder.encode(pl.DataFrame({"x": [int(categories[0]), None, 77]})).codes.ravel().tolist()[1:] == [0, 1]
    assert coder.encode(pl.DataFrame({"x": [int(categories[0])]})).codes.item() > 1


def test_categories_of_intervals_are_text():
    binned = pd.DataFrame({"x": pd.cut(pd.Series([1, 5, 9]), 2)})
    assert codes(binned) == [[2, 2, 3]]


@pytest.mark.parametrize(
    "values", [["a", 1], [b"a", "b"], [1.5, "x"], [pd.Period("2020"), None], [1 + 2j, None], [object()] * 2]
)
def test_mixed_objects_are_rejected_with_the_cure(values):
    with pytest.raises(
        TypeError, match=r"column 'x': argument must be a string or a number.*(cast it to numbers|make text of it)"
    ):
        read(pd.Series(values, dtype=object))


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "int64", "uint8", "uint64", "float16", "float32", "float64", np.longdouble, "U4", object, "O"],
)
def test_arrays_of_any_type(dtype):
    array = np.array([[0, 1], [1, 1], [1, 0]]).astype(dtype)
    frame, named = read_features(array)
    assert not named
    assert frame.columns == ["x0", "x1"]
    x = FeatureCoder.fit(frame, transform="none").encode(frame)
    if np.dtype(dtype).kind in "bU":
        np.testing.assert_array_equal(x.codes - 2, array.astype(float))
    else:
        np.testing.assert_array_equal(x.numbers, array.astype(float))
    for columns in (np.asfortranarray(array), array[::-1][::-1], array.tolist()):
        assert read_features(columns)[0].equals(frame) or dtype in ("int8", "uint8", "uint64", "float16", "float32")


def test_names_that_are_no_text_or_not_alone():
    frame, named = read_features(pd.DataFrame([[1, "u"]], columns=[7, ("a", "b")]))
    assert frame.columns == ["7", "('a', 'b')"]
    assert not named
    for columns in (["a", "a"], [1, "1"]):
        with pytest.raises(ValueError, match=r"every column needs a name of its own.*rename"):
            read_features(pd.DataFrame([[1, 2]], columns=columns))
    with pytest.raises(ValueError, match="every column needs a name of its own"):
        read_features(pa.table([[1], [2]], names=["a", "a"]))


def test_empty_and_flat_input():
    for X in (pd.DataFrame({"a": []}), pl.DataFrame({"a": []}), pa.table({"a": pa.array([], pa.int64())})):
        with pytest.raises(ValueError, match="0 sample"):
            read_features(X)
    with pytest.raises(ValueError, match="0 feature"):
        read_features(pd.DataFrame(index=[0, 1]))
    for X in (pd.Series([1]), pl.Series([1]), pa.chunked_array([[1]])):
        with pytest.raises(ValueError, match="X: Expected 2D array or a frame, got a series"):
            read_features(X)


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csr_matrix, sparse.dok_matrix])  # one of them is a mapping
def test_a_sparse_matrix_is_refused_with_the_cures_of_a_pipeline(kind):
    with pytest.raises(TypeError, match=r"^Sparse data was .*toarray.* preprocessor=, .*\(sparse_output=False\)$"):
        read_features(kind(np.eye(3)))
    with pytest.raises(TypeError, match=r"^Sparse data was "):
        without_columns(kind(np.eye(3)), ["x0"], strict=True)


VALUES = st.one_of(
    st.lists(st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3), min_size=1),
    st.lists(st.none() | st.floats(allow_infinity=False), min_size=1),
    st.lists(st.none() | st.integers(-(2**53), 2**53), min_size=1),
    st.lists(st.none() | st.booleans(), min_size=1),
)


@given(VALUES)
def test_every_container_gives_the_same_numbers(values):
    column = pl.Series("x", values, strict=False)
    containers = [
        column.to_frame(),
        column.to_frame().lazy(),
        column.to_frame().to_arrow(),
        pd.DataFrame({"x": pd.Series(values, dtype=object)}),
        pd.DataFrame({"x": pd.Series(values, dtype=object)}).convert_dtypes(),
        pd.DataFrame({"x": column.to_pandas(use_pyarrow_extension_array=True)}),
        np.array([[value] for value in values], dtype=object),
    ]
    found = []
    for container in containers:
        frame = read_features(container)[0]
        x = FeatureCoder.fit(frame).encode(frame)
        numbers = x.numbers.tobytes() if x.codes.size else np.nan_to_num(x.numbers, nan=99).tolist()
        found.append((numbers, x.codes.tolist()))
    assert all(numbers == found[0] for numbers in found[1:])


def in_a_process(script):
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("run", later([exec, in_a_process], in_a_process))
def test_pandas_is_read_and_written_without_pyarrow(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    script = """
import sys
sys.modules["pyarrow"] = None
import numpy as np, pandas as pd
from tabmtl.encode import TableCoder, take_rows
X = pd.DataFrame({
    "f": [1.5, None, 2.0], "i": pd.array([1, None, 3], dtype="Int64"), "s": ["a", None, "b"],
    "o": pd.Series(["a", 3.5, None]).astype(str), "c": pd.Categorical(["u", None, "v"]), "b": [True, False, True],
})
y = pd.DataFrame({"k": ["no", "yes", None], "z": pd.Categorical([3, 1, 3]), "r": [1.5, 2.5, None]})
w = y.notna().astype(float)
coder = TableCoder.fit(X, y, w, tasks=None, force=None, task_column=None, columns={}, encoding={})
batch = coder.read(X, y)
assert batch.x.codes.tolist() == [[2, 3, 2, 3], [0, 2, 0, 2], [3, 0, 3, 3]], batch.x.codes.tolist()
answer = coder.labels.decode([np.eye(2), np.eye(2), np.ones(2)], take_rows(X, np.array([2, 0])).index)
assert answer.to_dict("list") == {"k": ["no", "yes"], "z": [1, 3], "r": [1.0, 1.0]}
assert list(answer.index) == [2, 0]
"""
    run(script)


def test_weights():
    names = ["a", "b"]
    assert read_weights(None, 2, names) is None
    assert read_weights(2, 3, names).tolist() == [2, 2, 2]
    expected = [[1, 2], [3, 4]]
    assert read_weights(expected, 2, names).tolist() == expected
    for frame in (pl.DataFrame, pd.DataFrame, pa.table):
        assert read_weights(frame({"b": [2, 4], "a": [1.0, 3.0]}), 2, names).tolist() == expected
    assert read_weights(pd.DataFrame([[1, 2], [3, 4]]), 2, ["0", "1"]).tolist() == expected
    for series in (pl.Series([1, 0]), pd.Series([1, 0]), pa.chunked_array([[1, 0]])):
        assert read_weights(series, 2, names).tolist() == [1, 0]
    with pytest.raises(ValueError, match="expected one per task"):
        read_weights(pl.DataFrame({"a": [1.0]}), 1, names)
    with pytest.raises(ValueError, match=r"sample_weight.shape == \(3,\), expected \(2,\) or \(2, 2\)"):
        read_weights([1, 2, 3], 2, names)
    for bad in (-1.0, NAN, np.inf, None):
        with pytest.raises(ValueError, match="weights must be finite and >= 0"):
            read_weights(pl.Series([1.0, bad]), 2, names)


def test_an_integer_beyond_all_floats_is_infinite():
    frame, _ = read_features(pd.DataFrame({"a": pd.Series([10**400, -(10**400), 10**30, None], dtype=object)}))
    assert frame["a"].to_list() == [float("inf"), float("-inf"), 1e30, None]


def test_take_rows_takes_views_of_text():
    table = pa.table({"a\0": pa.array(["u", "v", "w"], pa.string_view())})
    behind = pd.DataFrame({1: pd.Series(["u", "v", "w"], dtype=pd.ArrowDtype(pa.string_view()))})
    assert take_rows(table, np.array([2, 0])).column(0).to_pylist() == ["w", "u"]
    assert take_rows(behind, np.array([2, 0]))[1].tolist() == ["w", "u"]
    assert type(behind.dtypes[1].pyarrow_dtype) is type(pa.string_view())  # the user's frame stays as it is


def test_take_rows_keeps_the_container():
    index = np.array([2, 0])
    for frame in (pl.DataFrame({"a": [1, 2, 3]}), pa.table({"a": [1, 2, 3]})):
        taken = take_rows(frame, index)
        assert type(taken) is type(frame)
        assert taken["a"].to_pylist() == [3, 1] if isinstance(frame, pa.Table) else taken["a"].to_list() == [3, 1]
    taken = take_rows(pd.DataFrame({"a": [1, 2, 3]}, index=[7, 8, 9]), index)
    assert taken.index.tolist() == [9, 7]
    assert take_rows([[1], [2], [3]], index).tolist() == [[3], [1]]
    assert_series_equal(take_rows(pl.Series("k", ["a", None, "b"]), index), pl.Series("k", ["b", "a"]))
    assert take_rows(pd.Series([1, 2, 3], name="k", index=[7, 8, 9]), index).index.tolist() == [9, 7]
    assert take_rows(pa.array([1, 2, 3]), index).to_pylist() == [3, 1]


@pytest.mark.parametrize(
    "y",
    [
        pl.Series("k", ["a", None, "b"]),
        pl.Series(["a", None, "b"]),
        pd.Series(["a", None, "b"], name="k", dtype="str"),
        pa.chunked_array([["a", None], ["b"]]),
        np.array(["a", None, "b"], dtype=object),
    ],
    ids=lambda y: type(y).__module__,
)
def test_flat_targets_come_back_flat(y):
    frame, origin = read_targets(y)
    assert_series_equal(frame.to_series(), pl.Series(frame.columns[0], ["a", None, "b"]))
    written = write_targets(frame, origin)
    assert type(written) is type(y)
    assert getattr(written, "name", None) == getattr(y, "name", None)
    assert getattr(written, "type", None) == getattr(y, "type", None)


def test_a_checksum_tells_values_of_all_types_apart() -> None:
    frame = pl.DataFrame({"a": [1.5, None], "b": [[1, 2], None], "c": [b"x", None], "^d$": ["", None]})
    assert checksum(frame) == checksum(frame.clone())
    for other in (frame.reverse(), frame.head(1), frame.fill_null(0), frame.with_columns(b=pl.Series([[1, 3], None]))):
        assert checksum(other) != checksum(frame)
    for other in (frame.rename({"a": "z"}), frame.cast({"a": pl.String}), frame.select("b", "a", "c", "^\\^d\\$$")):
        assert checksum(other) != checksum(frame)
    assert checksum(frame.cast({"^d$": pl.Categorical})) == checksum(frame) == checksum(frame.lazy())
    odd = frame.with_columns(o=pl.Series([object(), None]), i=pl.Series([2**100, 1], dtype=pl.Int128))
    odd = odd.with_columns(
        t=pl.duration(days=1), e=pl.Series(["x", None], dtype=pl.Enum(["x"])), d=pl.lit(Decimal("1.5"))
    )
    assert checksum(odd) == checksum(odd.drop("o"))


@pytest.mark.parametrize("to", [pl.Series.clone, pl.Series.to_pandas, pl.Series.to_numpy])
def test_joined_series_keep_library_and_name(to):
    first, second = to(pl.Series("y", [1, 2])), to(pl.Series("", [0.5]))
    found = join_rows(first, second, ("y", "y_val"))
    assert type(found) is type(first) and list(found) == [1, 2, 0.5]
    assert getattr(found, "name", "y") == "y"


def test_joined_frames_have_the_columns_of_both():
    first, second = pl.DataFrame({"a": [1], "b": ["u"]}), pl.DataFrame({"b": ["v"], "a": [0.5], "c": [1]})
    found = join_rows(first.lazy(), second, ("X", "X_val"))
    assert found.rows() == [(1.0, "u", None), (0.5, "v", 1)]
    with pytest.raises(TypeError, match="X_val is of numpy and X of polars"):
        join_rows(first, second.to_numpy(), ("X", "X_val"))
