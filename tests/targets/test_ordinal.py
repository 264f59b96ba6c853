"""Ordered classes: the loss as statsmodels', the order of the labels, the truth, and every way out of a model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from cases import later
from conformance import tiny
from lightgbm import LGBMClassifier
from scipy.optimize import approx_fprime
from scipy.special import expit
from sklearn.metrics import cohen_kappa_score

import tabmtl
from tabmtl import IndependentTasks, SharedBottom, SharedTrees, Task, distill
from tabmtl.targets import KINDS
from tabmtl.targets.cumulative import CumulativeRegression
from tabmtl.targets.ordinal import HOLD

ORDINAL = KINDS["ordinal"]
GRADES = ("poor", "fair", "good", "great")
CUTS = np.array([-1.5, 0.0, 2.0])
rng = np.random.default_rng(0)
N, KEPT = 1000, 700
X = pl.DataFrame({"a": rng.normal(size=N), "b": rng.normal(size=N), "c": rng.integers(0, 3, N)})
SLOPE = np.array([2.0, -1.0, 0.0])
ABOVE = expit((X.to_numpy() @ SLOPE)[:, None] - CUTS)
TRUTH = -np.diff(np.column_stack([np.ones(N), ABOVE, np.zeros(N)]), axis=1)
CODE = (rng.random((N, 1)) < ABOVE).sum(axis=1)
Y = pl.DataFrame(
    {
        "grade": pl.Series(np.array(GRADES)[CODE], dtype=pl.Enum(GRADES)),
        "late": X["b"] + rng.normal(size=N) > 0,
    }
)
TASKS = {"grade": "ordinal"}
NETWORK = {"epochs": 25, "learning_rate": 0.02}
TREES = {"n_estimators": 60, "n_estimators_shared": 60, "n_estimators_task": 60, "learning_rate": 0.1}
MODELS = ["SharedBottom", "SharedTrees", "RMTGB", "IndependentTasks", "MultiTaskEnsemble"]


def learns(name):
    return NETWORK if name == "SharedBottom" else TREES


def error_of(probabilities):
    """Root mean square of errors of the probabilities of rows that no model has seen."""
    return np.sqrt(np.square(probabilities - TRUTH[KEPT:]).mean())


@pytest.mark.parametrize("n_classes", [2, 3, 6])
def test_losses_are_log_losses_and_derivatives_their_slopes(n_classes):
    width, labels = n_classes - 1, rng.integers(0, n_classes, 20)
    scores, means = 2 * rng.normal(size=(20, width)), ORDINAL.means(labels, width)
    shares = ORDINAL.link(scores, np)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-14)
    expected = -np.log(shares[np.arange(20), labels])
    np.testing.assert_allclose(ORDINAL.losses(scores, means)[:, 0], expected)
    tensors = torch.from_numpy(scores).requires_grad_(), torch.from_numpy(labels)[:, None]
    loss = ORDINAL.loss(*tensors)
    np.testing.assert_allclose(loss.detach().numpy()[:, 0], expected)
    gradient, hessian = np.empty((2, 20, width))
    ORDINAL.derivatives(scores, means, gradient, hessian)
    np.testing.assert_allclose(torch.autograd.grad(loss.sum(), tensors[0])[0].numpy(), gradient, atol=1e-12)
    own = ORDINAL.answered_means(shares, 0.0, 1.0)
    np.testing.assert_allclose(ORDINAL.unlink(own, np), scores, atol=1e-6)
    for j in range(width):  # of labels as the scores expect them

        def slope(s, j=j):
            moved, (at, bent) = scores.copy(), np.empty((2, 20, width))
            moved[:, j] = s
            ORDINAL.derivatives(moved, own, at, bent)
            return at[:, j]

        second = np.diag(approx_fprime(scores[:, j], slope)) * (HOLD if j else 1)
        np.testing.assert_allclose(hessian[:, j], second, rtol=1e-4, atol=1e-5)


def test_one_slope_is_fitted_as_by_statsmodels():
    ordinal_model = pytest.importorskip("statsmodels.miscmodels.ordinal_model")
    x = X.to_numpy()
    theirs = ordinal_model.OrderedModel(CODE, x, distr="logit").fit(method="bfgs", disp=False)
    ours = CumulativeRegression(kind=ORDINAL, width=3, C=1e9).fit(x, CODE)
    np.testing.assert_allclose(ours.coef_[0], theirs.params[:3], atol=0.01)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict(), atol=0.002)
    assert (np.abs(ours.coef_[0] - SLOPE) < 3 * theirs.bse[:3]).all()  # the truth


@pytest.mark.parametrize("name", MODELS)
def test_the_truth_is_learned_scored_and_saved(name, reloaded):
    model = tiny(getattr(tabmtl, name), tasks=TASKS, **learns(name)).fit(X[:KEPT], Y[:KEPT])
    found = model.predict_proba(X[KEPT:])["grade"]
    assert error_of(found) < 0.13  # the shares of all labels have .21, and so has LightGBM's classifier
    np.testing.assert_allclose(found.sum(axis=1), 1)
    answers = model.predict(X[KEPT:])["grade"]
    assert answers.dtype == pl.Enum(GRADES)
    code = (np.cumsum(found, axis=1) < 0.5).sum(axis=1)
    assert (answers.to_physical().to_numpy() == code).all()
    row = model.score_intervals(X[KEPT:], Y[KEPT:]).row(0, named=True)
    assert row["metric"] == "quadratic_kappa"
    assert row["score"] == pytest.approx(cohen_kappa_score(CODE[KEPT:], code, weights="quadratic"))
    assert row["low"] < row["score"] < row["high"]
    loaded = reloaded(model)
    assert loaded.tasks_ == model.tasks_ and loaded.tasks_[0].classes == GRADES
    for start, n in ((0, 1), (1, 1), (7, 1), (2, 2), (3, 40)):
        some = loaded.predict_proba(X[KEPT + start : KEPT + start + n])["grade"]
        assert (some == found[start : start + n]).all()


@pytest.mark.parametrize("name", ["SharedBottom", "SharedTrees", "RMTGB"])
def test_two_ordered_classes_are_binary(name):
    late = [
        tiny(getattr(tabmtl, name), tasks={"late": kind}, early_stopping=False).fit(X[:KEPT], Y[:KEPT].select("late"))
        for kind in ("binary", "ordinal")
    ]
    probabilities = [model.predict_proba(X[KEPT:])["late"] for model in late]
    np.testing.assert_allclose(*probabilities, atol=1e-5)


@pytest.mark.parametrize("name", later([name for name in MODELS if name != "MultiTaskEnsemble"], "IndependentTasks"))
def test_weights_of_classes_and_rows_count_alike(name):
    weight = np.where(CODE == 3, 10.0, 1.0)[:KEPT]
    heavy = Task(name="grade", kind="ordinal", class_weight={"great": 10.0})

    def share_of_great(task, weight=None):
        model = tiny(getattr(tabmtl, name), tasks={"grade": task}, **learns(name))
        model.fit(X[:KEPT], Y[:KEPT].select("grade"), sample_weight=weight)
        return model.predict_proba(X[KEPT:])["grade"][:, 3].mean()

    by_class = share_of_great(heavy)
    assert by_class > share_of_great("ordinal") + 0.1
    assert abs(by_class - share_of_great("ordinal", weight)) < 0.1


@pytest.mark.parametrize("name", ["SharedTrees", "RMTGB"])
def test_a_task_is_exported_as_its_scores(name):
    model = tiny(getattr(tabmtl, name), tasks=TASKS).fit(X, Y)
    scores = model.export_task("grade").predict(model.encode(X).to_numpy())
    np.testing.assert_allclose(ORDINAL.of_lightgbm(scores), model.predict_proba(X)["grade"], atol=1e-6)


@pytest.mark.all_faces
def test_a_network_is_distilled():
    model = tiny(SharedBottom, tasks=TASKS, **NETWORK, n_members=2).fit(X[:KEPT], Y[:KEPT])
    student = distill(model, X[:KEPT], network=tiny(SharedBottom, **NETWORK), random_state=0)
    assert error_of(student.predict_proba(X[KEPT:])["grade"]) < 0.1


@pytest.mark.parametrize(
    "name", later(["SharedBottom", "SharedTrees", "RMTGB", "IndependentTasks"], "IndependentTasks")
)
def test_a_long_table_has_ordered_classes(name):
    table = X.with_columns(site=pl.Series(["x", "y"] * (N // 2)))
    model = tiny(getattr(tabmtl, name), tasks=TASKS, task_column="site", **learns(name))
    model.fit(table[:KEPT], Y["grade"][:KEPT])
    assert error_of(model.predict_proba(table[KEPT:])) < 0.13


ENUM = pl.Series(["b", "a", "c", "b"] * 10, dtype=pl.Enum(["c", "b", "a"]))


@pytest.mark.parametrize(
    ("labels", "task", "classes"),
    [
        (ENUM, "ordinal", ("c", "b", "a")),
        (pd.Series(ENUM.to_list(), dtype=pd.CategoricalDtype(["c", "b", "a"], ordered=True)), "ordinal", tuple("cba")),
        (pl.Series([10.0, 9.0, 2.5, None] * 10), "ordinal", (2.5, 9.0, 10.0)),
        (pl.Series([True, False] * 20), "ordinal", (False, True)),
        (ENUM.cast(pl.String), Task(name="y", kind="ordinal", classes=("c", "b", "a", "z")), tuple("cbaz")),
    ],
)
def test_the_order_is_that_of_the_labels(labels, task, classes):
    y = pd.DataFrame({"y": labels}) if isinstance(labels, pd.Series) else pl.DataFrame({"y": labels})
    model = tiny(SharedTrees, tasks={"y": task}).fit(X[:40], y)
    assert model.tasks_[0].classes == classes
    assert model.predict_proba(X)["y"].shape == (N, len(classes))


def grade(labels, **declared):
    return tiny(SharedTrees, tasks={"y": Task(name="y", kind="ordinal", **declared)}).fit(
        X[: len(labels)], pl.DataFrame({"y": labels})
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: grade(["a", "b", "c"]), r"'y' is ordinal, .* without an order \(String\), .* classes=\(<lowest>"),
        (lambda: grade(["a", "b"], classes=("a", "c")), r"'y': labels \['b'\] are not among its classes"),
        (lambda: grade([1, 1, 1]), "'y' has only one class, 1,"),
        (lambda: grade([1, 2, 3], metric="r2"), "metric 'r2' does not fit ordinal tasks; .* .'quadratic_kappa'"),
        (
            lambda: grade([1, 2, 3] * 5).score_tasks(X[:1], pl.DataFrame({"y": [4]})),
            r"'y': the label 4 was not seen in fit; expected one of \[1, 2, 3\]; declare it by Task\(classes=...\)",
        ),
        (
            lambda: tiny(tabmtl.SharedTreesRegressor, tasks={"grade": "ordinal"}).fit(X, Y.select("grade")),
            "declared 'ordinal', but this estimator is for regression alone",
        ),
        (
            lambda: tiny(
                IndependentTasks, tasks={"grade": "ordinal"}, classifier=LGBMClassifier(objective="multiclass")
            ).fit(X, Y.select("grade")),
            "'grade' is ordinal, .* has objective='multiclass', .* leave objective out, or declare another",
        ),
    ],
)
def test_labels_and_scores_that_do_not_fit_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("n", [3, 40])
def test_few_rows_are_learned_though_no_column_can_be_split(n):
    task = Task(name="grade", kind="ordinal", classes=GRADES)
    model = tiny(IndependentTasks, tasks=[task]).fit(X[:n], Y[:n].select("grade"))
    assert np.isfinite(model.predict_proba(X)["grade"]).all()


def test_numbers_that_are_no_classes_are_named():
    with pytest.warns(UserWarning, match="'v' is ordinal with 101 classes.*'regression'"):
        ORDINAL.learn(pl.Series("v", np.arange(101) / 3), "v", None)
