"""Standard errors and confidence intervals of the score of a task, over draws of the test rows.

The standard errors are those of the infinitesimal jackknife (Efron, *The Jackknife, the Bootstrap and Other Resampling
Plans*, 1982): the influence of a row is its weight times the derivative of the score by that weight, and the squares of
the influences sum to the variance. For ROC AUC the influences are the placement values of DeLong, DeLong and
Clarke-Pearson (Biometrics 44, 1988). All cost O(n log n), know sample weights, need no seed, and give the error of a
difference of two models on the same rows, where a bootstrap would score a thousand tables.

Rows that were drawn together, such as those of a patient, are one unit: their influences are summed before they are
squared (Liang and Zeger, Biometrika 73, 1986). Without groups every row is a unit.

Rare classes dominate the error. The influences of a class in a unit are divided by the root of 1 - its share of the
rows of the class (Bell and McCaffrey, Survey Methodology 28, 2002), which is n / (n - 1) for the squares of n equal
units. The quantile is Student's with Satterthwaite's degrees of freedom over the classes, as Brunner and Munzel
(Biometrical Journal 42, 2000) use them for placement values, and at most one less than there are units, where unequal
ones count as the equal ones whose shares of the rows have the same sum of squares. Shares have their bounds on the
logit scale, losses and 1 - R² on the logarithmic one: bounds stay where scores can be, and lean to the side where few
rows can surprise. No perfect score is certain: with m rows in the rarer class, m disjoint pairs of rows are all in
order with probability AUC^m, so the bound of a perfect AUC at level 1 - a is (a / 2)^(1 / m) (Clopper and Pearson,
1934), and that of a mean over classes is the mean of theirs. No share may have a better bound than a perfect one.

Several fits add the error of their spread over seeds. Two or three seeds tell little of it, and Satterthwaite's degrees
of freedom would trust them too much: rows and seeds each have their error times their own quantile, and the squares of
both sum to that of the margin, which holds at least as often as it says (Banerjee, Sankhya A 23, 1961).

Several differences are judged at once by the largest of them in standard errors: its quantile is that of normal values
with the correlations of the influences, as multipliers of the influences would give it (Chernozhukov, Chetverikov and
Kato, Annals of Statistics 41, 2013), turned into a level that each interval has to have by itself. Errors over seeds
count as independent there, since so few cannot tell which models move together.

scipy and scikit-learn have no DeLong. The package confidenceinterval has, but ranks in float32 by Python loops, leaves
weights out of the variance and fails on a class of one row: hence this module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from scipy.special import expit, logit, ndtr, stdtrit

from tabmtl.base.params import is_number
from tabmtl.base.schema import warn_user
from tabmtl.metrics.metric import Metric
from tabmtl.metrics.scores import (
    Answered,
    by_metric,
    check_metric,
    count_groups,
    counting,
    each_task,
    metric_of,
    positive_class,
    score_task,
)

if TYPE_CHECKING:
    from tabmtl.targets import Task

__all__ = ["ScoreInterval", "score_difference", "score_interval", "score_intervals"]

#: A share this close to 0 or 1 differs from it by rounding only.
_ROUNDING = 1e-12

#: Draws of a joint quantile, how many are made at once, and bundles of units that tell its correlations.
_DRAWS, _BLOCK, _BUNDLES = 10_000, 1_000, 1_024


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


@dataclass(frozen=True, eq=False)
class Estimate:
    """A score, a difference of two, or a mean of these, with the influences that its error follows from.

    Attributes
    ----------
    scores : ndarray of shape (S,)
        By the seed of the fit.
    units : ndarray of int, shape (U,)
        Numbers of the groups or rows that count. With several seeds, each of them is a unit too, by a negative number.
    influence : ndarray of shape (U,)
        Of the units; the squares sum to the variance of the mean of the scores.
    freedom : float
        Degrees of freedom of the error over rows; 0 where there is none, see `no_interval_reason`. The error over seeds
        has one less than there are seeds.
    sizes : ndarray of int, shape (K,)
        Units of each class, or of all rows if the metric does not compare classes.
    """

    scores: np.ndarray
    units: np.ndarray
    influence: np.ndarray
    freedom: float
    sizes: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, influence: np.ndarray, part: np.ndarray, unit: np.ndarray) -> Estimate:
        """Join scores (S,) by seed with the influences of the rows on their mean, as `join_units` takes these."""
        units, of_units, freedom, sizes = join_units(influence, part, unit)
        n = len(scores)
        if n > 1:  # seeds are drawn too
            units = np.append(units, -1 - np.arange(n))
            of_units = np.append(of_units, (scores - scores.mean()) / math.sqrt(n * (n - 1)))
        return cls(scores, units, of_units, freedom, sizes)

    @property
    def score(self) -> float:
        """Mean over the seeds."""
        return float(self.scores.mean())

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for one seed."""
        return float(self.scores.std(ddof=1)) if len(self.scores) > 1 else None

    @property
    def error(self) -> float:
        """Standard error of the score."""
        return float(np.linalg.norm(self.influence))

    @property
    def errors(self) -> np.ndarray:
        """Standard errors over rows and over seeds; their squares sum to that of the `error`."""
        return np.array([np.linalg.norm(self.influence[own]) for own in (self.units >= 0, self.units < 0)])

    def interval(self, level: float = 0.95) -> ScoreInterval:
        """Return the score with its symmetric interval, which is None where there is no standard error."""
        if not self.freedom:
            return ScoreInterval(self.score, None, None, None)
        margin = self.margin(level)
        return ScoreInterval(self.score, self.error, self.score - margin, self.score + margin)

    def margin(self, level: float) -> float:
        """Return half the width of the symmetric interval."""
        freedoms = [self.freedom, max(1, len(self.scores) - 1)]
        return float(np.linalg.norm(self.errors * stdtrit(freedoms, (1 + level) / 2)))


