"""MMoE: the formula of the paper, its parameters, and what a task with few labels gains."""

import numpy as np
import polars as pl
import pytest
import torch
from small_network import COLUMNS, TASKS, expert, n_parameters, network_of, rows
from torch.nn import functional as F

from tabmtl import IndependentTasks, MMoE
from tabmtl.targets import Task

D, SMALL = 3 + 2 + 1, {"d_embedding": 3, "numeric_embedding": "none", "head_hidden": 4, "expert_hidden": (7, 5)}


def network(tasks=TASKS, columns=COLUMNS, **params):
    return network_of(MMoE(**SMALL | {"n_experts": 4, "expert_norm": "none"} | params), tasks, columns)


def test_features_are_the_papers_formula():
    model = network()
    x = model.vector(rows())
    outputs = [expert(model.experts, e, x) for e in range(4)]
    gates = model.gates.linear
    for t in range(3):
        weights = F.softmax(x @ gates.weight[4 * t : 4 * t + 4].T + gates.bias[4 * t : 4 * t + 4], dim=1)
        h = sum(weights[:, e : e + 1] * outputs[e] for e in range(4))
        torch.testing.assert_close(model.task_features(rows())[:, t], h, rtol=1e-10, atol=1e-12)


def test_the_head_of_a_task_reads_its_own_features():
    model = network()
    features = model.task_features(rows())
    scores = model(rows())
    assert [score.shape for score in scores] == [(6, 1), (6, 3), (6, 1)]
    for t in range(3):
        torch.testing.assert_close(model.heads(features[:, t])[t], scores[t])
    assert torch.equal(model.represent(rows()), features.flatten(1))


def test_a_row_with_its_task_gets_the_score_of_that_task():
    model = network([Task(name=f"t{t}", kind="regression") for t in range(3)])
    own = torch.tensor([0, 1, 2, 2, 1, 0])
    wide = torch.cat(model(rows()), dim=1)
    (long,) = model(rows(), own)
    torch.testing.assert_close(long[:, 0], wide[torch.arange(6), own])
    features = model.task_features(rows())
    torch.testing.assert_close(model.represent(rows(), own), features[torch.arange(6), own], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t", range(3))
def test_a_task_trains_all_experts_and_no_other_tasks_gate(t):
    model = network()
    model.task_features(rows(64))[:, t].square().sum().backward()
    assert (model.experts.first.weight.grad.view(4, -1).abs().sum(dim=1) > 0).all()
    by_task = model.gates.linear.weight.grad.view(3, -1).abs().sum(dim=1) > 0
    assert by_task.tolist() == [s == t for s in range(3)]


@pytest.mark.parametrize("expert_norm", ["none", "batch", "layer"])
def test_parameters_are_those_of_the_layers(expert_norm):
    table, norm = 5 * 3, 0 if expert_norm == "none" else 2 * (7 + 5)
    experts = 4 * ((D * 7 + 7) + (7 * 5 + 5) + norm)
    gates = 3 * (D * 4 + 4)
    heads = 3 * (5 * 4 + 4) + (4 + 1) * (1 + 3 + 1)
    assert n_parameters(network(expert_norm=expert_norm)) == table + experts + gates + heads


def table(n, seed):
    """Two targets that share a product of two hidden units, and differ in what is added to it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    a, b = np.tanh(x @ np.random.default_rng(99).normal(size=(6, 2))).T
    common, scarce = 3 * a * b + a, 3 * a * b - b
    y = {"common": common + 0.3 * rng.normal(size=n), "scarce": scarce + 0.3 * rng.normal(size=n)}
    return pl.DataFrame(x, schema=list("abcdef")), pl.DataFrame(y)


@pytest.mark.all_faces
def test_a_task_of_few_labels_learns_from_one_of_many():
    """And the one of many labels neither gains nor loses: what is claimed here is claimed of this table alone."""
    X, y = table(1_200, 0)
    y = y.with_columns(scarce=pl.when(pl.int_range(pl.len()) < 120).then("scarce"))
    X_test, y_test = table(4_000, 1)
    params = {"n_experts": 4, "expert_hidden": (32, 16), "head_hidden": 16, "dropout": 0.0, "early_stopping": False}
    params |= {"epochs": 20, "batch_size": 128, "learning_rate": 8e-3, "device": "cpu", "n_jobs": 1, "random_state": 0}
    both = MMoE(**params).fit(X, y).score_tasks(X_test, y_test)
    alone = {
        name: MMoE(**params).fit(X, y.select(name)).score_tasks(X_test, y_test.select(name))[name] for name in both
    }
    trees = IndependentTasks(families=("lightgbm",), n_jobs=1, random_state=0).fit(X, y).score_tasks(X_test, y_test)
    mean_of_train = 1 - (y_test["scarce"] - y["scarce"].mean()).pow(2).mean() / y_test["scarce"].var(ddof=0)
    assert -0.05 < mean_of_train <= 0  # R² of a trivial model
    assert mean_of_train + 0.1 < trees["scarce"] < alone["scarce"]
    assert both["scarce"] > alone["scarce"] + 0.05
    assert both["common"] == pytest.approx(alone["common"], abs=0.02)
    assert both["common"] > trees["common"]
