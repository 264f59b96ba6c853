"""Validation while training: next clicks of sessions that were set aside, among the items that training clicked."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from recommenders import sessions_of

from tabmtl.sessions import M2TRec
from tabmtl.sessions.m2trec.index import ItemIndex
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork
from tabmtl.sessions.m2trec.training import Examples, SessionLoop
from tabmtl.sessions.m2trec.validation import Validation, is_clearly_better
from tabmtl.sessions.ranking import Ranking, rank_next
from tabmtl.sessions.repeats import Choices

CPU = torch.device("cpu")
TABLE = pl.DataFrame({"kind": list("abacbadc"), "price": [1.0, 2.0, 1.0, 3.0, 2.0, 5.0, 6.0, 7.0]})
COUNTS = np.array([5, 0, 2, 4, 0, 0, 3, 1])
CODER = ItemCoder.fit(TABLE)


def make(**options: Any) -> tuple[M2TRecNetwork, KnownItems, M2TRec]:
    """A network that is not at its start: the directed path says something."""
    model = M2TRec(**{"d_model": 8, "max_length": 5} | options)
    features, row = CODER.encode(TABLE)
    known = KnownItems(features=features, row=row, clicks=COUNTS, shared=model.id_mode == "none")
    torch.manual_seed(0)
    network = M2TRecNetwork(CODER, known.n_own, model).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return network, known, model


SESSIONS = sessions_of([1, 3, 2], [4, 0, 7, 1], [8, 3])  # item 2 has no click, 5 and 6 are nowhere, 0 is unknown
KNOWN = [0, 1, 3, 4, 5]  # targets


def scores_by_hand(network: M2TRecNetwork, known: KnownItems, model: M2TRec, strength: float) -> np.ndarray:
    """Scores (5, 8) of all items at a strength; minus infinity for those that are nowhere."""
    network.encoder.strength = strength
    prefixes, _ = SESSIONS.prefixes()
    bias = known.bias(1 / COUNTS[COUNTS > 0].mean(), 0.0)
    scores = ItemIndex(network, known.on(CPU), model, bias).scores(prefixes)
    network.encoder.strength = 1.0
    scores[:, [4, 5]] = -np.inf
    return scores


@pytest.mark.parametrize("options", [{}, {"pooling": "undirected"}, {"pooling": "mean"}], ids=str)
def test_targets_are_ranked_among_the_items_of_training_and_validation(options):
    network, known, model = make(**options)
    found = Validation(network, known, SESSIONS, model).rank()
    strengths = (1.0,) if "pooling" in options else (0.0, 1.0)
    assert len(found) == len(strengths)
    for ranking, strength in zip(found, strengths, strict=True):
        scores = scores_by_hand(network, known, model, strength)
        assert ranking.ranks.tolist() == rank_next(lambda _, scores=scores: scores, SESSIONS, COUNTS).ranks.tolist()
        assert ranking.n_items == 6
        assert ranking.counts.tolist() == [2, 0, 0, 3, 5, 2]
    assert network.encoder.strength == 1


@pytest.mark.parametrize(
    ("epoch", "harm", "left_out"),
    [(0, 0.1, 0.5), (0, 0.3, 1.0), (1, 0.1, 1.0), (1, 0.0, 0.5), (1, -0.3, 0.5)],
)
def test_a_path_that_does_clear_harm_is_left_out_from_then_on(epoch, harm, left_out):
    network, known, model = make()
    validation = Validation(network, known, sessions_of(*[[1, 3, 4]] * 200), model)
    rng = np.random.default_rng(0)
    without, session = rng.random(400) < 0.5, np.repeat(np.arange(200), 2)
    found = [
        ranking_of(np.where(hit, 1.0, np.inf), session)
        for hit in (without, without & (rng.random(400) > harm) | (rng.random(400) < -harm))
    ]
    validation.rank = lambda: found  # type: ignore[method-assign]
    examples = Examples.of(SESSIONS, known.unit_of, 5, "per_session", CPU)
    loop = SessionLoop(network, known.on(CPU), examples, {}, model, validation)
    loop.epoch = epoch
    assert is_clearly_better(*found) == (harm > 0)
    (judged,) = loop.validate()
    assert judged.score == judged.record["val/mrr@20"] == max(ranking.mrr(20) for ranking in found)
    assert network.encoder.left_out == left_out


def ranking_of(ranks: np.ndarray, session: np.ndarray) -> Ranking:
    some = np.ones(len(ranks), dtype=np.int64)
    ids = pl.Series(session)
    return Ranking(ranks=ranks, counts=some, n_items=8, top=np.empty((len(some), 0)), session=ids)


def test_what_is_clearly_better_is_so_over_sessions():
    """25 of 40 sessions gain 1 / 2 at each of ten clicks, the others lose it: 1.6 errors, and 5.2 over the clicks."""

    def compared(n_better, session):
        better = np.repeat(np.arange(40) < n_better, 10)
        one, other = (ranking_of(np.where(hit, 1.0, 2.0), session) for hit in (better, ~better))
        return is_clearly_better(one, other), is_clearly_better(other, one)

    assert compared(25, np.repeat(np.arange(40), 10)) == (False, False)
    assert compared(25, np.arange(400)) == (True, False)
    assert compared(28, np.repeat(np.arange(40), 10)) == (True, False)  # 2.8 errors


def test_targets_are_as_many_as_are_ranked():
    network, known, model = make()
    assert len(Validation(network, known, SESSIONS, model)) == 6
    many = Validation(network, known, sessions_of(*[[1, 3, 4]] * 4000), model)
    assert len(many) == len(many.rank()[0].ranks) == 3000


def test_the_strength_is_that_of_the_highest_likelihood_at_the_best_scale():
    network, known, model = make()
    chosen = set()
    for factor in (1.0, -1.0, 0.1):
        network.encoder.scale_direct(factor)
        likelihood = {}
        for strength in (0.0, 0.5, 1.0):
            scores = scores_by_hand(network, known, model, strength)
            choices = Choices.of(SESSIONS, 8, lambda _, scores=scores: scores[KNOWN].copy(), lambda clicks: clicks)
            weights = choices.fit(1, np.ones(len(choices), dtype=bool))
            likelihood[strength] = choices.log_likelihoods(weights).sum()
        best = Validation(network, known, SESSIONS, model).choose_strength()
        assert best == max(likelihood, key=likelihood.__getitem__)
        chosen.add(best)
    assert len(chosen) > 1
    assert network.encoder.strength == 1


def test_targets_that_nobody_knows_give_the_path_no_strength():
    network, known, model = make()
    assert Validation(network, known, sessions_of([1, 0], [3, 0, 0]), model).choose_strength() == 0


def test_taken_items_keep_their_metadata_and_own_vectors():
    for mode in ("full", "none"):
        network, known, _ = make(id_mode=mode)
        part = known.take(np.array([0, 1, 2, 3, 6, 7]))
        whole = [network.vectors(items, torch.arange(1, len(items))) for items in (known.on(CPU), part.on(CPU))]
        found = [vectors[items.unit_of[1:] - 1] for vectors, items in zip(whole, (known, part), strict=True)]
        torch.testing.assert_close(found[1], found[0][[0, 1, 2, 3, 6, 7]])
