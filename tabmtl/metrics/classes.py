"""Metrics of classes: those of ranks, of decisions, and of probabilities."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from tabmtl.metrics.groups import BY_GROUP
from tabmtl.metrics.metric import Influence, Metric, Score, of_mean, of_ratio, of_sklearn
from tabmtl.metrics.values import loss


def _roc_auc(y: np.ndarray, p: np.ndarray, *, sample_weight: np.ndarray | None) -> float:
    # with the value of scikit-learn's, which checks its input for milliseconds: half the time of a fit on a small
    # table, where every epoch is scored
    weight = np.ones(len(y)) if sample_weight is None else sample_weight
    classes = [1] if p.shape[1] == 2 else np.unique(y)  # a class without labels is left out
    return float(np.mean([_one_against_rest(y == k, p[:, k], weight) for k in classes]))


def _one_against_rest(positive: np.ndarray, score: np.ndarray, weight: np.ndarray) -> float:
    below = share_below(score[positive], score[~positive], weight[~positive])
    return np.average(below, weights=weight[positive])


def share_below(score: np.ndarray, others: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return placement values: the share of the others' weight below each score, ties by half."""
    order = np.argsort(others)
    below = np.append(0, np.cumsum(weight[order]))
    places = (np.searchsorted(others[order], score, side) for side in ("left", "right"))
    return sum(below[place] for place in places) / (2 * below[-1])


def auc_within(y: np.ndarray, p: np.ndarray, weight: np.ndarray, part: np.ndarray) -> tuple[float, np.ndarray]:
    """Score by ROC AUC over the pairs of rows of the same part, and compute the influence of every row.

    Answers of several models, each to its own part of the rows, are not on one level: a model that was fitted to fewer
    positive rows answers lower. Pairs inside a part do not see this.

    Parameters
    ----------
    y : ndarray of int, shape (n,)
    p : ndarray of shape (n, K)
    weight : ndarray of shape (n,)
    part : ndarray of int, shape (n,)

    Returns
    -------
    score : float
        Mean over the labelled classes, the second alone of two. A class that is in no pair is left out; NaN if all are.
    influence : ndarray of shape (n,)
    """
    classes = np.array([1]) if p.shape[1] == 2 else np.unique(y)
    scores, influence = [], np.zeros(len(y))
    for k in classes:
        own, score = y == k, p[:, k]
        below, others = _pairs(score, weight, part, own)
        n_pairs = weight[own] @ others
        if n_pairs == 0:
            continue
        auc = weight[own] @ below / n_pairs
        scores.append(auc)
        influence[own] += weight[own] * (below - auc * others) / n_pairs
        below, others = _pairs(score, weight, part, ~own)
        influence[~own] += weight[~own] * ((1 - auc) * others - below) / n_pairs
    return (float(np.mean(scores)), influence / len(scores)) if scores else (math.nan, influence)


