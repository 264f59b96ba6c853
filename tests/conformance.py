"""Every estimator the package lists, in a tiny form, and the tables and comparisons that the properties need."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import polars as pl

import tabmtl
import tabmtl.models
from tabmtl.estimators.funnel import FunnelEstimator, TowerEstimator
from tabmtl.estimators.mixture import ExpertEstimator, MixtureEstimator
from tabmtl.estimators.network import NetworkEstimator, VectorEstimator
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.schema import Task

#: Given to an estimator where it has the parameter: small and quick, with dropout and early stopping still on. On the
#: CPU, where the bits of two runs can be compared.
TINY: dict[str, Any] = {
    "device": "cpu",
    "epochs": 2,
    "batch_size": 64,
    "hidden": (16, 8),
    "d_embedding": 4,
    "d_token": 8,
    "d_ffn": 16,
    "n_heads": 2,
    "head_hidden": 8,
    "expert_hidden": (8, 4),
    "tower_hidden": (8, 4),
    "d_pattern": 8,
    "min_frequency": 2,
    "n_estimators_shared": 10,
    "n_estimators_outlier": 10,
    "n_estimators_task": 10,
    "unknown_task": "error",
    "n_jobs": 1,
    "random_state": 0,
}


def _listed() -> Iterator[type[MultiTaskEstimator]]:
    """Estimators among the names the package exports, and all classes of its models."""
    modules = [f"tabmtl.models.{module.name}" for module in pkgutil.iter_modules(tabmtl.models.__path__)]
    for found in [getattr(tabmtl, name) for name in tabmtl.__all__] + [
        value for module in modules for value in vars(import_module(module)).values()
    ]:
        if isinstance(found, type) and issubclass(found, MultiTaskEstimator):
            yield found


def subclasses(cls: type) -> set[type]:
    """All classes derived from one, however far."""
    found = set(cls.__subclasses__())
    return found.union(*(subclasses(child) for child in found))


#: Derived from to make estimators, and none themselves.
BASES = {
    MultiTaskEstimator,
    NetworkEstimator,
    FunnelEstimator,
    TowerEstimator,
    VectorEstimator,
    MixtureEstimator,
    ExpertEstimator,
}
#: All estimators: the exported ones, the classes in tabmtl.models, and whatever else is derived from the base.
ESTIMATORS = sorted(set(_listed()) - BASES, key=lambda cls: cls.__name__)
#: Those whose tasks must hold a funnel: `tiny` names its steps, and `targets_for` has them.
FUNNELS = [cls for cls in ESTIMATORS if issubclass(cls, TowerEstimator)]
#: All others, which take targets of any kind, or of the kind of their face.
FREE = [cls for cls in ESTIMATORS if cls not in FUNNELS]
MIXED = [cls for cls in FREE if cls._target_kind is None]
FACES = [cls for cls in FREE if cls._target_kind is not None]
NETWORKS = [cls for cls in MIXED if issubclass(cls, NetworkEstimator)]


def tiny(cls: type[MultiTaskEstimator], **params: Any) -> Any:
    """An estimator in its tiny form; parameters it does not have are left out."""
    chain: dict[str, Any] = {}
    if cls in FUNNELS:
        steps = ("late", "very early")
        classes = {name: Task(name=name, kind="binary", classes=("late", "on time")) for name in steps}
        chain = {"task_chain": steps, "tasks": classes}
    return cls(**{name: value for name, value in (TINY | chain | params).items() if name in cls._get_param_names()})


def features(n: int = 120, seed: int = 0) -> pl.DataFrame:
    """Columns of every type, with missing values in most of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    level = rng.integers(0, 3, size=n)
    missing = rng.random((n, 2)) < 0.1
    return pl.DataFrame(
        {
            "plain": x[:, 0],
            "holes": pl.Series(x[:, 1]).scatter(np.flatnonzero(missing[:, 0]), None),
            "heavy": np.exp(3 * x[:, 2]).astype(np.float32),
            "count": rng.integers(0, 50, size=n),
            "flag": rng.random(n) < 0.5,
            "text": pl.Series(["red", "green", "blue"]).gather(level).scatter(np.flatnonzero(missing[:, 1]), None),
            "constant": np.ones(n),
        }
    )


