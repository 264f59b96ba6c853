"""Answers of estimators as arrays, and comparisons of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator


def answers(estimator: Any, X: Any) -> list[np.ndarray]:
    """Return predictions, probabilities and vectors of some rows, as arrays with one row each."""
    predicted = estimator.predict(X)
    columns = predicted if isinstance(predicted, pl.DataFrame) else [predicted]
    found = [np.asarray(column) for column in columns]
    if hasattr(estimator, "predict_proba"):
        probabilities = estimator.predict_proba(X)
        if isinstance(probabilities, dict):
            probabilities = list(probabilities.values())
        found += probabilities if isinstance(probabilities, list) else [probabilities]
    if hasattr(estimator, "transform"):
        found.append(estimator.transform(X))
    return found


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    """Tell whether two answers are equal bit for bit."""
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def largest_gap(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    """Return the largest difference between numbers of two answers, relative to the largest number of its column."""
    numbers = [(a, b) for a, b in zip(first, second, strict=True) if a.dtype.kind == "f"]
    gaps = [np.abs(a - b) / (np.abs(a).max(axis=0) + 1e-12) for a, b in numbers]
    return max((float(gap.max()) for gap in gaps), default=0.0)


def finite(found: Sequence[np.ndarray]) -> bool:
    """Tell whether an answer has no missing and no infinite value."""
    return all(np.isfinite(a).all() if a.dtype.kind == "f" else None not in a.tolist() for a in found)


def answers_by_parts(estimator: Any, X: pl.DataFrame, n_rows: int) -> list[np.ndarray]:
    """Answer a few rows at a time, and join the answers."""
    parts = [answers(estimator, part) for part in X.iter_slices(n_rows)]
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


def parameters_of(estimator: BaseEstimator) -> dict[str, Any]:
    """Return hyper-parameters; of estimators among them, which equal no copy of theirs, class and parameters."""
    return {name: _comparable(value) for name, value in estimator.get_params().items()}


def _comparable(value: Any) -> Any:
    if isinstance(value, BaseEstimator):
        return type(value), parameters_of(value)
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    return {name: _comparable(item) for name, item in value.items()} if isinstance(value, Mapping) else value
