"""Standard errors and confidence intervals of the score of a task, over draws of the test rows.

The standard errors are those of the infinitesimal jackknife (Efron, *The Jackknife, the Bootstrap and Other Resampling
Plans*, 1982): the influence of a row is its weight times the derivative of the score by that weight, and the squares of
the influences sum to the variance. For ROC AUC the influences are the placement values of DeLong, DeLong and
Clarke-Pearson (Biometrics 44, 1988). All cost O(n log n), know sample weights, need no seed, and give the error of a
difference of two models on the same rows, where a bootstrap would score a thousand tables.

Rare classes dominate the error. Squares are summed by class, each with its own n / (n - 1), and the quantile is
Student's with Satterthwaite's degrees of freedom, as Brunner and Munzel (Biometrical Journal 42, 2000) use them for
placement values. Shares have their bounds on the logit scale, losses and 1 - R² on the logarithmic one: bounds stay
where scores can be, and lean to the side where few rows can surprise. No perfect score is certain: with m rows in the
rarest class, m disjoint pairs of rows are all in order with probability AUC^m, so the bound of a perfect AUC at level 1
- a is (a / 2)^(1 / m) (Clopper and Pearson, 1934). No share may have a better bound than a perfect one.

scipy and scikit-learn have no DeLong. The package confidenceinterval has, but ranks in float32 by Python loops, leaves
weights out of the variance and fails on a class of one row: hence this module.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import stats
from scipy.special import expit, logit

from tabmtl.metrics.scores import check_metric, counted, each_task, score_task, share_below, undefined_reason
from tabmtl.schema import TabmtlWarning, Task

__all__ = ["ScoreInterval", "mean_difference", "score_difference", "score_interval", "score_intervals"]

#: Metrics that compare classes with each other, and those that lie between 0 and 1.
_OF_CLASSES = {"roc_auc", "average_precision", "balanced_accuracy", "f1", "f1_macro"}
_SHARES = {*_OF_CLASSES, "accuracy"}

#: A share this close to 0 or 1 differs from it by rounding only.
_ROUNDING = 1e-12


class ScoreInterval(NamedTuple):
    """A score, or a difference of two, with its standard error and confidence interval; None is undefined.

    Parameters
    ----------
    score : float or None
        The score, higher is better.
    standard_error : float or None
        Standard deviation over draws of as many rows. 0 for a perfect score, whose interval says more.
    low, high : float or None
        Bounds of the confidence interval.
    """

    score: float | None
    standard_error: float | None
    low: float | None
    high: float | None


def score_interval(
    task: Task, y: np.ndarray, output: np.ndarray, sample_weight: np.ndarray | None = None, *, level: float = 0.95
) -> ScoreInterval:
    """Score one task on its labelled rows, with a standard error and a confidence interval.

    Rows are taken as drawn independently and the model as given: the interval does not hold the spread over training
    seeds, and is too narrow where rows come in groups, such as several of one user. It is also too narrow for squared
    errors with heavy tails, and for means over classes (f1_macro, balanced accuracy) where a rare class is never hit.

    Parameters
    ----------
    task, y, output, sample_weight
        As for :func:`tabmtl.metrics.scores.score_task`. A weight sets how much a row counts, not the number of rows it
        stands for.
    level : float, default=0.95
        Share of intervals that are to hold the true score.

    Returns
    -------
    ScoreInterval
        All None with a TabmtlWarning where the score is undefined; the score alone, with a TabmtlWarning, where it
        compares classes and one of them has a single row, or if there is only one row.

    Raises
    ------
    ValueError
        If the level is not between 0 and 1, or as ``score_task`` does.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1])
    >>> late = np.array([0.1, 0.2, 0.3, 0.1, 0.4, 0.2, 0.7, 0.3, 0.6, 0.9])
    >>> interval = score_interval(Task(name="late", kind="binary"), y, np.column_stack([1 - late, late]))
    >>> " ".join(f"{value:.2f}" for value in interval)
    '0.83 0.14 0.28 0.98'
    """
    score, error, margin, rarest = _estimate(task, y, [output], sample_weight, level)
    if score is None or error is None:
        return ScoreInterval(score, None, None, None)
    low, high = _bounds(check_metric(task), score, margin)
    if check_metric(task) in _SHARES:
        perfect = ((1 - level) / 2) ** (1 / rarest)
        low, high = min(low, perfect), max(high, 1 - perfect)
    return ScoreInterval(score, error, float(low), float(high))


def score_difference(
    task: Task,
    y: np.ndarray,
    output: np.ndarray,
    reference: np.ndarray,
    sample_weight: np.ndarray | None = None,
    *,
    level: float = 0.95,
) -> ScoreInterval:
    """Compare two models on the same rows: the score of the first minus that of the second.

    Difficulty that both models share cancels row by row, so the error is smaller than the errors of the two scores
    suggest; for ROC AUC it is that of DeLong's covariance.

    Parameters
    ----------
    task, y, output, sample_weight, level
        As for :func:`score_interval`.
    reference : ndarray of the shape of ``output``
        Outputs of the other model for the same rows.

    Returns
    -------
    ScoreInterval
        The difference, with None as in :func:`score_interval`. The interval is symmetric. Models that order all rows
        alike differ by 0 ± 0 in ROC AUC: these rows cannot tell them apart.

    Raises
    ------
    ValueError
        As :func:`score_interval` does.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> hours = rng.normal(size=500)
    >>> better, worse = (hours + noise * rng.normal(size=500) for noise in (0.5, 0.6))
    >>> difference = score_difference(Task(name="hours", kind="regression"), hours, better, worse)
    >>> " ".join(f"{value:.2f}" for value in difference)
    '0.14 0.03 0.09 0.20'
    """
    score, error, margin, _ = _estimate(task, y, [output, reference], sample_weight, level)
    if score is None or error is None:
        return ScoreInterval(score, None, None, None)
    return ScoreInterval(score, error, score - margin, score + margin)


def mean_difference(
    tasks: Sequence[Task],
    y: np.ndarray,
    outputs: Sequence[np.ndarray],
    reference: Sequence[np.ndarray],
    own_task: np.ndarray | None = None,
    *,
    level: float = 0.95,
) -> ScoreInterval:
    """Compare two models on the same rows by the mean over the tasks of their :func:`score_difference`.

    A row that helps or harms several tasks at once does so in the mean too: the influences of a row are summed over the
    tasks before they are squared. The degrees of freedom are the fewest of a task.

    Parameters
    ----------
    tasks, y, outputs, own_task
        As for :func:`tabmtl.metrics.scores.score_tasks`.
    reference : sequence of ndarray
        Outputs of the other model for the same rows.
    level : float, default=0.95
        As for :func:`score_interval`.

    Returns
    -------
    ScoreInterval
        The mean difference of the tasks that have one, None where none has, with a symmetric interval. The interval is
        None where a task has a difference without one.

    Raises
    ------
    ValueError
        If the level is not between 0 and 1, or as ``score_task`` does.
    """
    _check_level(level)
    both = (each_task(tasks, y, answers, None, own_task) for answers in (outputs, reference))
    influences, differences, freedoms = np.zeros(len(y)), [], []
    for t, ((task, labels, output, _), (_, _, other, _)) in enumerate(zip(*both, strict=True)):
        if undefined_reason(task, labels) is not None:
            continue
        differences.append(score_task(task, labels, output) - score_task(task, labels, other))
        influence, group = task_influences(task, labels, output, None)
        influence = influence - task_influences(task, labels, other, None)[0]
        size = np.bincount(group)
        if size.min() < 2:
            freedoms.append(0.0)
            continue
        freedoms.append(standard_error(influence, group)[1])
        own = np.arange(len(y)) if own_task is None else np.flatnonzero(own_task == t)
        influences[own[counted(labels, None)]] += influence * np.sqrt(size / (size - 1))[group]
    if not differences:
        return ScoreInterval(None, None, None, None)
    mean, freedom = float(np.mean(differences)), min(freedoms)
    if not freedom:
        return ScoreInterval(mean, None, None, None)
    error = math.sqrt(np.square(influences / len(differences)).sum())
    margin = _margin(error, freedom, level)
    return ScoreInterval(mean, error, mean - margin, mean + margin)


def score_intervals(
    tasks: Sequence[Task],
    y: np.ndarray,
    outputs: Sequence[np.ndarray],
    sample_weight: np.ndarray | None = None,
    own_task: np.ndarray | None = None,
    *,
    level: float = 0.95,
) -> pl.DataFrame:
    """Score every task on its own labelled rows, with standard errors and confidence intervals.

    Parameters
    ----------
    tasks, y, outputs, sample_weight, own_task
        As for :func:`tabmtl.metrics.scores.score_tasks`.
    level : float, default=0.95
        As for :func:`score_interval`.

    Returns
    -------
    polars.DataFrame
        One row per task: "task", "metric"; "score", "standard_error", "low" and "high" of :func:`score_interval`, null
        where it has None; "n_labelled", the number of rows that count; "n_positive", the number of rows in the second
        class of a binary task, null for other kinds.
    """
    rows = []
    for task, labels, output, weight in each_task(tasks, y, outputs, sample_weight, own_task):
        interval = score_interval(task, labels, output, weight, level=level)
        labels = labels[counted(labels, weight)]
        n_positive = int((labels == 1).sum()) if task.kind == "binary" else None
        rows.append((task.name, check_metric(task), *interval, len(labels), n_positive))
    names = ("task", "metric", *ScoreInterval._fields, "n_labelled", "n_positive")
    types = (pl.String, pl.String, *[pl.Float64] * 4, pl.Int64, pl.Int64)
    return pl.DataFrame(rows, dict(zip(names, types, strict=True)), orient="row")


def _estimate(
    task: Task, y: np.ndarray, outputs: Sequence[np.ndarray], sample_weight: np.ndarray | None, level: float
) -> tuple[float | None, float | None, float, int]:
    """Score the first output, less the scores of the others.

    Returns
    -------
    score, standard_error : float or None
        None where undefined.
    margin : float
        Half the width of a symmetric interval.
    rarest : int
        Rows of the rarest class, or of all classes where the metric does not compare them.
    """
    _check_level(level)
    score = score_task(task, y, outputs[0], sample_weight)
    if math.isnan(score):
        return None, None, math.nan, 0
    influence, group = task_influences(task, y, outputs[0], sample_weight)
    for other in outputs[1:]:
        score -= score_task(task, y, other, sample_weight)
        influence = influence - task_influences(task, y, other, sample_weight)[0]
    size = np.bincount(group)
    rarest = int(size.min())
    if rarest < 2:
        who = "the rarest class has" if len(size) > 1 else "there is"
        message = f"task {task.name!r}: {check_metric(task)} has no interval: {who} one single labelled row"
        warnings.warn(message, TabmtlWarning, stacklevel=3)
        return score, None, math.nan, rarest
    error, freedom = standard_error(influence, group)
    return score, error, _margin(error, freedom, level), rarest


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, such as 0.95, got {level!r}")


def standard_error(influence: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Return the standard error of a score, given the influences of its rows, and its degrees of freedom."""
    size = np.bincount(group)
    variance = np.bincount(group, influence**2) * size / (size - 1)
    error = math.sqrt(variance.sum())
    return error, error**4 / (variance**2 / (size - 1)).sum() if error > 0 else math.inf


