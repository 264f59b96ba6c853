"""Counts and amounts: deviances as scikit-learn's, boosting as LightGBM's, and the same answers in any unit."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from conformance import tiny
from lightgbm import LGBMRegressor
from scipy.optimize import approx_fprime
from sklearn.metrics import d2_tweedie_score, mean_tweedie_deviance

import tabmtl
from tabmtl import IndependentTasks, OnnxCoder, Shards, SharedBottom, SharedTrees, Task, distill, load
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
        "late": X["b"] + rng.normal(size=N) > 0,
    }
)
TASKS = dict(zip(Y.columns, POWERS, strict=False))
LEARNS = {"epochs": 25, "learning_rate": 0.02, "n_estimators": 60, "n_estimators_shared": 60, "n_estimators_task": 60}


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


@pytest.mark.parametrize("name", ["SharedBottom", "SharedTrees", "RMTGB", "IndependentTasks", "MultiTaskEnsemble"])
def test_all_are_learned_scored_and_saved(name, tmp_path):
    model = tiny(getattr(tabmtl, name), tasks=TASKS, **LEARNS).fit(X[:KEPT], Y[:KEPT])
    answers = model.predict(X[KEPT:])
    for task, power in zip(TASKS, POWERS.values(), strict=True):
        # a constant has 0 and the truth has 1; of labels, which are noise besides, a third can be told
        assert d2_tweedie_score(RATE[KEPT:], answers[task], power=power) > 0.6, task
    table = model.score_intervals(X[KEPT:], Y[KEPT:])
    assert table["metric"].to_list() == ["d2_poisson", "d2_gamma", "d2_tweedie", "roc_auc"]
    assert (table["low"] < table["score"]).all() and (table["score"] < table["high"]).all()
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.tasks_ == model.tasks_ and loaded.predict(X).equals(model.predict(X))


@pytest.mark.parametrize("name", ["SharedBottom", "SharedTrees", "RMTGB"])
def test_the_unit_of_labels_changes_nothing(name):
    larger = Y.with_columns(pl.col(*TASKS) * 4096)  # a power of two, so that nothing is rounded
    each = [tiny(getattr(tabmtl, name), tasks=TASKS).fit(X[:KEPT], y[:KEPT]).predict(X[KEPT:]) for y in (Y, larger)]
    for task in TASKS:
        np.testing.assert_allclose(each[1][task] / 4096, each[0][task], rtol=1e-6)
    assert each[1]["late"].equals(each[0]["late"])


@pytest.mark.parametrize(("task", "kind"), list(TASKS.items())[1:])  # LightGBM doubles the hessian of counts
def test_one_task_is_boosted_as_by_lightgbm(task, kind):
    options = {"n_estimators": 30, "num_leaves": 8, "learning_rate": 0.1, "reg_lambda": 0.0, "min_child_samples": 20}
    shared = SharedTrees(tasks={task: kind}, early_stopping=False, n_estimators_task=0, prior_labels=0.0, **options)
    ours = shared.fit(X[:KEPT], Y[:KEPT].select(task)).predict(X[KEPT:])[task]
    boosted = LGBMRegressor(objective=kind.partition(":")[0], tweedie_variance_power=1.6, verbosity=-1, **options)
    theirs = boosted.fit(X[:KEPT].to_numpy(), Y[task][:KEPT].to_numpy()).predict(X[KEPT:].to_numpy())
    power = POWERS[kind]
    scores = [d2_tweedie_score(Y[task][KEPT:], each, power=power) for each in (ours, theirs)]
    assert abs(scores[0] - scores[1]) < 0.03


@pytest.mark.parametrize("name", ["SharedTrees", "RMTGB"])
def test_a_task_is_exported_in_own_units(name):
    model = tiny(getattr(tabmtl, name), tasks=TASKS).fit(X, Y)
    for task in TASKS:
        exported = model.export_task(task).predict(model.encode(X).to_numpy())
        np.testing.assert_allclose(exported, model.predict(X)[task], rtol=1e-6)


def test_a_network_is_exported_and_distilled(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = tiny(SharedBottom, tasks=TASKS, **LEARNS, n_members=2).fit(X[:KEPT], Y[:KEPT])
    model.export_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    coder = OnnxCoder(session)
    found = coder.decode(session.run(None, coder.encode(X)))
    student = distill(model, X[:KEPT], network=tiny(SharedBottom, **LEARNS), random_state=0).predict(X[KEPT:])
    for task, power in zip(TASKS, POWERS.values(), strict=True):
        np.testing.assert_allclose(found[task], model.predict(X)[task], rtol=1e-4)
        assert d2_tweedie_score(model.predict(X[KEPT:])[task], student[task], power=power) > 0.8


@pytest.mark.parametrize("name", ["SharedBottom", "SharedTrees", "RMTGB"])
def test_a_long_table_has_counts(name):
    table = X.with_columns(site=pl.Series(["x", "y"] * (N // 2)))
    model = tiny(getattr(tabmtl, name), tasks={"visits": "poisson"}, task_column="site", **LEARNS)
    answer = model.fit(table[:KEPT], Y["visits"][:KEPT]).predict(table[KEPT:])
    assert d2_tweedie_score(RATE[KEPT:], answer, power=1) > 0.7


def test_files_teach_the_same(tmp_path):
    pl.concat([X, Y], how="horizontal").write_parquet(tmp_path / "rows.parquet")
    make = lambda: tiny(SharedTrees, tasks=TASKS, early_stopping=False)  # noqa: E731
    stored = make().fit(Shards(tmp_path / "rows.parquet"), Y.columns)
    assert stored.predict(X).equals(make().fit(X, Y).predict(X))


def test_a_regressor_takes_counts_and_a_classifier_none():
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
        (Task(name="n", kind="poisson", metric="roc_auc"), [1, 2, 3], "'roc_auc' does not fit a poisson task"),
        (Task(name="n", kind="gamma", metric="d2_poisson"), [1, 2, 3], "choose one of .'d2_gamma', 'neg_mean_gamma"),
    ],
)
def test_labels_and_scores_that_do_not_fit_are_named(kind, labels, words):
    with pytest.raises(ValueError, match=words):
        tiny(SharedTrees, tasks={"n": kind}).fit(X[:3], pl.DataFrame({"n": labels}))
