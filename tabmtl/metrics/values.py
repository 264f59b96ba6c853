"""Metrics of values: shares of the variance, errors, and deviances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from scipy.special import xlogy

from tabmtl.metrics.metric import Influence, Metric, Score, of_mean, of_ratio, of_sklearn


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


def loss(score: Score, influence: Influence | None) -> Metric:
    """Return the metric of a loss of rows, 0 at best."""
    return Metric(score=score, influence=influence, sign=-1, worst=-math.inf, best=0.0)


#: By name, the default first.
VALUES = {
    "r2": _variance(of_sklearn("r2_score"), _r2),
    "explained_variance": _variance(of_sklearn("explained_variance_score"), _explained_variance),
    "neg_root_mean_squared_error": loss(of_sklearn("root_mean_squared_error"), _root_squared_error),
    "neg_mean_absolute_error": loss(of_sklearn("mean_absolute_error"), _absolute_error),
    "neg_mean_squared_error": loss(of_sklearn("mean_squared_error"), _squared_error),
}


def deviances(name: str, power: float) -> dict[str, Metric]:
    """Return the metrics of positive means by name, the default first: the share of the deviance, and the deviance.

    Parameters
    ----------
    name : str
        Of the law.
    power : float
        Of the mean to which the variance grows, from 1 to 2.
    """
    share = _variance(partial(_explained_deviance, power=power), partial(_explained_influence, power=power))
    mean = loss(partial(_mean_deviance, power=power), partial(_deviance_influence, power=power))
    return {f"d2_{name}": share, f"neg_mean_{name}_deviance": mean, **VALUES}


def unit_deviance(y: np.ndarray, value: np.ndarray, power: float) -> np.ndarray:
    """Return the deviances (n,) of labels from means, as scikit-learn has them.

    A mean that is no positive number, as other models answer, counts as a billionth of the largest label.
    """
    value = np.maximum(value, 1e-9 * y.max())
    if power == 1:
        return 2 * (xlogy(y, y / value) - y + value)
    if power == 2:
        return 2 * (np.log(value / y) + y / value - 1)
    rest = 2 - power
    return 2 * (y**rest / ((1 - power) * rest) - y * value ** (1 - power) / (1 - power) + value**rest / rest)


def _deviance_and_own(
    y: np.ndarray, value: np.ndarray, weight: np.ndarray | None, power: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the deviances of labels from answers, and from their mean."""
    return unit_deviance(y, value, power), unit_deviance(y, np.full(len(y), np.average(y, weights=weight)), power)


def _explained_deviance(y: np.ndarray, value: np.ndarray, *, sample_weight: np.ndarray | None, power: float) -> float:
    of_answers, of_mean = _deviance_and_own(y, value, sample_weight, power)
    return 1 - np.average(of_answers, weights=sample_weight) / np.average(of_mean, weights=sample_weight)


def _explained_influence(y: np.ndarray, value: np.ndarray, weight: np.ndarray, *, power: float) -> np.ndarray:
    return -of_ratio(*_deviance_and_own(y, value, weight, power), weight)  # the mean has the least deviance: no slope


def _mean_deviance(y: np.ndarray, value: np.ndarray, *, sample_weight: np.ndarray | None, power: float) -> float:
    return float(np.average(unit_deviance(y, value, power), weights=sample_weight))


def _deviance_influence(y: np.ndarray, value: np.ndarray, weight: np.ndarray, *, power: float) -> np.ndarray:
    return -of_mean(unit_deviance(y, value, power), weight)


def pinballs(level: float) -> dict[str, Metric]:
    """Return the metrics of a quantile by name, the default first: the share of the pinball loss, and the loss."""
    share = _variance(partial(_explained_pinball, level=level), partial(_pinball_share_influence, level=level))
    mean = loss(of_sklearn("mean_pinball_loss", alpha=level), partial(_pinball_influence, level=level))
    return {"d2_pinball": share, "neg_mean_pinball_loss": mean, **VALUES}


def pinballs_of_levels(levels: Sequence[float], middle: int) -> dict[str, Metric]:
    """Return the metrics of several quantiles by name: means over the levels, and those of numbers, of the middle one.

    Parameters
    ----------
    levels : sequence of float
    middle : int
        Index among them.
    """
    found: dict[str, Metric] = {}
    for name, first in pinballs(levels[0]).items():
        each = [pinballs(level)[name] for level in levels]
        if name in VALUES:
            score, influence = (
                partial(_of_level, of_value=own, level=middle) for own in (first.score, first.influence)
            )
        else:
            score = partial(_mean_of_levels, of_values=[metric.score for metric in each])
            influence = partial(_mean_of_levels, of_values=[metric.influence for metric in each])
        found[name] = replace(first, score=score, influence=influence)
    return found


def _mean_of_levels(y: np.ndarray, values: np.ndarray, *args: Any, of_values: Sequence[Any], **options: Any) -> Any:
    found = [own(y, value, *args, **options) for own, value in zip(of_values, values.T, strict=True)]
    return np.mean(found, axis=0)


def _of_level(y: np.ndarray, values: np.ndarray, *args: Any, of_value: Any, level: int, **options: Any) -> Any:
    return of_value(y, values[:, level], *args, **options)


def find_quantile(y: np.ndarray, weight: np.ndarray | None, level: float) -> float:
    """Return the least label of those that a share of the weight does not exceed."""
    order = np.argsort(y)
    below = np.cumsum(np.ones(len(y)) if weight is None else weight[order])
    return float(y[order][np.searchsorted(below, level * below[-1] * (1 - 1e-12))])


def _pinball(y: np.ndarray, value: np.ndarray | float, level: float) -> np.ndarray:
    return np.maximum(level * (y - value), (level - 1) * (y - value))


def _explained_pinball(y: np.ndarray, value: np.ndarray, *, sample_weight: np.ndarray | None, level: float) -> float:
    each = _pinball(y, value, level), _pinball(y, find_quantile(y, sample_weight, level), level)
    of_answers, of_constant = (np.average(losses, weights=sample_weight) for losses in each)
    return float(1 - of_answers / of_constant)


def _pinball_share_influence(y: np.ndarray, value: np.ndarray, weight: np.ndarray, *, level: float) -> np.ndarray:
    # the quantile has the least loss: no slope
    constant = find_quantile(y, weight, level)
    return -of_ratio(_pinball(y, value, level), _pinball(y, constant, level), weight)


def _pinball_influence(y: np.ndarray, value: np.ndarray, weight: np.ndarray, *, level: float) -> np.ndarray:
    return -of_mean(_pinball(y, value, level), weight)
