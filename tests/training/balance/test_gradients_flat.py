"""Gradients uphill of the weights, and how flat regions are made of them."""

import pytest
import torch
from balancing import N_TASKS, OneCut, data, losses_of
from torch import nn

from tabmtl.training.balance.gradients import (
    flat_backward,
    frozen_statistics,
    jacobian,
    split_parameters,
    uphill_jacobian,
)

pytestmark = pytest.mark.usefixtures("torch_seed")


def test_uphill_gradients_are_those_at_the_moved_weights_and_the_weights_come_back_bitwise():
    network = OneCut().double()
    x, y = data()
    shared, own = split_parameters(network)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    rows = jacobian(losses_of(network, x, y), [1], [*shared, *own])
    (found,) = uphill_jacobian(lambda: losses_of(network, x, y), [1], rows, (shared, own), 0.3)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    n_shared = sum(p.numel() for p in shared)
    shift = torch.cat([0.3 * part / part.norm() for part in (rows[0, :n_shared], rows[0, n_shared:])])
    at = 0
    with torch.no_grad():
        for p in [*shared, *own]:
            p += shift[at : at + p.numel()].view_as(p)
            at += p.numel()
    (expected,) = jacobian(losses_of(network, x, y), [1], [*shared, *own])
    assert torch.allclose(found, expected, atol=1e-12)
    assert not torch.allclose(found, rows[0], atol=1e-3)


def test_weights_come_back_bitwise_when_a_pass_fails():
    network = OneCut()
    x, y = data(torch.float32)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    groups = split_parameters(network)
    losses = losses_of(network, x, y)

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        flat_backward(fail, losses, torch.ones(N_TASKS), [0, 1], groups, 0.1, torch.maximum)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_flat_balances_loss_and_flat_parts_separately_and_tasks_own_parameters_get_the_uphill_gradient():
    network = OneCut().double()
    x, y = data()
    groups = split_parameters(network)
    parameters = [*groups[0], *groups[1]]
    n_shared = sum(p.numel() for p in groups[0])
    at_weights = jacobian(losses_of(network, x, y), range(N_TASKS), parameters)
    uphill = uphill_jacobian(lambda: losses_of(network, x, y), range(N_TASKS), at_weights, groups, 0.2)
    seen = []

    def largest(rows, tasks):  # no linear function of the rows
        seen.append(rows)
        return rows.abs().amax(dim=0)

    flat_backward(
        lambda: losses_of(network, x, y),
        losses_of(network, x, y),
        torch.ones(N_TASKS, dtype=torch.float64),
        range(N_TASKS),
        groups,
        0.2,
        largest,
    )
    first, second = at_weights[:, :n_shared], (uphill - at_weights)[:, :n_shared]
    assert torch.allclose(seen[0], first)
    assert torch.allclose(seen[1], second)
    found = torch.cat([p.grad.flatten() for p in parameters])
    assert torch.allclose(found[:n_shared], first.abs().amax(dim=0) + second.abs().amax(dim=0))
    assert torch.allclose(found[n_shared:], uphill[:, n_shared:].sum(dim=0))


def test_running_statistics_are_frozen_inside_and_move_again_outside():
    norm = nn.BatchNorm1d(3, momentum=0.2)
    before = norm.running_mean.clone()
    with frozen_statistics(nn.Sequential(norm)):
        norm(torch.randn(8, 3) + 5)
    assert torch.equal(norm.running_mean, before)
    assert norm.momentum == 0.2
    norm(torch.randn(8, 3) + 5)
    assert (norm.running_mean > 0.5).all()
