"""What queries find: exactly or by a graph, in which order, and where nothing is known of a session."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np
import polars as pl
import pytest
from recommenders import ITEMS, TEST, TRAIN, again, every_m2trec, fitted, renamed, tiny

from tabmtl.base.schema import TabmtlWarning
from tabmtl.sessions import Popularity
from tabmtl.sessions.m2trec.index import NeighbourGraph


def test_approximate_search_says_how_much_it_finds():
    pytest.importorskip("usearch")
    model = again("M2TRec")
    for options in ({}, {"exclude_seen": True}):
        found = model.recommend(TEST, k=10, approximate=True, **options)
        exact = model.recommend(TEST, k=10, **options)
        assert 0.9 < model.approximate_recall_ <= 1
        shared = found.join(exact, on=["session_id", "item_id"])
        assert len(shared) > 0.9 * len(exact)
        np.testing.assert_allclose(shared["score"], shared["score_right"], rtol=1e-4, atol=1e-4)
        assert found["rank"].to_list() == exact["rank"].to_list()
    clicked = TEST.select("session_id", "item_id")
    assert found.join(clicked, on=["session_id", "item_id"]).is_empty()
    assert model.recommend(TEST, k=100, approximate=True).group_by("session_id").len()["len"].max() <= 60


def test_approximate_search_that_finds_little_is_warned_of_where_it_is_asked_for(monkeypatch):
    pytest.importorskip("usearch")
    model = again("M2TRec")
    monkeypatch.setattr(
        NeighbourGraph, "search", lambda graph, queries, k, *rest: (np.zeros((len(queries), k), int), queries)
    )
    monkeypatch.setattr(model, "_frame", lambda *answer: None)
    with pytest.warns(TabmtlWarning, match=r"found 0\.\d\d of the 5 exact .* leave out approximate=True") as caught:
        model.recommend(TEST, k=5, approximate=True)
    assert caught[0].filename == __file__
    assert model.approximate_recall_ < 0.9


def test_approximate_search_of_no_session_finds_none():
    pytest.importorskip("usearch")
    found = again("M2TRec").recommend(TEST.clear(), k=5, approximate=True)
    assert found.equals(fitted("M2TRec").recommend(TEST.clear(), k=5))


@every_m2trec
def test_queries_are_in_the_order_in_which_sessions_are_answered(form):
    model, log = fitted(form), TEST.sample(fraction=1, shuffle=True, seed=0)
    log = log.with_columns(pl.col("time").dt.truncate("1d"))  # many last clicks are equally old
    names = model.recommend(log, k=1)["session_id"]
    assert names.equals(log["session_id"].unique(maintain_order=True))
    queries = model.transform(log)
    for row in (0, 7, len(queries) - 1):
        alone = model.transform(log.filter(session_id=names[row]))
        np.testing.assert_allclose(alone[0], queries[row], rtol=1e-4, atol=1e-4)


@every_m2trec
def test_no_session_has_no_query(form):
    model = fitted(form)
    queries = model.transform(TEST.clear())
    assert queries.shape == (0, model.item_vectors().shape[1])
    assert queries.dtype == np.float32


@pytest.fixture(scope="module")
def of_ids() -> Any:
    """Fitted without metadata, on a table of names."""
    return tiny("M2TRec", epochs=1, categories=(), columns=None).fit(TRAIN, items=ITEMS.select("item_id"))


def test_without_metadata_unknown_items_get_the_popular_ones_however_they_are_searched(of_ids):
    pytest.importorskip("usearch")
    log = TEST.with_columns(item_id=pl.lit("nobody"))
    popular = Popularity().fit(TRAIN, items=ITEMS).recommend(log, k=60)
    clicks = dict(zip(of_ids.item_ids_, of_ids._items.clicks, strict=True))
    found = of_ids.recommend(log, k=60)
    said = [clicks[item] for item in found["item_id"][:60]]
    assert said == sorted(said, reverse=True)
    assert said[-1] == 0
    assert found["item_id"][0] in popular["item_id"][:3].to_list()  # the newest sessions are not counted here
    near = of_ids.recommend(log, k=60, approximate=True)
    assert near["score"].to_numpy() == pytest.approx(found["score"].to_numpy(), abs=1e-5)
    scores = of_ids.transform(log) @ of_ids.item_vectors().T
    np.testing.assert_allclose(np.sort(scores)[:, ::-1].ravel(), found["score"], atol=1e-5)


def test_what_cannot_be_added_is_not_said_to_be(of_ids):
    with pytest.raises(ValueError, match="does not hold: leave them out, or fit again with an item table"):
        of_ids.recommend(TEST, candidates=["nobody"])


def test_approximate_search_finds_added_items():
    pytest.importorskip("usearch")
    model = again("M2TRec")
    model.recommend(TEST, approximate=True)
    model.add_items(renamed(ITEMS[:5]))
    found = model.recommend(TEST, k=65, approximate=True)
    assert found["item_id"].str.starts_with("new").any()
    assert pickle.loads(pickle.dumps(model)).recommend(TEST, k=5, approximate=True).shape == (
        5 * found["session_id"].n_unique(),
        4,
    )


def test_approximate_search_is_of_all_items_and_needs_usearch(monkeypatch):
    model = again("M2TRec")
    with pytest.raises(ValueError, match="approximate=True searches all items; leave out candidates"):
        model.recommend(TEST, approximate=True, candidates=["i00"])
    with pytest.raises(ValueError, match="k must be at least 1"):
        model.recommend(TEST, k=0, approximate=True)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(ImportError, match=r"needs usearch, which is missing: pip install 'tabmtl\[ann\]'"):
        model.recommend(TEST, approximate=True)
