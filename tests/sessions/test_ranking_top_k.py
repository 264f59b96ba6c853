"""The best items of a row: those of a full sort, whatever the other rows are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tabmtl.sessions import ranking
from tabmtl.sessions.ranking import top_k

INF = np.float32(np.inf)


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


@pytest.mark.parametrize("levels", [2, 10, 10_000_000], ids=["many ties", "ties", "no ties"])
@pytest.mark.parametrize("k", [1, 20, 300])
def test_the_best_are_those_of_a_full_sort(levels, k):
    check(np.random.default_rng(0).integers(levels, size=(40, 300)).astype(np.float32), k)


@settings(deadline=None, max_examples=80)
@given(st.data(), st.integers(1, 4), st.integers(1, 12), st.integers(1, 14))
def test_ties_of_any_kind_are_resolved_by_the_catalogue(data, m, n, k):
    cells = data.draw(st.lists(st.sampled_from([-INF, -1.5, -0.0, 0.0, 2.0, INF]), min_size=m * n, max_size=m * n))
    check(np.array(cells, dtype=np.float32).reshape(m, n), k)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.integers(1, 3), st.integers(8, 40), st.integers(1, 3))
def test_blocks_of_items_are_invisible(monkeypatch, data, m, n, k):
    monkeypatch.setattr(ranking, "_BLOCK", 2)
    values = st.sampled_from([-INF, -1.5, -0.0, 0.0, 1.0, 2.0, INF]) | st.floats(-3, 3, width=32)
    scores = np.array(data.draw(st.lists(values, min_size=m * n, max_size=m * n)), dtype=np.float32).reshape(m, n)
    check(scores, k)
    holes = scores.copy()
    holes[:, data.draw(st.lists(st.integers(0, n - 1), max_size=n))] = np.nan
    items, found = top_k(holes, k)
    lowest = np.where(np.isnan(holes), -INF, holes)
    np.testing.assert_array_equal(items, sorted_by_numpy(lowest, k))
    np.testing.assert_array_equal(found, np.take_along_axis(lowest, items, axis=1))


@pytest.mark.parametrize("levels", [2, 50, 10_000_000], ids=["many ties", "ties", "no ties"])
def test_the_best_of_many_are_those_of_a_full_sort(levels):
    check(np.random.default_rng(0).integers(levels, size=(20, 6_001)).astype(np.float32), 20)


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