def mixed_targets(X: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """A binary, a multiclass and a regression target of text and numbers, 20 % of the labels missing."""
    rng = np.random.default_rng(seed)
    signal = X["plain"].to_numpy() + 0.3 * rng.normal(size=len(X))
    late = pl.Series(np.where(signal > 0, "late", "on time"))
    size = pl.Series(["large", "medium", "small"]).gather(np.digitize(signal, [-0.4, 0.6]))
    delay = pl.Series(100 + 20 * signal)
    hidden = rng.random((len(X), 3)) < 0.2
    columns = {"late": late, "size": size, "delay": delay}
    return pl.DataFrame(
        {name: labels.scatter(np.flatnonzero(hidden[:, j]), None) for j, (name, labels) in enumerate(columns.items())}
    )


def targets_for(cls: type[MultiTaskEstimator], X: pl.DataFrame) -> pl.DataFrame:
    """Targets of the kinds that the face of an estimator takes, two at least."""
    y = mixed_targets(X)
    if cls._target_kind == "classification":
        return y.drop("delay")
    if cls._target_kind == "regression":
        return y.select("delay", (pl.col("delay") ** 2).alias("square"))
    if cls in FUNNELS:
        # "on time" is the step taken, for it is the second class; where it was not, the second label is missing
        late = pl.when(pl.col("late") == "late").then(None).when(X["plain"] > -0.5).then(pl.lit("late"))
        return y.with_columns(late.otherwise("late").alias("very early"))
    return y


def fitted(cls: type[MultiTaskEstimator], **params: Any) -> tuple[Any, pl.DataFrame, pl.DataFrame]:
    """A tiny fitted estimator, and the features and targets it was fitted on."""
    X = features()
    y = targets_for(cls, X)
    return tiny(cls, **params).fit(X, y), X, y


def long_table(n: int = 150, seed: int = 0) -> tuple[pl.DataFrame, pl.Series]:
    """One regression label a row, each row of one of three schools, some labels missing."""
    rng = np.random.default_rng(seed)
    X = features(n, seed).with_columns(school=pl.Series(["east", "north", "west"]).gather(rng.integers(0, 3, n)))
    slope = X["school"].replace_strict({"east": 1.0, "north": -1.0, "west": 3.0})
    grade = 50 + 10 * slope * X["plain"] + rng.normal(size=n)
    return X, grade.scatter(np.flatnonzero(rng.random(n) < 0.1), None).alias("grade")


def answers(estimator: Any, X: Any) -> list[np.ndarray]:
    """Everything an estimator says about rows, as arrays with one row each."""
    predicted = estimator.predict(X)
    if isinstance(predicted, pl.DataFrame):
        found = [column.to_numpy() for column in predicted.iter_columns()]
    else:
        found = [np.asarray(predicted)]
    if hasattr(estimator, "predict_proba"):
        probabilities = estimator.predict_proba(X)
        if isinstance(probabilities, dict):
            probabilities = list(probabilities.values())
        found += probabilities if isinstance(probabilities, list) else [probabilities]
    if hasattr(estimator, "transform"):
        found.append(estimator.transform(X))
    return found


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    """Whether two answers are equal bit for bit."""
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def largest_gap(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    """Largest difference between numbers of two answers, in units of the largest number of its column."""
    gaps = [0.0]
    for a, b in zip(first, second, strict=True):
        if a.dtype.kind == "f":
            gaps.append(float((np.abs(a - b) / (np.abs(a).max(axis=0) + 1e-12)).max()))
    return max(gaps)
