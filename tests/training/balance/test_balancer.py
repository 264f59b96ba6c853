"""The balancer as the training loop sees it: every method, also on batches that lack labels."""

import math

import pytest
import torch
from balancing import GRADIENT_LEVEL, NAMES, Problem
from torch import nn

from tabmtl.models.shared_bottom import SharedBottom
from tabmtl.training.balance import Balancer

pytestmark = pytest.mark.usefixtures("torch_seed")

AT_PARAMETERS = {"grad_level": "parameters"}
#: Methods of losses know no level.
WAYS = [(name, way) for name in NAMES for way in ({}, {"flat": True}, AT_PARAMETERS)]
WAYS = [(name, way) for name, way in WAYS if way is not AT_PARAMETERS or name in GRADIENT_LEVEL]


@pytest.mark.parametrize(("balance", "options"), WAYS)
@pytest.mark.parametrize("n_tasks", [1, 2, 4])
def test_every_method_fills_every_gradient_and_returns_the_losses(balance, options, n_tasks):
    problem = Problem(n_tasks)
    expected = problem.losses().detach()
    losses = problem.balancer(balance, **options).backward(problem.losses, problem.present)
    assert torch.allclose(losses, expected)
    assert not losses.requires_grad
    for name, p in problem.network.named_parameters():
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("options", [{"grad_level": "representation"}, {"grad_level": "parameters"}])
def test_no_two_methods_give_the_same_update(options):
    updates = {}
    for balance in NAMES:
        problem = Problem(3)
        choice = options if balance in GRADIENT_LEVEL else {}
        balancer = problem.balancer(balance, **choice)
        optimizer = torch.optim.SGD(problem.network.parameters(), lr=0.01)
        for _ in range(3):  # what learns or looks back starts as the sum
            optimizer.zero_grad()
            losses = balancer.backward(problem.losses, problem.present)
            optimizer.step()
            balancer.after_step(problem.losses)
            balancer.end_epoch(losses)
        updates[balance] = torch.cat([p.detach().flatten() for p in problem.network.trunk.parameters()])
    for i, first in enumerate(NAMES):
        for second in NAMES[i + 1 :]:
            assert not torch.allclose(updates[first], updates[second], rtol=0, atol=1e-6), (first, second)


@pytest.mark.parametrize("balance", ["uncertainty", "imtl_l", "gradnorm", "famo", "dwa", "gls"])
def test_what_a_method_learns_changes_its_weights(balance):
    problem = Problem(3)
    balancer = problem.balancer(balance)
    optimizer = torch.optim.SGD(problem.network.parameters(), lr=0.05)
    seen = []
    for _ in range(3):
        optimizer.zero_grad()
        losses = balancer.backward(problem.losses, problem.present)
        optimizer.step()
        balancer.after_step(problem.losses)
        balancer.end_epoch(losses)
        seen.append(balancer.weights.clone())
    assert not torch.allclose(seen[0], seen[2], atol=1e-4)
    assert not torch.allclose(seen[2], seen[2].mean().expand(3), atol=1e-4)


def test_the_sum_is_the_plain_backward_pass_to_the_last_bit_and_draws_nothing():
    problem = Problem(3, dropout=0.5)
    torch.manual_seed(1)
    problem.losses().sum().backward()
    expected, state = [p.grad for p in problem.network.parameters()], torch.get_rng_state()
    problem.network.zero_grad()
    torch.manual_seed(1)
    problem.balancer("sum").backward(problem.losses, problem.present)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p.grad, e) for p, e in zip(problem.network.parameters(), expected, strict=True))


