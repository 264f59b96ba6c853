"""Sequences: codes that items share, lists beside them, the flat reading, what is cut, and what is refused."""

import warnings
from collections import Counter

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabmtl import SharedBottom
from tabmtl.base.schema import TabmtlWarning
from tabmtl.columns import Sequence
from tabmtl.encode import FeatureCoder
from tabmtl.encode.read import read_features

SIDES = {"history": "item", "hours": "history", "event": "history"}
entry = st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from([1.0, 5.0, 30.0]), st.sampled_from("xy"))
rows = st.lists(
    st.tuples(st.sampled_from(["a", "b", "z", None]), st.one_of(st.none(), st.lists(entry, max_size=6))),
    min_size=1,
    max_size=12,
)


def frame_of(drawn):
    lists = [None if own is None else [*zip(*own, strict=True)] or [(), (), ()] for _, own in drawn]
    parts = [[None if own is None else list(own[k]) for own in lists] for k in range(3)]
    schema = {
        "item": pl.String,
        "history": pl.List(pl.String),
        "hours": pl.List(pl.Float64),
        "event": pl.List(pl.String),
    }
    return pl.DataFrame([[item for item, _ in drawn], *parts], schema=schema)


def declared(sequences, longest=50):
    return {name: Sequence(of=of, longest=longest) for name, of in sequences.items()}


def table(**columns):
    return pl.DataFrame({"item": ["a", "b"], "history": [["a"], ["b", "a"]], **columns})


@settings(max_examples=60, deadline=None)
@given(drawn=rows, most=st.integers(1, 4))
def test_entries_are_those_of_a_loop(drawn, most):
    frame = frame_of(drawn)
    with warnings.catch_warnings(action="ignore", category=TabmtlWarning):
        coder = FeatureCoder.fit(frame, columns=declared(SIDES, longest=most), transform="none")
    features, (entries,) = coder.encode(frame), coder.encode(frame).sequences
    (items,), (events,) = coder.columns.levels, [coder.coders["sequences"]._levels["event"]]
    everywhere = {level for item, own in drawn for level in (item, *(entry[0] for entry in own or ()))} - {None}
    assert items == tuple(sorted(everywhere))
    assert features.codes[:, 0].tolist() == [0 if item is None else 2 + items.index(item) for item, _ in drawn]
    for row, (_, own) in enumerate(drawn):
        rows = slice(entries.offsets[row], entries.offsets[row + 1])
        if own is None:
            assert entries.codes[rows].tolist() == [0]
            continue
        kept = own[-most:]
        assert entries.codes[rows].tolist() == [1 if level is None else 2 + items.index(level) for level, _, _ in kept]
        assert entries.numbers[rows, 0].tolist() == [hours for _, hours, _ in kept]
        assert entries.labels[rows, 0].tolist() == [2 + events.index(event) for _, _, event in kept]


@settings(max_examples=60, deadline=None)
@given(drawn=rows)
def test_flat_features_are_those_of_a_loop(drawn):
    frame = frame_of(drawn)
    coder = FeatureCoder.fit(frame, columns=declared(SIDES), transform="none", flat=True)
    features, columns = coder.encode(frame), coder.columns
    counts = Counter(level for _, own in drawn for level, _, _ in own or [])
    frequent = sorted(level for level, n in counts.items() if n >= 5 and level is not None)
    parts = ("history: length", "history: times", "history: ago", "hours: last", "hours: mean", "hours: ago")
    assert columns.numeric == (*parts, *(f"history: {level}" for level in frequent))
    assert columns.categorical == ("item", "history: last", "event: last")
    of_numbers = (*["history"] * 3, *["hours"] * 3, *["history"] * len(frequent))
    assert coder.origins == (*of_numbers, "item", "history", "event")
    assert columns.levels[0] == columns.levels[1]
    for numbers, codes, (item, own) in zip(features.numbers, features.codes, drawn, strict=True):
        nan = np.nan
        matches = [] if not own or item is None else [k for k, each in enumerate(reversed(own)) if each[0] == item]
        expected = [nan] * 6 if own is None else [len(own), len(matches), nan, nan, nan, nan]
        if own:
            expected[3], expected[4] = own[-1][1], sum(hours for _, hours, _ in own) / len(own)
            level = own[-1][0]
            assert codes[1] == (1 if level is None else 2 + columns.levels[1].index(level))
        if matches:
            expected[2], expected[5] = matches[0], own[-1 - matches[0]][1]
        held = Counter(level for level, _, _ in own or [])
        expected += [nan if own is None else held[level] for level in frequent]
        np.testing.assert_array_equal(numbers, np.array(expected, dtype=np.float32))


