"""Metrics of ordered classes: how far the class of the median lies from the label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tabmtl.metrics.classes import CLASSES
from tabmtl.metrics.groups import BY_GROUP
from tabmtl.metrics.metric import Metric, of_mean
from tabmtl.metrics.values import loss


def median_class(p: np.ndarray) -> np.ndarray:
    """Return the first class (n,) up to which probabilities (n, K) sum to a half."""
    return np.minimum((np.cumsum(p, axis=1) < 0.5).sum(axis=1), p.shape[1] - 1)


def _squares(y: np.ndarray, found: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Return the mean square of the distances of labels and answers: as paired, and as if each met all others."""
    of_labels, of_answers = np.average(y, weights=weight), np.average(found, weights=weight)
    paired = np.average(np.square(y - found), weights=weight)
    return paired, np.average(np.square(y) + np.square(found), weights=weight) - 2 * of_labels * of_answers


def _kappa(y: np.ndarray, p: np.ndarray, *, sample_weight: np.ndarray | None) -> float:
    weight = np.ones(len(y)) if sample_weight is None else sample_weight
    paired, by_chance = _squares(y, median_class(p), weight)
    return 1 - paired / by_chance


def _kappa_influence(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    found = median_class(p)
    paired, by_chance = _squares(y, found, weight)
    of_labels, of_answers = np.average(y, weights=weight), np.average(found, weights=weight)
    slope = np.square(y) + np.square(found) - 2 * (y * of_answers + found * of_labels)
    by_chance_influence = of_mean(slope, weight)
    return (paired / by_chance * by_chance_influence - of_mean(np.square(y - found), weight)) / by_chance


def _distance(y: np.ndarray, p: np.ndarray, *, sample_weight: np.ndarray | None) -> float:
    return float(np.average(np.abs(y - median_class(p)), weights=sample_weight))


def _distance_influence(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return -of_mean(np.abs(y - median_class(p)), weight)


def _accuracy(y: np.ndarray, p: np.ndarray, *, sample_weight: np.ndarray | None) -> float:
    return float(np.average(y == median_class(p), weights=sample_weight))


def _accuracy_influence(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return of_mean(y == median_class(p), weight)


#: By name, the default first. Cohen's kappa with quadratic weights is 1 less a ratio: squared distances of labels and
#: answers, over those of labels and answers that are paired by chance.
ORDERED = {
    "quadratic_kappa": Metric(score=_kappa, influence=_kappa_influence, compares="values", worst=-1.0, decides=True),
    "neg_mean_absolute_error": replace(loss(_distance, _distance_influence), decides=True),
    "accuracy": Metric(score=_accuracy, influence=_accuracy_influence, decides=True),
    "neg_log_loss": CLASSES["neg_log_loss"],
    "roc_auc": CLASSES["roc_auc"],
    **BY_GROUP,
}