def _pairs(score: np.ndarray, weight: np.ndarray, part: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for the rows that are meant, the weight of the others of their part: of those below, ties by half, and of
    all of them.
    """
    below, all_others = np.zeros((2, len(score)))
    for k in np.unique(part):
        rows, others = np.flatnonzero((part == k) & own), np.flatnonzero((part == k) & ~own)
        if len(others):
            all_others[rows] = weight[others].sum()
            below[rows] = share_below(score[rows], score[others], weight[others]) * all_others[rows]
    return below[own], all_others[own]


def _auc_influence(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return auc_within(y, p, weight, np.zeros(len(y), dtype=np.intp))[1]


def _average_precision(y: np.ndarray, p: np.ndarray, *, sample_weight: np.ndarray | None) -> float:
    return of_sklearn("average_precision_score")(y, p[:, 1], sample_weight=sample_weight)


def _precision_influence(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    # AP is the mean, over the positive rows, of the precision among the rows from their score up. A row counts in the
    # precision at every level of scores from the lowest to its own.
    level = np.unique(p[:, 1], return_inverse=True)[1]
    positive_weight = np.bincount(level, weight * y)
    positives, rows = (np.cumsum(part[::-1])[::-1] for part in (positive_weight, np.bincount(level, weight)))
    precision, share = positives / rows, positive_weight / rows
    slope = y * np.cumsum(share)[level] - np.cumsum(share * precision)[level]
    total = positives[0]
    mean = positive_weight @ precision / total
    return weight * (y * (precision[level] - mean) + slope) / total


def _decided(name: str, **options: Any) -> Score:
    """Return a metric of class labels, applied to the most probable class."""
    score = of_sklearn(name, **options)
    return lambda y, p, *, sample_weight: score(y, p.argmax(1), sample_weight=sample_weight)


def _accuracy_influence(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return of_mean(y == p.argmax(1), weight)


def _balanced_accuracy(y: np.ndarray, p: np.ndarray, *, sample_weight: np.ndarray | None) -> float:
    # The value of balanced_accuracy_score, which warns where a class without labels is predicted.
    labels = np.unique(y)
    return _decided("recall_score", labels=labels, average="macro")(y, p, sample_weight=sample_weight)


def _balanced_influence(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    hit, classes = y == p.argmax(1), np.unique(y)
    return np.mean([of_ratio(hit & (y == k), y == k, weight) for k in classes], axis=0)


def _log_loss(y: np.ndarray, p: np.ndarray, *, sample_weight: np.ndarray | None) -> float:
    p = p / p.sum(axis=1, keepdims=True)  # float32 sums to one too roughly for scikit-learn
    return of_sklearn("log_loss", labels=np.arange(p.shape[1]))(y, p, sample_weight=sample_weight)


def _log_influence(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    smallest = np.finfo(np.float64).eps  # as scikit-learn clips
    answered = p[np.arange(len(y)), y] / p.sum(axis=1)
    return of_mean(np.log(np.clip(answered, smallest, 1 - smallest)), weight)


def _brier(y: np.ndarray, p: np.ndarray, *, sample_weight: np.ndarray | None) -> float:
    return float(np.average(_brier_losses(y, p), weights=sample_weight))


def _brier_losses(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    # as scikit-learn scales them: of two classes by a half
    return np.square(p - np.eye(p.shape[1])[y]).sum(axis=1) / (2 if p.shape[1] == 2 else 1)


def _brier_influence(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return -of_mean(_brier_losses(y, p), weight)


def _calibration_error(y: np.ndarray, p: np.ndarray, *, sample_weight: np.ndarray | None) -> float:
    # The gap of a bin is g + e, where labels with the probabilities p give the noise e the variance v = p (1 - p) / n.
    # Of gaps g that spread by s over bins, noise raises the mean size from 0.8 s to 0.8 sqrt(s² + v), which is taken
    # off. s² is the mean of (g + e)² - v, as Kumar, Liang and Ma (NeurIPS 2019) take noise off squares, less a standard
    # error of it: else chance would leave a calibrated model a spread in half of the cases.
    weight = np.ones(len(y)) if sample_weight is None else sample_weight
    found = p.argmax(1) if p.shape[1] > 2 else np.ones(len(y), dtype=np.intp)
    called = p[np.arange(len(y)), found]
    place = np.minimum((called * N_BINS).astype(np.intp), N_BINS - 1)
    of_row = (weight, weight * (called - (y == found)), weight**2 * np.maximum(called * (1 - called), 0.0))
    total, gap, noise = (np.bincount(place, each)[np.unique(place)] for each in of_row)
    share, gap, noise = total / total.sum(), gap / total, noise / total**2
    square = share @ (gap**2 - noise) - math.sqrt(2 * np.square(share * noise).sum())
    spread = math.sqrt(max(0.0, square))
    return float(share @ (np.abs(gap) - math.sqrt(2 / math.pi) * (np.sqrt(spread**2 + noise) - spread)))


def _log_ratio(y: np.ndarray, p: np.ndarray, *, sample_weight: np.ndarray | None) -> float:
    return abs(float(np.log(np.average(p[:, 1], weights=sample_weight) / np.average(y, weights=sample_weight))))


def _log_ratio_influence(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    predicted, observed = weight * p[:, 1], weight * y
    sign = np.sign(predicted.sum() - observed.sum())
    return -sign * (predicted / predicted.sum() - observed / observed.sum())


def _f1_influence(y: np.ndarray, p: np.ndarray, weight: np.ndarray, k: int = 1) -> np.ndarray:
    labelled, answered = y == k, p.argmax(1) == k
    return of_ratio(2 * (labelled & answered), labelled.astype(int) + answered, weight)


def _macro_influence(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    classes = np.union1d(y, p.argmax(1))
    return np.mean([_f1_influence(y, p, weight, k) for k in classes], axis=0)


#: Of equal width, for the calibration error.
N_BINS = 10


def _of_classes(score: Score, influence: Influence, *, decides: bool = False, of_positive: bool = False) -> Metric:
    return Metric(score=score, influence=influence, compares="classes", decides=decides, of_positive=of_positive)


#: By name, the default first.
CLASSES = {
    "roc_auc": _of_classes(_roc_auc, _auc_influence),
    "accuracy": Metric(score=_decided("accuracy_score"), influence=_accuracy_influence, decides=True),
    "balanced_accuracy": _of_classes(_balanced_accuracy, _balanced_influence, decides=True),
    "neg_log_loss": loss(_log_loss, _log_influence),
    "neg_brier_score": loss(_brier, _brier_influence),
    "neg_expected_calibration_error": loss(_calibration_error, None),
    "f1_macro": _of_classes(_decided("f1_score", average="macro"), _macro_influence, decides=True),
}
#: Those of two classes, the default first.
TWO_CLASSES = CLASSES | {
    "average_precision": _of_classes(_average_precision, _precision_influence, of_positive=True),
    "neg_log_predicted_over_observed": replace(
        loss(_log_ratio, _log_ratio_influence), compares="classes", of_positive=True
    ),
    "f1": _of_classes(_decided("f1_score"), _f1_influence, decides=True, of_positive=True),
    **BY_GROUP,
}