def test_levels_are_those_that_are_frequent_in_items_and_lists_together():
    frame = pl.DataFrame(
        {"item": ["a", "a", "b", "c"], "seen": [["b", "b"], ["c"], None, []], "bought": [["d"] * 3] * 4}
    )
    coder = FeatureCoder.fit(frame, columns=declared({"seen": "item", "bought": "item"}), min_frequency=3)
    assert coder.columns.levels == (("b", "d"),)
    whole = pl.DataFrame({"item": [3, 7], "seen": [[7, 3], [3]]})
    coder = FeatureCoder.fit(whole, columns=declared({"seen": "item"}))
    assert coder.columns.levels == (("3", "7"),)
    assert coder.encode(whole).sequences[0].codes.tolist() == [3, 2, 2]


def test_new_levels_go_behind_the_known_ones():
    frame, sequences = table(event=[["x"], ["y", "x"]]), {"history": "item", "event": "history"}
    coder = FeatureCoder.fit(frame, columns=declared(sequences))
    grown = coder.extended(table(event=[["w"], ["y", "x"]]).with_columns(item=pl.lit("A")))
    assert grown.columns.levels == (("a", "b", "A"),)
    old, new = (each.encode(frame) for each in (coder, grown))
    assert old.codes.tolist() == new.codes.tolist()
    assert old.sequences[0].labels.tolist() == new.sequences[0].labels.tolist()
    assert grown.columns.sequences[0].label_sizes == (5,)
    assert coder.extended(frame) is coder


def test_a_list_of_its_own_levels_and_a_missing_side():
    frame = table(hours=[[1.0], None])
    coder = FeatureCoder.fit(frame, columns=declared({"history": None, "hours": "history"}))
    (entries,) = coder.encode(frame).sequences
    assert coder.columns.sequences[0].size == 4
    assert coder.columns.levels == (("a", "b"),)  # of the item, which is a category by itself
    assert entries.numbers[1:, 0].tolist() == [0, 0]


def test_what_is_cut_is_said_once():
    frame = pl.DataFrame({"item": ["a"] * 3, "history": [["a"] * 4, ["a"] * 3, None]})
    said = "1 sequence of column 'history' of 2 have more than 3 entries, up to 4; the newest 3 are read: raise longest"
    with pytest.warns(TabmtlWarning, match=said):
        coder = FeatureCoder.fit(frame, columns=declared({"history": "item"}, longest=3))
    assert coder.encode(frame).sequences[0].lengths.tolist() == [3, 3, 1]


def test_values_beneath_missing_lists_of_pyarrow_are_no_entries():
    lists = {"history": ["a", "b", "z", "z", "b"], "hours": [1.0, 2.0, 9.0, 9.0, 3.0]}

    def with_values_beneath(values):  # of the second of three
        values = pl.Series(values * 30).to_arrow()
        ends = pa.array([0, *np.cumsum([2, 2, 1] * 30)], pa.int64())
        return pa.LargeListArray.from_arrays(ends, values, mask=pa.array([False, True, False] * 30))

    table = pa.table({"item": ["a", "b", "a"] * 30} | {name: with_values_beneath(own) for name, own in lists.items()})
    read = read_features(table)[0]
    plain = pl.DataFrame(read.to_dict(as_series=False))
    assert read.equals(plain)
    coder = FeatureCoder.fit(plain, columns=declared({"history": "item", "hours": "history"}), transform="none")
    (expected,), (entries,) = (coder.encode(each).sequences for each in (plain, read))
    for name in ("offsets", "codes", "numbers"):
        assert np.array_equal(getattr(entries, name), getattr(expected, name), equal_nan=True), name


def test_pandas_and_blocks_are_read_as_polars():
    frame = frame_of([("a", [("a", 1.0, "x")]), ("b", None), ("a", [("b", 2.0, "y"), ("a", 1.0, "x")])] * 30)
    coder = FeatureCoder.fit(frame, columns=declared(SIDES))
    lazy = FeatureCoder.fit(frame.lazy(), columns=declared(SIDES))
    assert lazy.coders["sequences"].categories == coder.coders["sequences"].categories
    y = np.arange(90) % 2
    model = SharedBottom(columns=declared(SIDES), epochs=1, random_state=0, min_frequency=1)
    whole = model.fit(frame, y).predict_proba(frame)
    plain = pd.DataFrame({name: frame[name].to_list() for name in frame.columns})
    np.testing.assert_array_equal(model.fit(plain, y).predict_proba(plain), whole)


