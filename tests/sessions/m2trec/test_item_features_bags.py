"""Bags of tags and of words: codes and weights, whatever the order and the type of what is given."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabmtl.base.schema import FIRST_LEVEL, MISSING, UNSEEN
from tabmtl.columns.category import code_of
from tabmtl.columns.features import Bags
from tabmtl.columns.kind import Coding
from tabmtl.columns.tags import Tags, encode_tags
from tabmtl.columns.text import TEXT_BUCKETS, encode_texts

LEVELS = ("blue", "green", "red")


def code_of_text(levels):
    return code_of("text", pl.String(), pl.Enum(levels))


KNOWN = code_of_text(LEVELS)


def levels_of(tags: pl.Series, min_frequency: int) -> tuple[str, ...]:
    summary = Tags.survey(tags.to_frame(), [tags.name], np.arange(len(tags)))
    coding = Coding(schema={tags.name: tags.dtype}, min_frequency=min_frequency)
    return Tags.learn((tags.name,), summary, coding).levels[0]


def rows(bags: Bags) -> list[list[int]]:
    return [bags.codes[start:end].tolist() for start, end in zip(bags.offsets, bags.offsets[1:], strict=False)]


def take(bags: Bags, places: list[int]) -> Bags:
    return bags.map(torch.from_numpy).rows(torch.tensor(places, dtype=torch.int64)).map(torch.Tensor.numpy)


def test_tags_are_levels_unseen_or_missing():
    tags = pl.Series("tags", [["red", "blue"], ["mauve"], [], None, [None], [None, "green"], ["pink", "blue"]])
    bags = encode_tags(tags, KNOWN)
    blue, green, red = range(FIRST_LEVEL, FIRST_LEVEL + 3)
    assert rows(bags) == [[blue, red], [UNSEEN], [], [MISSING], [], [green], [UNSEEN, blue]]
    assert bags.weights.tolist() == [0.5, 0.5, 1, 1, 1, 0.5, 0.5]
    assert (bags.codes.dtype, bags.weights.dtype, bags.offsets.dtype) == (np.int32, np.float32, np.int64)


@pytest.mark.parametrize("dtype", [pl.List(pl.Categorical), pl.List(pl.Enum(LEVELS)), pl.Array(pl.String, 2)])
def test_tags_may_be_text_of_any_type(dtype):
    tags = pl.Series([["red", "blue"], ["green", "red"]])
    assert rows(encode_tags(tags.cast(dtype), KNOWN)) == rows(encode_tags(tags, KNOWN))
    numbers = pl.Series([[3, 1], [2, 2]])
    assert levels_of(numbers, 1) == ("1", "2", "3")
    assert rows(encode_tags(numbers, code_of_text(("1", "2", "3")))) == [[2, 4], [3, 3]]


@pytest.mark.parametrize("name", ["tags", "count", "tag", ""])
def test_levels_are_the_frequent_tags_in_order(name):
    tags = pl.Series(name, [["b", "a"], ["b"], None, ["c", None, "b", "a"]])
    assert levels_of(tags, 1) == ("a", "b", "c")
    assert levels_of(tags, 2) == ("a", "b")
    assert levels_of(tags, 9) == ()


def test_without_levels_all_tags_are_unseen():
    assert rows(encode_tags(pl.Series([["a", "b"], None]), code_of_text(()))) == [[UNSEEN, UNSEEN], [MISSING]]


@given(st.lists(st.none() | st.lists(st.sampled_from(["red", "blue", "odd", None]), max_size=4), min_size=1))
def test_codes_of_a_row_are_sorted_and_weigh_one(tags):
    series = pl.Series(tags, dtype=pl.List(pl.String))
    bags = encode_tags(series, KNOWN)
    for words, row, own in zip(tags, rows(bags), np.split(bags.weights, bags.offsets[1:-1]), strict=True):
        assert (row == [MISSING]) == (words is None)
        assert row == sorted(row)
        np.testing.assert_allclose(own.sum(), float(bool(row)), rtol=1e-6)
    backwards = pl.Series([None if row is None else row[::-1] for row in tags], dtype=pl.List(pl.String))
    assert list(bags.keys()) == list(encode_tags(backwards, KNOWN).keys())


def test_words_and_letters_are_hashed_into_halves_of_their_own():
    bags = encode_texts(["Red shoe", "red  SHOE", "shoe red", "a red-shoe", "", None])
    first, same, turned, other, empty, none = rows(bags)
    assert first == same == turned
    assert (empty, none) == ([], [MISSING])
    half = TEXT_BUCKETS // 2
    assert sum(code < half + FIRST_LEVEL for code in first) == 2
    assert sum(code < half + FIRST_LEVEL for code in other) == 3
    assert all(FIRST_LEVEL <= code < FIRST_LEVEL + TEXT_BUCKETS for code in other)
    sums = [own.sum() for own in np.split(bags.weights, bags.offsets[1:-1])]
    np.testing.assert_allclose(sums, [1, 1, 1, 1, 0, 1], rtol=1e-6)


def test_a_letter_changed_leaves_most_3_grams():
    first, second = rows(encode_texts(["waterproof", "waterprof"]))
    half = TEXT_BUCKETS // 2
    shared = set(first) & set(second)
    assert all(code >= half for code in shared)
    assert len(shared) >= 6


def test_how_often_a_word_comes_counts():
    once, twice = encode_texts(["a bb", "a a bb"]).keys()
    assert once != twice


def test_rows_are_taken_and_extended():
    bags = encode_tags(pl.Series([["red", "blue"], None, ["odd"]]), KNOWN)
    taken = take(bags, [2, 0, 0])
    assert rows(taken) == [rows(bags)[place] for place in (2, 0, 0)]
    assert list(taken.keys()) == [list(bags.keys())[place] for place in (2, 0, 0)]
    both = Bags.join([bags, taken])
    assert rows(both) == rows(bags) + rows(taken)
    assert list(both.keys()) == list(bags.keys()) + list(taken.keys())
    assert rows(take(bags, [])) == []
