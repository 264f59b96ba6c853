"""A kind of targets from outside of the package, one class, works in every estimator and file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
from cases import later
from conformance import tiny
from scipy.special import xlogy
from sklearn.metrics import r2_score

import tabmtl
from tabmtl import ModelFileError, Task, load
from tabmtl.targets import Kind
from tabmtl.targets.regression import Regression


@dataclass(frozen=True)
class Rate(Kind):
    """A count; a score is the logarithm of its mean."""

    name: ClassVar[str] = "rate"
    metrics: ClassVar[Mapping[str, Any]] = Regression.metrics
    lightgbm: ClassVar[Mapping[str, Any]] = {"objective": "poisson", "metric": "poisson"}

    def link(self, scores, xp):
        return xp.exp(scores)

    def unlink(self, means, xp):
        return xp.log(xp.clip(means, 1e-6, None))

    def loss(self, scores, labels):
        return scores.exp() - labels * scores

    def losses(self, scores, means):
        return np.exp(scores) - means + xlogy(means, means) - means * scores

    def derivatives(self, scores, means, gradient, hessian):
        np.subtract(np.exp(scores, out=hessian), means, out=gradient)

    def lightgbm_link(self, width, center, scale):
        return "poisson", 1.0, 0.0


rng = np.random.default_rng(0)
X = pl.DataFrame({"a": rng.normal(size=600), "b": rng.normal(size=600), "c": rng.integers(0, 3, 600)})
RATE = np.exp(1 + 0.8 * X["a"].to_numpy())
Y = pl.DataFrame({"n": rng.poisson(RATE), "late": X["b"] > 0})
TASKS = [Task(name="n", kind=Rate())]
LEARNS = {"epochs": 40, "learning_rate": 0.02, "n_estimators": 60, "n_estimators_shared": 60, "n_estimators_task": 60}
NETWORKS = ("SharedBottom", "MMoE")


@pytest.mark.parametrize(
    "name",
    later(
        [*NETWORKS, "SharedTrees", "RMTGB", "IndependentTasks", "MultiTaskEnsemble"],
        "IndependentTasks",
        "MultiTaskEnsemble",
    ),
)
def test_an_own_kind_is_learned_scored_and_saved(name, tmp_path):
    model = tiny(getattr(tabmtl, name), tasks=TASKS, **LEARNS).fit(X[:400], Y[:400])
    answer = model.predict(X[400:])["n"].to_numpy()
    # a constant has 0; the best single-task model, which knows the law, the second number
    assert (answer > 0).all() and r2_score(RATE[400:], answer) > 0.6
    interval = model.score_intervals(X[400:], Y[400:]).row(0, named=True)
    assert interval["low"] < interval["score"] < interval["high"]
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model", kinds=[Rate])
    assert loaded.predict(X)["n"].equals(model.predict(X)["n"]) and loaded.tasks_ == model.tasks_
    with pytest.raises(ModelFileError, match=r"holds a 'rate'.*load\(path, kinds="):
        load(tmp_path / "model")