def score_interval(
    task: Task,
    y: np.ndarray,
    output: np.ndarray,
    sample_weight: np.ndarray | None = None,
    group: np.ndarray | None = None,
    *,
    level: float = 0.95,
) -> ScoreInterval:
    """Score one task on its labelled rows, with a standard error and a confidence interval.

    The model is taken as given: the interval does not hold the spread over training seeds. The interval is too narrow
    for squared errors with heavy tails. It is also too narrow for means over classes if a class has fewer than five
    rows, and for f1_macro and balanced accuracy if a class is never predicted rightly.

    A score from 0 to 1, such as ROC AUC, has no better bound than a perfect score would have. With m rows of the rarer
    class (of all, for accuracy), or m groups that hold it, the lower bound at level 0.95 is at most 0.025 ** (1 / m):
    0.54 for six groups, 0.83 for twenty. In turn, the upper bound of a low score is at least 1 less this number. Models
    that are judged by few groups therefore often share a bound.

    Parameters
    ----------
    task, y, output, sample_weight
        As for :func:`tabmtl.metrics.scores.score_task`. A weight sets how much a row counts, not the number of rows it
        stands for.
    group : ndarray of int, shape (n,), optional
        Number of the group of every row, from 0, such as a patient: groups are taken as drawn independently. Default:
        rows are.
    level : float, default=0.95
        Share of intervals that are to hold the true score.

    Returns
    -------
    ScoreInterval
        All None with a TabmtlWarning where the score is undefined; the score alone, with a TabmtlWarning, where it
        compares classes and one of them has a single row or group, or if there is only one, and without a warning
        for the expected calibration error, whose error is not known.

    Raises
    ------
    ValueError
        If the level is not between 0 and 1, or as ``score_task`` does.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl.targets import Task
    >>> y = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1])
    >>> late = np.array([0.1, 0.2, 0.3, 0.1, 0.4, 0.2, 0.7, 0.3, 0.6, 0.9])
    >>> interval = score_interval(Task(name="late", kind="binary"), y, np.column_stack([1 - late, late]))
    >>> " ".join(f"{value:.2f}" for value in interval)
    '0.83 0.14 0.28 0.98'
    """
    _check_level(level)
    return _bounded(task, y, estimate(task, y, [output], (), sample_weight, group), sample_weight, group, level)


def score_difference(
    task: Task,
    y: np.ndarray,
    output: np.ndarray,
    reference: np.ndarray,
    sample_weight: np.ndarray | None = None,
    group: np.ndarray | None = None,
    *,
    level: float = 0.95,
) -> ScoreInterval:
    """Compare two models on the same rows: the score of the first minus that of the second.

    Rows that are hard for both models cancel, so the error is smaller than the errors of the two scores suggest. For
    ROC AUC, the error follows from DeLong's covariance.

    Parameters
    ----------
    task, y, output, sample_weight, group, level
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
    >>> from tabmtl.targets import Task
    >>> rng = np.random.default_rng(0)
    >>> hours = rng.normal(size=500)
    >>> better, worse = (hours + noise * rng.normal(size=500) for noise in (0.5, 0.6))
    >>> difference = score_difference(Task(name="hours", kind="regression"), hours, better, worse)
    >>> " ".join(f"{value:.2f}" for value in difference)
    '0.14 0.03 0.09 0.20'
    """
    _check_level(level)
    found = estimate(task, y, [output], [reference], sample_weight, group)
    if found is None:
        return ScoreInterval(None, None, None, None)
    _warn_of_none(task, y, found, sample_weight, group)
    return found.interval(level)


