"""Methods of merging by hand: small task vectors, and what the methods have in common."""

import numpy as np
import pytest

from tabmtl.merging.arithmetic import average, task_arithmetic
from tabmtl.merging.breadcrumbs import breadcrumbs
from tabmtl.merging.consensus import consensus
from tabmtl.merging.pcb import balance, pcb

TAU = np.random.default_rng(0).normal(size=(3, 40))
SIZES = (30, 10)


def test_arithmetic_by_hand():
    tau = np.array([[1.0, 2.0], [3.0, -2.0]])
    assert average(tau).tolist() == [2, 0] == task_arithmetic(tau, 0.5).tolist()
    assert task_arithmetic(tau, np.array([2.0, 1.0])).tolist() == [5, 2]


def test_breadcrumbs_drop_the_largest_and_the_small_of_each_tensor():
    tau = np.array([[5.0, -4.0, 3.0, 2.0, 1.0, 7.0, 8.0]])
    assert breadcrumbs(tau, (5, 2), 0.5, keep=0.4, cut=0.2).tolist() == [0, -2, 1.5, 0, 0, 0, 4]


def test_breadcrumbs_that_drop_nothing_are_task_arithmetic():
    assert (breadcrumbs(TAU, SIZES, keep=1.0, cut=0.0) == task_arithmetic(TAU)).all()


def test_consensus_moves_what_two_tasks_need():
    # the second is needed by both, though they disagree; the third by one, the fourth by none
    tau = np.array([[1.0, 1.0, 1.0, 0.0], [1.0, -0.5, 0.0, 0.0]])
    assert consensus(tau, 1.0).tolist() == [2, 0.5, 0, 0]
    assert consensus(tau, 1.0, at_least=1).tolist() == [2, 0.5, 1, 0]
    assert consensus(tau[:1], 0.5).tolist() == [0.5, 0.5, 0.5, 0]


def test_pcb_by_hand():
    tau = np.array([[0.0, -1.0, 2.0, 3.0, 9.0]])
    clipped, beta = balance(tau, keep=0.8)
    assert clipped.tolist() == [[0, -1, 2, 3, 3]]
    product = np.exp(np.array([0, 1 / 3, 2 / 3, 1, 1]) ** 2) * np.tanh([0, 1, 4, 9, 81])
    assert beta[0] == pytest.approx(np.clip((product - product[1]) / (product[4] - product[1]), 0, 1))
    assert pcb(tau, 0.5, keep=0.8) == pytest.approx([0, 0, 1, 1.5, 1.5])  # one task has all of the weight


def test_pcb_is_a_mean_of_what_is_kept():
    clipped, beta = balance(TAU, keep=0.2)
    assert ((beta >= 0).all(), beta.max(axis=1).tolist()) == (True, [1, 1, 1])
    assert (beta > 0).sum(axis=1).tolist() == [7, 7, 7]  # the eighth is the 0 of the span
    moved, kept = pcb(TAU, keep=0.2), (beta > 0).any(axis=0)
    assert (moved[~kept] == 0).all()
    weights = beta[:, kept] / beta[:, kept].sum(axis=0)
    assert weights.sum(axis=0) == pytest.approx(1)
    assert moved[kept] == pytest.approx((weights * clipped[:, kept]).sum(axis=0))


def test_equal_sizes_are_kept_alike():
    assert pcb(np.ones((2, 5)), keep=0.2).tolist() == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("method", [average, task_arithmetic, consensus, pcb])
def test_no_move_is_no_move(method):
    assert (method(np.zeros((3, 5))) == 0).all()
