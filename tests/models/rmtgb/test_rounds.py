"""Ensembles that grow side by side, on losses that are written down beforehand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabmtl.models.rmtgb.stages import _PRIOR_LABELS, grow_together

MANY = 1_000 * _PRIOR_LABELS  # such a task decides alone
FEW = _PRIOR_LABELS / 1_000  # and such a one as all do


class Scripted:
    """Its validation loss after k rounds is ``losses[k]``; updates named in ``splitless`` find no split.

    A label of it has the loss 1 more, so that losses which start at 0 are in units of the start.
    """

    def __init__(self, losses, size=FEW, splitless=()):
        self.losses, self.valid_size, self.splitless = list(losses), size, splitless
        self.rounds = self.updates = 0
        self.kept = None

    def update(self):
        self.rounds += self.updates not in self.splitless
        self.updates += 1

    def valid_loss(self):
        return self.losses[self.rounds] + self.valid_size

    def roll_back(self, rounds):
        assert rounds <= self.rounds
        self.kept = self.rounds = rounds


class Blind(Scripted):
    """Nothing to look at."""

    def __init__(self):
        super().__init__([], size=0.0)

    def valid_loss(self):
        raise AssertionError("no one asked for early stopping")


def falling(rate=1.0, n=201):
    return -rate * np.arange(n)


NINES = {*range(2, 11), *range(12, 21)}  # nine rounds without a split, a split, and nine again are not the end
#: Stages, their caps and the patience; then updates, and the round that is kept, of every stage.
GROWN = {
    "no lower loss in three rounds": ([Scripted([10, 9, 7, 8, 7, 7.5, 0, 0])], [100], 3, [(5, 2)]),
    "a loss that only rises": ([Scripted(5 - falling())], [100], 4, [(4, 0)]),
    "caps": ([Scripted(falling()) for _ in range(3)], [5, 0, 9], 3, [(5, 5), (0, 0), (9, 9)]),
    "no patience asks for no loss": ([Blind(), Blind()], [3, 7], None, [(3, 3), (7, 7)]),
    "ten rounds without a split": ([Scripted(falling(), splitless=NINES | {*range(23, 100)})], [200], 30, [(33, 5)]),
    "the same without patience": ([Scripted(falling(), splitless=NINES | {*range(23, 100)})], [200], None, [(33, 5)]),
    "a round without a split is none of the cap": ([Scripted(falling(), splitless={1, 3, 4})], [5], None, [(8, 5)]),
    "nothing to grow": ([], [], None, []),
    "a cap of 0": ([Scripted([4.0])], [0], 3, [(0, 0)]),
    # its own loss rises by 0.001 a round, and that of so many labels as the prior is worth falls by 0.1
    "few rows go on with all": (
        [Scripted(-falling(0.001), FEW), Scripted(falling(100), MANY)],
        [50, 50],
        5,
        [(50, 50), (50, 50)],
    ),
    "few rows stop with all": (
        [Scripted(falling(0.001), FEW), Scripted(100 * np.abs(np.arange(201) - 20.0), MANY)],
        [200, 200],
        5,
        [(25, 20), (25, 20)],
    ),
    "many rows stop on their own": (
        [Scripted(-falling(50), MANY), Scripted(falling(100), MANY)],
        [40, 40],
        5,
        [(5, 0), (40, 40)],
    ),
    "no validation rows of its own": (
        [Scripted([0.0] * 201, 0.0), Scripted(np.abs(np.arange(201) - 7.0), FEW)],
        [200, 200],
        3,
        [(10, 7), (10, 7)],
    ),
}


@pytest.mark.parametrize(("stages", "caps", "patience", "expected"), GROWN.values(), ids=GROWN)
def test_stages_grow_and_keep_their_best_rounds(stages, caps, patience, expected):
    grow_together(stages, np.array(caps), patience)
    assert [(stage.updates, stage.kept) for stage in stages] == expected


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=40), st.integers(1, 8), st.integers(0, 50))
def test_one_alone_keeps_the_first_lowest_loss_within_patience(losses, patience, cap):
    cap = min(cap, len(losses) - 1)
    one = Scripted(losses)
    grow_together([one], [cap], patience)
    seen = losses[: one.updates + 1]
    assert one.kept <= one.updates <= cap
    assert one.updates == min(cap, one.kept + patience)
    assert losses[one.kept] <= min(seen) + 1e-9  # differences are compared
