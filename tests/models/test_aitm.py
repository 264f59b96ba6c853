"""AITM: the transfer is its formula, what is passed on goes forward alone, and it learns a rare conversion."""

import math

import pytest
import torch
from small_network import n_parameters, network_of, rows
from torch.nn import functional as F

from tabmtl import AITM
from tabmtl.targets import Task

TASKS = [
    Task(name="buy", kind="binary", classes=(0, 1)),
    Task(name="delay", kind="regression"),
    Task(name="click", kind="binary", classes=(0, 1)),
    Task(name="cart", kind="binary", classes=(0, 1)),
]
CHAIN = [2, 3, 0]
SIZES = {"d_embedding": 3, "tower_hidden": (6, 5), "dropout": 0.0}
MODEL = AITM(task_chain=["click", "cart", "buy"], **SIZES)


def towers_with_gradient(model, loss):
    """Names of the tasks whose towers have any gradient."""
    model.zero_grad()
    loss.backward(retain_graph=True)
    moved = model.towers.first.weight.grad.unflatten(0, (4, 6)).abs().sum(dim=(1, 2)) > 0
    return {task.name for task, some in zip(TASKS, moved.tolist(), strict=True) if some}


def plain_transfer(model, p, q):
    """The attention of the AITM paper over two vectors, row by row."""
    h1, h2, h3 = (
        lambda u, weight=weight, bias=bias: weight @ u + bias
        for weight, bias in zip(model.value_key_query.weight.chunk(3), model.value_key_query.bias.chunk(3), strict=True)
    )
    found = []
    for row in zip(p, q, strict=True):
        logits = torch.stack([h2(u) @ h3(u) / math.sqrt(5) for u in row])
        found.append(sum(w * h1(u) for w, u in zip(logits.softmax(dim=0), row, strict=True)))
    return torch.stack(found)


def test_the_transfer_is_its_formula():
    model = network_of(MODEL, TASKS)
    p, q = torch.randn(2, 20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.transfer(p, q), plain_transfer(model, p, q))
    torch.testing.assert_close(model.transfer(p, q), model.transfer(q, p))  # h1 to h3 are shared


def test_features_of_every_step_are_the_formulas():
    model, x = network_of(MODEL, TASKS), rows(40)
    q = model.towers([model.vector(x)])
    click = q[:, 2]
    first, second = (layer[0] for layer in model.passed_on)
    cart = plain_transfer(model, F.relu(click @ first.weight.T + first.bias), q[:, 3])
    buy = plain_transfer(model, F.relu(cart @ second.weight.T + second.bias), q[:, 0])
    torch.testing.assert_close(model.task_features(x), torch.stack([buy, q[:, 1], click, cart], dim=1))


def test_parameters_are_those_of_the_layers():
    model = network_of(MODEL, TASKS)
    towers = 4 * ((9 + 1) * 6 + (6 + 1) * 5)
    count = towers + 2 * (5 + 1) * 5 + 3 * (5 + 1) * 5 + 4 * (5 + 1)
    vector = n_parameters(model.vector)
    assert n_parameters(model) == vector + count


@pytest.mark.parametrize("calibrator", [0.0, 0.6])
def test_information_goes_forward_along_the_chain_alone(calibrator):
    model = network_of(MODEL, TASKS)
    loss = AITM(task_chain=MODEL.task_chain, calibrator=calibrator)._loss(TASKS)
    buy, delay, click, cart = loss(model(rows(40)), torch.zeros(40, 4))
    assert towers_with_gradient(model, click) == {"click"}
    assert towers_with_gradient(model, cart) == {"click", "cart"}
    assert towers_with_gradient(model, buy) == {"click", "cart", "buy"}
    assert towers_with_gradient(model, delay) == {"delay"}


def test_tasks_outside_the_chain_neither_give_nor_take():
    model, x = network_of(MODEL, TASKS), rows(40)
    before = model(x)
    with torch.no_grad():
        model.towers.first.weight.unflatten(0, (4, 6))[1] += 1
    changed = [not torch.equal(a, b) for a, b in zip(before, model(x), strict=True)]
    assert changed == [False, True, False, False]
    with torch.no_grad():
        model.value_key_query.weight += 1
    changed = [not torch.equal(a, b) for a, b in zip(before, model(x), strict=True)]
    assert changed == [True, True, False, True]


def test_the_loss_is_cross_entropy_and_the_charge_of_rising_probabilities():
    generator = torch.Generator().manual_seed(0)
    scores = [2 * torch.randn(50, 1, generator=generator) for _ in TASKS]
    y = torch.zeros(50, 4)
    y[:20, 2], y[:10, 3], y[:5, 0] = 1, 1, 1
    p = torch.cat([scores[t] for t in CHAIN], dim=1).double().sigmoid()
    rise = (p[:, 1:] - p[:, :-1]).clamp_min(0).sum(dim=0)
    for calibrator in (0.0, 0.6, 3.0):
        losses = AITM(task_chain=MODEL.task_chain, calibrator=calibrator)._loss(TASKS)(scores, y)
        expected = F.binary_cross_entropy(p, y[:, CHAIN].double(), reduction="none").sum(dim=0)
        expected[1:] += calibrator * rise
        torch.testing.assert_close(losses[CHAIN].double(), expected, rtol=1e-6, atol=0)
    assert MODEL.calibrator == 0.6
    assert torch.equal(torch.cat(MODEL._loss(TASKS).link(scores)), torch.cat(scores))