def score_intervals(
    tasks: Sequence[Task],
    y: np.ndarray,
    outputs: Sequence[np.ndarray],
    sample_weight: np.ndarray | None = None,
    own_task: np.ndarray | None = None,
    group: np.ndarray | None = None,
    *,
    level: float = 0.95,
) -> pl.DataFrame:
    """Score every task on its own labelled rows by all its metrics, with standard errors and confidence intervals.

    Parameters
    ----------
    tasks, y, outputs, sample_weight, own_task
        As for :func:`tabmtl.metrics.scores.score_tasks`.
    group, level
        As for :func:`score_interval`.

    Returns
    -------
    polars.DataFrame
        One row per task and metric, the watched one first: "task", "metric"; "score", "standard_error", "low" and
        "high" of :func:`score_interval`, null where it has None; "n_labelled", the number of rows that count;
        "n_positive", the number of rows in the second class of a binary task, null for other kinds;
        "positive_class", the text of this class if the metric depends on it, else null; with groups,
        "n_groups", the number of those that count, and "n_left_out", of those that do not count in a metric by group,
        since their labels are all alike.
    """
    return fit_intervals([Answered(tasks, y, list(outputs), sample_weight, own_task, group)], level=level)


def fit_intervals(fits: Sequence[Answered], *, level: float = 0.95) -> pl.DataFrame:
    """Score every task by the mean over fits of one model to the same rows, as `score_intervals` does for one."""
    _check_level(level)
    rows = []
    for own in zip(*(each_task(*fit) for fit in fits), strict=True):
        task, labels, _, weight, unit = own[0]
        for judged in by_metric(task):
            counts = labels[counting(judged, labels, weight, unit)]
            n_positive = int((counts == 1).sum()) if task.is_binary else None
            found = estimate(judged, labels, [output for _, _, output, *_ in own], (), weight, unit)
            interval = _bounded(judged, labels, found, weight, unit, level)
            n_groups = () if unit is None else count_groups(judged, labels, weight, unit)
            facts = (*interval, len(counts), n_positive, positive_class(judged), *n_groups)
            rows.append((task.name, str(check_metric(judged)), *facts))
    types: dict[str, Any] = {"task": pl.String, "metric": pl.String} | dict.fromkeys(ScoreInterval._fields, pl.Float64)
    types |= dict.fromkeys(("n_labelled", "n_positive"), pl.Int64)
    types |= {"positive_class": pl.String}
    types |= {} if fits[0].group is None else dict.fromkeys(("n_groups", "n_left_out"), pl.Int64)
    return pl.DataFrame(rows, types, orient="row")


def estimate(
    task: Task,
    y: np.ndarray,
    fits: Sequence[np.ndarray],
    references: Sequence[np.ndarray] = (),
    sample_weight: np.ndarray | None = None,
    group: np.ndarray | None = None,
) -> Estimate | None:
    """Score one task by the mean over fits of one model, less that of a reference.

    Parameters
    ----------
    task, y, sample_weight, group
        As for :func:`score_interval`.
    fits : sequence of S ndarray
        Outputs of the fits, one for every seed.
    references : sequence of S ndarray, optional
        Outputs of a reference by the same seeds; default: there is none.

    Returns
    -------
    Estimate or None
        None with a TabmtlWarning where the score is undefined.
    """
    scores, influence = np.zeros(len(fits)), np.zeros(1)
    for sign, outputs in ((1, fits), (-1, references)):
        for s, output in enumerate(outputs):
            scores[s] += sign * score_task(task, y, output, sample_weight, group)
            if np.isnan(scores[s]):
                return None
            of_rows, part = task_influences(task, y, output, sample_weight, group)
            influence = influence + sign * of_rows / len(fits)
    unit = (np.arange(len(y)) if group is None else group)[counting(task, y, sample_weight, group)]
    return Estimate.of(scores, influence, part, unit)


