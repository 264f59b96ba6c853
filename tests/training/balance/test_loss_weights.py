"""Balancing methods against their definitions: gradients as rows, losses as vectors."""

import math

import pytest
import torch
from torch import nn

from tabmtl.nn.experts import Experts
from tabmtl.nn.layers import Boundary, Towers
from tabmtl.training.balance.gradient_joins import imtl_g, mgda, normalize_rows, pcgrad
from tabmtl.training.balance.loss_weights import Dwa, Famo, Gls, GradNorm, ImtlL, Uncertainty, Weighting

pytestmark = pytest.mark.usefixtures("torch_seed")

ALL = torch.tensor([True, True])


def rows(*vectors):
    return torch.tensor(vectors, dtype=torch.float64)


def network():
    return nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 4), Boundary(), Towers(4, [1, 1], hidden=None))


def pcgrad_as_printed(g, order):
    """Algorithm 1 of the paper, vector by vector."""
    update = torch.zeros_like(g[0])
    for i, row in enumerate(g):
        for j in order[i]:
            inner = row @ g[j]
            if j != i and inner < 0:
                row = row - inner / (g[j] @ g[j]) * g[j]
        update += row
    return update


def test_pcgrad_follows_its_algorithm_for_many_tasks_and_its_order_follows_the_seed():
    g = torch.randn(5, 4, dtype=torch.float64)
    updates = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        updates.append(pcgrad(g))
    torch.manual_seed(1)
    expected = pcgrad_as_printed(g, [torch.randperm(5) for _ in range(5)])
    assert torch.allclose(updates[0], expected)
    assert torch.equal(updates[0], updates[1])
    assert not torch.allclose(updates[0], updates[2])


@pytest.mark.parametrize("g", [([1.0, 0.0], [0.0, 3.0]), ([1.0, 1.0], [4.0, 1.0]), ([2.0, 1.0], [-1.0, -0.5])])
def test_mgda_of_two_tasks_has_its_closed_form(g):
    g = rows(*g)
    share = ((g[1] - g[0]) @ g[1] / (g[0] - g[1]).square().sum()).clamp(0, 1)
    assert torch.allclose(mgda(g), share * g[0] + (1 - share) * g[1], atol=1e-9)


@pytest.mark.parametrize("n", [3, 8, 20])
def test_mgda_is_the_shortest_mean_by_its_optimality_condition(n):
    g = torch.randn(n, 30, dtype=torch.float64) * torch.logspace(-1, 1, n, dtype=torch.float64)[:, None] + 0.3
    update = mgda(g)
    length = update @ update
    assert (g @ update >= length - 1e-6 * g.square().sum(dim=1).min()).all()
    assert length <= g.square().sum(dim=1).min() + 1e-9
    means = torch.rand(1000, n, dtype=torch.float64)
    assert ((means / means.sum(dim=1, keepdim=True)) @ g).square().sum(dim=1).min() >= length - 1e-9


def test_imtl_g_has_equal_projections_on_all_tasks():
    g = torch.randn(4, 30) * torch.tensor([[0.01], [1.0], [10.0], [100.0]])
    projections = g @ imtl_g(g) / g.norm(dim=1)
    assert torch.allclose(projections, projections[0].expand(4), rtol=1e-4)
    assert projections[0] > 0


def test_imtl_g_never_turns_uphill_where_the_papers_weights_would_sum_below_zero():
    cosines = torch.tensor([[1.0, 0.9, 0.9], [0.9, 1.0, 0.65], [0.9, 0.65, 1.0]], dtype=torch.float64)
    g = torch.linalg.cholesky(cosines) * rows([0.01], [1.0], [1.0])
    gramian = g @ g.T
    papers = torch.linalg.solve(gramian, gramian.diagonal().sqrt())
    assert papers.sum() < 0
    projections = g @ imtl_g(g) / g.norm(dim=1)
    assert torch.allclose(projections, projections[0].expand(3))
    assert projections[0] > 0


@pytest.mark.parametrize("method", [imtl_g, mgda])
def test_parallel_gradients_give_their_direction_and_opposite_ones_next_to_nothing(method):
    g = torch.tensor([[1.0, 2.0, 3.0]])
    update = method(torch.cat([g, 2 * g, g]))
    assert torch.allclose(update / update.norm(), g[0] / g.norm(), atol=1e-5)
    assert method(torch.cat([g, -2 * g])).norm() < 1e-3


@pytest.mark.parametrize("method", [pcgrad, mgda, imtl_g])
def test_a_zero_gradient_has_no_say_and_one_task_alone_gets_its_gradient(method):
    g = torch.randn(3, 6)
    with_zero = torch.cat([g[:1], torch.zeros(1, 6), g[1:]])
    torch.manual_seed(0)
    expected = method(g)
    torch.manual_seed(0)
    assert torch.allclose(method(with_zero), expected, atol=1e-6)
    assert torch.equal(method(torch.zeros(2, 6)), torch.zeros(6))
    assert torch.allclose(method(g[:1]), g[0])


def test_normalized_rows_have_the_mean_length_and_zero_stays_zero():
    g = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])
    assert torch.allclose(normalize_rows(g), torch.tensor([[1.2, 1.6], [0.0, 2.0], [0.0, 0.0]]))


def test_uncertainty_comes_to_one_over_twice_the_loss_above_and_below_its_start():
    losses = torch.tensor([4.0, 0.1])
    uncertainty, imtl = Uncertainty(2, network()), ImtlL(2, network())
    assert torch.equal(uncertainty.weigh(losses, ALL), torch.full((2,), 0.5))
    assert torch.equal(imtl.weigh(losses, ALL), torch.ones(2))
    for _ in range(1500):
        uncertainty.weigh(losses, ALL)
        imtl.weigh(losses, ALL)
    assert torch.allclose(uncertainty.weights, 0.5 / losses, rtol=1e-2)
    assert torch.allclose(imtl.weights, 1 / losses, rtol=1e-2)