def _margin(error: float, freedom: float, level: float) -> float:
    return error * float(stats.t.ppf((1 + level) / 2, freedom))


def task_influences(
    task: Task, y: np.ndarray, output: np.ndarray, sample_weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the influence of each row that counts, and its class, or 0 if the metric does not compare classes."""
    rows = counted(y, sample_weight)
    labels = y[rows].astype(np.int64 if task.is_classification else np.float64)
    weight = np.ones(len(labels)) if sample_weight is None else sample_weight[rows].astype(np.float64)
    metric = check_metric(task)
    group = np.unique(labels, return_inverse=True)[1] if metric in _OF_CLASSES else np.zeros(len(labels), dtype=int)
    return row_influence(metric, labels, output[rows].astype(np.float64), weight), group


def _bounds(metric: str, score: float, margin: float) -> tuple[float, float]:
    """Return the bounds of a score in its own units, computed on the scale that fits its metric."""
    if metric in _SHARES:
        if min(score, 1 - score) < _ROUNDING:
            return score, score
        margin /= score * (1 - score)
        return expit(logit(score) - margin), expit(logit(score) + margin)
    ceiling = 0.0 if metric.startswith("neg_") else 1.0
    gap = ceiling - score
    if gap <= 0:
        return score, score
    with np.errstate(over="ignore"):  # two rows at a high level: no lower bound
        return ceiling - gap * np.exp(margin / gap), ceiling - gap * np.exp(-margin / gap)


Influence = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def row_influence(metric: str, labels: np.ndarray, output: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Compute the influence of every row on a score, in O(n log n).

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
    """Return influences on the weighted mean of some values."""
    total = weight.sum()
    return weight * (values - weight @ values / total) / total


def _of_ratio(above: np.ndarray, below: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return influences on the ratio of two weighted sums."""
    total = weight @ below
    return weight * (above - below * (weight @ above / total)) / total


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
        rows, others = (np.flatnonzero((part == k) & side) for side in (own, ~own))
        if len(rows) and len(others):
            all_others[rows] = weight[others].sum()
            below[rows] = share_below(score[rows], score[others], weight[others]) * all_others[rows]
    return below[own], all_others[own]


def _roc_auc(y: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return auc_within(y, p, weight, np.zeros(len(y), dtype=np.intp))[1]


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


def _squared_error(y: np.ndarray, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return -_of_mean(np.square(y - value), weight)


def _root_squared_error(y: np.ndarray, value: np.ndarray, weight: np.ndarray) -> np.ndarray:
    root = np.sqrt(np.average(np.square(y - value), weights=weight))
    return _squared_error(y, value, weight) / (2 * root) if root > 0 else np.zeros(len(y))


_INFLUENCES: dict[str, Influence] = {
    "roc_auc": _roc_auc,
    "average_precision": _average_precision,
    "accuracy": lambda y, p, weight: _of_mean(y == p.argmax(1), weight),
    "balanced_accuracy": _balanced_accuracy,
    "neg_log_loss": _log_loss,
    "f1": _f1,
    "f1_macro": _f1_macro,
    "r2": _r2,
    "explained_variance": _explained_variance,
    "neg_root_mean_squared_error": _root_squared_error,
    "neg_mean_absolute_error": lambda y, value, weight: -_of_mean(np.abs(y - value), weight),
    "neg_mean_squared_error": _squared_error,
}
