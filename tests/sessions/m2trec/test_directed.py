"""The directed path on logs whose law is known: a chain of items that leads one way, and one that leads both ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.base import clone

from tabmtl.sessions import M2TRec, Popularity
from tabmtl.sessions.m2trec.validation import Validation
from tabmtl.sessions.ranking import rank_targets

N_ITEMS, N_NEXT = 60, 4


def one_way(rng: np.random.Generator) -> np.ndarray:
    """Transitions (N, N): nine times of ten to one of four items, which lead elsewhere themselves."""
    law = np.full((N_ITEMS, N_ITEMS), 0.1 / N_ITEMS)
    order = rng.permutation(N_ITEMS)
    for step in range(1, N_NEXT + 1):
        law[order, np.roll(order, -step)] += 0.9 / N_NEXT
    return law


def both_ways(rng: np.random.Generator) -> np.ndarray:
    """The same chain, which leads back as often as on."""
    law = one_way(rng)
    return (law + law.T) / 2


def draw_log(law: np.ndarray, rng: np.random.Generator, n_sessions: int) -> pl.DataFrame:
    """Sessions of six clicks that follow the law."""
    clicks = np.empty((n_sessions, 6), dtype=np.int64)
    clicks[:, 0] = rng.integers(N_ITEMS, size=n_sessions)
    reached = law.cumsum(axis=1)
    for place in range(1, 6):
        draws = rng.random(n_sessions)
        clicks[:, place] = np.minimum((draws[:, None] > reached[clicks[:, place - 1]]).sum(axis=1), N_ITEMS - 1)
    session = np.repeat(np.arange(n_sessions), 6)
    return pl.DataFrame({"session_id": session, "item_id": clicks.ravel(), "time": np.arange(len(session))})


def fit(train: pl.DataFrame, **params: Any) -> M2TRec:
    model = M2TRec(d_model=32, epochs=6, batch_size=256, learning_rate=8e-3, n_jobs=1, random_state=0, **params)
    return model.fit(train)


def compare(make_law: Any, k: int) -> tuple[dict[str, np.ndarray], M2TRec]:
    """Which test clicks are among the first k of the law, of popularity, and of networks with and without the path."""
    rng = np.random.default_rng(0)
    law = make_law(rng)
    train, test = draw_log(law, rng, 1500), draw_log(law, rng, 500)
    clicks = test["item_id"].to_numpy().reshape(-1, 6)
    model = fit(train)
    ranks = {
        "law": rank_targets(law[clicks[:, :-1].ravel()], clicks[:, 1:].ravel() + 1),
        "popularity": Popularity().fit(train).rank(test).ranks,
        "directed": model.rank(test).ranks,
        "undirected": fit(train, pooling="undirected").rank(test).ranks,
    }
    return {name: part <= k for name, part in ranks.items()}, model


# Measured, recall at 4: law .906, popularity .066, undirected .251, directed .800


@pytest.mark.all_faces
def test_a_chain_that_leads_one_way_is_learned_by_the_path_only():
    hits, model = compare(one_way, N_NEXT)
    recall = {name: part.mean() for name, part in hits.items()}
    assert recall["popularity"] + 0.1 < recall["undirected"] < recall["law"] / 2  # it cannot tell there from back
    assert recall["law"] - 0.15 < recall["directed"] <= recall["law"]
    assert model.directed_strength_ > 0


@pytest.mark.all_faces  # seven seconds
def test_a_chain_that_leads_both_ways_loses_nothing_by_the_path():
    hits, _ = compare(both_ways, 2 * N_NEXT)
    recall = {name: part.mean() for name, part in hits.items()}
    assert recall["popularity"] + 0.3 < recall["undirected"] < recall["law"]
    difference = hits["directed"].astype(float) - hits["undirected"]
    assert difference.mean() > -2 * difference.std() / np.sqrt(len(difference))
    assert recall["directed"] < recall["law"]


def test_the_strength_that_was_chosen_is_in_the_weights(reloaded):
    rng = np.random.default_rng(0)
    train = draw_log(both_ways(rng), rng, 140)
    for strength in (0.0, 0.5):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Validation, "choose_strength", lambda self, chosen=strength: chosen)
            model = fit(train)
        assert model.directed_strength_ == strength
        again = reloaded(model)
        assert again.directed_strength_ == strength
        assert again.recommend(train).equals(model.recommend(train))
        np.testing.assert_allclose(
            np.sort(model.transform(train) @ model.item_vectors().T)[:, :-21:-1].ravel(),
            model.recommend(train)["score"],
            rtol=1e-4,
            atol=1e-4,
        )
        if strength == 0:
            assert not model.weights_["encoder.direct.weight"].any()


@pytest.mark.parametrize(
    ("n_sessions", "is_judged", "strength"), [(115, True, 0), (135, True, 1), (240, False, 0), (260, False, 0.5)]
)
def test_the_clicks_of_the_mean_item_tell_whether_a_path_is_trained(n_sessions, is_judged, strength, monkeypatch):
    """A tenth of the sessions is the number of clicks an item; what is judged has 1 / 20 less."""
    monkeypatch.setattr(Validation, "choose_strength", lambda self: 1.0)
    rng = np.random.default_rng(0)
    model = fit(draw_log(one_way(rng), rng, n_sessions), early_stopping=is_judged)
    assert model.directed_strength_ == strength
    assert model.weights_["encoder.direct.weight"].any() == (strength > 0)


def test_a_later_log_chooses_the_strength_where_all_sessions_are_trained_on(monkeypatch):
    monkeypatch.setattr(Validation, "choose_strength", lambda self: 1.0)
    rng = np.random.default_rng(0)
    train, later = draw_log(one_way(rng), rng, 140), draw_log(one_way(rng), rng, 10)
    model = fit(train, early_stopping=False)
    assert model.directed_strength_ == 0
    model = clone(model).fit(train, clicks_val=later.with_columns(pl.col("session_id") + 140))
    assert model.directed_strength_ == 1


@pytest.mark.parametrize("params", [{"pooling": "undirected"}, {"pooling": "last"}], ids=str)
def test_without_a_path_there_is_no_strength(params):
    rng = np.random.default_rng(0)
    model = fit(draw_log(one_way(rng), rng, 50), **params)
    assert not hasattr(model, "directed_strength_")
    assert "encoder.direct.weight" not in model.weights_