def estimate_tasks(fits: Sequence[Answered], references: Sequence[Answered] = ()) -> list[Estimate | None]:
    """Score every task on its own labelled rows, as `estimate` does; a unit has one number in all tasks."""
    if fits[0].group is None and not any(metric_of(task).compares == "groups" for task in fits[0].tasks):
        fits = [fit._replace(group=np.arange(len(fit.labels))) for fit in fits]
    found = []
    for answers in zip(*(each_task(*each) for each in (*fits, *references)), strict=True):
        task, labels, _, weight, unit = answers[0]
        own = [output for _, _, output, *_ in answers]
        found.append(estimate(task, labels, own[: len(fits)], own[len(fits) :], weight, unit))
    return found


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of estimates.

    What a unit does to several of them it does to their mean too: its influences are summed before they are squared.
    The degrees of freedom hold however the errors of the estimates depend on each other.
    """
    units, place = np.unique(np.concatenate([each.units for each in estimates]), return_inverse=True)
    parts = np.concatenate([each.influence for each in estimates]) / len(estimates)
    influence = np.bincount(place, parts)
    freedom = 0.0
    if all(each.freedom for each in estimates):
        ends = np.cumsum([len(each.units) for each in estimates])
        of_rows = np.where(units < 0, 0, influence)
        shares = [part.sum() for part in np.split(parts * of_rows[place], ends[:-1])]  # of the variance over rows
        roots = sum(abs(share) / math.sqrt(each.freedom) for share, each in zip(shares, estimates, strict=True))
        freedom = float(sum(shares) / roots) ** 2 if roots > 0 else math.inf
    scores = np.mean([each.scores for each in estimates], axis=0)
    return Estimate(scores, units, influence, freedom, np.zeros(0, dtype=np.intp))


def joint_level(estimates: Sequence[Estimate], level: float = 0.95) -> float:
    """Return the level of every interval at which all intervals of the estimates together hold with the given level."""
    moving = [each for each in estimates if each.freedom and each.error > 0]
    if len(moving) < 2:
        return level
    # a thousand bundles tell the correlations of any number of rows; few seeds tell none, and none is the safe guess
    n_bundles = int(min(_BUNDLES, 1 + max(each.units.max() for each in moving)))
    of_rows = [(each.units % n_bundles, np.where(each.units < 0, 0, each.influence)) for each in moving]
    bundled = np.array([np.bincount(unit, influence, n_bundles) for unit, influence in of_rows])
    root = np.linalg.qr(bundled.T, mode="r")  # no more rows than models and tasks, and the same correlations
    over_seeds = np.array([each.errors[1] for each in moving])
    total, rng = np.hypot(np.linalg.norm(root, axis=0), over_seeds), np.random.default_rng(0)
    largest = []
    for _ in range(_DRAWS // _BLOCK):
        drawn = rng.standard_normal((_BLOCK, len(root))) @ root
        drawn += rng.standard_normal(drawn.shape) * over_seeds
        largest.append(np.abs(drawn / total).max(axis=1))
    return 1 - 2 * float(ndtr(-np.quantile(largest, level)))


def no_interval_reason(
    task: Task, y: np.ndarray, sample_weight: np.ndarray | None = None, group: np.ndarray | None = None
) -> str | None:
    """Explain why a score that is defined has no interval on these labels, for any model; None if it has one.

    Parameters
    ----------
    task, y, sample_weight, group
        As for :func:`score_interval`.
    """
    if metric_of(task).influence is None:
        return f"no error of {check_metric(task)} is known, whatever the rows are"
    rows = counting(task, y, sample_weight, group)
    part, unit = _parts(task, y[rows]), (np.arange(len(y)) if group is None else group)[rows]
    sizes = join_units(np.zeros(len(part)), part, unit)[-1]
    if sizes.min() > 1:
        return None
    of_group = "one single group of labelled rows (without `groups`, equal rows are a group)"
    has = "one single labelled row" if group is None else of_group
    if len(sizes) == 1:
        return f"there is {has}"
    rarest = int(y[rows][part == sizes.argmin()][0])
    return f"the class {task.classes[rarest] if task.classes else rarest!r} has {has}"


def _bounded(
    task: Task,
    y: np.ndarray,
    found: Estimate | None,
    sample_weight: np.ndarray | None,
    group: np.ndarray | None,
    level: float,
) -> ScoreInterval:
    """Return the interval of a score, in which the score can be."""
    if found is None:
        return ScoreInterval(None, None, None, None)
    _warn_of_none(task, y, found, sample_weight, group)
    if not found.freedom:
        return found.interval(level)
    metric = metric_of(task)
    low, high = _bounds(metric, found.score, found.margin(level))
    if metric.is_share:
        rarer = np.minimum(found.sizes, found.sizes.sum() - found.sizes) if len(found.sizes) > 1 else found.sizes
        perfect = float(np.mean(((1 - level) / 2) ** (1 / rarer)))
        low, high = min(low, perfect), max(high, 1 - perfect)
    return ScoreInterval(found.score, found.error, float(low), float(high))


def _warn_of_none(
    task: Task, y: np.ndarray, found: Estimate, sample_weight: np.ndarray | None, group: np.ndarray | None
) -> None:
    """Warn of an estimate without an interval, where others of its metric have one."""
    if not found.freedom and metric_of(task).influence is not None:
        reason = no_interval_reason(task, y, sample_weight, group)
        warn_user(f"task {task.name!r}: {check_metric(task)} has no interval: {reason}")


def _check_level(level: float) -> None:
    if not (is_number(level) and 0 < level < 1):
        raise ValueError(f"level must be between 0 and 1, such as 0.95, got {level!r}")


def standard_error(influence: np.ndarray, part: np.ndarray, group: np.ndarray | None = None) -> float | None:
    """Return the standard error of a score, given the influences of its rows; None where a class has one unit."""
    unit = np.arange(len(influence)) if group is None else group
    _, of_units, freedom, _ = join_units(influence, part, unit)
    return float(np.linalg.norm(of_units)) if freedom else None


def join_units(
    influence: np.ndarray, part: np.ndarray, unit: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Sum the influences of rows over their units.

    Parameters
    ----------
    influence, part : ndarray of shape (n,)
        As `task_influences` gives them.
    unit : ndarray of int, shape (n,)

    Returns
    -------
    units, influence, freedom, sizes
        As `Estimate` has them.
    """
    units, unit = np.unique(unit, return_inverse=True)
    cells, cell = np.unique(part * len(units) + unit, return_inverse=True)  # the rows of a class in a unit
    of_class, of_unit = cells // len(units), cells % len(units)
    sizes = np.bincount(of_class)
    if sizes.min() < 2 or np.isnan(influence).any():
        return units, np.zeros(len(units)), 0.0, sizes
    share = np.bincount(cell) / np.bincount(part)[of_class]
    summed = np.bincount(cell, influence) / np.sqrt(1 - share)
    variance = np.bincount(of_class, summed**2)
    total = variance.sum()
    freedom = total**2 / (variance**2 / (sizes - 1)).sum() if total > 0 else math.inf
    # classes that meet in a unit do not vary by themselves, and small units add little to a large one
    n_equal = len(unit) ** 2 / np.square(np.bincount(unit)).sum()
    return units, np.bincount(of_unit, summed), min(float(freedom), max(1.0, float(n_equal - 1))), sizes


