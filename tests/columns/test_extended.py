"""Coders that grow: new levels stand behind the known ones, and all that was known stays as it was."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from forging import through_file
from hypothesis import given, settings
from hypothesis import strategies as st

from tabmtl.base.schema import FIRST_LEVEL, MISSING, UNSEEN
from tabmtl.columns import KINDS, Category, Features, Text
from tabmtl.encode import FeatureCoder

SCHEMA = {
    "size": pl.Float64,
    "town": pl.String,
    "tags": pl.List(pl.String),
    "name": pl.String,
    "vector": pl.List(pl.Float32),
}
LEVELS = st.sampled_from(["a", "b", "c", "d", "", "^a$", "é"])
ROWS = st.tuples(
    st.none() | st.floats(-9, 9),
    st.none() | LEVELS,
    st.none() | st.lists(LEVELS, max_size=3, unique=True),
    st.none() | st.sampled_from(["red shoe", "hat"]),
    st.none() | st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2),
)


def frame_of(rows: list[tuple]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def fit(frame: pl.DataFrame, least: int) -> FeatureCoder:
    return FeatureCoder.fit(frame, columns={"town": Category(), "name": Text()}, min_frequency=least, kinds=KINDS)


def parts_of(features: Features) -> list[np.ndarray]:
    bags = [part for own in features.bags for part in (own.offsets, own.codes, own.weights)]
    return [features.numbers, features.codes, features.vectors, *bags]


def assert_same(first: Features, second: Features) -> None:
    for one, other in zip(parts_of(first), parts_of(second), strict=True):
        np.testing.assert_array_equal(one, other)


@settings(deadline=None, max_examples=60)
@given(st.lists(ROWS, max_size=8), st.lists(ROWS, max_size=8), st.integers(1, 2), st.integers(1, 3))
def test_what_is_new_stands_behind_what_is_known(old, new, least, least_new):
    frame, more = frame_of([*old, (1.0, "a", ["a"], None, [0.0, 1.0])]), frame_of(new)
    coder = fit(frame, least)
    grown = coder.extended(more, min_frequency=least_new)

    counts = [Counter(more["town"].drop_nulls()), Counter(more["tags"].explode().drop_nulls())]
    for kind, count in zip(("categories", "tags"), counts, strict=True):
        (known,), (levels,) = coder.coders[kind].levels, grown.coders[kind].levels
        added = sorted(level for level, n in count.items() if n >= least_new and level not in known)
        assert levels == (*known, *added)
    is_new = any(grown.coders[kind] is not coder.coders[kind] for kind in ("categories", "tags"))
    assert is_new is (grown is not coder)
    for kind in ("numbers", "texts", "vectors"):
        assert grown.coders[kind] is coder.coders[kind]

    before, after = coder.encode(frame), grown.encode(frame)
    codes = np.where(before.codes == UNSEEN, UNSEEN, after.codes)  # what was unseen or rare may be known now
    bags = before.bags if (before.bags[0].codes == UNSEEN).any() else after.bags
    assert_same(before, replace(after, codes=codes, bags=bags))
    everything = pl.concat([frame, more])
    whole = grown.encode(everything)
    rows = [grown.encode(everything[i]) for i in range(everything.height)]
    for row in rows[1:]:
        rows[0] = rows[0].extended(row)
    assert_same(rows[0], whole)
    assert_same(through_file(grown).encode(everything), whole)


def test_levels_grow_block_by_block(monkeypatch):
    old = pl.DataFrame({"town": ["b", "a"], "flag": [True, True], "x": [0.0, 1.0]})
    coder = FeatureCoder.fit(old)
    more = pl.DataFrame({"town": ["c", "a", None, "B", "c"], "flag": [False] * 5, "x": [9.0] * 5})
    grown = coder.extended(more)
    assert grown.columns.levels == (("a", "b", "B", "c"), ("true", "false"))
    assert coder.extended(more, min_frequency=2).columns.levels == (("a", "b", "c"), ("true", "false"))
    assert grown.columns.bins == coder.columns.bins
    assert grown.encode(more).codes[:4, 0].tolist() == [FIRST_LEVEL + 3, FIRST_LEVEL, MISSING, FIRST_LEVEL + 2]
    assert grown.extended(pl.concat([more, old])) is grown
    monkeypatch.setattr("tabmtl.encode.features.SLICE_ROWS", 2)
    assert coder.extended(more.lazy()).columns == grown.columns
    assert coder.extended(more[:0].lazy()) is coder
    with pytest.raises(ValueError, match="there is no column 'town', which fit had; near is 'towns'; add it"):
        coder.extended(more.rename({"town": "towns"}))
    with pytest.raises(TypeError, match="'x' was numeric in fit and is now String"):
        coder.extended(more.cast({"x": pl.String}))
