"""STEM: the formula of the paper, and whose embeddings and experts a task's loss reaches."""

import pytest
import torch
from small_network import expert, n_parameters, network_of, rows
from torch.nn import functional as F

from tabmtl import STEM

SMALL = {"d_embedding": 4, "numeric_embedding": "linear", "head_hidden": 4, "expert_hidden": (7, 5), "gate_hidden": 6}
D = 3 * 4  # three columns of four numbers
OWNERS = [0, 0, 0, 1, 1, 2, 2, 3, 3]  # of the experts: 0 is shared, t + 1 task t


def network(**params):
    options = SMALL | {"n_shared_experts": 3, "n_task_experts": 2, "expert_norm": "none"} | params
    model = network_of(STEM(**options))
    torch.nn.init.normal_(model.tokenizer.missing, generator=torch.Generator().manual_seed(0))
    return model


def vectors(model):
    """The row's vector in each of the four embeddings, the shared one first."""
    tokens = model.tokenizer(rows())
    return [torch.cat([tokens[:, j, 4 * k : 4 * k + 4] for j in range(3)], dim=1) for k in range(4)]


@pytest.mark.parametrize("numeric_embedding", ["linear", "piecewise", "periodic"])
def test_features_are_the_papers_formula(numeric_embedding):
    model = network(numeric_embedding=numeric_embedding)
    x = vectors(model)
    outputs = [expert(model.experts, e, x[owner]) for e, owner in enumerate(OWNERS)]
    for t in range(3):
        hidden = F.relu((x[t + 1] + x[0]) @ model.gate_hidden.weight[t] + model.gate_hidden.bias[t])
        own = slice(9 * t, 9 * t + 9)
        weights = F.softmax(hidden @ model.gates.linear.weight[own].T + model.gates.linear.bias[own], dim=1)
        h = sum(weights[:, [e]] * outputs[e] for e in range(9))
        torch.testing.assert_close(model.task_features(rows())[:, t], h, rtol=1e-10, atol=1e-12)


def reached(model, t):
    """Largest gradient of one task's features by expert and embedding: (9,) and (4,) per kind of parameter."""
    model.task_features(rows(64))[:, t].square().sum().backward()
    by_expert = [
        parameter.grad.reshape(9, -1).abs().amax(dim=1)
        for name, parameter in model.experts.named_parameters()
        if name.endswith("weight")
    ]
    embeddings = [p for name, p in model.tokenizer.named_parameters() if "periodic" not in name]
    by_embedding = [p.grad.unflatten(-1, (4, 4)).movedim(-2, 0).flatten(1).abs().amax(dim=1) for p in embeddings]
    return by_expert, by_embedding


@pytest.mark.parametrize("t", range(3))
@pytest.mark.parametrize("expert_norm", ["none", "batch"])
@pytest.mark.parametrize("numeric_embedding", ["linear", "piecewise", "periodic"])
def test_a_tasks_loss_trains_the_shared_and_its_own_embeddings_and_experts(numeric_embedding, expert_norm, t):
    """Exactly nothing reaches other tasks' parts; the shared experts are not detached, as in a copy of the method."""
    model = network(numeric_embedding=numeric_embedding, expert_norm=expert_norm, activation="silu").train()
    by_expert, by_embedding = reached(model, t)
    assert len(by_expert) == (4 if expert_norm == "batch" else 2)
    assert len(by_embedding) >= 3
    for gradient in by_expert:
        assert [value > 0 for value in gradient.tolist()] == [owner in (0, t + 1) for owner in OWNERS]
    for gradient in by_embedding:
        assert [value > 0 for value in gradient.tolist()] == [k in (0, t + 1) for k in range(4)]


@pytest.mark.parametrize("t", range(3))
def test_a_tasks_loss_trains_no_other_tasks_gate_or_head(t):
    model = network(head_hidden=64)
    model(rows(64))[t].square().sum().backward()
    for weight in (model.gate_hidden.weight, model.gates.linear.weight, model.heads.hidden.weight):
        assert (weight.grad.reshape(3, -1).abs().sum(dim=1) > 0).tolist() == [s == t for s in range(3)]


@pytest.mark.parametrize("e", range(9))
def test_all_tasks_hear_all_experts(e):
    model = network()
    before = model.task_features(rows())
    with torch.no_grad():
        model.experts.later[0].bias[e] += 1.0
    assert ((model.task_features(rows()) - before).abs().amax(dim=(0, 2)) > 0).all()


@pytest.mark.parametrize("expert_norm", ["none", "batch"])
def test_parameters_are_those_of_the_layers(expert_norm):
    norm = 2 * (7 + 5) if expert_norm == "batch" else 0
    embeddings = (5 + 2 * 2 + 1) * 4 * (3 + 1)  # codes, weight and bias of two numbers, a vector for missing ones
    experts = 9 * (D * 7 + 7 + 7 * 5 + 5 + norm)
    gates = 3 * (D * 6 + 6 + 6 * 9 + 9)
    heads = 3 * (5 * 4 + 4) + (4 + 1) * (1 + 3 + 1)
    model = network(expert_norm=expert_norm)
    assert n_parameters(model) == embeddings + experts + gates + heads
