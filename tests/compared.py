"""A small table with three tasks, quick models of it, and their comparison."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression, Ridge

from tabmtl import Comparison, IndependentTasks, MMoE, compare


class Broken(IndependentTasks):
    """A model that fails."""

    def _fit(self, *_: Any) -> Any:
        raise RuntimeError("no room\n  for <it>")


class Interrupted(IndependentTasks):
    """A model whose fit is interrupted."""

    def _fit(self, *_: Any) -> Any:
        raise KeyboardInterrupt


class Chained(IndependentTasks):
    """A model of a funnel, of its first two tasks."""

    def _chain(self, tasks: Any) -> tuple[int, ...]:
        return 0, 1


def linear(cls: type[IndependentTasks] = IndependentTasks) -> IndependentTasks:
    """Linear models, in a millisecond."""
    return cls(classifier=LogisticRegression(), regressor=Ridge())


def constant() -> IndependentTasks:
    """Models that always answer alike."""
    return IndependentTasks(classifier=DummyClassifier(), regressor=DummyRegressor())


@cache
def table() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Features, among them a day of four rows, and targets: two classes, partly unknown, numbers, three classes."""
    rng, n = np.random.default_rng(0), 320
    x = rng.normal(size=(n, 3))
    X = pl.DataFrame(x, list("abc")).with_columns(day=pl.int_range(n) // 4)
    late = np.where(x[:, 0] + rng.normal(size=n) > 0, "yes", "no")
    y = pl.DataFrame(
        {"late": late, "delay <min>": 9 * x[:, 1] + rng.normal(size=n), "kind": rng.choice(list("uvw"), n)}
    )
    return X, y.with_columns(pl.when(pl.int_range(n) % 4 > 0).then("late"))


@cache
def comparison() -> Comparison:
    """Four models, one of which fails; a quarter of the days is held out."""
    models = {"linear": linear(), "constant": constant(), "a <b>": Broken(), "experts": MMoE(epochs=2, n_experts=2)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of training that ends early
        return compare(models, *table(), groups="day", columns={"day": "ignore"}, random_state=0, n_jobs=1, seeds=1)
