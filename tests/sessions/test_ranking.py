"""Ranks and what follows from them, by hand and by the definition."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tabmtl.sessions import ranking as room
from tabmtl.sessions.ranking import Ranking, rank_targets, summarize, top_k

INF = float("inf")


def ranking(
    ranks: list[float],
    counts: list[int] | None = None,
    n_items: int = 10,
    top: list[list[int]] | None = None,
    session: list[int] | None = None,
) -> Ranking:
    return Ranking(
        ranks=np.array(ranks, dtype=float),
        counts=np.array(counts or [0] * len(ranks)),
        n_items=n_items,
        top=np.array(top or [range(n_items)] * len(ranks)),
        session=pl.Series(session or range(len(ranks)), dtype=pl.Int64),
    )


def test_a_target_outside_the_catalogue_is_never_found():
    scores = np.array([[1, 2], [1, 2]], dtype=np.float32)
    assert rank_targets(scores, np.array([0, 2])).tolist() == [INF, 1]
    assert ranking([INF, 1]).recall(1000) == 0.5
    assert ranking([INF, 1]).mrr(1000) == 0.5
    assert ranking([INF]).ndcg(1000) == 0


def test_a_target_that_is_excluded_or_no_number_is_never_found():
    scores = np.array([[-INF, -INF], [float("nan"), 1], [float("nan"), 1]], dtype=np.float32)
    assert rank_targets(scores, np.array([1, 1, 2])).tolist() == [INF, INF, 1]
    assert rank_targets(np.full((1, 3), np.nan, dtype=np.float32), np.array([2])).tolist() == [INF]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.data())
def test_a_rank_counts_the_items_that_score_at_least_as_much(row, data):
    target = data.draw(st.integers(1, len(row)))
    [rank] = rank_targets(np.array([row], dtype=np.float32), np.array([target]))
    assert rank == sum(score >= row[target - 1] for score in row)
    assert 1 <= rank <= len(row)


def test_measures_by_hand():
    some = ranking([1, 3, 20, 21])
    assert some.recall(20) == 0.75
    assert some.recall(2) == 0.25
    assert some.mrr(20) == pytest.approx((1 + 1 / 3 + 1 / 20) / 4)
    assert some.mrr(1) == 0.25
    assert some.ndcg(20) == pytest.approx((1 + 1 / 2 + 1 / math.log2(21)) / 4)


def test_coverage_counts_items_among_the_first_k():
    some = ranking([1, 1], n_items=8, top=[[0, 1, 2], [0, 3, 1]])
    assert [some.coverage(k) for k in (1, 2, 3)] == [1 / 8, 3 / 8, 4 / 8]


def test_coverage_beyond_the_lists_that_were_kept_is_refused():
    some = ranking([1], n_items=8, top=[[0, 1, 2]])
    with pytest.raises(ValueError, match=r"coverage\(5\) needs lists of 5 items, .* have 3: rank\(.*k=5\)"):
        some.coverage(5)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        some.coverage(0)
    whole = ranking([1], n_items=3, top=[[0, 1, 2]])
    assert whole.coverage(5) == 1  # there are no more


def test_a_mask_takes_everything_along():
    part = ranking([1, 2, 3], [7, 8, 9]).only(np.array([True, False, True]))
    assert part.ranks.tolist() == [1, 3]
    assert part.counts.tolist() == [7, 9]
    assert part.top.shape == (2, 10)
    assert part.session.to_list() == [0, 2]


def test_recommenders_are_compared_over_sessions_by_hand():
    """Recall gains 1, 0, 0 and -1 in two sessions of two clicks: sums 1 and -1, over four clicks."""
    ours = ranking([1, 1, 1, INF], session=[0, 0, 1, 1])
    found = ours.compare(ranking([INF, 1, 1, 2], session=[0, 0, 1, 1]), 20)
    assert found.columns == ["metric", "score", "difference", "standard_error"]
    assert found["metric"].to_list() == ["recall@20", "mrr@20", "ndcg@20"]
    assert found["score"].to_list() == [ours.recall(20), ours.mrr(20), ours.ndcg(20)]
    assert found.row(0)[2:] == (0, pytest.approx(math.sqrt(2) / 4))
    assert found.row(1)[2:] == (0.125, pytest.approx(math.sqrt(2 * 0.75**2) / 4))  # 1 and -1/2, less 2 of the mean
    apart = ranking([1, 1, 1, INF]).compare(ranking([INF, 1, 1, 2]), 20)
    assert apart["standard_error"][0] == found["standard_error"][0]  # as each session has one click that changes


def test_a_difference_without_draws_has_no_error():
    some, missed = ranking([1, 3, INF]), ranking([INF, INF, INF])
    assert some.compare(some)["difference"].to_list() == [0, 0, 0]
    assert some.compare(some)["standard_error"].null_count() == 3
    same = ranking([3] * 7).compare(ranking([INF] * 7))  # 1 / 3 is no whole number of bits
    assert same["difference"].to_list() == pytest.approx([1, 1 / 3, 1 / 2])
    assert same["standard_error"].null_count() == 3
    single = ranking([1, 3, 7], session=[0, 0, 0]).compare(ranking([2, 9, INF], session=[0, 0, 0]))
    assert single["standard_error"].null_count() == 3
    nobody = np.zeros(3, dtype=bool)
    assert some.only(nobody).compare(missed.only(nobody)).drop("metric").null_count().row(0) == (3, 3, 3)


@pytest.mark.parametrize("other", [ranking([1, 2, 3]), ranking([1, 2], session=[0, 7])], ids=["more", "others"])
def test_rankings_of_different_sessions_are_not_compared(other):
    with pytest.raises(ValueError, match=r"2 and [23] next clicks of different sessions; rank the same click log"):
        ranking([1, 2]).compare(other)


def test_a_summary_has_a_row_for_all_and_one_a_bucket():
    counts = [0, 1, 5, 6, 20, 21, 100, 101, 5000]
    ranks = [1, 2, 30, 1, 1, 4, 4, INF, 5]
    table = summarize(ranking(ranks, counts), [1, 20])
    assert table.columns == [
        *("bucket", "n_targets"),
        *("recall@1", "mrr@1", "ndcg@1", "coverage@1"),
        *("recall@20", "mrr@20", "ndcg@20", "coverage@20"),
    ]
    assert table["bucket"].to_list() == ["all", "0", "1-5", "6-20", "21-100", ">100"]
    assert table["n_targets"].to_list() == [9, 1, 2, 2, 2, 2]
    assert table["recall@1"].to_list() == pytest.approx([3 / 9, 1, 0, 1, 0, 0])
    assert table["recall@20"].to_list() == pytest.approx([7 / 9, 1, 0.5, 1, 1, 0.5])
    assert table["mrr@20"].to_list()[1:] == pytest.approx([1, 0.25, 1, 0.25, 0.1])
    assert table["coverage@20"].to_list() == [1, None, None, None, None, None]
    single = summarize(ranking([1.0], [3]), [20])
    assert single.row(1) == ("0", 0, None, None, None, None)
    assert single["recall@20"][2] == 1


# the best items of a row are those of a full sort, whatever the other rows are


def sorted_by_numpy(scores: np.ndarray, k: int) -> np.ndarray:
    """Best first; a stable sort leaves equal ones in the order of the catalogue."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def check(scores: np.ndarray, k: int) -> None:
    items, values = top_k(scores, k)
    want = sorted_by_numpy(scores, k)
    np.testing.assert_array_equal(items, want)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, want, axis=1))
    assert items.dtype == np.int64
    assert values.dtype == np.float32


