"""AdaTT: fusion units by the formula of the paper, their start, and the shared unit."""

import pytest
import torch
from small_network import TASKS, n_parameters, network_of, rows
from torch.nn import functional as F

from tabmtl import AdaTT
from tabmtl.targets import Task

D, SMALL = 3 + 2 + 1, {"d_embedding": 3, "numeric_embedding": "none", "head_hidden": 4, "expert_hidden": (7, 5)}


def network(tasks=TASKS, **params):
    return network_of(AdaTT(**SMALL | {"expert_norm": "none"} | params), tasks)


def plain_level(level, inputs, counts, n_fused):
    """Outputs of the fused units, one sum at a time."""
    experts, gates, width = level.experts.first, level.gates.linear, level.experts.width
    owners = [unit for unit, count in enumerate(counts) for _ in range(count)]
    outputs = []
    for e, owner in enumerate(owners):
        own = slice(e * width, (e + 1) * width)
        outputs.append(F.relu(inputs[owner] @ experts.weight[own].T + experts.bias[own]))
    found = []
    for unit in range(n_fused):
        own = slice(unit * len(owners), (unit + 1) * len(owners))
        weights = F.softmax(inputs[unit] @ gates.weight[own].T + gates.bias[own], dim=1)
        fused = sum(weights[:, [e]] * output for e, output in enumerate(outputs))
        for e, owner in enumerate(owners):
            if owner == unit:
                fused = fused + (1.0 if counts[unit] == 1 else level.residual[e]) * outputs[e]
        found.append(fused)
    return found


@pytest.mark.parametrize(("n_task", "n_shared"), [(1, 0), (2, 0), (3, 0), (1, 1), (1, 2), (2, 1), (3, 2)])
@pytest.mark.parametrize("expert_hidden", [(5,), (7, 5), (4, 7, 5)])
def test_features_are_the_papers_formula(n_task, n_shared, expert_hidden):
    model = network(n_task_experts=n_task, n_shared_experts=n_shared, expert_hidden=expert_hidden)
    counts = [n_task] * 3 + [n_shared] * (n_shared > 0)
    inputs = [model.vector(rows())] * len(counts)
    for i, level in enumerate(model.stack):
        last = i == len(expert_hidden) - 1
        inputs = plain_level(level, inputs, counts, 3 if last else len(counts))
    assert len(inputs) == 3
    torch.testing.assert_close(model.task_features(rows()), torch.stack(inputs, dim=1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n_task", [2, 4, 50])
def test_fixed_weights_start_in_a_range_that_the_number_of_experts_sets(n_task):
    model = network(n_task_experts=n_task, expert_hidden=(2,) * 20)
    starts = torch.cat([level.residual for level in model.stack]).detach()
    assert starts.abs().max() <= n_task**-0.5
    assert starts.std().item() == pytest.approx((3 * n_task) ** -0.5, rel=0.15)
    assert starts.mean().item() == pytest.approx(0, abs=0.2 * n_task**-0.5)


def test_a_shared_units_fixed_weights_start_by_its_own_number_of_experts():
    model = network(n_task_experts=2, n_shared_experts=100, expert_hidden=(2, 2))
    start = model.stack[0].residual.detach()
    assert start[:6].abs().max() <= 2**-0.5
    assert 0.9 * 100**-0.5 < start[6:].abs().max() <= 100**-0.5


def test_no_head_reads_the_shared_unit_but_all_tasks_take_from_it():
    model = network(n_task_experts=2, n_shared_experts=1)
    names = [gates.gate_names for _, (gates,) in model.levels]
    assert [len(level) for level in names] == [4, 3]
    assert names[1] == ("delay", "size", "late")
    assert model.task_features(rows()).shape == (6, 3, 5)
    for level in (0, 1):
        before = model.task_features(rows())
        with torch.no_grad():
            model.stack[level].experts.first.bias[-1] += 1.0  # of the shared expert
        assert ((model.task_features(rows()) - before).abs().amax(dim=(0, 2)) > 0).all()
    assert network(n_task_experts=2).levels[0][1][0].gate_names == ("delay", "size", "late")


def test_a_task_may_be_named_as_the_shared_unit_is():
    taken = network(n_shared_experts=1).levels[0][1][0].gate_names[-1]
    tasks = [Task(name=taken, kind="regression"), Task(name="other", kind="regression")]
    model = network(tasks, n_task_experts=2, n_shared_experts=3)
    assert model.task_features(rows()).shape == (6, 2, 5)
    assert model.stack[0].experts.n_experts == 2 * 2 + 3


@pytest.mark.parametrize("t", range(3))
def test_a_task_trains_all_experts(t):
    model = network(n_shared_experts=1)
    model.task_features(rows(64))[:, t].square().sum().backward()
    for level in model.stack:
        assert (level.experts.first.weight.grad.view(7, -1).abs().sum(dim=1) > 0).all()
    gates = model.stack[1].gates.linear.weight.grad.view(3, -1).abs().sum(dim=1) > 0
    assert gates.tolist() == [s == t for s in range(3)]
    assert (model.stack[0].gates.linear.weight.grad.view(4, -1).abs().sum(dim=1) > 0).all()


def test_gates_below_the_last_level_are_shared_in_gradient_balancing():
    model = network(n_shared_experts=1)
    assert [level.gates.task_specific for level in model.stack] == [False, True]


@pytest.mark.parametrize("expert_norm", ["none", "batch"])
@pytest.mark.parametrize(("n_task", "n_shared"), [(1, 0), (2, 0), (2, 1)])
def test_parameters_are_those_of_the_layers(n_task, n_shared, expert_norm):
    count, n_experts = 5 * 3, 3 * n_task + n_shared
    for d, h, n_gates in ((D, 7, 3 + (n_shared > 0)), (7, 5, 3)):
        norm = 2 * h if expert_norm == "batch" else 0
        count += n_experts * (d * h + h + norm) + n_gates * n_experts * (d + 1) + (n_task > 1) * n_experts
    count += 3 * (5 * 4 + 4) + (4 + 1) * (1 + 3 + 1)
    model = network(n_task_experts=n_task, n_shared_experts=n_shared, expert_norm=expert_norm)
    assert n_parameters(model) == count
