"""Lists of every library: read as polars holds them, or refused by column, row and cure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabmtl.columns import Category
from tabmtl.columns.declared import Tags
from tabmtl.encode import FeatureCoder
from tabmtl.encode.read import read_features, to_array

TAGS: list[Any] = [["a", "b"], None, [], ["a"], ["c", None]]
VECTORS: list[Any] = [[1.0, 2.0], None, [0.0, 0.5], [3.0, 4.0], [-1.0, 0.0]]


def pandas_of(values: Any, dtype: Any) -> pd.DataFrame:
    return pd.DataFrame({"a": pd.Series(values, dtype=pd.ArrowDtype(dtype))})


def objects(values: Any) -> np.ndarray:
    column = np.empty((len(values), 1), dtype=object)
    column[:, 0] = values
    return column


def in_form(values: Any, form: Callable[[Any], Any]) -> Any:
    return [None if own is None else form(own) for own in values]


FRAMES: dict[str, Callable[[Any, pa.DataType], Any]] = {
    "polars": lambda values, _: pl.DataFrame({"a": values}),
    "pandas lists": lambda values, _: pd.DataFrame({"a": values}),
    "pandas tuples": lambda values, _: pd.DataFrame({"a": in_form(values, tuple)}),
    "pandas arrays": lambda values, _: pd.DataFrame({"a": in_form(values, lambda own: np.array(own, dtype=object))}),
    "pandas of arrow": lambda values, inner: pandas_of(values, pa.list_(inner)),
    "numpy": lambda values, _: objects(values),
    **{
        f"arrow {name}": lambda values, inner, kind=kind: pa.table({"a": pa.array(values, kind(inner))})
        for name, kind in {"lists": pa.list_, "large lists": pa.large_list, "views": pa.list_view}.items()
    },
}


def test_a_frame_of_lists_is_an_array_of_lists():
    array = to_array(pl.DataFrame({"a": [[1, 2], [3, 4]], "b": [0.5, None]}))
    assert array.tolist() == [[[1, 2], 0.5], [[3, 4], None]]


@pytest.mark.parametrize("form", FRAMES)
@pytest.mark.parametrize("values", [TAGS, VECTORS, in_form(TAGS, len), in_form(TAGS, lambda own: [*map(bool, own)])])
def test_lists_of_every_library_are_read_alike(form, values):
    values = in_form(values, lambda own: [own] if isinstance(own, int) else own)
    inner = pa.array(values).type.value_type
    frame, _ = read_features(FRAMES[form](values, inner))
    assert frame.to_series().to_list() == values


@pytest.mark.parametrize(
    ("frame", "values"),
    [
        (pd.DataFrame({"a": in_form(VECTORS, np.array)}), VECTORS),
        (pd.DataFrame({"a": [{*"hgfedcba"}, None, frozenset()]}), [[*"abcdefgh"], None, []]),
        (pd.DataFrame({"a": [[np.int8(1), float("nan")], pd.NA, [pd.NA]]}), [[1, None], None, [None]]),
        (pd.DataFrame({"a": [[], ()]}), [[], []]),
        (pa.table({"a": pa.array([[1.5], None], pa.list_(pa.float32(), 1))}), [[1.5], None]),
        (pa.table({"a": pa.array([["x"], None], pa.list_(pa.dictionary(pa.int8(), pa.string())))}), [["x"], None]),
        (pa.table({"a": pa.array([[1], None], pa.list_(pa.decimal256(50, 2)))}), [[1.0], None]),
    ],
    ids=["arrays", "sets", "missing items", "empty", "fixed", "categories", "decimals"],
)
def test_lists_of_one_library_are_read(frame, values):
    assert read_features(frame)[0].to_series().to_list() == values


MIXED = [["x"], None, ["y", 1]]
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "mixed": (
        pd.DataFrame({"a": MIXED}),
        TypeError,
        r"column 'a' holds lists of str in row 0, numbers in row 2 \(counted from 0\).*: make text of all items",
    ),
    "mixed arrays": (objects(MIXED), TypeError, r"column 'x0' holds lists of str in row 0, numbers in row 2"),
    "lists and text": (
        pd.DataFrame({"a": [None, ["x"], "y"]}),
        TypeError,
        r"column 'a' holds a list in row 1, and str in row 2 .* make a list of each other value",
    ),
    "a list in a list": (
        objects([["x"], ["y", ["z"]]]),
        TypeError,
        r"list in row 1 .* put the items of inner lists in",
    ),
    "records": (pd.DataFrame({"a": [None, [{"k": 1}]]}), TypeError, r"column 'a' holds lists of dict in row 1"),
    "lists of records": (
        pl.DataFrame({"a": [[{"k": 1}]]}),
        TypeError,
        r"column 'a' has type List\(Struct.*columns=\{'a': 'ignore'\}",
    ),
    "lists of lists": (
        pl.DataFrame({"a": [[[1]]]}),
        TypeError,
        r"'a' has type List\(List.* inner lists in their place",
    ),
    "lists of dates": (pl.DataFrame({"a": [[pl.Series([0]).cast(pl.Date)[0]]]}), TypeError, "column 'a' has type List"),
    "half a pair": (pd.DataFrame({"a": [["a\ud800"]]}), ValueError, "column 'a' holds the text .* no valid Unicode"),
    "lengths": (
        pl.DataFrame({"a": [[1.0, 2.0], [1.0], [1.0, 3.0], [1.0], [0.0, 0.0]]}),
        ValueError,
        r"vectors of column 'a' must .*; most have 2, others 1: mend the others, .* beside a history, say",
    ),
    "no numbers": (
        pl.DataFrame({"a": [[], None]}, schema={"a": pl.List(pl.Float64)}),
        ValueError,
        r"say columns=\{'a': 'ignore'\}",
    ),
    "a hole": (pl.DataFrame({"a": [[1.0], [None]]}), ValueError, "column 'a' holds a vector with .* in row 1"),
    "infinite": (pl.DataFrame({"a": [[1.0], [np.inf]]}), ValueError, "column 'a' holds a vector with .* in row 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_lists_are_named(case):
    X, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        (frame := read_features(X)[0], FeatureCoder.fit(frame).encode(frame))


def test_a_list_is_no_category():
    with pytest.raises(
        TypeError, match=r"column 'a' has type List.* declared 'category', which expects .*; declare another"
    ):
        FeatureCoder.fit(pl.DataFrame({"a": TAGS}), columns={"a": Category()})


def test_later_lists_of_another_length_or_type_are_named():
    coder = FeatureCoder.fit(pl.DataFrame({"a": VECTORS, "b": TAGS}))
    with pytest.raises(ValueError, match=r"column 'a' must have the length of fit, 2; that of row 1, .* has 1"):
        coder.encode(pl.DataFrame({"a": [None, [1.0]], "b": [None, None]}))
    with pytest.raises(TypeError, match="column 'b' held lists of text in fit and is now String; cast it to lists of"):
        coder.encode(pl.DataFrame({"a": [None, [1.0, 2.0]], "b": ["x", "y"]}))
    with pytest.raises(TypeError, match=r"column 'b' held lists of text in fit, such as 'a', and is now List\(Int64\)"):
        coder.encode(pl.DataFrame({"a": [None, [1.0, 2.0]], "b": [[1], None]}))
    assert coder.encode(pl.DataFrame({"a": [None, None], "b": [[], None]})).bags[0].lengths.tolist() == [0, 1]


def flat(frame: pl.DataFrame) -> FeatureCoder:
    return FeatureCoder.fit(frame, transform="none", flat=True)


def test_flat_lists_are_numbers_with_names_and_origins():
    frame = pl.DataFrame({"a": [["x", "y", "x"], [], None, ["x"]] * 5, "n": 1.5, "v": [[1.0, 2.0], None] * 10})
    coder = flat(frame)
    assert coder.columns.numeric == ("n", "a: count", "a: x", "a: y", "v: 0", "v: 1")
    assert coder.origins == ("n", "a", "a", "a", "v", "v")
    nan = np.nan
    expected = [[1.5, 3, 1, 1, 1, 2], [1.5, 0, 0, 0, nan, nan], [1.5, nan, nan, nan, 1, 2], [1.5, 1, 1, 0, nan, nan]]
    np.testing.assert_array_equal(coder.encode(frame).numbers[:4], expected)
    unseen = frame[:1].with_columns(a=pl.Series([["new", "y"]]))
    assert coder.encode(unseen).numbers.tolist() == [[1.5, 2, 0, 1, 1, 2]]


def test_names_of_flat_features_are_told_apart():
    frame = pl.DataFrame({"a": [["count", "n"]] * 5, "a: n": 1.0})
    assert flat(frame).columns.numeric == ("a: n", "a: count", "a: count'", "a: n'")


def test_whole_numbers_are_tags_under_one_text():
    frame = pl.DataFrame({"a": [[1, 2], [2]] * 5})
    coder = flat(frame)
    as_floats = frame.with_columns(pl.col("a").cast(pl.List(pl.Float64)))  # as JSON has them
    np.testing.assert_array_equal(coder.encode(as_floats).numbers, coder.encode(frame).numbers)


def test_fractions_are_tags_where_that_is_declared():
    frame = pl.DataFrame({"a": [[1.5, 2.5], [2.5]] * 5})
    coder = FeatureCoder.fit(frame, columns={"a": Tags()})
    assert coder.encode(frame[:2]).bags[0].codes.tolist() == [2, 3, 3]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.none() | st.lists(st.sampled_from("abcdefg"), max_size=4), min_size=1, max_size=40))
def test_flat_tags_are_what_a_loop_counts(lists):
    frame = pl.DataFrame({"a": pl.Series(lists, dtype=pl.List(pl.String))})
    coder = flat(frame)
    tags = coder.coders["flat tags"].levels[0]
    rows = [[np.nan] * (1 + len(tags)) if own is None else [len(own), *(tag in own for tag in tags)] for own in lists]
    np.testing.assert_array_equal(coder.encode(frame).numbers, np.array(rows, dtype=np.float32))
    each = [coder.encode(frame[k : k + 1]).numbers for k in range(len(lists))]
    np.testing.assert_array_equal(np.concatenate(each), coder.encode(frame.lazy()).numbers)


def test_vectors_are_standardised_for_networks_and_plain_for_trees():
    rng = np.random.default_rng(0)
    vectors = rng.normal([1000, 0], [100, 0.001], (500, 2))
    frame = pl.DataFrame({"v": [None, *map(list, vectors)]}, schema={"v": pl.List(pl.Float64)})
    found = FeatureCoder.fit(frame).encode(frame).vectors
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(np.median(found[1:], axis=0), 0, atol=0.01)
    np.testing.assert_allclose(found[1:].std(axis=0), 0.9, atol=0.1)
    np.testing.assert_allclose(flat(frame).encode(frame).numbers[1:], vectors, rtol=1e-6)
