"""Where gradients are taken and how they go on: against the plain backward pass of the sum."""

import pytest
import torch
from balancing import N_TASKS, Branches, Mixture, OneCut, data, losses_of
from torch import nn

from tabmtl.nn.layers import Boundary, RowOwners, TaskLinear
from tabmtl.training.balance.gradients import (
    TaskGradients,
    balanced_backward,
    cut_at,
    jacobian,
    split_parameters,
)

pytestmark = pytest.mark.usefixtures("torch_seed")


def gradients(network):
    return {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}


def plain_gradients(network, x, y):
    losses_of(network, x, y).sum().backward()
    found = gradients(network)
    network.zero_grad()
    return found


def add_up(rows, tasks):
    return rows.sum(dim=0)


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
    balanced_backward(losses, range(N_TASKS), cuts, split_parameters(network), jacobian, add_up)
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
    balanced_backward(
        losses, range(N_TASKS), cuts, split_parameters(network), jacobian, lambda rows, tasks: weights @ rows
    )
    found = gradients(network)
    # gates lie between the cuts and belong to tasks: theirs is the plain sum, and the trunk's still the weighted one
    for name in expected:
        if name.startswith(("trunk", "experts")):
            assert torch.allclose(found[name], expected[name], atol=1e-12), name


def test_boundaries_cut_nothing_after_a_step():
    network = Mixture()
    x, y = data(torch.float32)
    with cut_at([network.after_trunk, network.after_experts]):
        losses_of(network, x, y)
    for boundary in (network.after_trunk, network.after_experts):
        assert boundary.cuts is None
        assert not boundary._forward_hooks


def test_a_boundary_whose_input_has_no_gradient_is_passed_over():
    boundary, head = Boundary(), TaskLinear(2, 3, 1)
    with cut_at([boundary]) as cuts:
        losses = head(boundary(torch.randn(4, 3)).expand(2, 4, 3)).square().sum(dim=(1, 2))
    balanced_backward(losses, [0, 1], cuts, ([], list(head.parameters())), jacobian, add_up)
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


@pytest.mark.parametrize("network_type", [OneCut, Mixture, Branches])
@pytest.mark.parametrize("summed_before", [False, True])
def test_gradients_that_part_at_the_heads_are_the_tasks_own(network_type, summed_before):
    network = network_type().double()
    gradients = TaskGradients([network.towers])
    shared, _ = split_parameters(network)
    for tasks in ([1], [2, 0], [0, 1, 2], [0, 1, 2]):
        x, y = data()
        with gradients.watch():
            losses = losses_of(network, x, y)
        if summed_before:
            losses.sum().backward(retain_graph=True)
        assert torch.allclose(gradients(losses, tasks, shared), jacobian(losses, tasks, shared), atol=1e-14)
    assert gradients._trusted == {0, 1, 2}
    assert not network.towers._forward_pre_hooks


def test_gradients_part_by_row_where_every_row_has_one_task():
    network, task = OneCut().double(), torch.arange(20) % N_TASKS
    x, y = data()
    gradients = TaskGradients([network.towers])
    shared, _ = split_parameters(network)
    with gradients.watch():
        (scores,) = network.towers(network.shared(network.trunk(x)), RowOwners(task, N_TASKS))
        losses = torch.zeros(N_TASKS, dtype=torch.float64).index_add(0, task, (scores - y[:, :1]).square()[:, 0])
    assert torch.allclose(gradients(losses, range(N_TASKS), shared), jacobian(losses, range(N_TASKS), shared))
    assert gradients._trusted == {0, 1, 2}


def test_every_row_is_taken_alone_once_a_loss_turns_out_to_read_another_tasks_head():
    network = OneCut().double()
    gradients = TaskGradients([network.towers])
    shared, _ = split_parameters(network)
    mix = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.0, 1.0]], dtype=torch.float64)  # as in a funnel
    for tasks in ([0, 1], [0, 1, 2], [0, 1, 2]):
        x, y = data()
        with gradients.watch():
            losses = (mix @ (torch.cat(network(x), dim=1) - y).square().mean(dim=0)) * torch.tensor(
                [float(task in tasks) for task in range(N_TASKS)]
            )
        assert torch.allclose(gradients(losses, tasks, shared), jacobian(losses, tasks, shared), atol=1e-14)
    assert gradients._towers == []


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
    with pytest.raises(ValueError, match=r"table \(7, 3\) cannot.*grad_level='representation'"):
        balanced_backward(losses(), [0, 1], [], groups, jacobian, add_up)
    with cut_at([boundary]) as cuts:
        balanced_backward(losses(), [0, 1], cuts, groups, jacobian, add_up)
    assert table.weight.grad.is_sparse
