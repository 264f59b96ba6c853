"""What each row adds to a score: its weight times the derivative of the score by that weight.

Scores do not change where all weights grow alike, so the influences of all rows sum to 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Influence = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def row_influence(metric: str, labels: np.ndarray, output: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Influence of every row on a score, in O(n log n).

    Parameters
    ----------
    metric : str
        A name that :func:`tabmtl.metrics.scores.score_task` knows.
    labels : ndarray of shape (n,)
        Class indices 0..K-1 as integers, or values; on these the metric is defined.
    output : ndarray of shape (n, K) or (n,)
        Probabilities, or predictions.
    weight : ndarray of shape (n,)
        Positive weights.

    Returns
    -------
    ndarray of shape (n,)
        In the order of the rows, of the sign of a score: higher is better.

    Examples
    --------
    >>> import numpy as np
    >>> hits = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    >>> row_influence("accuracy", np.array([0, 0, 1, 1]), hits, np.ones(4)).tolist()
    [0.0625, 0.0625, 0.0625, -0.1875]
    """
    return _INFLUENCES[metric](labels, output, weight)


def _of_mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Influences on the weighted mean of some values."""
    total = weight.sum()
    return weight * (values - weight @ values / total) / total


def _of_ratio(above: np.ndarray, below: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Influences on the ratio of two weighted sums."""
    total = weight @ below
    return weight * (above - below * (weight @ above / total)) / total


def _roc_auc(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    classes = np.array([1]) if p.shape[1] == 2 else np.unique(y)
    influence = np.zeros(len(y))
    for k in classes:
        positive, score = y == k, p[:, k]
        for own, sign in ((positive, 1), (~positive, -1)):
            below = _share_below(score[own], score[~own], weight[~own])
            influence[own] += sign * _of_mean(below, weight[own]) / len(classes)
    return influence


def _share_below(score: np.ndarray, others: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Placement values: the share of the others' weight that lies below each score, ties by half."""
    order = np.argsort(others)
    below = np.append(0, np.cumsum(weight[order])) / weight.sum()
    places = (np.searchsorted(others[order], score, side) for side in ("left", "right"))
    return sum(below[place] for place in places) / 2


def _average_precision(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
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


def _accuracy(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return _of_mean(y == p.argmax(1), weight)


def _balanced_accuracy(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    hit, classes = y == p.argmax(1), np.unique(y)
    return np.mean([_of_ratio(hit & (y == k), y == k, weight) for k in classes], axis=0)


def _log_loss(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    smallest = np.finfo(np.float64).eps  # as scikit-learn clips
    answered = p[np.arange(len(y)), y] / p.sum(axis=1)
    return _of_mean(np.log(np.clip(answered, smallest, 1 - smallest)), weight)


def _f1(y: np.ndarray, p: np.ndarray, weight: np.ndarray, k: int = 1) -> np.ndarray:
    labelled, answered = y == k, p.argmax(1) == k
    return _of_ratio(2 * (labelled & answered), labelled.astype(int) + answered, weight)


def _f1_macro(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    classes = np.union1d(y, p.argmax(1))
    return np.mean([_f1(y, p, weight, k) for k in classes], axis=0)


def _r2(y: np.ndarray, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    spread = np.square(y - np.average(y, weights=weight))
    return -_of_ratio(np.square(y - value), spread, weight)


def _explained_variance(y: np.ndarray, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return _r2(y, value + np.average(y - value, weights=weight), weight)


def _absolute_error(y: np.ndarray, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return -_of_mean(np.abs(y - value), weight)


def _squared_error(y: np.ndarray, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return -_of_mean(np.square(y - value), weight)


def _root_squared_error(y: np.ndarray, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    root = np.sqrt(np.average(np.square(y - value), weights=weight))
    return _squared_error(y, value, weight) / (2 * root) if root > 0 else np.zeros(len(y))


_INFLUENCES: dict[str, Influence] = {
    "roc_auc": _roc_auc,
    "average_precision": _average_precision,
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "neg_log_loss": _log_loss,
    "f1": _f1,
    "f1_macro": _f1_macro,
    "r2": _r2,
    "explained_variance": _explained_variance,
    "neg_root_mean_squared_error": _root_squared_error,
    "neg_mean_absolute_error": _absolute_error,
    "neg_mean_squared_error": _squared_error,
}
