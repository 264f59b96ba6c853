"""Steps from windows: every target once an epoch, equal steps, and the same ones for any number of ranks."""

from functools import partial

import numpy as np
import pytest
import torch
from recommenders import LOG
from wired import run_ranks

from tabmtl.scale import Shards, clicks
from tabmtl.scale.clicks import WindowExamples, stored_log
from tabmtl.sessions.log import LogColumns
from tabmtl.sessions.m2trec.training import Examples
from tabmtl.training.run import current

IDS = LOG.clicks["item_id"].unique().sort()


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(clicks, "LANES", 4)
    monkeypatch.setattr(clicks, "CHUNK_SESSIONS", 4)
    monkeypatch.setattr(clicks, "_WINDOW_CHUNKS", 8)


def steps_of(epoch, mode="per_session", batch_size=60):
    """The targets of every step, with the numbers of clicks before them, and the first draw of its generator."""
    with stored_log(Shards(LOG.clicks.lazy()), LogColumns(), None, current()) as log:
        sessions = log.sessions(IDS).at_least(2)
        read = partial(
            Examples.of, unit_of=np.arange(len(IDS) + 1), max_length=5, mode=mode, device=torch.device("cpu")
        )
        feed = WindowExamples(sessions=sessions, read=read, seed=3)
        n_steps, steps = feed.steps(epoch, batch_size)
        found = []
        for step in steps:
            _, lengths, targets, _ = step.examples.read(step.index) if len(step.index) else ([], [], [], None)
            drawn = int(torch.randint(1_000_000, (1,), generator=step.generator))
            found.append((sorted(map(int, targets)), sorted(map(int, lengths)), drawn))
        assert len(found) == n_steps
        return found, sessions


@pytest.mark.parametrize("mode", ["per_session", "per_prefix"])
def test_every_target_comes_once(mode):
    steps, sessions = steps_of(0, mode)
    targets = np.concatenate([step[0] for step in steps])
    np.testing.assert_array_equal(np.sort(targets), np.sort(sessions.sample.next_clicks()))
    sizes = [len(step[0]) for step in steps]
    assert len(steps) > 20
    assert min(sizes) > 0.5 * 60
    assert max(sizes) < 1.6 * 60
    assert steps != steps_of(1, mode)[0]
    assert steps == steps_of(0, mode)[0]


def test_steps_have_sessions_of_about_one_length():
    spreads = [np.std(lengths) for _, lengths, _ in steps_of(0)[0]]
    assert np.mean(spreads) < 0.7 * np.std([length for _, lengths, _ in steps_of(0)[0] for length in lengths])


def test_ranks_take_their_parts_of_the_same_steps():
    one, _ = steps_of(0)
    parts = [found for found, _ in run_ranks(2, lambda: steps_of(0))]
    for whole, first, second in zip(one, *parts, strict=True):
        assert whole[2] == first[2] == second[2]
        for place in (0, 1):
            assert whole[place] == sorted(first[place] + second[place])
        assert first[0]
        assert second[0]
