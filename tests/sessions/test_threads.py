"""Recommenders in threads of one process are the same as one after the other."""

import pytest
import torch
from at_once import in_threads
from recommenders import ITEMS, TEST, TRAIN, all_scores, tiny


@pytest.mark.parametrize("form", ["M2TRec", "M2TRec of last clicks"])
def test_recommenders_in_threads_are_those_of_one_after_the_other(form):
    log = TRAIN.head(500)
    alone = all_scores(tiny(form).fit(log, items=ITEMS), TEST)
    state = torch.get_rng_state()
    found = in_threads(lambda: all_scores(tiny(form).fit(log, items=ITEMS), TEST))
    assert all(alone.equals(each) for each in found)
    assert torch.equal(state, torch.get_rng_state())