FLAWS = [
    (
        {"history": "itme"},
        table(),
        ValueError,
        "a sequence of the column 'itme', which X lacks; near is 'item'.*{'history': 'sequence'}",
    ),
    ({"histroy": "item"}, table(), ValueError, "'histroy'.*; near is 'history'"),
    (
        {"item": "history"},
        table(),
        TypeError,
        "column 'item' is declared a sequence and holds String; expected lists of text",
    ),
    (
        {"history": "old"},
        table(old=[["a"]] * 2),
        TypeError,
        "column 'old' holds the items of the sequence 'history', and is of type",
    ),
    (
        {"history": "item"},
        table(history=[[1, 2], [3]]),
        TypeError,
        "'history' is a sequence of values of 'item', and holds List.Int64., .* String, .*'history': 'sequence'",
    ),
    ({"hours": "item"}, table(hours=[[1.0]] * 2), TypeError, "'hours' is a sequence of items and holds List.Float64."),
    (
        {"history": "history"},
        table(),
        ValueError,
        "'history' is declared to lie beside 'history', .* say columns={'history': 'sequence'}",
    ),
    (
        {"history": "item", "hours": "history", "days": "hours"},
        table(hours=[[1.0]] * 2, days=[[1.0]] * 2),
        ValueError,
        "'days' is declared to lie beside 'hours', which is no sequence of items; say .*'days': 'sequence:history'",
    ),
    (
        {"history": "item", "hours": "history"},
        table(hours=[[1.0], [1.0]]),
        ValueError,
        "column 'hours' lies beside the sequence 'history', and in row 1, counted from 0, it has 1 entries where",
    ),
    (
        {"history": "item", "hours": "history"},
        table(hours=[[1.0], [np.inf, 1]]),
        ValueError,
        "'hours' holds an infinite value in row 1.*; replace it",
    ),
]


@pytest.mark.parametrize(("sequences", "frame", "error", "message"), FLAWS)
def test_flaws_are_named(sequences, frame, error, message):
    with pytest.raises(error, match=message):
        FeatureCoder.fit(frame, columns=declared(sequences)).encode(frame)


def test_rows_of_which_little_is_known_are_read():
    frame = table(hours=[[1.0], [1.0, 2.0]], event=[["x"], ["x", "y"]])
    for flat in (False, True):
        coder = FeatureCoder.fit(frame, columns=declared(SIDES), flat=flat)
        nothing = frame[:1].select(pl.lit(None).alias(name) for name in frame.columns)
        empty = frame[:1].select("item", *(pl.lit([]).alias(name) for name in ("history", "hours", "event")))
        for row, length in ((nothing, 1), (empty, 0)):
            features = coder.encode(row)
            assert [own.lengths.tolist() for own in features.sequences] == ([] if flat else [[length]])
            if flat:
                assert np.isnan(features.numbers[0, 0]) == (length == 1)


CHANGED = [
    (
        {"history": ["a", "b"]},
        "'history' held lists of text in fit and is now String; cast it to lists of text, or fit",
    ),
    ({"history": [[1], [2]]}, "'history' held lists of text in fit, such as 'a', and is now List.Int64.; cast it to"),
    ({"item": [["a"], ["b"]]}, "'item' held one text or number a row in fit and is now List.String.; cast it to one"),
    (
        {"hours": [["1"], ["x"]]},
        "'hours' held lists of numbers in fit and is now List.String.; cast it to lists of num",
    ),
    (
        {"seen": [3, 4]},
        "'seen' held lists of integers in fit and is now Int64; cast it to lists of integers, or fit again",
    ),
]


@pytest.mark.parametrize(("changed", "message"), CHANGED)
def test_another_type_in_predict_is_named(changed, message):
    frame = table(history=[["a"], ["b"]], hours=[[1.0], [2.0]], seen=[[3], [4]])
    coder = FeatureCoder.fit(frame, columns=declared({"history": "item", "hours": "history", "seen": None}))
    with pytest.raises(TypeError, match=message):
        coder.encode(frame.with_columns(pl.Series(name, own) for name, own in changed.items()))
    with pytest.raises(TypeError, match=message):
        coder.extended(frame.with_columns(pl.Series(name, own) for name, own in changed.items()))