def test_a_fixed_weight_doubled_doubles_its_part_of_the_gradient():
    one, other, doubled = (Problem(2).gradients(weights) for weights in ([1, 0], [0, 1], {"t1": 2.0, "t0": 1.0}))
    for first, second, both in zip(one, other, doubled, strict=True):
        assert torch.allclose(first + 2 * second, both, atol=1e-6)
    assert one[0].norm() > 0.01
    assert torch.equal(Problem(2).balancer({"t1": 2.0, "t0": 1.0}).weights, torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(("balance", "options"), WAYS)
def test_a_task_without_a_label_changes_nothing_for_the_others(balance, options):
    problem = Problem(3)
    problem.y[:, 1] = math.nan
    found = problem.gradients(balance, **options)
    smaller = Problem(3)
    smaller.network.load_state_dict(problem.network.state_dict())
    smaller.tasks = [smaller.tasks[0], smaller.tasks[2]]
    smaller.y = smaller.y[:, [0, 2]]
    smaller.losses = lambda: (smaller.network(smaller.x)[:, [0, 2]] - smaller.y).square().mean(dim=0)
    expected = smaller.gradients(balance, **options)
    assert torch.allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert torch.allclose(found[1], expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("balance", NAMES)
@pytest.mark.parametrize("options", [{}, {"flat": True}])
def test_a_batch_without_any_label_or_gradient_is_no_harm(balance, options):
    problem = Problem(2)
    balancer = problem.balancer(balance, **options)
    problem.y[:] = math.nan
    losses = balancer.backward(problem.losses, problem.present)
    balancer.after_step(problem.losses)
    assert torch.equal(losses, torch.zeros(2))
    assert all(p.grad is None or not p.grad.any() for p in problem.network.parameters())
    problem = Problem(2)
    with torch.no_grad():
        problem.network.towers.out[0].weight.zero_()  # no gradient reaches what tasks share
    assert all(g.isfinite().all() for g in problem.gradients(balance, **options))


@pytest.mark.parametrize("balance", NAMES)
def test_flat_with_a_tiny_radius_is_the_method_without_it(balance):
    options = {"grad_level": "parameters"} if balance in GRADIENT_LEVEL else {}
    plain, flat = Problem(3), Problem(3)
    for problem in (plain, flat):
        problem.network.double()
        problem.x, problem.y = problem.x.double(), problem.y.double()
    expected, found = plain.gradients(balance, **options), flat.gradients(balance, flat=True, flat_radius=1e-9)
    # pcgrad draws another order for the second part, which is next to nothing
    assert torch.allclose(found[0], expected[0], atol=1e-6)
    assert torch.allclose(found[1], expected[1], atol=1e-6)


def test_flat_leaves_weights_and_running_statistics_as_one_plain_pass_does():
    plain, flat = Problem(2, dropout=0.3, norm=True), Problem(2, dropout=0.3, norm=True)
    plain.losses()
    before = {name: p.detach().clone() for name, p in flat.network.named_parameters()}
    flat.gradients("pcgrad", flat=True, flat_radius=0.5)
    assert all(torch.equal(p, before[name]) for name, p in flat.network.named_parameters())
    assert (flat.network.norm.running_mean != 0).any()
    # the masks of dropout come after the statistics: both saw the same rows
    assert torch.equal(flat.network.norm.running_mean, plain.network.norm.running_mean)


def test_passes_of_a_step_share_their_dropout_masks_and_steps_do_not():
    problem = Problem(2, dropout=0.5)
    seen = []

    def forward():
        losses = problem.losses()
        seen.append(losses.detach())
        return losses

    famo = problem.balancer("famo")
    for _ in range(2):
        famo.backward(forward, problem.present)
        famo.after_step(forward)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[0], seen[2])


def test_normalized_gradients_give_every_task_the_same_say():
    seen = []

    def watch(rows):
        seen.append(rows.norm(dim=1))
        return rows.sum(dim=0)

    problem = Problem(3)
    problem.gradients(watch)
    problem.gradients(watch, normalize_gradients=True)
    assert torch.allclose(seen[1], seen[0].mean().expand(3))
    assert seen[0].std() > 0.1 * seen[0].mean()


@pytest.mark.parametrize("options", [{}, {"grad_level": "parameters"}])
def test_torchjd_aggregators_give_through_us_what_they_give_on_our_gradients(options):
    aggregation = pytest.importorskip("torchjd.aggregation")
    plain = Problem(3).gradients("sum")
    for found, expected in zip(Problem(3).gradients(aggregation.Sum(), **options), plain, strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
    for ours, theirs in (("mgda", aggregation.MGDA()), ("imtl_g", aggregation.IMTLG())):
        assert torch.allclose(
            Problem(3).gradients(ours, **options)[0], Problem(3).gradients(theirs, **options)[0], atol=1e-3
        ), ours


@pytest.mark.parametrize("name", ["AlignedMTL", "UPGrad", "ConFIG"])
def test_aggregators_get_the_tasks_gradients_of_shared_parameters(name):
    aggregation = pytest.importorskip("torchjd.aggregation")
    if name == "UPGrad":
        pytest.importorskip("qpsolvers")
    problem = Problem(3)
    rows = []
    for task in range(3):
        problem.network.zero_grad()
        problem.losses()[task].backward()
        rows.append(torch.cat([p.grad.flatten() for p in problem.network.trunk.parameters()]))
    aggregator = getattr(aggregation, name)()
    expected = aggregator(torch.stack(rows))
    assert torch.allclose(problem.gradients(aggregator, grad_level="parameters")[0], expected, atol=1e-5)


class Remembering:
    """An aggregator with a state, like those of TorchJD."""

    calls = 0

    def __init__(self):
        self.shapes, self.was_reset = [], 0

    def reset(self):
        self.was_reset += 1

    def __call__(self, rows):
        self.shapes.append((tuple(rows.shape), [bool(row.any()) for row in rows]))
        return rows.sum(dim=0)


def test_an_aggregator_with_a_state_is_copied_and_reset_and_gets_zeros_for_absent_tasks():
    given = Remembering()
    problem = Problem(3)
    problem.y[:, 1] = math.nan
    balancer = problem.balancer(given)
    balancer.backward(problem.losses, problem.present)
    assert given.shapes == []
    assert given.was_reset == 0
    assert balancer._aggregate.was_reset == 1
    assert balancer._aggregate.shapes == [((3, 16 * 6), [True, False, True])]


def test_boundaries_are_used_where_there_are_any_and_rows_have_all_tasks_and_parameters_else():
    seen = []

    def watch(rows):
        seen.append(rows.shape[1])
        return rows.sum(dim=0)

    problem = Problem(2)
    n_shared = sum(p.numel() for p in problem.network.trunk.parameters())
    for options in ({}, {"grad_level": "representation"}, AT_PARAMETERS, {"flat": True}, {"task_column": "task"}):
        problem.gradients(watch, **options)
    problem.network.shared = nn.Identity()
    problem.gradients(watch)
    assert seen == [16 * 6, 16 * 6, *[n_shared] * 5]
    with pytest.raises(ValueError, match=r"marks no boundary.*use 'parameters' or 'auto'"):
        problem.balancer("mgda", grad_level="representation")


def test_draws_of_a_join_come_from_the_seed_and_the_step_alone():
    def drawn(seed, others):
        """Orders of three steps, among other draws."""
        problem, orders = Problem(3), []

        def join(rows):
            orders.append(torch.randperm(9).tolist())
            return rows.sum(dim=0)

        torch.manual_seed(others)
        options = SharedBottom(balance=join)
        balancer = Balancer(options, problem.tasks, problem.network, seed=seed)
        for _ in range(3):
            problem.network.zero_grad()
            balancer.backward(problem.losses, problem.present)
        return orders

    first = drawn(0, 1)
    assert drawn(0, 2) == first
    assert first[0] != first[1] != first[2]
    assert drawn(1, 1) != first
    assert drawn(None, 2) != drawn(None, 1) == drawn(None, 1)  # those of torch
