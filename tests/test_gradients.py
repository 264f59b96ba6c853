"""Where gradients are taken and how they go on: against the plain backward pass of the sum."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tabmtl.blocks import MLP, Boundary, TaskLinear, Towers
from tabmtl.gradients import (
    balanced_backward,
    cut_at,
    flat_backward,
    frozen_statistics,
    jacobian,
    repeated_noise,
    split_parameters,
    uphill_jacobian,
)

N_TASKS = 3


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Mixture(nn.Module):
    """Experts on a trunk, gates that read the trunk too, towers; the boundary that runs last is registered first."""

    def __init__(self):
        super().__init__()
        self.after_experts, self.after_trunk = Boundary(), Boundary()
        self.experts = nn.ModuleList(MLP(8, (6,)) for _ in range(4))
        self.trunk = MLP(5, (8,))
        self.gates = TaskLinear(N_TASKS, 8, 4)
        self.towers = Towers(6, [1] * N_TASKS, hidden=4)

    def forward(self, x):
        x = self.after_trunk(self.trunk(x))
        experts = self.after_experts(torch.stack([expert(x) for expert in self.experts], dim=1))
        gates = self.gates(x.expand(N_TASKS, *x.shape)).softmax(dim=-1)
        return self.towers(torch.einsum("tbk,bkd->btd", gates, experts))


class OneCut(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.shared, self.towers = MLP(5, (8, 6)), Boundary(), Towers(6, [1] * N_TASKS, hidden=4)

    def forward(self, x):
        return self.towers(self.shared(self.trunk(x)))


class Branches(OneCut):
    """Two boundaries side by side, which share what is below them; one boundary runs twice."""

    def forward(self, x):
        z = self.trunk(x)
        return self.towers(self.shared(z) * self.shared(z.tanh()))


def losses_of(network, x, y):
    return (torch.cat(network(x), dim=1) - y).square().mean(dim=0)


def gradients(network):
    return {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}


def plain_gradients(network, x, y):
    losses_of(network, x, y).sum().backward()
    found = gradients(network)
    network.zero_grad()
    return found


def add_up(rows, tasks):
    return rows.sum(dim=0)


def data(dtype=torch.float64):
    return torch.randn(20, 5, dtype=dtype), torch.randn(20, N_TASKS, dtype=dtype)


@pytest.mark.parametrize("network_type", [OneCut, Mixture, Branches])
@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_with_a_sum_the_gradients_are_those_of_the_plain_sum(network_type, cut, dtype, tolerance):
    network = network_type().to(dtype)
    x, y = data(dtype)
    expected = plain_gradients(network, x, y)
    boundaries = [module for module in network.modules() if isinstance(module, Boundary)]
    with cut_at(boundaries if cut else []) as cuts:
        losses = losses_of(network, x, y)
    balanced_backward(losses, range(N_TASKS), cuts, split_parameters(network), add_up)
    found = gradients(network)
    assert len(cuts) == (0 if not cut else 1 if network_type is OneCut else 2)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=0, atol=tolerance), name


def test_weighted_rows_at_the_boundaries_reach_the_trunk_as_weighted_losses_do():
    network = Mixture().double()
    x, y = data()
    weights = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    (losses_of(network, x, y) * weights).sum().backward()
    expected = gradients(network)
    network.zero_grad()
    with cut_at([network.after_trunk, network.after_experts]) as cuts:
        losses = losses_of(network, x, y)
    balanced_backward(losses, range(N_TASKS), cuts, split_parameters(network), lambda rows, tasks: weights @ rows)
    found = gradients(network)
    # gates lie between the cuts and belong to tasks: theirs is the plain sum, and the trunk's still the weighted one
    for name in expected:
        if name.startswith(("trunk", "experts")):
            assert torch.allclose(found[name], expected[name], atol=1e-12), name


def test_boundaries_hold_nothing_and_cut_nothing_after_a_step():
    network = Mixture()
    x, y = data(torch.float32)
    with cut_at([network.after_trunk, network.after_experts]):
        losses_of(network, x, y)
    for boundary in (network.after_trunk, network.after_experts):
        assert not boundary.cut
        assert boundary.below is None
        assert boundary.leaf is None
        assert not boundary._forward_hooks


def test_a_boundary_whose_input_has_no_gradient_is_passed_over():
    boundary, head = Boundary(), TaskLinear(2, 3, 1)
    with cut_at([boundary]) as cuts:
        losses = head(boundary(torch.randn(4, 3)).expand(2, 4, 3)).square().sum(dim=(1, 2))
    balanced_backward(losses, [0, 1], cuts, ([], list(head.parameters())), add_up)
    assert head.weight.grad.abs().sum() > 0


def test_rows_of_the_jacobian_are_the_tasks_own_gradients_and_unused_parameters_count_as_zero():
    network = Mixture().double()
    network.unused = nn.Linear(2, 2).double()
    x, y = data()
    shared, own = split_parameters(network)
    rows = jacobian(losses_of(network, x, y), [2, 0], shared)
    for row, task in zip(rows, [2, 0], strict=True):
        losses_of(network, x, y)[task].backward()
        expected = [torch.zeros_like(p) if p.grad is None else p.grad for p in shared]
        assert torch.allclose(row, torch.cat([g.flatten() for g in expected]), atol=1e-14)
        network.zero_grad()
    assert len(shared) + len(own) == len(list(network.parameters()))


def test_modules_marked_as_task_specific_are_not_shared_nor_are_their_submodules():
    network = Mixture()
    network.private = nn.Sequential(nn.Linear(2, 2))
    network.private.task_specific = True
    network.trunk[0].bias.requires_grad_(False)
    shared, own = ({id(p) for p in group} for group in split_parameters(network))
    names = dict(network.named_parameters())
    assert own == {id(p) for name, p in names.items() if name.startswith(("gates", "towers", "private"))}
    assert shared == {id(p) for name, p in names.items() if name.startswith(("trunk", "experts"))} - {
        id(network.trunk[0].bias)
    }


def test_sparse_gradients_are_refused_with_the_cure_at_parameters_and_balanced_at_boundaries():
    table, boundary, head = nn.Embedding(7, 3, sparse=True), Boundary(), TaskLinear(2, 3, 1)
    codes = torch.tensor([1, 2, 2])

    def losses():
        return head(boundary(table(codes)).expand(2, 3, 3)).square().sum(dim=(1, 2))

    groups = ([table.weight], list(head.parameters()))
    with pytest.raises(ValueError, match=r"\(7, 3\) has sparse gradients.*grad_level='representation'"):
        balanced_backward(losses(), [0, 1], [], groups, add_up)
    with cut_at([boundary]) as cuts:
        balanced_backward(losses(), [0, 1], cuts, groups, add_up)
    assert table.weight.grad.is_sparse


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
        flat_backward(fail, losses, torch.ones(N_TASKS), [0, 1], groups, 0.1, add_up)
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


def test_passes_of_one_seed_have_the_same_masks_and_leave_the_generator_alone():
    x, state = torch.ones(100), torch.get_rng_state()
    masks = []
    for seed in (1, 1, 2):
        with repeated_noise(torch.device("cpu"), seed):
            masks.append(F.dropout(x))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert torch.equal(torch.get_rng_state(), state)
