"""ESMM: steps trained through products alone, on embeddings that all share, and what that is worth."""

import numpy as np
import polars as pl
import pytest
import torch
from small_network import network_of, rows
from torch.nn import functional as F

from tabmtl import AITM, ESMM, IndependentTasks
from tabmtl.synth import make_funnel
from tabmtl.targets import Task

TASKS = [
    Task(name="size", kind="multiclass", classes=("s", "m", "l")),
    Task(name="buy", kind="binary", classes=(0, 1)),
    Task(name="delay", kind="regression"),
    Task(name="click", kind="binary", classes=(0, 1)),
]
SIZE, BUY, DELAY, CLICK = range(4)
MODEL = ESMM(task_chain=["click", "buy"], d_embedding=3, tower_hidden=(6, 5), dropout=0.0)


def labels(n=40):
    """Of the tasks in order; nothing is bought without a click."""
    rng = np.random.default_rng(0)
    click = rng.random(n) < 0.5
    columns = [rng.integers(0, 3, n), click & (rng.random(n) < 0.5), rng.normal(size=n), click]
    return torch.tensor(np.column_stack(columns), dtype=torch.float32)


def learning(model, loss):
    """Whether a loss has a gradient in the tower and the head of every task."""
    model.zero_grad()
    loss.backward(retain_graph=True)
    first, later = model.towers.first.weight.grad.unflatten(0, (4, 6)), model.towers.later[0].weight.grad
    single, triple = (torch.zeros(1) if out.weight.grad is None else out.weight.grad for out in model.heads.out)
    heads = {SIZE: triple} | dict(zip((BUY, DELAY, CLICK), single.expand(3, *single.shape[1:]), strict=True))
    parts = [[part.any().item() for part in (first[t], later[t], heads[t])] for t in range(4)]
    assert all(len(set(part)) == 1 for part in parts)
    return [part[0] for part in parts]


def test_every_task_has_a_tower_on_the_shared_vector():
    model, x = network_of(MODEL, TASKS), rows(40)
    v, first, later = model.vector(x), model.towers.first, model.towers.later[0]
    for t, score in enumerate(model(x)):
        hidden = F.relu(v @ first.weight[6 * t : 6 * t + 6].T + first.bias[6 * t : 6 * t + 6])
        hidden = F.relu(hidden @ later.weight[t] + later.bias[t])
        torch.testing.assert_close(model.task_features(x)[:, t], hidden)
        group, place = (1, 0) if t == SIZE else (0, [BUY, DELAY, CLICK].index(t))
        head = model.heads.out[group]
        torch.testing.assert_close(score, hidden @ head.weight[place] + head.bias[place])
    count = sum(parameter.numel() for parameter in model.parameters())
    towers = 4 * ((9 + 1) * 6 + (6 + 1) * 5) + (5 + 1) * (1 + 1 + 1 + 3)
    assert count == towers + sum(parameter.numel() for parameter in model.vector.parameters())


def test_the_tower_of_conversions_learns_through_the_product_alone():
    model, y = network_of(MODEL, TASKS), labels()
    losses = MODEL._loss(TASKS)(model(rows(40)), y)
    assert learning(model, losses[CLICK]) == [False, False, False, True]
    assert learning(model, losses[BUY]) == [False, True, False, True]
    assert learning(model, losses[SIZE]) == [True, False, False, False]
    assert learning(model, losses[DELAY]) == [False, False, True, False]


def test_gradients_are_those_of_products_of_probabilities():
    scores = [score.detach().float().requires_grad_() for score in network_of(MODEL, TASKS)(rows(40))]
    y = labels()
    (gradient,) = torch.autograd.grad(MODEL._loss(TASKS)(scores, y)[BUY], scores[BUY])
    ctr, cvr = scores[CLICK].detach().double().sigmoid(), scores[BUY].detach().double().sigmoid()
    p, bought = ctr * cvr, y[:, BUY : BUY + 1].double()
    expected = (p - bought) / (1 - p) / cvr * cvr * (1 - cvr)  # dBCE/dp dp/ds, with dp/ds = p (1 - cvr)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-7)
    assert (gradient != 0).all()  # over all impressions, the clicked and the others


def test_tasks_beside_the_chain_are_learned_too():
    rng = np.random.default_rng(0)
    X = pl.DataFrame({"a": rng.normal(size=600), "b": rng.normal(size=600)})
    click = X["a"] + 0.5 * rng.normal(size=600) > 0
    y = pl.DataFrame({"click": click, "buy": click & (X["b"] > 0), "delay": 100 + 20 * X["b"]})
    y = y.with_columns(
        size=pl.when(X["a"] > 0.5).then(pl.lit("l")).when(X["a"] > -0.5).then(pl.lit("m")).otherwise(pl.lit("s"))
    )
    model = ESMM(task_chain=["click", "buy"], epochs=15, batch_size=64, n_jobs=1, device="cpu", random_state=0).fit(
        X, y
    )
    scores = model.score_tasks(X, y)
    assert min(scores["delay"], scores["size"], scores["buy"]) > 0.9
    assert model.predict(X).schema == y.schema


#: Two towers on 13 columns of 6 000 impressions, of which 152 convert, and 20 000 fresh ones.
WORLD = {"n_users": 100, "n_items": 30, "click_rate": 0.2, "conversion_rate": 0.02, "spread": 2.0}


@pytest.fixture(scope="module")
def log():
    train = make_funnel(6_000, **WORLD, unclicked="null", random_state=0)
    return train, train.draw(20_000, random_state=1)


@pytest.mark.parametrize("cls", [AITM, ESMM])
def test_a_rare_conversion_is_learned(cls, log):
    train, test = log
    sizes = {"tower_hidden": (32, 16), "d_embedding": 8, "batch_size": 128, "epochs": 8, "device": "cpu", "n_jobs": 1}
    model = cls(task_chain=train.task_chain, random_state=0, **sizes)
    scores = model.fit(train.X, train.y.select(train.task_chain)).score_tasks(test.X, test.y.select(train.task_chain))
    ceiling = test.ceiling()
    assert 0.72 < scores["click"] < ceiling["click"]
    assert 0.78 < scores["conversion"] < ceiling["conversion"]
    p = model.predict_proba(test.X)
    assert (p["conversion"][:, 1] <= p["click"][:, 1]).all()
    cvr = p["conversion"][:, 1] / p["click"][:, 1]
    assert 0.05 < cvr.mean() < 0.2  # of clicks a tenth converts


def test_the_single_models_score_what_the_comparisons_say(log):
    train, test = log
    y, fresh = (part.y.select(pl.col(train.task_chain).fill_null(0)) for part in (train, test))
    assert y["conversion"].sum() == 152
    scores = (
        IndependentTasks(families=("lightgbm",), n_jobs=1, random_state=0).fit(train.X, y).score_tasks(test.X, fresh)
    )
    assert scores["click"] == pytest.approx(0.76, abs=0.02)
    assert scores["conversion"] == pytest.approx(0.76, abs=0.03)
    assert test.ceiling()["conversion"] == pytest.approx(0.93, abs=0.01)