def task_influences(
    task: Task,
    y: np.ndarray,
    output: np.ndarray,
    sample_weight: np.ndarray | None,
    group: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the influence of each row that counts, and its class, or 0 if the metric does not compare classes.

    Influences are NaN where the metric has none, which leaves their sums without an error.
    """
    metric, rows = metric_of(task), counting(task, y, sample_weight, group)
    labels = y[rows].astype(task.kind.label_type)
    if metric.influence is None:
        return np.full(len(labels), np.nan), _parts(task, labels)
    weight = np.ones(len(labels)) if sample_weight is None else sample_weight[rows].astype(np.float64)
    grouped = {"group": group[rows]} if metric.compares == "groups" and group is not None else {}
    return metric.influence(labels, output[rows].astype(np.float64), weight, **grouped), _parts(task, labels)


def _parts(task: Task, labels: np.ndarray) -> np.ndarray:
    """Return the number of the class of each row that counts, from 0, or 0 if the metric does not compare classes."""
    is_of_classes = metric_of(task).compares == "classes"
    return np.unique(labels, return_inverse=True)[1] if is_of_classes else np.zeros(len(labels), dtype=np.intp)


def _bounds(metric: Metric, score: float, margin: float) -> tuple[float, float]:
    """Return the bounds of a score in its own units, computed on the scale that fits its metric."""
    if metric.is_share:
        if min(score, 1 - score) < _ROUNDING:
            return score, score
        margin /= score * (1 - score)
        return expit(logit(score) - margin), expit(logit(score) + margin)
    ceiling = metric.best
    if math.isinf(ceiling):
        return score - margin, score + margin
    gap = ceiling - score
    if gap <= 0:
        return score, score
    with np.errstate(over="ignore"):  # two rows at a high level: no lower bound
        return ceiling - gap * np.exp(margin / gap), ceiling - gap * np.exp(-margin / gap)
