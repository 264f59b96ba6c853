"""The focal loss: its slopes and its calibrated answers, at gamma 0 those of the log loss, in every method."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from cases import later
from conformance import CANDIDATES, tiny
from lightgbm import LGBMClassifier
from scipy.special import expit
from sklearn.metrics import log_loss

import tabmtl
from tabmtl import (
    ESMM,
    IndependentTasks,
    MultiTaskEnsemble,
    SharedBottom,
    Task,
    distill,
    load,
)
from tabmtl.targets import find_kind
from tabmtl.testing.storage import reload

rng = np.random.default_rng(0)
N, KEPT = 1500, 1000
X = pl.DataFrame({"a": rng.normal(size=N), "b": rng.normal(size=N)})
TRUTH = expit(2 * X["a"].to_numpy() - 2)
Y = pl.DataFrame({"late": rng.random(N) < TRUTH, "delay": X["b"] + rng.normal(size=N)})
LEARNS = {"epochs": 30, "learning_rate": 0.02}
TREES = {"n_estimators": 60, "n_estimators_shared": 60, "n_estimators_task": 60, "learning_rate": 0.1}
METHODS = {"SharedBottom": LEARNS, "SharedTrees": TREES, "RMTGB": TREES, "IndependentTasks": {"patience": 10}}


def fitted(name, gamma=2.0, **options):
    model = tiny(getattr(tabmtl, name), **{"tasks": {"late": f"focal:{gamma}"}} | METHODS[name] | options)
    return model.fit(X[:KEPT], Y[:KEPT])


def shares(model, rows=X):
    return model.predict_proba(rows)["late"][:, 1]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_the_loss_has_its_slopes_and_its_answers_are_probabilities(gamma):
    kind = find_kind(f"focal:{gamma}")
    scores = np.linspace(-8, 8, 33)[:, None]
    p = expit(scores)
    for label in (0.0, 1.0):
        means = np.full_like(scores, label)
        share = np.where(label, p, 1 - p)
        np.testing.assert_allclose(kind.losses(scores, means), -((1 - share) ** gamma) * np.log(share), atol=1e-12)
        gradient, hessian = np.empty((2, *scores.shape))
        kind.derivatives(scores, means, gradient, hessian)
        slope = (kind.losses(scores + 1e-5, means) - kind.losses(scores - 1e-5, means)) / 2e-5
        np.testing.assert_allclose(gradient, slope, atol=1e-8)
        assert (hessian > 0).all()
        at = torch.from_numpy(scores).requires_grad_()
        loss = kind.loss(at, torch.from_numpy(means))
        np.testing.assert_allclose(loss.detach(), kind.losses(scores, means), atol=1e-12)
        np.testing.assert_allclose(torch.autograd.grad(loss.sum(), at)[0], gradient, atol=1e-10)
    share = np.linspace(0.001, 0.999, 50)[:, None]
    best = kind.unlink(share, np)
    np.testing.assert_allclose(kind.link(best, np)[:, 1:], share, atol=1e-9)
    np.testing.assert_allclose(kind.link(torch.from_numpy(best), torch)[:, 1:], share, atol=1e-9)
    gradient, hessian = np.empty((2, *best.shape))
    kind.derivatives(best, share, gradient, hessian)
    np.testing.assert_allclose(gradient, 0, atol=1e-10)  # the least mean loss of labels that come with the share
    up, here, down = (kind.losses(best + step, share) for step in (1e-4, 0, -1e-4))
    exact = (up - 2 * here + down) / 1e-8
    assert (exact <= 1.001 * hessian).all() and (exact >= 0.88 * hessian).all()
    extreme = np.array([[-1e4], [1e4]], dtype=np.float32)
    kind.derivatives(extreme, np.array([[1.0], [0.0]], dtype=np.float32), gradient := np.empty((2, 1)), None)
    with np.errstate(over="ignore"):  # 1 / (1 + inf) is 0
        assert np.isfinite(gradient).all() and np.isfinite(kind.link(extreme, np)).all()


@pytest.mark.parametrize("name", later(METHODS, "SharedBottom"))
def test_every_method_learns_probabilities_and_at_gamma_0_the_log_loss(name):
    found = shares(fitted(name), X[KEPT:])
    assert log_loss(Y["late"][KEPT:], found) < log_loss(Y["late"][KEPT:], TRUTH[KEPT:]) + 0.08
    assert abs(found.mean() - TRUTH[KEPT:].mean()) < 0.05
    plain = tiny(getattr(tabmtl, name), tasks={"late": "binary"}, **METHODS[name]).fit(X[:KEPT], Y[:KEPT])
    if name != "IndependentTasks":  # whose binary tasks stop by the order of rows, and know curves
        np.testing.assert_allclose(shares(fitted(name, 0.0)), shares(plain), atol=0.01)


@pytest.mark.all_faces
def test_it_goes_wherever_a_binary_task_goes(tmp_path):
    model = fitted("SharedBottom", n_members=2)
    assert reload(model, tmp_path / "model").tasks_ == model.tasks_
    np.testing.assert_array_equal(shares(load(tmp_path / "model")), shares(model))
    student = distill(model, X[:KEPT], network=tiny(SharedBottom, **LEARNS), random_state=0)
    assert np.abs(shares(student) - shares(model)).mean() < 0.05
    ensemble = MultiTaskEnsemble(tasks={"late": "focal"}, models=CANDIDATES, n_folds=3, random_state=0).fit(X, Y)
    assert abs(shares(ensemble).mean() - TRUTH.mean()) < 0.03
    weighed = Task(name="late", kind="focal", class_weight={True: 10.0})
    assert shares(fitted("SharedTrees", tasks={"late": weighed})).mean() > 2 * TRUTH.mean()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: Task(name="late", kind="focal:-1"),
            "'late': the gamma of a focal task must .* got -1.0; 0 is 'binary'",
        ),
        (lambda: fitted("SharedTrees").export_task("late"), "a focal:2.0 task cannot be exported, .* class_weight"),
        (
            lambda: ESMM(tasks={"late": "focal"}, task_chain=["late", "lost"]).fit(X, Y.with_columns(lost=Y["late"])),
            "the steps of task_chain must be binary tasks, got {'late': 'focal:2.0'}",
        ),
        (lambda: tiny(IndependentTasks, tasks={"delay": "focal"}).fit(X, Y), "'delay' is focal.*, but its labels have"),
        *(
            (
                lambda given=given: fitted("IndependentTasks", classifier=LGBMClassifier(**given)),
                f"task 'late' is focal:2.0, .* has {name}={value!r}, .* leave {name} out, or {cure}",
            )
            for cure, given in [
                ("declare another kind", {"objective": "binary"}),
                ("declare another kind", {"linear_tree": True}),
                ("declare another kind", {"boosting_type": "rf"}),
                ("give the Task a class_weight", {"is_unbalance": True}),
                ("give the Task a class_weight", {"scale_pos_weight": 3.0}),
            ]
            for name, value in given.items()
        ),
    ],
)
def test_what_cannot_be_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