@pytest.mark.parametrize("levels", [2, 50, 10_000_000], ids=["many ties", "ties", "no ties"])
@pytest.mark.parametrize(("n_items", "k"), [(300, 1), (300, 20), (300, 300), (6_001, 20)])
def test_the_best_are_those_of_a_full_sort(levels, n_items, k):
    check(np.random.default_rng(0).integers(levels, size=(20, n_items)).astype(np.float32), k)


@settings(deadline=None, max_examples=80)
@given(st.data(), st.integers(1, 4), st.integers(1, 12), st.integers(1, 14))
def test_ties_of_any_kind_are_resolved_by_the_catalogue(data, m, n, k):
    cells = data.draw(st.lists(st.sampled_from([-INF, -1.5, -0.0, 0.0, 2.0, INF]), min_size=m * n, max_size=m * n))
    check(np.array(cells, dtype=np.float32).reshape(m, n), k)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.integers(1, 3), st.integers(8, 40), st.integers(1, 3))
def test_blocks_of_items_are_invisible(monkeypatch, data, m, n, k):
    monkeypatch.setattr(room, "_BLOCK", 2)
    values = st.sampled_from([-INF, -1.5, -0.0, 0.0, 1.0, 2.0, INF]) | st.floats(-3, 3, width=32)
    scores = np.array(data.draw(st.lists(values, min_size=m * n, max_size=m * n)), dtype=np.float32).reshape(m, n)
    check(scores, k)
    holes = scores.copy()
    holes[:, data.draw(st.lists(st.integers(0, n - 1), max_size=n))] = np.nan
    items, found = top_k(holes, k)
    lowest = np.where(np.isnan(holes), -INF, holes)
    np.testing.assert_array_equal(items, sorted_by_numpy(lowest, k))
    np.testing.assert_array_equal(found, np.take_along_axis(lowest, items, axis=1))


def test_no_rows_give_no_items():
    items, values = top_k(np.zeros((0, 5), dtype=np.float32), 3)
    assert items.shape == values.shape == (0, 3)


def test_what_is_no_number_comes_last():
    scores = np.array([[np.nan, 1, 3, 2], [1, 2, 3, 4]], dtype=np.float32)
    items, values = top_k(scores, 2)
    assert items.tolist() == [[2, 3], [3, 2]]
    assert values.tolist() == [[3, 2], [4, 3]]
    assert top_k(scores, 4)[1][0].tolist() == [3, 2, 1, -INF]
    assert np.isnan(scores[0, 0])  # the scores are left as they were
