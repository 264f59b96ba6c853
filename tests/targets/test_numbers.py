"""Kinds of numbers: losses as scikit-learn's, boosting as LightGBM's, the truth, and the same answers in any unit."""

from __future__ import annotations

from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from conformance import tiny
from lightgbm import LGBMRegressor
from scipy.optimize import approx_fprime
from scipy.stats import norm
from sklearn.metrics import mean_pinball_loss, mean_tweedie_deviance
from torch.nn import HuberLoss

import tabmtl
from tabmtl import RMTGB, IndependentTasks, SharedBottom, SharedTrees, distill
from tabmtl.targets import find_kind

POWERS = {"poisson": 1.0, "gamma": 2.0, "tweedie:1.6": 1.6}
rng = np.random.default_rng(0)
N, KEPT = 1000, 700
X = pl.DataFrame({"a": rng.normal(size=N), "b": rng.normal(size=N), "c": rng.integers(0, 3, N)})
RATE = np.exp(0.5 + 0.8 * X["a"].to_numpy())
Y = pl.DataFrame(
    {
        "visits": rng.poisson(RATE),
        "claim": rng.gamma(4.0, RATE / 4),
        "spend": rng.poisson(RATE) * rng.gamma(4.0, 1 / 4, N),
        "height": 2 * X["a"] + np.where(rng.random(N) < 0.05, 40, 0.5) * rng.normal(size=N),
        "delay": 2 * X["a"] + np.exp(0.3 * X["b"].to_numpy()) * rng.normal(size=N),
        "late": X["b"] + rng.normal(size=N) > 0,
    }
)
TASKS = {
    "visits": "poisson",
    "claim": "gamma",
    "spend": "tweedie:1.6",
    "height": "huber:0.2",
    "delay": "quantile:0.8",
}
QUANTILE = (2 * X["a"] + np.exp(0.3 * X["b"].to_numpy()) * norm.ppf(0.8)).to_numpy()
TRUTH = {"visits": RATE, "claim": RATE, "spend": RATE, "height": 2 * X["a"].to_numpy(), "delay": QUANTILE}
METRICS = ["d2_poisson", "d2_gamma", "d2_tweedie", "d2_absolute_error", "d2_pinball"]
#: Enough to learn, by networks and by trees.
LEARNS = {"epochs": 25, "learning_rate": 0.02}
TREES = {"n_estimators": 60, "n_estimators_shared": 60, "n_estimators_task": 60, "learning_rate": 0.1}


def agreement(found, answers, task):
    """D² of some answers, by the kind of a task, at others: 0 of a constant, 1 if they are the same."""
    metric = next(iter(find_kind(TASKS[task]).metrics.values()))
    return metric.score(np.asarray(found), np.asarray(answers), sample_weight=None)


