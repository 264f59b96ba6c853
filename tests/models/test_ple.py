"""PLE and CGC: both levels by the formula of the paper, and which experts a task may see."""

import pytest
import torch
from small_network import expert, n_parameters, network_of, rows
from torch.nn import functional as F

from tabmtl import PLE

D, H, SMALL = 3 + 2 + 1, 5, {"d_embedding": 3, "numeric_embedding": "none", "head_hidden": 4, "expert_hidden": (7, 5)}
OWNERS = [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]  # of the experts of a level: 0 is the shared bucket, t + 1 task t


def network(**params):
    options = SMALL | {"n_shared_experts": 2, "n_task_experts": 3, "expert_norm": "none"} | params
    return network_of(PLE(**options))


def gated(level, start, x, outputs):
    """Outputs weighed by the gate whose weights begin at a row of the level's gates."""
    own = slice(start, start + len(outputs))
    weights = F.softmax(x @ level.gates.linear.weight[own].T + level.gates.linear.bias[own], dim=1)
    return sum(weights[:, [i]] * output for i, output in enumerate(outputs))


def plain_level(level, inputs, *, last):
    """Outputs of the buckets by the paper; the shared gate, if there is one, comes first."""
    outputs = [expert(level.experts, e, inputs[owner]) for e, owner in enumerate(OWNERS)]
    found, start = [], 0
    if not last:
        found, start = [gated(level, 0, inputs[0], outputs)], len(outputs)
    for t in range(1, 4):
        seen = [output for output, owner in zip(outputs, OWNERS, strict=True) if owner in (0, t)]
        found.append(gated(level, start, inputs[t], seen))
        start += len(seen)
    assert start == len(level.gates.linear.weight)
    return found


@pytest.mark.parametrize("n_levels", [1, 2, 3])
def test_features_are_the_papers_formula(n_levels):
    model = network(n_levels=n_levels)
    inputs = [model.vector(rows())] * 4
    for i, level in enumerate(model.stack):
        inputs = plain_level(level, inputs, last=i == n_levels - 1)
    assert len(inputs) == 3
    torch.testing.assert_close(model.task_features(rows()), torch.stack(inputs, dim=1), rtol=1e-10, atol=1e-12)


def test_only_levels_below_the_last_have_a_shared_gate():
    for n_levels in (1, 2, 3):
        names = [gates.gate_names for _, (gates,) in network(n_levels=n_levels).levels]
        assert names == [("(shared)", "delay", "size", "late")] * (n_levels - 1) + [("delay", "size", "late")]
    seen = network().stack[0].gates(torch.ones(1, D).double())[0] > 0
    assert seen[0].all()
    assert [row.nonzero().flatten().tolist() for row in seen[1:]] == [
        [0, 1, *range(2 + 3 * t, 5 + 3 * t)] for t in range(3)
    ]


def moved_tasks(model, level, e):
    """Tasks whose features move with the bias of an expert's last layer."""
    before = model.task_features(rows())
    with torch.no_grad():
        model.stack[level].experts.later[0].bias[e] += 1.0
    return [not torch.equal(before[:, t], model.task_features(rows())[:, t]) for t in range(3)]


@pytest.mark.parametrize(("e", "owner"), list(enumerate(OWNERS)))
def test_an_expert_of_the_last_level_moves_its_own_task_alone(e, owner):
    expected = [owner in (0, t) for t in (1, 2, 3)]
    assert moved_tasks(network(n_levels=1), 0, e) == expected
    assert moved_tasks(network(n_levels=2), 1, e) == expected


@pytest.mark.parametrize("e", range(11))
def test_an_expert_below_reaches_all_tasks_through_the_shared_gate(e):
    assert moved_tasks(network(n_levels=2), 0, e) == [True] * 3


def test_without_the_shared_gates_say_a_level_below_is_the_tasks_own():
    model = network(n_levels=2)
    with torch.no_grad():
        model.stack[0].gates.linear.bias[:11] = torch.tensor([0.0] * 2 + [-torch.inf] * 9)
    assert moved_tasks(model, 0, 2) == [True, False, False]


@pytest.mark.parametrize("t", range(3))
def test_gradients_follow_what_a_task_sees(t):
    model = network(n_levels=2)
    model.task_features(rows(64))[:, t].square().sum().backward()
    below, last = (level.experts.first.weight.grad.view(11, -1).abs().sum(dim=1) > 0 for level in model.stack)
    assert below.all()
    assert last.tolist() == [owner in (0, t + 1) for owner in OWNERS]


def test_gates_that_serve_several_tasks_are_shared_in_gradient_balancing():
    assert [level.gates.task_specific for level in network(n_levels=3).stack] == [False, False, True]


@pytest.mark.parametrize("expert_norm", ["none", "batch"])
@pytest.mark.parametrize("n_levels", [1, 2])
def test_parameters_are_those_of_the_layers(n_levels, expert_norm):
    norm = 2 * (7 + H) if expert_norm == "batch" else 0
    count = 5 * 3  # the table of codes
    for level in range(n_levels):
        d = H if level else D
        count += 11 * (d * 7 + 7 + 7 * H + H + norm) + 3 * 5 * (d + 1)
        count += 11 * (d + 1) if level < n_levels - 1 else 0
    count += 3 * (H * 4 + 4) + (4 + 1) * (1 + 3 + 1)
    model = network(n_levels=n_levels, expert_norm=expert_norm)
    assert n_parameters(model) == count
