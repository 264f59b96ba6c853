"""Threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from recommenders import ITEMS, TEST, TRAIN, all_scores
from recommenders import tiny as tiny_recommender

N_THREADS = 4
PATIENCE = 60  # seconds until a thread counts as one that waits for ever


def in_threads(work: Callable[[], Any]) -> list[Any]:
    """What threads give that begin at once."""
    begin = threading.Barrier(N_THREADS)

    def run(_: int) -> Any:
        begin.wait(PATIENCE)
        return work()

    with ThreadPoolExecutor(N_THREADS) as pool:
        return list(pool.map(run, range(N_THREADS), timeout=PATIENCE))


@pytest.mark.parametrize("form", ["M2TRec", "M2TRec delta"])
def test_recommenders_in_threads_are_those_of_one_after_the_other(form):
    log = TRAIN.head(500)
    alone = all_scores(tiny_recommender(form).fit(log, items=ITEMS), TEST)
    state = torch.get_rng_state()
    found = in_threads(lambda: all_scores(tiny_recommender(form).fit(log, items=ITEMS), TEST))
    assert all(alone.equals(each) for each in found)
    assert torch.equal(state, torch.get_rng_state())
