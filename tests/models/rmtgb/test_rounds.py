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


def kept_losses(members):
    return [float(each.losses[each.kept]) for each in members]


def falling(n=201, rate=1.0):
    return -rate * np.arange(n)


def rising(n=201, rate=1.0):
    return rate * np.arange(n)


def test_patience_ends_it_and_the_best_round_is_kept():
    one = Scripted([10, 9, 7, 8, 7, 7.5, 0, 0])
    grow_together([one], [100], patience=3)
    losses = kept_losses([one])
    assert (one.updates, one.kept, list(losses)) == (5, 2, [7])  # no lower loss in rounds 3, 4 and 5


def test_a_loss_that_only_rises_keeps_no_round():
    one = Scripted(5 + rising())
    grow_together([one], [100], patience=4)
    losses = kept_losses([one])
    assert (one.updates, one.kept, list(losses)) == (4, 0, [5])


def test_nobody_grows_beyond_its_cap():
    members = [Scripted(falling()) for _ in range(3)]
    grow_together(members, [5, 0, 9], patience=3)
    losses = kept_losses(members)
    assert [each.updates for each in members] == [each.kept for each in members] == [5, 0, 9]
    assert list(losses) == [-5, 0, -9]


def test_without_patience_all_is_grown_and_no_loss_is_asked_for():
    members = [Blind(), Blind()]
    grow_together(members, np.array([3, 7]), patience=None)
    assert [each.kept for each in members] == [3, 7]


@pytest.mark.parametrize("patience", [None, 30])
def test_ten_rounds_on_end_without_a_split_are_the_end(patience):
    nines = {*range(2, 11), *range(12, 21)}  # nine, a split, and nine again do not count
    one = Scripted(falling(), splitless=nines | set(range(23, 100)))
    grow_together([one], [200], patience)
    assert (one.updates, one.kept) == (33, 5)


def test_rounds_without_a_split_do_not_use_up_the_cap():
    one = Scripted(falling(), splitless={1, 3, 4})
    grow_together([one], [5], patience=None)
    assert (one.updates, one.kept) == (8, 5)


def test_nothing_to_grow_is_no_error():
    grow_together([], [], None)
    one = Scripted([4.0])
    grow_together([one], [0], patience=3)
    assert (one.updates, one.kept) == (0, 0)


def test_few_rows_go_on_while_all_together_improve():
    few, many = Scripted(rising(rate=0.001), FEW), Scripted(falling(rate=100), MANY)
    grow_together([few, many], [50, 50], patience=5)
    losses = kept_losses([few, many])
    # its own loss rises by 0.001 a round, and that of so many labels as the prior is worth falls by 0.1
    assert (few.kept, many.kept) == (50, 50)
    np.testing.assert_allclose(losses, [0.05, -5_000])


def test_few_rows_stop_when_all_together_do():
    few = Scripted(falling(rate=0.001), FEW)
    many = Scripted(100 * np.abs(np.arange(201) - 20.0), MANY)
    grow_together([few, many], [200, 200], patience=5)
    assert (many.kept, few.kept, few.updates) == (20, 20, 25)


def test_many_rows_stop_on_their_own():
    worse, better = Scripted(rising(rate=50), MANY), Scripted(falling(rate=100), MANY)
    grow_together([worse, better], [40, 40], patience=5)
    losses = kept_losses([worse, better])
    assert (worse.updates, worse.kept, better.kept) == (5, 0, 40)
    assert list(losses) == [0, -4_000]


def test_no_validation_rows_of_its_own_is_no_error():
    none, other = Scripted([0.0] * 201, 0.0), Scripted(np.abs(np.arange(201) - 7.0), FEW)
    grow_together([none, other], [200, 200], patience=3)
    losses = kept_losses([none, other])
    assert (none.kept, other.kept, list(losses)) == (7, 7, [0, 0])


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=40), st.integers(1, 8), st.integers(0, 50))
def test_one_alone_keeps_the_first_lowest_loss_within_patience(losses, patience, cap):
    cap = min(cap, len(losses) - 1)
    one = Scripted(losses)
    grow_together([one], [cap], patience)
    seen = losses[: one.updates + 1]
    assert one.kept <= one.updates <= cap
    assert one.updates == min(cap, one.kept + patience)
    assert losses[one.kept] <= min(seen) + 1e-9  # differences are compared