@pytest.mark.parametrize(("kind", "power"), POWERS.items())
def test_losses_are_deviances_and_derivatives_their_slopes(kind, power):
    kind = find_kind(kind)
    scores, labels = rng.normal(size=(20, 1)), rng.gamma(1.0, size=(20, 1))
    labels[:3] *= power < 2
    labels[:3] += power == 2
    pairs = zip(np.exp(scores), labels, strict=True)
    each = [mean_tweedie_deviance(y, mean, power=power) for mean, y in pairs]
    np.testing.assert_allclose(kind.losses(scores, labels)[:, 0], np.array(each) / 2, atol=1e-12)
    np.testing.assert_allclose(kind.losses(kind.start(labels), labels), 0, atol=1e-7)
    tensors = torch.from_numpy(scores).requires_grad_(), torch.from_numpy(labels)
    loss = kind.loss(*tensors)
    np.testing.assert_allclose(loss.detach().numpy()[:, 0], each, atol=1e-12)
    gradient, hessian = np.empty((2, 20, 1))
    kind.derivatives(scores, labels, gradient, hessian)
    np.testing.assert_allclose(torch.autograd.grad(loss.sum(), tensors[0])[0].numpy(), 2 * gradient, atol=1e-10)

    def slope(s):
        at, own = np.empty((2, 20, 1))
        kind.derivatives(s[:, None], labels, at, own)
        return at.sum()

    np.testing.assert_allclose(approx_fprime(scores[:, 0], slope), hessian[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_losses_of_a_quantile_are_pinballs(level):
    kind = find_kind(f"quantile:{level}")
    scores, labels = rng.normal(size=(2, 30, 1))
    losses = [mean_pinball_loss(y, s, alpha=level) / (level * (1 - level)) for y, s in zip(labels, scores, strict=True)]
    np.testing.assert_allclose(kind.losses(scores, labels)[:, 0], losses, atol=1e-12)
    tensors = torch.from_numpy(scores).requires_grad_(), torch.from_numpy(labels)
    loss = kind.loss(*tensors)
    np.testing.assert_allclose(loss.detach().numpy()[:, 0], losses, atol=1e-12)
    gradient, hessian = np.empty((2, 30, 1))
    kind.derivatives(scores, labels, gradient, hessian)
    np.testing.assert_allclose(torch.autograd.grad(loss.sum(), tensors[0])[0].numpy(), gradient, atol=1e-12)
    many, step = rng.normal(size=(300, 1)), -1.0
    for _ in range(60):  # a leaf that starts anywhere ends where the level says
        gradient, hessian = np.empty((2, 300, 1))
        kind.derivatives(np.full((300, 1), step), many, gradient, hessian)
        step -= gradient.sum() / hessian.sum()
    assert abs((many <= step).mean() - level) < 0.02
    constant = kind.constant(labels[:, 0], None, None)[0]
    grid = np.linspace(-2, 2, 401)[:, None]
    assert kind.losses(constant, labels[:, 0]).sum() <= kind.losses(grid, labels[:, 0]).sum(axis=1).min() + 1e-9


@pytest.mark.parametrize("delta", [0.3, 2.0])
def test_losses_of_a_robust_mean_are_those_of_torch(delta):
    kind = find_kind(f"huber:{delta}")
    scores, labels = rng.normal(size=(2, 30, 1))
    tensors = torch.from_numpy(scores).requires_grad_(), torch.from_numpy(labels)
    loss, plain = kind.loss(*tensors), HuberLoss(delta=delta, reduction="none")(*tensors)
    np.testing.assert_allclose(np.ptp((loss / plain).detach().numpy()), 0, atol=1e-12)
    np.testing.assert_allclose(2 * kind.losses(scores, labels), loss.detach().numpy(), atol=1e-12)
    gradient, hessian = np.empty((2, 30, 1))
    kind.derivatives(scores, labels, gradient, hessian)
    np.testing.assert_allclose(torch.autograd.grad(loss.sum(), tensors[0])[0].numpy(), 2 * gradient, atol=1e-12)
    many, step = rng.standard_t(2, size=(5000, 1)), 3.0
    for _ in range(60):  # a leaf ends at the least loss
        gradient, hessian = np.empty((2, 5000, 1))
        kind.derivatives(np.full((5000, 1), step), many, gradient, hessian)
        step -= gradient.sum() / hessian.sum()
    assert abs(np.clip(many - step, -delta, delta).mean()) < 1e-3
    kind.derivatives(np.zeros((5000, 1)), rng.normal(size=(5000, 1)), gradient, hessian)
    assert np.var(gradient) == pytest.approx(1, abs=0.1)  # in these units, tasks of any kind weigh alike


@pytest.mark.parametrize("name", ["SharedBottom", "SharedTrees", "RMTGB", "IndependentTasks", "MultiTaskEnsemble"])
def test_the_truth_is_learned_scored_and_saved(name, reloaded):
    learns = LEARNS if name == "SharedBottom" else TREES
    model = tiny(getattr(tabmtl, name), tasks=TASKS, **learns).fit(X[:KEPT], Y[:KEPT])
    answers = model.predict(X[KEPT:])
    for task in TASKS:
        assert agreement(TRUTH[task][KEPT:], answers[task], task) > 0.5, task
    table = model.score_intervals(X[KEPT:], Y[KEPT:])
    assert table["metric"].to_list() == [*METRICS, "roc_auc"]
    assert (table["low"] < table["score"]).all() and (table["score"] < table["high"]).all()
    loaded = reloaded(model)
    assert loaded.tasks_ == model.tasks_ and loaded.predict(X).equals(model.predict(X))


@pytest.mark.parametrize("name", ["SharedBottom", "SharedTrees", "RMTGB"])
def test_the_unit_of_labels_changes_nothing(name):
    larger = Y.with_columns(pl.col(*TASKS) * 4096)  # a power of two, so that nothing is rounded
    each = [tiny(getattr(tabmtl, name), tasks=TASKS).fit(X[:KEPT], y[:KEPT]).predict(X[KEPT:]) for y in (Y, larger)]
    for task in TASKS:
        np.testing.assert_allclose(each[1][task] / 4096, each[0][task], rtol=1e-6)
    assert each[1]["late"].equals(each[0]["late"])


def test_lightgbm_takes_the_delta_of_a_robust_mean_in_units_of_labels():
    alone = partial(tiny, IndependentTasks, tasks={"height": "huber:0.2"}, families=("lightgbm",))
    each = [alone().fit(X[:KEPT], Y[:KEPT].select(pl.col("height") * unit)).predict(X) for unit in (1, 4096)]
    np.testing.assert_allclose(each[1]["height"] / 4096, each[0]["height"], rtol=1e-6)


@pytest.mark.parametrize(("task", "kind"), TASKS.items())
def test_one_task_is_boosted_as_by_lightgbm(task, kind):
    options = {
        "n_estimators": 120 if task == "delay" else 30,
        "num_leaves": 8,
        "learning_rate": 0.1,
        "reg_lambda": 0.0,
        "min_child_samples": 20,
        "n_jobs": 1,
    }
    shared = SharedTrees(tasks={task: kind}, early_stopping=False, n_estimators_task=0, prior_labels=0.0, **options)
    ours = shared.fit(X[:KEPT], Y[:KEPT].select(task)).predict(X[KEPT:])[task]
    alpha = 0.8 if task == "delay" else 0.2 * Y[task][:KEPT].std()
    objective = {"objective": kind.partition(":")[0], "tweedie_variance_power": 1.6, "alpha": alpha}
    objective["poisson_max_delta_step"] = 1e-9  # by default, LightGBM doubles the hessian of counts
    boosted = LGBMRegressor(**objective, verbosity=-1, **options)
    theirs = boosted.fit(X[:KEPT].to_numpy(), Y[task][:KEPT].to_numpy()).predict(X[KEPT:].to_numpy())
    scores = [agreement(Y[task][KEPT:], each, task) for each in (ours, theirs)]
    assert abs(scores[0] - scores[1]) < 0.03


@pytest.mark.parametrize("name", ["SharedTrees", "RMTGB"])
def test_a_task_is_exported_in_own_units(name):
    model = tiny(getattr(tabmtl, name), tasks=TASKS).fit(X, Y)
    for task in TASKS:
        exported = model.export_task(task).predict(model.encode(X).to_numpy())
        np.testing.assert_allclose(exported, model.predict(X)[task], rtol=1e-6)


@pytest.mark.all_faces
def test_a_network_is_distilled():
    y = Y[:KEPT].with_columns(levels=pl.col("delay"))
    tasks = {**TASKS, "levels": "quantiles:0.2:0.8"}
    model = tiny(SharedBottom, tasks=tasks, **LEARNS, n_members=2).fit(X[:KEPT], y)
    student = distill(model, X[:KEPT], network=tiny(SharedBottom, **LEARNS), random_state=0)
    learned, answers = student.predict(X[KEPT:]), model.predict(X[KEPT:])
    found_levels, levels = (each.predict_quantiles(X[KEPT:]).to_numpy().ravel() for each in (student, model))
    assert np.corrcoef(found_levels, levels)[0, 1] > 0.9
    for task in TASKS:
        assert agreement(answers[task], learned[task], task) > 0.7


@pytest.mark.parametrize("name", ["SharedBottom", "SharedTrees", "RMTGB"])
def test_a_long_table_has_counts(name):
    table = X.with_columns(site=pl.Series(["x", "y"] * (N // 2)))
    learns = LEARNS if name == "SharedBottom" else TREES
    model = tiny(getattr(tabmtl, name), tasks={"visits": "poisson"}, task_column="site", **learns)
    answer = model.fit(table[:KEPT], Y["visits"][:KEPT]).predict(table[KEPT:])
    assert agreement(RATE[KEPT:], answer, "visits") > 0.6


def test_a_regressor_takes_all_numbers_and_a_classifier_none():
    model = tiny(tabmtl.SharedTreesRegressor, tasks=TASKS).fit(X, Y.drop("late"))
    assert model.predict(X).columns == [*TASKS]
    with pytest.raises(ValueError, match="declared 'poisson', but this estimator is for classification alone"):
        tiny(tabmtl.SharedTreesClassifier, tasks=TASKS).fit(X, Y)


def test_few_counts_that_are_nearly_all_zero_have_a_small_mean():
    y = pl.DataFrame({"visits": [0] * 39 + [3]})
    answer = IndependentTasks(tasks={"visits": "poisson"}, random_state=0).fit(X[:40], y).predict(X)["visits"]
    assert (answer > 0).all() and answer.mean() < 0.5
    nothing = IndependentTasks(tasks={"visits": "poisson"}, random_state=0).fit(X[:40], y * 0).predict(X)["visits"]
    assert (nothing < 1e-6).all()


@pytest.mark.parametrize(
    ("kind", "labels", "words"),
    [
        ("poisson", [0, 2, -1], "'n' is a poisson task, .* >= 0, but a label is -1; make it null .*'regression'"),
        ("gamma", [1.0, 0.0, None], "'n' is a gamma task, .* > 0, but a label is 0; .* 'tweedie'"),
        ("tweedie", [1.0, 0.0, -0.5], "'n' is a tweedie task, .* a label is -0.5"),
        ("poisson", ["a", "b", "c"], "'n' is a poisson task, but its labels are text"),
    ],
)
def test_labels_that_do_not_fit_are_named(kind, labels, words):
    with pytest.raises(ValueError, match=words):
        tiny(SharedTrees, tasks={"n": kind}).fit(X[:3], pl.DataFrame({"n": labels}))


@pytest.mark.parametrize("kind", ["quantile:0.02", "quantile:0.1", "quantiles:0.05:0.1", "huber:0.1"])
@pytest.mark.parametrize("task_column", [None, "task"])
@pytest.mark.parametrize("method", [SharedTrees, RMTGB])
def test_trees_start_at_the_best_constant_of_skewed_labels(method, task_column, kind):
    rng = np.random.default_rng(0)
    X = pl.DataFrame({"a": rng.normal(size=600), "task": rng.choice(["p", "q"], 600)})
    y = pl.DataFrame({"v": np.exp(2 * rng.normal(size=600))})  # a normal law of this mean has its .1 below all
    model = tiny(method, tasks={"v": kind}, task_column=task_column, early_stopping=False, learning_rate=1e-6)
    found = np.concatenate([answer.reshape(len(answer), -1) for answer in model.fit(X, y).__answers__(X)])
    levels = kind.split(":")[1:] if kind != "huber:0.1" else []
    for k, level in enumerate(levels):
        assert (y["v"].to_numpy() <= found[:, k].mean()).mean() == pytest.approx(float(level), abs=0.01)
    assert levels or y["v"].median() < found.mean() < y["v"].mean() / 2
