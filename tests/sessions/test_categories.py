"""Categories of items: what is read from a column, sums of probabilities, and predictors of the next category."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from recommenders import sessions_of

from tabmtl.sessions.categories import ItemCategories, rank_next_category, summarize_categories
from tabmtl.sessions.ragged import Sessions

NO_SESSIONS = Sessions(ids=pl.Series([], dtype=pl.Int64), offsets=np.zeros(1, int), items=np.zeros(0, int), times=None)


def values_of(categories: ItemCategories) -> list[Any]:
    """The values of every item: one, or a list."""
    names = [None, *categories.values]
    parts = np.split(categories.codes, categories.offsets[1:-1])
    return [[names[code] for code in part] if len(part) > 1 else names[part[0]] for part in parts]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pl.Series("a", ["x", None, "y", "x"]), ["x", None, "y", "x"]),
        (pl.Series("a", ["x", None, "y"], dtype=pl.Categorical), ["x", None, "y"]),
        (pl.Series("a", [True, None, False]), [True, None, False]),
        (pl.Series("a", [4711, None, 3]), [4711, None, 3]),
        (pl.Series("a", [1.5, float("nan"), None]), [1.5, None, None]),
        (pl.Series("a", [None, None]), [None, None]),
        (pl.Series("a", [["x", "y", "x"], [], None, [None, "y"]]), [["x", "y"], None, None, "y"]),
        (pl.Series("a", [[1, 2], [2, 1]], dtype=pl.Array(pl.Int64, 2)), [[1, 2], [2, 1]]),
        (pl.Series("a", [["x"], ["y"]], dtype=pl.List(pl.Categorical)), ["x", "y"]),
    ],
    ids=str,
)
def test_columns_are_read(column, expected):
    categories = ItemCategories.fit(column, NO_SESSIONS)
    assert values_of(categories) == expected
    assert categories.values.null_count() == 0
    assert categories.n_items.sum() == len(categories.codes)
    added = categories.extended(column)
    assert values_of(added) == expected + expected
    assert added.values.to_list() == categories.values.to_list()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["z", None, "x"], ["z", None, "x"]),
        (pl.Series([None, None]), [None, None]),
        (pl.Series(["x"], dtype=pl.Enum(["x"])), ["x"]),
        ([7], ["7"]),
        ([], []),
    ],
    ids=str,
)
def test_added_items_may_have_new_values(more, expected):
    known = ItemCategories.fit(pl.Series("a", ["x", "y"]), NO_SESSIONS)
    assert values_of(known.extended(pl.Series("a", more))) == ["x", "y", *expected]


@pytest.mark.parametrize("n_items", [7, 100_000])
def test_probabilities_are_the_softmax_summed(n_items):
    rng = np.random.default_rng(0)
    names = rng.choice(["a", "b", "c", "d", None], n_items)
    names[:5] = ["a", "b", "c", "d", None]
    scores = (5 * rng.standard_normal((3, n_items)) + 80).astype(np.float32)
    categories = ItemCategories.fit(pl.Series("a", names.tolist()), NO_SESSIONS)
    shares = np.exp(scores.astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    expected = np.stack([shares[:, names == name].sum(axis=1) for name in (None, "a", "b", "c", "d")], axis=1)
    np.testing.assert_allclose(categories.probabilities(scores), expected, rtol=1e-4)


def test_an_item_counts_fully_for_each_of_its_tags():
    categories = ItemCategories.fit(pl.Series("a", [["x", "y"], ["y", "y"], []]), NO_SESSIONS)
    scores = np.log(np.array([[0.5, 0.3, 0.2]], dtype=np.float32))
    np.testing.assert_allclose(categories.probabilities(scores), [[0.2, 0.5, 0.8]], rtol=1e-6)


def test_transitions_are_counted_between_known_clicks():
    """Items 1, 2 are x, item 3 is y, item 4 has no category, item 0 is unknown."""
    column = pl.Series("a", ["x", "x", "y", None])
    log = sessions_of([1, 3, 2], [3, 0, 1], [4, 3], [2])
    transitions = ItemCategories.fit(column, log).transitions
    assert transitions is not None
    found = transitions.probabilities(np.array([2, 1, 0, -1]), np.array([1, 2, 1]))
    share = np.array([1, 3, 3]) / 7  # of null, x and y, each with one more
    after = np.array([[0, 2, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_allclose(found, (after + 10 * share) / (after.sum(1, keepdims=True) + 10))
    more = transitions.probabilities(np.array([1, 3]), np.array([1, 2, 1, 1]))  # with a category that joined later
    np.testing.assert_allclose(more.sum(axis=1), 1)
    np.testing.assert_allclose(more[1], np.array([1, 3, 3, 1]) / 8)


def test_transitions_are_kept_for_single_categories_of_few_values():
    many = pl.Series("a", np.arange(2_001))
    log = sessions_of([1, 2])
    assert ItemCategories.fit(many, log).transitions is None
    assert ItemCategories.fit(many[:2_000], log).transitions is not None
    assert ItemCategories.fit(pl.Series("a", [["x"], ["y"]]), log).transitions is None


def test_predictors_are_judged_by_hand():
    """Two items of x, one of y, one of z; probabilities .3, .3, .3 and .1 whatever the session."""
    categories = ItemCategories.fit(pl.Series("a", ["x", "x", "y", "z"]), sessions_of([1, 3], [1, 3], [3, 1]))
    scores = np.log(np.array([0.3, 0.3, 0.3, 0.1], dtype=np.float32))
    found = rank_next_category(
        lambda some: np.tile(scores, (len(some), 1)), sessions_of([1, 2, 4, 0], [0, 3]), categories
    )
    np.testing.assert_array_equal(found["category"][0], [1, 3, np.nan, 2])
    np.testing.assert_allclose(found["category"][1], np.log([0.6, 0.1, np.nan, 0.3]), rtol=1e-6)
    np.testing.assert_array_equal(found["last"][0], [1, np.inf, np.nan, np.inf])
    assert found["transitions"][0].tolist()[:2] == [2, 3]
    metrics = summarize_categories(found, np.ones(4, dtype=bool))
    assert metrics["category_accuracy"] == metrics["last_accuracy"] == pytest.approx(1 / 3)
    assert metrics["category_top3"] == 1
    assert metrics["category_log_likelihood"] == pytest.approx(np.log([0.6, 0.1, 0.3]).mean(), rel=1e-6)
    assert set(summarize_categories(found, np.array([False, False, True, False])).values()) == {None}
    assert {*metrics} == {*summarize_categories({}, np.ones(0, dtype=bool))}


def test_ties_count_against_the_predictor_and_a_target_left_out_is_missed():
    categories = ItemCategories.fit(pl.Series("a", ["x", "y", "z"]), NO_SESSIONS)
    scores = np.array([[0.0, 0.0, -np.inf]], dtype=np.float32)
    found = rank_next_category(lambda some: scores.repeat(len(some), 0), sessions_of([1, 2, 3]), categories)["category"]
    assert found[0].tolist() == [2, np.inf]
    assert found[1].tolist()[1] == -np.inf


def test_where_every_item_is_left_out_no_category_comes():
    categories = ItemCategories.fit(pl.Series("a", ["x", "y", "y"]), NO_SESSIONS)
    scores = np.array([[0.0, 0.0, 0.0], [-np.inf] * 3], dtype=np.float32)
    assert categories.probabilities(scores) == pytest.approx(np.array([[0, 1 / 3, 2 / 3], [0, 0, 0]]))
    found = rank_next_category(lambda some: scores[1:].repeat(len(some), 0), sessions_of([1, 2]), categories)
    assert found["category"].tolist() == [[np.inf], [-np.inf]]
    metrics = summarize_categories(found, np.ones(1, dtype=bool))
    assert (metrics["category_top3"], metrics["category_log_likelihood"]) == (0, -np.inf)
