"""Metrics of values: shares of the variance, and errors."""

from __future__ import annotations

import math

import numpy as np
from sklearn import metrics as sk

from tabmtl.metrics.metric import Influence, Metric, Score, of_mean, of_ratio


def _r2(y: np.ndarray, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    spread = np.square(y - np.average(y, weights=weight))
    return -of_ratio(np.square(y - value), spread, weight)


def _explained_variance(y: np.ndarray, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return _r2(y, value + np.average(y - value, weights=weight), weight)


def _squared_error(y: np.ndarray, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return -of_mean(np.square(y - value), weight)


def _root_squared_error(y: np.ndarray, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    root = np.sqrt(np.average(np.square(y - value), weights=weight))
    return _squared_error(y, value, weight) / (2 * root) if root > 0 else np.zeros(len(y))


def _absolute_error(y: np.ndarray, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return -of_mean(np.abs(y - value), weight)


def _variance(score: Score, influence: Influence) -> Metric:
    return Metric(score=score, influence=influence, compares="values", worst=-math.inf)


def loss(score: Score, influence: Influence) -> Metric:
    """Return the metric of a loss of rows, 0 at best."""
    return Metric(score=score, influence=influence, sign=-1, worst=-math.inf, best=0.0)


#: By name, the default first.
VALUES = {
    "r2": _variance(sk.r2_score, _r2),
    "explained_variance": _variance(sk.explained_variance_score, _explained_variance),
    "neg_root_mean_squared_error": loss(sk.root_mean_squared_error, _root_squared_error),
    "neg_mean_absolute_error": loss(sk.mean_absolute_error, _absolute_error),
    "neg_mean_squared_error": loss(sk.mean_squared_error, _squared_error),
}
