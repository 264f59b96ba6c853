"""Balances of the tasks beyond the sum: their gradients against their definitions, also where labels are missing."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from balancing import N_TASKS, Branches, Mixture, OneCut, Problem, data, losses_of
from conformance import tiny
from torch import nn

from tabmtl import APEM, PLE, STEM, AdaTT, HoME, MMoE, SharedBottom, Task
from tabmtl.base.schema import Columns
from tabmtl.columns import Features
from tabmtl.extras import FlatRegions, GradientBalance, GradNorm, LossBalance
from tabmtl.extras.balance import (
    backward_from,
    cut_at,
    fill,
    frozen_statistics,
    jacobian,
    split_parameters,
    uphill_jacobian,
)
from tabmtl.nn.experts import Experts
from tabmtl.nn.layers import Boundary, TaskLinear, Towers
from tabmtl.scale import joined
from tabmtl.training.losses import MultiTaskLoss

pytestmark = pytest.mark.usefixtures("torch_seed")


def add_up(rows):
    return rows.sum(dim=0)


def mean_log(losses):
    return losses.clamp(min=1e-9).log().mean()


class Learning(nn.Module):
    """A scalarizer with numbers to learn, which looks back: half a loss each, by exp(-s), plus s."""

    def __init__(self):
        super().__init__()
        self.s, self.seen = nn.Parameter(torch.zeros(N_TASKS)), []

    def forward(self, losses):
        return 0.5 * ((-self.s).exp() * losses + self.s).sum()

    def update(self, losses):
        self.seen.append(losses)

    def step(self):
        self.seen.append("step")


METHODS = {
    "geometric": LossBalance(mean_log),
    "learning": LossBalance(Learning()),
    "gradnorm": GradNorm(),
    "sum": GradientBalance(add_up),
    "sum at parameters": GradientBalance(add_up, "parameters"),
    "largest": GradientBalance(lambda rows: rows.abs().amax(dim=0)),
    "one length": GradientBalance(add_up, normalize=True),
    "flat": FlatRegions(),
    "flat largest": FlatRegions(0.1, GradientBalance(lambda rows: rows.abs().amax(dim=0))),
}
methods = pytest.mark.parametrize("name", METHODS)


@methods
def test_every_method_fills_every_gradient_and_returns_the_losses(name):
    problem = Problem(3)
    expected = problem.losses().detach()
    losses = problem.start(METHODS[name]).backward(problem.losses, problem.present)
    assert torch.allclose(losses, expected)
    assert not losses.requires_grad
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in problem.network.parameters())


def test_no_two_methods_give_the_same_update():
    updates = {}
    for name in set(METHODS) - {"sum at parameters"}:  # which is the sum
        problem = Problem(3)
        balancer = problem.start(METHODS[name])
        optimizer = torch.optim.SGD(problem.network.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            losses = balancer.backward(problem.losses, problem.present)
            optimizer.step()
            balancer.after_step(problem.losses)
            balancer.end_epoch(losses)
        updates[name] = torch.cat([p.detach().flatten() for p in problem.network.trunk.parameters()])
    for first in updates:
        for second in set(updates) - {first}:
            assert not torch.allclose(updates[first], updates[second], rtol=0, atol=1e-6), (first, second)


@pytest.mark.parametrize("name", ["gradnorm", "sum", "sum at parameters", "largest", "one length", "flat"])
def test_a_task_without_a_label_changes_nothing_for_the_others(name):
    problem, smaller = Problem(3), Problem(3)
    problem.y[:, 1] = math.nan
    smaller.y = problem.y[:, [0, 2]]
    smaller.tasks = [smaller.tasks[0], smaller.tasks[2]]
    smaller.losses = lambda: (smaller.network(smaller.x)[:, [0, 2]] - smaller.y).square().mean(dim=0)
    for found, expected in zip(problem.gradients(METHODS[name]), smaller.gradients(METHODS[name]), strict=True):
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_scalarizer_sees_the_last_loss_of_a_task_without_a_label_and_learns_after_step_and_epoch():
    problem, given = Problem(3), Learning()
    balancer = problem.start(LossBalance(given))
    first = balancer.backward(problem.losses, problem.present)
    problem.y[:, 1] = math.nan
    problem.network.zero_grad()
    second = balancer.backward(problem.losses, problem.present)
    balancer.after_step(problem.losses)
    balancer.end_epoch(second)
    found = balancer._scalarizer
    assert second[1] == 0
    assert torch.equal(found.seen[0], torch.stack([second[0], first[1], second[2]]))
    assert found.seen[1:] == ["step"]
    assert (found.s != 0).all()
    assert not given.s.any()
    assert given.seen == []


@methods
def test_a_batch_without_any_label_or_gradient_is_no_harm(name):
    problem = Problem(3)
    balancer = problem.start(METHODS[name])
    problem.y[:] = math.nan
    losses = balancer.backward(problem.losses, problem.present)
    balancer.after_step(problem.losses)
    assert torch.equal(losses, torch.zeros(3))
    assert all(p.grad is None or not p.grad.any() for p in problem.network.parameters())
    problem = Problem(3)
    with torch.no_grad():
        problem.network.towers.out[0].weight.zero_()  # no gradient reaches what tasks share
    assert all(g.isfinite().all() for g in problem.gradients(METHODS[name]))


@methods
def test_a_loss_that_is_not_finite_is_refused_with_its_task(name):
    problem = Problem(3)
    problem.y[3, 1] = math.inf
    with pytest.raises(ValueError, match="loss of task 't1' is not finite; lower learning_rate"):
        problem.gradients(METHODS[name])


@pytest.mark.parametrize("name", ["sum", "sum at parameters", "flat"])
def test_a_gradient_that_is_not_finite_is_refused_with_its_task(name):
    problem = Problem(3)
    smooth, third = problem.losses, torch.tensor([0.0, 0.0, 10.0])
    # the backward pass meets 10 · 1e38 before 1e-30
    problem.losses = lambda: smooth() + third * (problem.network(problem.x)[:, 2] * 1e-30 * 1e38).sum()
    with pytest.raises(ValueError, match="gradient of task 't2' is not finite; lower learning_rate"):
        problem.gradients(METHODS[name])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(GradientBalance, add_up, "features"), "level must be one of"),
        (partial(FlatRegions, 0.0), "radius must be a finite number above 0"),
        (partial(LossBalance, mean_log, -1), "learning_rate must be"),
        (partial(GradNorm, alpha=-1), "alpha must be at least 0"),
        (lambda: GradientBalance(add_up).start(Towers(3, [1, 1]), Problem(2).tasks, is_long=False), "tasks share"),
        (lambda: GradNorm().start(Towers(3, [1, 1]), Problem(2).tasks, is_long=False), "a layer that tasks share"),
        (lambda: Problem(2).gradients(GradientBalance(torch.sum)), r"into one of shape \(96,\), got \(\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


class Remembering:
    """An aggregator with a state, like those of TorchJD."""

    def __init__(self):
        self.shapes, self.was_reset = [], 0

    def reset(self):
        self.was_reset += 1

    def __call__(self, rows):
        self.shapes.append((tuple(rows.shape), [bool(row.any()) for row in rows]))
        return rows.sum(dim=0)


def test_an_aggregator_with_a_state_is_copied_and_reset_and_gets_zeros_for_absent_tasks():
    given, problem = Remembering(), Problem(3)
    problem.y[:, 1] = math.nan
    balancer = problem.start(GradientBalance(given))
    balancer.backward(problem.losses, problem.present)
    assert (given.shapes, given.was_reset) == ([], 0)
    assert balancer._aggregate.was_reset == 1
    assert balancer._aggregate.shapes == [((3, 16 * 6), [True, False, True])]


def test_boundaries_are_used_where_there_are_any_and_rows_have_all_tasks_and_parameters_else():
    seen = []

    def watch(rows):
        seen.append(rows.shape[1])
        return rows.sum(dim=0)

    problem = Problem(2)
    n_shared = sum(p.numel() for p in problem.network.trunk.parameters())
    at = {level: GradientBalance(watch, level) for level in ("auto", "representation", "parameters")}
    for level in at:
        problem.gradients(at[level])
    problem.gradients(at["auto"], is_long=True)
    problem.gradients(FlatRegions(0.01, at["representation"]))
    problem.network.shared = nn.Identity()
    problem.gradients(at["auto"])
    assert seen == [16 * 6, 16 * 6, *[n_shared] * 5]
    with pytest.raises(ValueError, match=r"marks no boundary.*use level='parameters' or 'auto'"):
        problem.start(at["representation"])


def test_normalized_gradients_give_every_task_the_same_say():
    seen = []

    def watch(rows):
        seen.append(rows.norm(dim=1))
        return rows.sum(dim=0)

    for normalize in (False, True):
        Problem(3).gradients(GradientBalance(watch, normalize=normalize))
    assert torch.allclose(seen[1], seen[0].mean().expand(3))
    assert seen[0].std() > 0.1 * seen[0].mean()


@pytest.mark.parametrize("level", ["auto", "parameters"])
@pytest.mark.parametrize("name", ["AlignedMTL", "UPGrad", "ConFIG", "PCGrad", "MGDA", "IMTLG"])
def test_aggregators_of_torchjd_get_the_gradients_of_shared_parameters(name, level):
    aggregation = pytest.importorskip("torchjd.aggregation")
    if name == "UPGrad":
        pytest.importorskip("qpsolvers")
    problem, aggregator = Problem(3), getattr(aggregation, name)()
    torch.manual_seed(1)
    found = problem.gradients(GradientBalance(aggregator, level))[0]
    if level == "auto":
        assert found.isfinite().all()
        return
    rows = jacobian(problem.losses(), range(3), [*problem.network.trunk.parameters()])
    torch.manual_seed(1)
    torch.randint(2**62, ())  # the noise of the step
    assert torch.allclose(found, aggregator(rows), atol=1e-5)


@pytest.mark.parametrize("name", ["UW", "IMTLL", "DWA", "FAMO", "GeometricMean"])
def test_scalarizers_of_torchjd_learn_with_missing_labels(name):
    scalarization = pytest.importorskip("torchjd.scalarization")
    scalarizer = getattr(scalarization, name)
    scalarizer = scalarizer(3) if name in ("UW", "IMTLL", "FAMO") else scalarizer()
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 3))
    Y = np.column_stack([X[:, 0], -X[:, 0], X[:, 1]])
    Y[rng.random(Y.shape) < 0.4] = math.nan
    model = SharedBottom(epochs=4, balance=LossBalance(scalarizer), random_state=0).fit(X, Y)
    plain = SharedBottom(epochs=4, random_state=0).fit(X, Y)
    assert np.isfinite(model.predict(X)).all()
    assert not np.allclose(model.predict(X), plain.predict(X))


@pytest.mark.parametrize("method", [FlatRegions(), GradientBalance(add_up, "parameters"), GradNorm()])
def test_mixtures_and_members_take_a_method_and_files_leave_it_out(method, reloaded):
    X = np.random.default_rng(0).normal(size=(60, 3))
    Y = np.column_stack([X[:, 0], X[:, 1] > 0])
    model = MMoE(n_experts=2, expert_hidden=(4,), n_members=2, epochs=1, balance=method, random_state=0).fit(X, Y)
    again = reloaded(model)
    assert again.balance == "sum"
    assert np.array_equal(again.predict(X), model.predict(X))


def test_a_fit_with_a_checkpoint_takes_no_object(tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 3))
    words = "balance=GradNorm.* needs a fit in one process without checkpoint"
    with pytest.raises(ValueError, match=words), joined(checkpoint=tmp_path):
        SharedBottom(balance=GradNorm()).fit(X, X)


# Gradients, cuts and moves.


def gradients(network):
    return {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}


def passed_back(network, x, y, join, *, cut=True):
    with cut_at([module for module in network.modules() if cut and isinstance(module, Boundary)]) as cuts:
        losses = losses_of(network, x, y)
    leaves, (shared, own) = [leaf for _, leaf in cuts], split_parameters(network)
    if cut:
        losses.sum().backward(retain_graph=True)
        for leaf in leaves:
            leaf.grad = None
        backward_from(cuts, join(jacobian(losses, range(N_TASKS), leaves)))
    else:
        fill(shared, join(jacobian(losses, range(N_TASKS), shared)))
        losses.sum().backward(inputs=own)
    return len(cuts)


@pytest.mark.parametrize("network_type", [OneCut, Mixture, Branches])
@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_with_a_sum_the_gradients_are_those_of_the_plain_sum(network_type, cut, dtype, tolerance):
    network = network_type().to(dtype)
    x, y = data(dtype)
    losses_of(network, x, y).sum().backward()
    expected = gradients(network)
    network.zero_grad()
    n_cuts = passed_back(network, x, y, add_up, cut=cut)
    assert n_cuts == (0 if not cut else 1 if network_type is OneCut else 2)
    for name, gradient in gradients(network).items():
        assert torch.allclose(gradient, expected[name], rtol=0, atol=tolerance), name


@pytest.mark.parametrize("level", ["representation", "parameters"])
@pytest.mark.parametrize("cls", [SharedBottom, MMoE, PLE, HoME, AdaTT, STEM, APEM])
def test_the_sum_of_gradients_of_a_long_table_is_the_plain_one(cls, level):
    facts = {"has_missing": (False, False), "bins": ((-1.0, 1.0), (-1.0, 1.0))}
    columns = Columns(numeric=("a", "b"), categorical=(), levels=(), **facts)
    tasks = [Task(name=f"t{t}", kind="regression") for t in range(4)]
    more = {"task_groups": {"one": ["t0", "t3"], "two": ["t1", "t2"]}} if cls is HoME else {}
    network = tiny(cls, task_column="task", dropout=0.0, **more)._network(columns, tasks).double().eval()
    task, loss = torch.arange(24) % 4, MultiTaskLoss(tasks)
    x = Features(numbers=torch.randn(24, 2).double(), codes=torch.zeros(24, 0, dtype=torch.int64))
    y = torch.randn(24, 1).double()

    def forward():
        return loss(network(x, task), y, None, task)

    forward().sum().backward()
    expected = gradients(network)
    network.zero_grad()
    method = GradientBalance(add_up, level)
    method.start(network, tasks, is_long=True).backward(forward, torch.ones(4, dtype=torch.bool))
    for name, gradient in gradients(network).items():
        if gradient is not None:
            torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-7, msg=name)


def test_weighted_rows_at_the_boundaries_reach_the_trunk_as_weighted_losses_do():
    network = Mixture().double()
    x, y = data()
    weights = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    (losses_of(network, x, y) * weights).sum().backward()
    expected = gradients(network)
    network.zero_grad()
    passed_back(network, x, y, lambda rows: weights @ rows)
    # gates lie between the cuts and belong to tasks: theirs is the plain sum, and the trunk's still the weighted one
    for name, gradient in gradients(network).items():
        if name.startswith(("trunk", "experts")):
            assert torch.allclose(gradient, expected[name], atol=1e-12), name
    assert not network.after_trunk._forward_hooks


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
    of_all = {id(p) for name, p in names.items() if name.startswith(("trunk", "experts"))}
    assert shared == of_all - {id(network.trunk[0].bias)}


def test_sparse_gradients_are_refused_with_the_cure_at_parameters_and_balanced_at_boundaries():
    table, boundary, head = nn.Embedding(7, 3, sparse=True), Boundary(), TaskLinear(2, 3, 1)
    codes = torch.tensor([1, 2, 2])

    def losses():
        return head(boundary(table(codes)).expand(2, 3, 3)).square().sum(dim=(1, 2))

    with pytest.raises(ValueError, match=r"table \(7, 3\) cannot.*level='representation'"):
        jacobian(losses(), [0, 1], [table.weight])
    with cut_at([boundary]) as cuts:
        of_cut = losses()
    backward_from(cuts, add_up(jacobian(of_cut, [0, 1], [cuts[0][1]])))
    assert table.weight.grad.is_sparse


def test_gradnorms_layer_is_the_last_shared_matrix_and_its_weights_keep_their_sum():
    net = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 4), Boundary(), Towers(4, [1, 1], hidden=None))
    balancer = GradNorm().start(net, Problem(2).tasks, is_long=False)
    assert balancer.reference is net[1].weight
    x, steep = torch.randn(6, 3), torch.tensor([1.0, 100.0])
    for _ in range(3):
        net.zero_grad()
        balancer.backward(lambda: steep * torch.cat(net(x), dim=1).square().mean(dim=0), torch.tensor([True, True]))
    assert balancer.weights[1] < 1 < balancer.weights[0]  # the steeper task is held back
    assert balancer.weights.sum().item() == pytest.approx(2)
    experts = Experts([2], 3, (8, 4), norm="layer")
    deep = nn.Sequential(experts, Boundary(), Towers(4, [1, 1], hidden=None))
    assert GradNorm().start(deep, Problem(2).tasks, is_long=False).reference is experts.later[0].weight


@pytest.mark.parametrize(("steepness", "rises"), [(2.5, True), (4.0, False)])
def test_gradnorms_target_grows_with_the_slowness_of_a_task_to_the_power_of_one_and_a_half(steepness, rises):
    balancer = Problem(2).start(GradNorm())
    balancer._first = torch.tensor([1.0, 1.0])
    # norms (1, s), slowness (1, 2): the second target is (1 + s) / 2 * (4 / 3)^1.5, which s reaches from 3.34 on
    balancer._move(torch.tensor([1.0, 2.0]), torch.tensor([1.0, steepness]), torch.tensor([True, True]))
    assert (balancer.weights[1] > 1) == rises


def test_flat_balances_loss_and_flat_parts_separately_and_own_parameters_get_the_uphill_gradient():
    seen = []

    def largest(rows):  # no linear function of the rows
        seen.append(rows)
        return rows.abs().amax(dim=0)

    problem = Problem(3)
    shared, own = split_parameters(problem.network)
    parameters, n_shared = [*shared, *own], sum(p.numel() for p in shared)
    before = [p.detach().clone() for p in parameters]
    at_weights = jacobian(problem.losses(), range(3), parameters)
    uphill = uphill_jacobian(problem.losses, range(3), at_weights, (shared, own), 0.2)
    found = torch.cat(problem.gradients(FlatRegions(0.2, GradientBalance(largest))))
    first, second = at_weights[:, :n_shared], (uphill - at_weights)[:, :n_shared]
    assert torch.allclose(seen[0], first)
    assert torch.allclose(seen[1], second, atol=1e-6)
    assert torch.allclose(found[:n_shared], first.abs().amax(dim=0) + second.abs().amax(dim=0), atol=1e-6)
    assert torch.allclose(found[n_shared:], uphill[:, n_shared:].sum(dim=0), atol=1e-6)
    assert all(torch.equal(p, weights) for p, weights in zip(parameters, before, strict=True))


def test_uphill_gradients_are_those_at_the_moved_weights_which_come_back_also_when_a_pass_fails():
    network = OneCut().double()
    x, y = data()
    shared, own = split_parameters(network)
    before = [p.detach().clone() for p in network.parameters()]
    rows = jacobian(losses_of(network, x, y), [1], [*shared, *own])
    (found,) = uphill_jacobian(lambda: losses_of(network, x, y), [1], rows, (shared, own), 0.3)
    with pytest.raises(ZeroDivisionError):
        uphill_jacobian(lambda: 1 / 0, [1], rows, (shared, own), 0.3)
    assert all(torch.equal(p, weights) for p, weights in zip(network.parameters(), before, strict=True))
    n_shared = sum(p.numel() for p in shared)
    shift = torch.cat([0.3 * part / part.norm() for part in (rows[0, :n_shared], rows[0, n_shared:])])
    with torch.no_grad():
        for p, part in zip([*shared, *own], shift.split([p.numel() for p in [*shared, *own]]), strict=True):
            p += part.view_as(p)
    (expected,) = jacobian(losses_of(network, x, y), [1], [*shared, *own])
    assert torch.allclose(found, expected, atol=1e-12)


def test_flat_leaves_running_statistics_as_one_plain_pass_does():
    plain, flat = Problem(2, dropout=0.3, norm=True), Problem(2, dropout=0.3, norm=True)
    plain.losses()
    flat.gradients(FlatRegions(0.5))
    assert (flat.network.norm.running_mean != 0).any()
    # the masks of dropout come after the statistics: both saw the same rows
    assert torch.equal(flat.network.norm.running_mean, plain.network.norm.running_mean)
    norm = nn.BatchNorm1d(3, momentum=0.2)
    with frozen_statistics(nn.Sequential(norm)):
        norm(torch.randn(8, 3) + 5)
    assert norm.momentum == 0.2
    assert not norm.running_mean.any()


def test_passes_of_a_step_share_their_dropout_masks_and_steps_do_not():
    problem, seen = Problem(3, dropout=0.5), []

    def forward():
        losses = problem.losses()
        seen.append(losses.detach())
        return losses

    balancer = problem.start(LossBalance(Learning()))
    for _ in range(2):
        balancer.backward(forward, problem.present)
        balancer.after_step(forward)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[0], seen[2])