def test_dwa_weighs_by_the_ratio_of_the_last_two_epochs_once_there_are_two():
    dwa = Dwa(3, network())
    everyone = torch.ones(3, dtype=torch.bool)
    dwa.end_epoch(torch.tensor([1.0, 2.0, math.nan]))
    assert torch.equal(dwa.weigh(torch.ones(3), everyone), torch.ones(3))
    dwa.end_epoch(torch.tensor([1.0, 0.5, 0.3]))
    expected = 3 * torch.softmax(torch.tensor([1.0, 0.25, 1.0]) / 2, dim=0)  # a ratio that is unknown counts as 1
    assert torch.allclose(dwa.weigh(torch.ones(3), everyone), expected)


def test_gls_weighs_as_the_gradient_of_the_geometric_mean_of_the_active_losses():
    losses = torch.tensor([0.5, 3.0, 7.0], requires_grad=True)
    (losses[0] * losses[2]).sqrt().backward()
    found = Gls(3, network()).weigh(losses, torch.tensor([True, False, True]))
    assert torch.allclose(found, losses.grad)


def test_famo_weighs_as_the_gradient_of_its_objective_and_turns_to_the_task_that_gained_less():
    losses = torch.tensor([0.5, 3.0], requires_grad=True)
    famo = Famo(2, network())
    (losses.log().sum() / 2 / (0.5 / losses.detach()).sum()).backward()
    assert torch.allclose(famo.weigh(losses, ALL), losses.grad)
    before = famo.weights.clone()
    famo.after_step(torch.tensor([0.1, 2.9]))
    famo.weigh(losses, ALL)
    assert famo.weights[1] > before[1]
    assert famo.weights[0] < before[0]


def test_gradnorms_layer_is_the_last_shared_one_and_its_weights_keep_their_sum():
    net = network()
    gradnorm = GradNorm(2, net)
    assert gradnorm.reference is net[1].weight
    x = torch.randn(6, 3)
    for _ in range(3):
        scores = torch.cat(net(x), dim=1)
        gradnorm.weigh(torch.stack([scores[:, 0].square().mean(), 100 * scores[:, 1].square().mean()]), ALL)
    assert gradnorm.weights[1] < 1 < gradnorm.weights[0]  # the steeper task is held back
    assert gradnorm.weights.sum().item() == pytest.approx(2)
    with pytest.raises(ValueError, match="needs a layer that tasks share"):
        GradNorm(2, net[3])


def test_gradnorms_layer_is_a_matrix_also_where_biases_and_norms_are_two_dimensional():
    experts = Experts([2], 3, (8, 4), norm="layer")
    net = nn.Sequential(experts, Boundary(), Towers(4, [1, 1], hidden=None))
    assert experts.later[0].bias.ndim == experts.norms[1].weight.ndim == 2
    assert GradNorm(2, net).reference is experts.later[0].weight


def test_gradnorm_moves_weights_down_the_gradient_of_its_objective():
    net = network()
    gradnorm = GradNorm(2, net)
    x = torch.randn(6, 3)

    def losses():
        scores = torch.cat(net(x), dim=1)
        return torch.stack([scores[:, 0].square().mean(), 3 * (scores[:, 1] - 1).square().mean()])

    gradnorm.weigh(losses(), ALL)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.1)
    norms = torch.stack([torch.autograd.grad(losses()[t], net[1].weight)[0].norm() for t in (0, 1)])
    weights = gradnorm.weights.clone().requires_grad_()
    rate = losses().detach() / gradnorm._first
    reached = weights * norms
    target = (reached.mean() * (rate / rate.mean()) ** 1.5).detach()
    (reached - target).abs().sum().backward()
    gradnorm.weigh(losses(), ALL)
    assert torch.allclose(gradnorm._value.grad, weights.grad, rtol=1e-4)


@pytest.mark.parametrize(("steepness", "rises"), [(2.5, True), (4.0, False)])
def test_gradnorms_target_grows_with_the_slowness_of_a_task_to_the_power_of_one_and_a_half(steepness, rises):
    gradnorm = GradNorm(2, network())
    gradnorm._first = torch.tensor([1.0, 1.0])
    # norms (1, s), slowness (1, 2): the second target is (1 + s) / 2 * (4 / 3)^1.5, which s reaches from 3.34 on
    gradnorm.weigh(torch.tensor([1.0, 2.0]), ALL, lambda *_: torch.tensor([[1.0], [steepness]]))
    assert (gradnorm.weights[1] > 1) == rises


@pytest.mark.parametrize("method", [Weighting, Uncertainty, ImtlL, Dwa, Gls, Famo, GradNorm])
def test_a_task_that_is_not_active_learns_nothing_and_no_active_task_is_no_harm(method):
    net = network()
    weighting = method(2, net)
    first_only = torch.tensor([True, False])
    for active in (first_only, torch.tensor([False, False])):
        for _ in range(3):
            losses = torch.stack([score.square().mean() for score in net(torch.ones(4, 3))]) * active
            assert weighting.weigh(losses, active).isfinite().all()
            weighting.after_step(losses.detach())
    for active in (ALL, ALL, first_only):  # Adam's momentum would carry a task on
        before = getattr(weighting, "_value", torch.zeros(2)).clone()
        losses = torch.stack([score.square().mean() + 1 for score in net(torch.ones(4, 3))]) * active
        weighting.weigh(losses, active)
        weighting.after_step(losses.detach() * torch.tensor([0.5, 0.9]))
    if method in (Uncertainty, ImtlL, Famo):
        assert before[1] != 0
        assert weighting._value[1] == before[1]
