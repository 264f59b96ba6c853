"""Scores of tasks with unlabelled cells.

Every score is one of scikit-learn's, under the name of its scorer, so higher is always better. The kind of a task has
its metrics, each a `tabmtl.metrics.metric.Metric`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from tabmtl.metrics.metric import Metric
from tabmtl.metrics.own import TaskMetric
from tabmtl.params import near
from tabmtl.schema import DivergenceError, html_table, warn_user

if TYPE_CHECKING:
    from tabmtl.targets import Task

__all__ = ["TaskScores", "check_metric", "mean_score", "score_task", "score_tasks", "undefined_reason"]


def check_metric(task: Task) -> str:
    """Return the name of the metric that judges a task.

    Parameters
    ----------
    task : Task
        ``task.metric``, or where that is None the default of the kind: ROC AUC, R² or D².

    Returns
    -------
    str
        A name that :func:`score_task` knows for the kind of this task.

    Raises
    ------
    ValueError
        If the task names a metric that does not fit its kind; the message lists those that do.

    Examples
    --------
    >>> from tabmtl.targets import Task
    >>> check_metric(Task(name="delay", kind="regression"))
    'r2'
    """
    known = task.kind.metrics
    metric = task.metric or next(iter(known))
    if isinstance(metric, TaskMetric):
        metric.of(task)
    elif metric not in known:
        raise ValueError(
            f"task {task.name!r}: metric {metric!r} does not fit {task.kind} tasks; choose one of {list(known)}"
            f"{near(metric, known)}"
        )
    return metric


def by_metric(task: Task) -> list[Task]:
    """Return a task as each of its metrics judges it, the watched one first; each judges alone.

    Raises
    ------
    ValueError
        As `check_metric` does.
    """
    names = (check_metric(task), *task.more_metrics)
    found = [task.judged_by(name) for name in names] if len(names) > 1 else [task]
    for each in found:
        check_metric(each)
    return found


def metric_of(task: Task) -> Metric:
    """Return the metric that judges a task."""
    name = check_metric(task)
    metric = name.of(task) if isinstance(name, TaskMetric) else task.kind.metrics[name]
    return metric.at(task.decide) if metric.decides and task.thresholds is not None else metric


def counted(y: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray:
    """Return the mask (n,) of the rows that count: labelled, and of positive weight."""
    labelled = ~np.isnan(y)
    return labelled if sample_weight is None else labelled & (sample_weight > 0)


def undefined_reason(task: Task, y: np.ndarray, sample_weight: np.ndarray | None = None) -> str | None:
    """Explain why the score of a task has no value on these labels, for any model.

    Ask once before a loop that scores the same rows again and again, and leave such tasks out of it.

    Parameters
    ----------
    task : Task
        The task and, in ``task.metric``, how it is judged.
    y, sample_weight
        As for :func:`score_task`.

    Returns
    -------
    str or None
        The reason, or None where the score is defined.
    """
    return _reason(metric_of(task), y[counted(y, sample_weight)])


def score_task(task: Task, y: np.ndarray, output: np.ndarray, sample_weight: np.ndarray | None = None) -> float:
    """Score one task on its labelled rows.

    Parameters
    ----------
    task : Task
        The task and, in ``task.metric``, how it is judged. Binary, focal: "roc_auc" (default), "average_precision",
        "accuracy", "balanced_accuracy", "neg_log_loss", "neg_brier_score", "neg_expected_calibration_error" (the mean
        gap in ten bins of equal width), "neg_log_predicted_over_observed" (the logarithm of the sum of probabilities
        over the number that came, without its sign), "f1", "f1_macro". Multiclass: the same without
        "average_precision", the ratio and "f1", the calibration error by the most probable class; "roc_auc" is the
        plain mean over the labelled classes of one against the rest. Ordinal: "quadratic_kappa" (default), as
        scikit-learn's ``cohen_kappa_score``, "neg_mean_absolute_error" in classes, both of the median, "accuracy",
        "neg_log_loss", "roc_auc". Regression: "r2" (default), "explained_variance", "neg_root_mean_squared_error",
        "neg_mean_absolute_error", "neg_mean_squared_error". Poisson: "d2_poisson" (default), the share of the deviance
        that is explained, as scikit-learn's ``d2_tweedie_score`` has it, "neg_mean_poisson_deviance", and those of a
        regression; gamma and tweedie have the same of theirs. Quantile: "d2_pinball" (default),
        "neg_mean_pinball_loss", and those of a regression. Quantiles: the same, the first two as means over the levels,
        those of a regression by the middle level. Huber: "d2_absolute_error" (default), and those of a regression.
    y : ndarray of shape (n,)
        Class indices 0..K-1 or, for regression, values in the target's own units. NaN is an unlabelled row.
    output : ndarray of shape (n, K) or (n,)
        Probabilities of the K classes (two of a binary task), or predictions in the target's own units, of K levels
        for quantiles.
    sample_weight : ndarray of shape (n,), optional
        Weights of the rows. A row of weight 0 counts as unlabelled.

    Returns
    -------
    float
        The score, higher is better. NaN with a TabmtlWarning where the labels leave it undefined: no labelled
        row, one single class, constant labels (:func:`undefined_reason` tells beforehand).

    Raises
    ------
    ValueError
        If the metric does not fit the kind, ``output`` has the wrong shape, or a labelled row has an output
        that is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl.targets import Task
    >>> y = np.array([0, 1, 1, np.nan])
    >>> late = np.array([0.1, 0.8, 0.6, 0.9])
    >>> score_task(Task(name="late", kind="binary"), y, np.column_stack([1 - late, late]))
    1.0
    """
    metric = metric_of(task)
    rows = counted(y, sample_weight)
    labels = y[rows]
    reason = _reason(metric, labels)
    if reason is not None:
        warn_user(f"task {task.name!r}: {check_metric(task)} is undefined: {reason}")
        return math.nan
    _check_output(task, y, output, labels)
    answers = output[rows]
    if not np.isfinite(answers).all():
        raise DivergenceError(
            f"task {task.name!r}: expected finite outputs to score, got NaN or infinity; the model may have "
            "diverged: try a lower learning rate"
        )
    labels = labels.astype(task.kind.label_type)
    weight = None if sample_weight is None else np.asarray(sample_weight[rows], dtype=np.float64)
    score = metric.sign * float(metric.score(labels, answers.astype(np.float64), sample_weight=weight))
    if not math.isfinite(score):
        warn_user(f"task {task.name!r}: {check_metric(task)} is undefined: its value is {score}")
        return math.nan
    return score


class TaskScores(dict[str, float | None]):
    """Scores by task, each by the metric that is watched; a notebook shows them as a table.

    Parameters
    ----------
    rows : sequence of tuple
        Task, metric and score, the watched metric of a task first.

    Attributes
    ----------
    by_metric : dict of str to dict
        By task, the score of each of its metrics.
    """

    def __init__(self, rows: Sequence[tuple[str, str, float | None]]) -> None:
        self.by_metric: dict[str, dict[str, float | None]] = {}
        for task, metric, score in rows:
            self.by_metric.setdefault(task, {})[metric] = score
        super().__init__({task: next(iter(scores.values())) for task, scores in self.by_metric.items()})

    def __reduce__(self) -> Any:
        return dict, (dict(self),)  # a copy for another process is plain

    def _repr_html_(self) -> str:
        rows = [
            (task, metric, "-" if score is None else f"{score:z.4f}")
            for task, scores in self.by_metric.items()
            for metric, score in scores.items()
        ]
        return html_table(("task", "metric", "score"), rows)


class Answered(NamedTuple):
    """Labels and answers of rows, in the order in which `score_tasks` and `score_intervals` take them.

    Attributes
    ----------
    tasks : tuple of Task
    labels : ndarray of shape (n, C)
        Labels as the model reads them; NaN is unlabelled.
    outputs : list of ndarray
        Answers for each of the C columns of y.
    weight : ndarray of shape (n, C) or None
    own_task : ndarray of int, shape (n,), or None
        Task of every row of a long table.
    """

    tasks: Sequence[Task]
    labels: np.ndarray
    outputs: list[np.ndarray]
    weight: np.ndarray | None = None
    own_task: np.ndarray | None = None

    @classmethod
    def join(cls, tasks: Sequence[Task], parts: Sequence[Sequence[Any]]) -> Self:
        """Join what parts of the rows have, without tasks and weights."""
        labels, outputs, own_task = zip(*parts, strict=True)
        return cls(
            tasks,
            np.concatenate(labels),
            [np.concatenate(column) for column in zip(*outputs, strict=True)],
            own_task=None if own_task[0] is None else np.concatenate(own_task),
        )

    def judged_by(self, metric: str) -> Self:
        """Return the same rows with tasks that one metric judges."""
        return self._replace(tasks=[task.judged_by(metric) for task in self.tasks])


def score_tasks(
    tasks: Sequence[Task],
    y: np.ndarray,
    outputs: Sequence[np.ndarray],
    sample_weight: np.ndarray | None = None,
    own_task: np.ndarray | None = None,
) -> dict[str, float | None]:
    """Score every task on its own labelled rows, by the metric that is watched.

    Parameters
    ----------
    tasks : sequence of Task
        The T tasks.
    y : ndarray of shape (n, T), or (n, 1) in the long layout
        One column of labels per task, as :func:`score_task` takes them.
    outputs : sequence of arrays
        One output per column of y, as :func:`score_task` takes them.
    sample_weight : ndarray of shape (n,) or that of y, optional
        Weights of the rows, the same for all tasks or one column per task.
    own_task : ndarray of int, shape (n,), optional
        Long layout: the index of each row's own task.

    Returns
    -------
    dict
        Task name to score, in task order. None with a TabmtlWarning where the score is undefined.

    Raises
    ------
    ValueError
        If the number of columns or outputs is not that of the tasks, or as :func:`score_task` does.
    """
    scores: dict[str, float | None] = {}
    for task, labels, output, weight in each_task(tasks, y, outputs, sample_weight, own_task):
        score = score_task(task, labels, output, weight)
        scores[task.name] = None if math.isnan(score) else score
    return scores


def score_metrics(
    tasks: Sequence[Task],
    y: np.ndarray,
    outputs: Sequence[np.ndarray],
    sample_weight: np.ndarray | None = None,
    own_task: np.ndarray | None = None,
) -> list[tuple[str, str, float | None]]:
    """Score every task by all its metrics, as `score_tasks` does by one: rows of the task, the metric and the score."""
    rows: list[tuple[str, str, float | None]] = []
    for task, labels, output, weight in each_task(tasks, y, outputs, sample_weight, own_task):
        for judged in by_metric(task):
            score = score_task(judged, labels, output, weight)
            rows.append((task.name, check_metric(judged), None if math.isnan(score) else score))
    return rows


def each_task(
    tasks: Sequence[Task],
    y: np.ndarray,
    outputs: Sequence[np.ndarray],
    sample_weight: np.ndarray | None = None,
    own_task: np.ndarray | None = None,
) -> Iterator[tuple[Task, np.ndarray, np.ndarray, np.ndarray | None]]:
    """Yield every task with its own rows of labels, outputs and weights, from the arguments of `score_tasks`."""
    n_columns = len(tasks) if own_task is None else 1
    if not y.shape[1] == len(outputs) == n_columns:
        raise ValueError(
            f"expected one column of y and one output for each of {n_columns} tasks, "
            f"got {y.shape[1]} columns and {len(outputs)} outputs"
        )
    for t, task in enumerate(tasks):
        rows, column = (slice(None), t) if own_task is None else (np.flatnonzero(own_task == t), 0)
        weight = sample_weight if sample_weight is None or sample_weight.ndim == 1 else sample_weight[:, column]
        yield task, y[rows, column], outputs[column][rows], None if weight is None else weight[rows]


def mean_score(scores: Mapping[str, float | None]) -> float:
    """Return the mean over the tasks whose score is defined.

    Parameters
    ----------
    scores : mapping of str to float or None
        Task name to score; None and NaN are undefined.

    Returns
    -------
    float
        The plain mean, NaN where no score is defined.

    Examples
    --------
    >>> mean_score({"late": 0.75, "delay": 0.25, "diverted": None})
    0.5
    """
    defined = [score for score in scores.values() if score is not None and not math.isnan(score)]
    return float(np.mean(defined)) if defined else math.nan


def _reason(metric: Metric, labels: np.ndarray) -> str | None:
    """Explain why a metric has no value on these labels (all of them counted); None if it has one."""
    if not len(labels):
        return "no labelled row"
    if metric.compares == "rows" or labels.min() != labels.max():
        return None
    if metric.compares == "values":
        return "one single labelled row" if len(labels) == 1 else f"every label is {labels[0]:g}"
    return "one single class among the labelled rows"


def _check_output(task: Task, y: np.ndarray, output: np.ndarray, labels: np.ndarray) -> None:
    """Raise a ValueError for an output that does not fit these labels."""
    if not task.is_classification:
        shape = task.kind.answer_shape(len(y), None)
        if output.shape != shape:
            raise ValueError(f"task {task.name!r}: expected outputs of shape {shape}, got {output.shape}")
        return
    n_classes = 2 if task.is_binary else len(task.classes or ()) or int(labels.max()) + 1
    if output.ndim != 2 or len(output) != len(y) or output.shape[1] < n_classes:
        raise ValueError(
            f"task {task.name!r}: expected one column per class, of shape {(len(y), n_classes)}, got {output.shape}"
        )
