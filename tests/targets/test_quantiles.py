"""Several quantiles of one target: learned and scored as each alone, in order, in every method and door."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from cases import later
from conformance import tiny
from lightgbm import LGBMRegressor
from scipy.stats import norm
from sklearn.base import clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import d2_pinball_score, mean_pinball_loss

import tabmtl
from tabmtl import IndependentTasks, SharedTrees, Task
from tabmtl.metrics.calibration import calibration_of
from tabmtl.metrics.scores import score_task
from tabmtl.targets import find_kind
from tabmtl.targets.quantiles import Quantiles

LEVELS = (0.1, 0.5, 0.8)
KIND = Quantiles(LEVELS)
rng = np.random.default_rng(0)
N, KEPT = 1000, 700
X = pl.DataFrame({"a": rng.normal(size=N), "b": rng.normal(size=N), "c": rng.integers(0, 3, N)})
SPREAD = np.exp(0.5 * X["b"].to_numpy())
Y = pl.DataFrame({"delay": 2 * X["a"] + SPREAD * rng.normal(size=N), "late": X["b"] + rng.normal(size=N) > 0})
TRUTH = 2 * X["a"].to_numpy()[:, None] + SPREAD[:, None] * norm.ppf(LEVELS)
NAMES = ["delay_q0.1", "delay_q0.5", "delay_q0.8"]
LEARNS = {"epochs": 40, "learning_rate": 0.02}
TREES = {"n_estimators": 80, "n_estimators_shared": 80, "n_estimators_task": 40, "learning_rate": 0.1}
METHODS = ["SharedBottom", "SharedTrees", "RMTGB", "IndependentTasks", "MultiTaskEnsemble"]


def learned(name, **params):
    """A model with the levels of a target, and a target of two classes."""
    learns = LEARNS if name == "SharedBottom" else TREES
    return tiny(getattr(tabmtl, name), **{"tasks": {"delay": KIND}, **learns, **params})


def test_losses_and_derivatives_are_means_of_those_of_single_quantiles():
    scores, labels = rng.normal(size=(40, 3)), rng.normal(size=(40, 1))
    means = KIND.means(labels[:, 0], 3)
    alone = [find_kind(f"quantile:{level}") for level in LEVELS]
    parts = [(kind, scores[:, [k]]) for k, kind in enumerate(alone)]
    losses = np.mean([kind.losses(score, labels) for kind, score in parts], axis=0)
    np.testing.assert_allclose(KIND.losses(scores, means), losses)
    tensors = torch.from_numpy(scores).requires_grad_(), torch.from_numpy(labels)
    loss = KIND.loss(*tensors)
    np.testing.assert_allclose(loss.detach().numpy(), losses)
    gradient, hessian, own = np.empty((40, 3)), np.empty((40, 3)), np.empty((2, 40, 1))
    KIND.derivatives(scores, means, gradient, hessian)
    np.testing.assert_allclose(torch.autograd.grad(loss.sum(), tensors[0])[0].numpy(), gradient)
    for k, (kind, score) in enumerate(parts):
        kind.derivatives(score, labels, *own)
        np.testing.assert_allclose(own[..., 0] / 3, [gradient[:, k], hessian[:, k]])


@pytest.mark.parametrize("weight", [None, rng.random(61)])
def test_scores_are_means_over_the_levels_and_those_of_numbers_of_the_middle_one(weight):
    y, answers = rng.normal(size=61), np.sort(rng.normal(size=(61, 3)), axis=1)

    def mean(score):
        return np.mean([score(y, answers[:, k], sample_weight=weight, alpha=q) for k, q in enumerate(LEVELS)])

    task = Task(name="a", kind=KIND)
    assert score_task(task, y, answers, weight) == pytest.approx(mean(d2_pinball_score))
    loss = Task(name="a", kind=KIND, metric="neg_mean_pinball_loss")
    assert score_task(loss, y, answers, weight) == pytest.approx(-mean(mean_pinball_loss))
    for name in find_kind("regression").metrics:
        of_middle = Task(name="a", kind="regression", metric=name)
        found = score_task(Task(name="a", kind=KIND, metric=name), y, answers, weight)
        assert found == score_task(of_middle, y, answers[:, 1], weight)
    with pytest.raises(ValueError, match=r"'a': expected outputs of shape \(61, 3\), got \(61,\)"):
        score_task(task, y, answers[:, 0])


@pytest.mark.parametrize("name", METHODS)
def test_the_truth_is_learned_in_order_and_saved(name, reloaded):
    model = learned(name).fit(X[:KEPT], Y[:KEPT])
    found = model.predict_quantiles(X[KEPT:])
    assert found.columns == NAMES and found["delay_q0.5"].equals(model.predict(X[KEPT:])["delay"], null_equal=True)
    values = found.to_numpy()
    assert (np.diff(values, axis=1) >= 0).all()
    covered = (Y["delay"].to_numpy()[KEPT:, None] <= values).mean(axis=0)
    np.testing.assert_allclose(covered, LEVELS, atol=0.08)
    constant = np.quantile(Y["delay"][:KEPT], LEVELS)
    errors = [np.abs(each - TRUTH[KEPT:]).mean(axis=0) for each in (values, constant)]
    assert (errors[0] < 0.4 * errors[1]).all()
    table = model.score_intervals(X[KEPT:], Y[KEPT:])
    assert table["metric"].to_list() == ["d2_pinball", "roc_auc"] and (table["low"] < table["score"]).all()
    assert model.predict_quantiles(X[KEPT : KEPT + 1]).equals(found[:1])
    loaded = reloaded(model)
    assert loaded.tasks_ == model.tasks_ and loaded.predict_quantiles(X[KEPT:]).equals(found)


def test_single_task_models_are_those_of_lightgbm_for_each_level_in_order():
    plain = LGBMRegressor(n_estimators=30, num_leaves=8, verbosity=-1)
    alone = IndependentTasks(tasks={"delay": KIND}, regressor=plain, early_stopping=False, random_state=0)
    found = alone.fit(X[:KEPT], Y[:KEPT, ["delay"]]).predict_quantiles(X[KEPT:])
    models = [clone(plain).set_params(objective="quantile", alpha=level) for level in LEVELS]
    rows, labels, asked = X[:KEPT].to_numpy(), Y["delay"][:KEPT].to_numpy(), X[KEPT:].to_numpy()
    each = np.column_stack([model.fit(rows, labels).predict(asked) for model in models])
    np.testing.assert_allclose(found.to_numpy(), np.sort(each, axis=1), rtol=1e-6)


@pytest.mark.parametrize("name", ["SharedTrees", "RMTGB"])
def test_levels_are_exported_in_own_units(name):
    model = tiny(getattr(tabmtl, name), tasks={"delay": KIND}).fit(X, Y)
    exported = model.export_task("delay").predict(model.encode(X).to_numpy())
    np.testing.assert_allclose(KIND.of_lightgbm(exported), model.predict_quantiles(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", later(METHODS, "MultiTaskEnsemble"))
def test_the_unit_of_labels_changes_nothing(name):
    each = [
        learned(name)
        .fit(X[:KEPT], Y[:KEPT].with_columns(pl.col("delay") * unit))
        .predict_quantiles(X[KEPT:])
        .to_numpy()
        for unit in (1, 4096)
    ]
    np.testing.assert_allclose(each[1] / 4096, each[0], rtol=1e-5)


@pytest.mark.parametrize(
    "name", later(["SharedBottom", "SharedTrees", "RMTGB", "IndependentTasks"], "IndependentTasks")
)
def test_levels_of_a_long_table(name):
    table = X.with_columns(site=pl.Series(["x", "y"] * (N // 2)))
    model = learned(name, tasks={"delay": "quantiles:0.1:0.5:0.8"}, task_column="site")
    found = model.fit(table[:KEPT], Y["delay"][:KEPT]).predict_quantiles(table[KEPT:])
    assert found.columns == NAMES and (np.diff(found.to_numpy(), axis=1) >= 0).all()
    assert np.corrcoef(found["delay_q0.8"], TRUTH[KEPT:, 2])[0, 1] > 0.8


def test_quantiles_come_in_the_container_of_the_labels():
    model = tiny(SharedTrees, tasks={"delay": KIND}).fit(X.to_pandas(), Y["delay"].to_pandas().astype("float32"))
    rows = X.to_pandas().set_index(np.arange(N) + 5)
    found = model.predict_quantiles(rows)
    assert isinstance(found, pd.DataFrame) and [*found.columns] == NAMES and found.index[0] == 5
    assert set(found.dtypes.astype(str)) == {"float32"}
    arrays = tiny(SharedTrees, tasks={"y0": KIND}).fit(X.to_numpy(), Y["delay"].to_numpy())
    assert arrays.predict_quantiles(X.to_numpy()).shape == (N, 3)
    close = tiny(SharedTrees, tasks={"y0": "quantiles:0.1:0.49999995:0.5"}).fit(X.to_numpy(), Y["delay"].to_numpy())
    assert close.predict_quantiles(X.to_numpy()).shape == (N, 3)
    assert tiny(tabmtl.SharedTreesRegressor, tasks={"delay": KIND}).fit(X, Y[["delay"]]).score(X, Y[["delay"]]) > 0.1
    assert not hasattr(tabmtl.SharedTreesClassifier(), "predict_quantiles")


def test_the_calibration_is_the_share_below_every_level():
    model = learned("SharedTrees").fit(X[:KEPT], Y[:KEPT])
    bins = calibration_of(model.__labelled_answers__(X[KEPT:], Y[KEPT:])).filter(task="delay")
    assert bins["predicted"].to_list() == pytest.approx(LEVELS) and bins["n"].to_list() == [N - KEPT] * 3
    np.testing.assert_allclose(bins["observed"], LEVELS, atol=0.08)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Quantiles((0.5, 0.1)), r"must rise, between 0 and 1, .* got \(0.5, 0.1\); sort them"),
        (
            lambda: Task(name="t", kind="quantiles:0.1:0.1"),
            r"task 't': .* must rise, .* got \(0.1, 0.1\); .* each once",
        ),
        (lambda: Task(name="t", kind="quantiles:0:0.5"), r"must rise, between 0 and 1, .* got \(0.0, 0.5\)"),
        (lambda: Task(name="t", kind="quantiles:0.5"), r"two or more, .* got \(0.5,\); .* declare the kind 'quantile'"),
        (lambda: Quantiles("0.1:0.9"), r"levels .* must be numbers, such as \(0.1, 0.5, 0.9\), got '0.1:0.9'"),
        (lambda: Task(name="t", kind="quantiles:low"), "kind must be quantiles:0.1:0.5:0.9, numbers all, got"),
        (
            lambda: tiny(IndependentTasks, tasks={"delay": KIND}, regressor=RandomForestRegressor()).fit(X, Y),
            r"'delay' has the levels \(0.1, 0.5, 0.8\), and RandomForestRegressor answers one value",
        ),
        *(
            (
                lambda kind=kind, given=given: tiny(
                    IndependentTasks, tasks={"delay": kind}, regressor=LGBMRegressor(**given)
                ).fit(X, Y[["delay"]]),
                f"'delay' is {kind}, .* has {name}={value!r}, .* leave {name} out, or declare another kind",
            )
            for kind, given in [
                (KIND, {"alpha": 0.9}),
                (KIND, {"objective": "l2"}),
                (KIND, {"boosting": "rf"}),
                (find_kind("quantile:0.8"), {"alpha": 0.9}),
                (find_kind("huber:1.0"), {"alpha": 0.9}),
            ]
            for name, value in given.items()
        ),
    ],
)
def test_levels_that_cannot_be(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_tasks_without_levels_have_no_quantiles():
    model = tiny(SharedTrees).fit(X, Y)
    words = "quantiles need a task with several levels, and 'delay' is regression, .*'delay': 'quantiles:0.1:0.5:0.9'"
    assert not hasattr(model, "predict_quantiles")
    with pytest.raises(AttributeError) as caught:
        model.predict_quantiles(X)
    assert re.search(words, str(caught.value.__cause__))
