"""Examples of training: every next click is a target once, with the clicks before it; and losses of categories."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recommenders import sessions_of
from torch.nn import functional as F

from tabmtl.scale import Shards
from tabmtl.sessions import M2TRec
from tabmtl.sessions.m2trec import training
from tabmtl.sessions.m2trec.softmax import Candidates
from tabmtl.sessions.m2trec.training import ExampleMode, Examples, category_loss

MODES: tuple[ExampleMode, ...] = ("per_session", "per_prefix")
logs = st.lists(st.lists(st.integers(1, 7), min_size=2, max_size=13), min_size=1, max_size=8)
every_mode = pytest.mark.parametrize("mode", MODES)


def make(log: list[list[int]], max_length: int, mode: ExampleMode, weights: np.ndarray | None = None) -> Examples:
    """Examples whose unit of a click is its place in the log, so that clicks can be told apart."""
    places = iter(range(1, 1 + sum(map(len, log))))
    sessions = replace(sessions_of(*([next(places) for _ in session] for session in log)), weights=weights)
    return Examples.of(sessions, np.arange(len(sessions.items) + 1), max_length, mode, torch.device("cpu"))


def pairs(examples: Examples, index: np.ndarray) -> list[tuple[tuple[int, ...], int]]:
    """Clicks, old to new, and the target behind them, as a network reads them."""
    units, lengths, targets, _ = examples.read(index)
    found = []
    for row, n in enumerate(lengths.tolist()):
        session = units[row, :n].tolist()
        assert units[row, n:].tolist() == [0] * (units.shape[1] - n)
        found += [tuple(session[gone:][::-1]) for gone in range(n if examples.all_prefixes else 1)]
    return list(zip(found, targets.tolist(), strict=True))


@every_mode
@settings(deadline=None, max_examples=40)
@given(log=logs, max_length=st.integers(1, 14), batch_size=st.integers(1, 30), seed=st.integers(0, 5))
def test_every_next_click_is_a_target_once_an_epoch(mode, log, max_length, batch_size, seed):
    examples = make(log, max_length, mode)
    torch.manual_seed(seed)
    steps = examples.batches(batch_size)
    found = [pair for step in steps for pair in pairs(examples, step)]
    places, start = [], 1
    for session in log:
        places += [(start, start + place) for place in range(1, len(session))]
        start += len(session)
    assert Counter(target for _, target in found) == Counter(target for _, target in places)
    begins = {target: begin for begin, target in places}
    for seen, target in found:
        # the clicks right before the target, of its own session, and as many as are read
        assert seen == tuple(range(target - len(seen), target))
        assert 1 <= len(seen) <= max_length
        assert seen[0] >= begins[target]
        if mode == "per_prefix" or max(map(len, log)) <= max_length:
            assert len(seen) == min(target - begins[target], max_length)


def test_a_session_longer_than_is_read_is_passed_in_pieces_from_its_end():
    examples = make([[1] * 9], 3, "per_session")
    assert sorted(zip(examples.starts.tolist(), examples.lengths.tolist(), strict=True)) == [(0, 2), (2, 3), (5, 3)]


@every_mode
def test_steps_hold_about_so_many_targets(mode):
    rng = np.random.default_rng(0)
    examples = make([[1] * n for n in rng.integers(2, 30, 600)], 20, mode)
    torch.manual_seed(0)
    sizes = [len(examples.read(step)[2]) for step in examples.batches(100)]
    assert sum(sizes) == sum(examples.lengths if examples.all_prefixes else np.ones_like(examples.lengths))
    assert max(sizes) <= 100 + 20
    assert np.median(sizes) > 80


@pytest.mark.parametrize(("n_clicks", "size"), [(500, 256), (66_000, 1024), (400_000, 2048)])
def test_steps_fit_the_log(n_clicks, size):
    examples = make([[1] * 11] * (n_clicks // 10), 20, "per_session")
    torch.manual_seed(0)
    assert len(examples.batches("auto")) == len(examples.batches(size))


@every_mode
def test_steps_are_random_and_sorted_by_length(mode):
    rng = np.random.default_rng(0)
    examples = make([[1] * n for n in rng.integers(2, 30, 600)], 20, mode)
    torch.manual_seed(0)
    first, second = examples.batches(100), examples.batches(100)
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))
    padded = sum(len(step) * examples.lengths[step].max() for step in first)
    order = torch.randperm(len(examples.lengths)).numpy()
    shuffled = np.split(order, np.cumsum([len(step) for step in first])[:-1])
    assert padded < 0.85 * sum(len(step) * examples.lengths[step].max() for step in shuffled)


@every_mode
def test_weights_are_those_of_the_targets_and_on_average_one(mode):
    weights = np.array([9, 1, 3, 9, 0, 2, 2], dtype=np.float32)
    examples = make([[1] * 3, [1] * 4], 5, mode, weights)
    for step in examples.batches(3):
        _, _, targets, found = examples.read(step)
        np.testing.assert_allclose(found, weights[targets - 1] / 1.6)
    plain = make([[1] * 3, [1] * 4], 5, mode)
    assert all((plain.read(step)[3] == 1).all() for step in plain.batches(3))


def test_weights_of_nothing_to_predict_are_refused():
    with pytest.raises(ValueError, match="every click to predict has the weight 0: give a weight above 0 in event_w"):
        make([[1] * 3], 5, "per_session", np.array([1, 0, 0], dtype=np.float32))


def test_category_loss_is_over_known_categories():
    scores = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    codes = torch.tensor([0, 3, 1, 0, 2, 3])
    loss = category_loss(scores, codes, torch.ones(6))
    torch.testing.assert_close(loss, F.cross_entropy(scores[codes > 0], codes[codes > 0]))
    weights = torch.tensor([5.0, 2.0, 0.0, 1.0, 1.0, 2.0])
    repeated = scores[[1, 1, 4, 5, 5]], codes[[1, 1, 4, 5, 5]]
    torch.testing.assert_close(category_loss(scores, codes, weights), F.cross_entropy(*repeated) * 5 / 4)
    loss.backward()
    assert scores.grad is not None
    assert (scores.grad.abs().sum(dim=1) > 0).tolist() == (codes > 0).tolist()
    nothing = category_loss(scores, torch.zeros(6, dtype=torch.long), torch.ones(6))
    assert nothing.item() == 0
    assert not torch.autograd.grad(nothing, scores)[0].any()


TINY = {"d_model": 8, "n_heads": 1, "early_stopping": False, "repeats": False, "pooling": "undirected"}
TINY |= {"batch_size": 256, "precision": "float32", "device": "cpu", "n_jobs": 1, "random_state": 0}


def draw_log(n_sessions: int, n_items: int, repeats: float) -> pl.DataFrame:
    """Sessions of 2 to 8 clicks on few popular and many rare items, independent but for repeats in a session."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, n_sessions)
    worth = 1 / np.arange(1, n_items + 1) ** 0.8
    items = rng.choice(n_items, lengths.sum(), p=worth / worth.sum())
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    for place in np.flatnonzero((rng.random(len(items)) < repeats) & (np.arange(len(items)) > first)):
        items[place] = items[rng.integers(first[place], place)]
    owner = np.repeat(np.arange(n_sessions), lengths)
    return pl.DataFrame({"session_id": owner, "item_id": items, "time": np.arange(len(items))})


