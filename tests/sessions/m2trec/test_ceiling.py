"""What an oracle of metadata reaches, by brute force; and the warning where that is less than a baseline reaches."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabmtl.base.schema import TabmtlWarning
from tabmtl.sessions import M2TRec
from tabmtl.sessions.m2trec.ceiling import oracle_ceiling


def by_brute_force(row: np.ndarray, counts: np.ndarray, targets: np.ndarray, k: int) -> tuple[float, float]:
    """An item's rank is the number of items of its metadata that were clicked as often or more."""
    gains = []
    for code in targets:
        same = row == row[code - 1]
        rank = np.count_nonzero(same & (counts >= counts[code - 1])) if code else np.inf
        gains.append((rank <= k, 1 / rank if rank <= k else 0.0))
    return tuple(np.mean(gains, axis=0))


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=25),
    st.lists(st.integers(0, 25), min_size=1, max_size=12),
    st.integers(1, 6),
)
def test_the_oracle_is_that_of_brute_force(cells, targets, k):
    row, counts = np.array(cells).T
    codes = np.minimum(targets, len(cells))
    found = oracle_ceiling(row, counts, codes, k)
    assert list(found) == [f"recall@{k}", f"mrr@{k}"]
    assert list(found.values()) == pytest.approx(by_brute_force(row, counts, codes, k))


def cycles(n_sessions: int = 400, n_items: int = 100) -> pl.DataFrame:
    """Every item is followed by the next one, which neighbours know and a category does not."""
    rng = np.random.default_rng(0)
    starts = rng.integers(n_items, size=n_sessions)
    items = (starts[:, None] + np.arange(4)).ravel() % n_items
    return pl.DataFrame(
        {"session_id": np.repeat(np.arange(n_sessions), 4), "item_id": items, "time": range(4 * n_sessions)}
    )


CATEGORIES = pl.DataFrame({"item_id": range(100), "category": ["x", "y"] * 50})  # as of Diginetica
TINY = {"epochs": 1, "d_model": 8, "random_state": 0, "device": "cpu", "n_jobs": 1}


@pytest.mark.parametrize("early_stopping", [False, True])
def test_one_category_for_many_items_is_warned_of_without_ids(early_stopping):
    match = r"2 different rows of metadata stand for 100 items: .* cannot exceed Recall@20 0\.\d+, and VSKNN reaches 1"
    with pytest.warns(TabmtlWarning, match=match) as caught:
        model = M2TRec(id_mode="none", early_stopping=early_stopping, **TINY).fit(cycles(), items=CATEGORIES)
    assert caught[0].filename == __file__
    assert model.n_distinct_metadata_ == 2
    assert 0.05 < model.oracle_ceiling_["recall@20"] < 0.4


@pytest.mark.parametrize(("id_mode", "n_different"), [("full", 2), ("none", 100)])
def test_ids_and_metadata_that_tell_items_apart_are_not_warned_of(id_mode, n_different):
    table = CATEGORIES if n_different == 2 else CATEGORIES.with_columns(price=pl.col("item_id").sqrt())
    with warnings.catch_warnings():
        warnings.simplefilter("error", TabmtlWarning)
        model = M2TRec(id_mode=id_mode, **TINY).fit(cycles(), items=table)
    assert model.n_distinct_metadata_ == n_different
    assert (model.oracle_ceiling_ == {"recall@20": 1.0, "mrr@20": 1.0}) == (n_different == 100)


def test_the_ceiling_is_measured_on_validation_clicks_by_training_clicks():
    log = cycles()
    train, valid = log.filter(pl.col("session_id") < 300), log.filter(pl.col("session_id") >= 300)
    model = M2TRec(id_mode="full", **TINY).fit(train, items=CATEGORIES, clicks_val=valid)
    targets = 1 + valid.filter(pl.int_range(pl.len()).over("session_id") > 0)["item_id"].to_numpy()
    row = np.arange(100) % 2
    assert model.oracle_ceiling_ == oracle_ceiling(row, model.item_counts_, targets)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_neighbours_are_judged_on_sessions_that_they_do_not_hold(early_stopping):
    rng = np.random.default_rng(0)
    clicks = {"session_id": np.repeat(np.arange(400), 5), "item_id": rng.integers(400, size=2000), "time": range(2000)}
    items = pl.DataFrame({"item_id": range(400), "category": [str(item % 4) for item in range(400)]})
    with warnings.catch_warnings():
        warnings.simplefilter("error", TabmtlWarning)  # the clicks are random
        M2TRec(id_mode="none", early_stopping=early_stopping, **TINY).fit(pl.DataFrame(clicks), items=items)
