"""What balancing refuses, and what it says then."""

import math

import numpy as np
import pytest
import torch
from balancing import GRADIENT_LEVEL, NAMES, Problem

from tabmtl.models.shared_bottom import SharedBottom
from tabmtl.nn.layers import Towers
from tabmtl.training.balance.balancer import Balancer, check_balance

pytestmark = pytest.mark.usefixtures("torch_seed")


@pytest.mark.parametrize("balance", NAMES)
@pytest.mark.parametrize("options", [{}, {"flat": True}])
def test_a_loss_that_is_not_finite_is_refused_with_its_task_and_the_cure(balance, options):
    problem = Problem(3)
    problem.y[3, 1] = math.inf
    with pytest.raises(ValueError, match="loss of task 't1' is not finite; lower learning_rate"):
        problem.gradients(balance, **options)


@pytest.mark.parametrize("balance", GRADIENT_LEVEL)
@pytest.mark.parametrize("options", [{}, {"grad_level": "parameters"}, {"flat": True}])
def test_a_gradient_that_is_not_finite_is_refused_with_its_task_and_the_cure(balance, options):
    problem = Problem(3)
    smooth, third = problem.losses, torch.tensor([0.0, 0.0, 10.0])
    # the backward pass meets 10 · 1e38 before 1e-30
    problem.losses = lambda: smooth() + third * (problem.network(problem.x)[:, 2] * 1e-30 * 1e38).sum()
    with pytest.raises(ValueError, match="gradient of task 't2' is not finite; lower learning_rate"):
        problem.gradients(balance, **options)


@pytest.mark.parametrize("balance", ["mean", UnicodeError, 3, None, [1.0, -1.0], {"t0": math.nan, "t1": 1}, ["a", "b"]])
def test_what_is_no_balance_is_refused_without_a_network(balance):
    with pytest.raises(ValueError, match="balance"):
        check_balance("balance", balance)


@pytest.mark.parametrize("balance", [*NAMES, [1, 0.5], {"a": np.float32(1)}, torch.sum])
def test_what_is_a_balance_passes_the_check(balance):
    assert check_balance("balance", balance) is None


def test_unknown_names_are_refused_with_the_list_of_names():
    with pytest.raises(ValueError, match=r"'sum'.*'imtl_g'.*got 'nash'"):
        check_balance("balance", "nash")


@pytest.mark.parametrize(
    ("balance", "options", "message"),
    [
        ({"t0": 1.0}, {}, r"\['t1'\]"),
        ({"t0": 1.0, "t1": 1.0, "typo": 2.0}, {}, r"\['typo'\]"),
        ([1.0], {}, "2 weights.*got 1"),
        ("mgda", {"grad_level": "features"}, "grad_level must be one of"),
        ("mgda", {"grad_level": "representation", "flat": True}, "flat=True moves parameters"),
        ("sum", {"flat": True, "grad_level": "representation"}, "flat=True moves parameters"),
        ("sum", {"normalize_gradients": True}, "normalize_gradients needs a balance of gradients"),
        ([1.0, 2.0], {"normalize_gradients": True, "flat": True}, "normalize_gradients needs a balance of gradients"),
        ("sum", {"grad_level": "parameters"}, "grad_level needs a balance of gradients such as 'pcgrad', got 'sum'"),
        ("famo", {"grad_level": "representation"}, "grad_level needs a balance of gradients"),
        ("sum", {"flat": True, "flat_radius": 0.0}, "flat_radius must be"),
    ],
)
def test_options_that_do_not_fit_are_refused(balance, options, message):
    with pytest.raises(ValueError, match=message):
        Problem(2).balancer(balance, **options)


def test_balancing_gradients_needs_something_shared():
    with pytest.raises(ValueError, match="parameters that tasks share"):
        Balancer(SharedBottom(balance="pcgrad"), Problem(2).tasks, Towers(3, [1, 1]))


def test_an_aggregator_whose_answer_is_no_gradient_is_refused():
    with pytest.raises(ValueError, match=r"into one of shape \(96,\), got \(\)"):
        Problem(2).gradients(torch.sum)