@pytest.mark.parametrize("n_negatives", [300, 500], ids=["none drawn", "some drawn"])
@pytest.mark.parametrize("stored", [False, True], ids=["frame", "shards"])
@every_mode
def test_units_take_part_as_often_as_their_correction_says(mode, stored, n_negatives, monkeypatch):
    """Each unit that takes part counts 1 / p_j times: on average, all units together."""
    log, totals = draw_log(2000, 600, repeats=0.2), []

    class Counted(Candidates):
        def draw(self, *args):
            drawn = super().draw(*args)
            totals.append(float(torch.exp(drawn[2]).sum()) / len(self._pool))
            return drawn

    monkeypatch.setattr(training, "Candidates", Counted)
    model = M2TRec(**TINY, n_negatives=n_negatives, training=mode, epochs=2)
    model.fit(Shards(log.lazy()) if stored else log)
    assert len(totals) > 50
    assert abs(np.mean(totals) - 1) < 0.06


def test_a_sample_gives_popular_items_the_mass_of_all_items():
    """Mean probability of the 20 most clicked items, by a sample and by the full softmax."""
    log, mass = draw_log(2500, 600, repeats=0), []
    for n_negatives in (100, None):
        model = M2TRec(**TINY | {"d_model": 16}, n_negatives=n_negatives, epochs=2, learning_rate=0.02).fit(log)
        prefixes, _ = model._read(log.head(1000)).at_least(2).prefixes()
        shares = np.exp(model._log_shares(prefixes))
        mass.append(shares[:, np.argsort(-model.item_counts_)[:20]].sum(axis=1).mean())
    sampled, full = mass
    assert full > 0.2
    assert abs(sampled / full - 1) < 0.15  # a sample is a little low: the logarithm of a mean is not the mean
