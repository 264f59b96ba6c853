"""Scores are inner products of queries and vectors, whatever sessions are scored together."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recommenders import TEST, TRAIN, every_m2trec, fitted, index_of, sessions_of

from tabmtl.sessions import M2TRec
from tabmtl.sessions.log import LogColumns, read_sessions
from tabmtl.sessions.m2trec.index import ItemIndex, blocks_of
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork
from tabmtl.sessions.ragged import Sessions


def sessions(form: str, log: pl.DataFrame = TEST) -> Sessions:
    return read_sessions(log, LogColumns(), fitted(form).item_ids_)


def of_lengths(*lengths: int, n_items: int = 60) -> Sessions:
    rng = np.random.default_rng(0)
    return sessions_of(*(rng.integers(1, n_items + 1, n).tolist() for n in lengths))


@every_m2trec
def test_scores_are_those_of_the_network(form):
    index, read = index_of(fitted(form)), sessions(form).take(np.arange(12))
    scores = index.scores(read)
    bias, factor = fitted(form)._new_items.values(fitted(form)._items)
    for place in range(len(read)):
        codes = read.take(np.array([place])).items[::-1]
        with torch.no_grad():
            unit = torch.from_numpy(index.unit_of[codes])
            clicked = index.network.vectors(index.items, unit)
            query, _ = index.network(clicked[None], torch.tensor([len(codes)]))
            vectors = index.network.vectors(index.items, torch.from_numpy(index.unit_of[1:]))
        expected = (vectors @ query[0]).numpy() * factor + bias / fitted(form)._repeats.scale
        np.testing.assert_allclose(scores[place], expected, rtol=1e-4, atol=1e-4)


@every_m2trec
def test_only_the_newest_clicks_are_read(form):
    index = index_of(fitted(form))
    longest = of_lengths(index.max_length + 30)
    np.testing.assert_array_equal(index.scores(longest), index.scores(longest.last(index.max_length)))
    assert not np.allclose(index.scores(longest), index.scores(longest.last(index.max_length - 1)), atol=1e-6)


@every_m2trec
def test_a_session_without_a_click_is_one_click_on_an_unknown_item(form):
    index = index_of(fitted(form))
    scores = index.scores(sessions_of([], [0]))
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)


@every_m2trec
def test_an_unknown_click_says_that_there_was_a_click(form):
    index = index_of(fitted(form))

    newest, without, older = index.scores(sessions_of([5, 0], [5], [0, 5]))
    assert not np.allclose(newest, without, atol=1e-6)
    assert not np.allclose(newest, older, atol=1e-6)


def of_ids(share: float = 5 / 12) -> ItemIndex:
    """An index of items that have clicks but no metadata."""
    clicks = np.array([2, 0, 5, 1, 1, 0, 3])
    known = KnownItems(features=None, row=None, clicks=clicks, shared=False)
    torch.manual_seed(0)
    model = M2TRec(d_model=8, max_length=3, pooling="mean", popularity=True)
    network = M2TRecNetwork(None, known.n_own, model).eval()
    torch.nn.init.normal_(network.items.own.weight[1:])
    return ItemIndex(network, known.on(torch.device("cpu")), model, known.bias(share, 0.0))


def test_without_metadata_a_session_of_unknown_items_gets_the_popular_ones_and_last_those_without_clicks():
    index = of_ids()
    found = index.queries(sessions_of([0], [0, 0, 0, 0], [], [3, 0, 0, 0], [0, 3]))
    assert found[0].tolist() == pytest.approx([*[0.0] * 8, 0.99, 1.0])
    assert all(torch.equal(found[row], found[0]) for row in (1, 2, 3))  # the known click is older than what is read
    assert not torch.allclose(found[4], found[0])
    scores = index.scores(sessions_of([0]))[0]
    assert np.argsort(-scores, kind="stable").tolist() == [2, 6, 0, 3, 4, 1, 5]
    assert scores[3] == scores[4] > scores[1] == scores[5]
    known = np.array([2, 5, 1, 1, 3])
    np.testing.assert_allclose(scores[[0, 2, 3, 4, 6]], 0.99 * np.log(known / known.mean()), rtol=1e-5)


def test_a_higher_share_credits_items_without_clicks_there_too():
    scores = of_ids(share=2.2 / 2.4).scores(sessions_of([0]))[0]
    assert np.argsort(-scores, kind="stable").tolist() == [2, 6, 1, 5, 0, 3, 4]


def test_an_index_may_have_other_values_of_items_and_take_own_vectors_away():
    index, read = index_of(fitted("M2TRec")), of_lengths(3, 5)
    bias, factor, lost = np.linspace(-1, 1, 60), np.linspace(0.5, 2, 60), np.arange(60) < 20
    before, plain = index.scores(read), index.revalued(np.zeros(60), np.ones(60)).scores(read)
    np.testing.assert_allclose(index.revalued(bias, factor).scores(read), plain * factor + bias, rtol=1e-4, atol=1e-4)
    bare = index.revalued(np.zeros(60), np.ones(60), lost)
    unit = torch.from_numpy(index.unit_of[1:])
    features, row = index.items.features, index.items.row[unit]
    with torch.no_grad():
        vectors = index.network.items(features, row, torch.where(torch.from_numpy(lost), 0, index.items.own[unit]))
        vectors = torch.nn.functional.normalize(vectors, dim=1)
    np.testing.assert_allclose(bare.matrix[:16].T, vectors, rtol=1e-4, atol=1e-5)
    assert not np.allclose(bare.queries(sessions_of([5]))[:, :16], index.queries(sessions_of([5]))[:, :16], atol=1e-4)
    assert np.array_equal(index.scores(read), before)


def test_scoring_leaves_no_gradient_and_no_training_mode():
    index = index_of(fitted("M2TRec"))
    index.network.train()
    first = index.scores(sessions("M2TRec", TRAIN).take(np.arange(5)))
    assert not index.network.training
    assert not index.queries(of_lengths(2)).requires_grad
    np.testing.assert_array_equal(first, index.scores(sessions("M2TRec", TRAIN).take(np.arange(5))))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 6))
def test_blocks_hold_every_session_once_among_its_like(lengths, size):
    blocks = list(blocks_of(np.array(lengths), size))
    assert sorted(np.concatenate(blocks).tolist()) == list(range(len(lengths)))
    for block in blocks:
        assert 1 <= len(block) <= size
        assert len({-(-lengths[place] // 8) for place in block}) == 1
