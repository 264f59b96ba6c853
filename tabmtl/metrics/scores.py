"""Scores of tasks with unlabelled cells.

Every score is one of scikit-learn's, under the name of its scorer, so higher is always better; those by group are of
`tabmtl.metrics.groups`. The kind of a task has its metrics, each a `tabmtl.metrics.metric.Metric`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from tabmtl.base.params import listed_names
from tabmtl.base.schema import DivergenceError, html_table, in_command, warn_user
from tabmtl.metrics.metric import Metric, find_metric, near_metric
from tabmtl.metrics.own import TaskMetric

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
        If the task has a metric of one's own that its kind cannot have.

    Examples
    --------
    >>> from tabmtl.targets import Task
    >>> check_metric(Task(name="delay", kind="regression"))
    'r2'
    """
    metric = task.metric or next(iter(task.kind.metrics))
    if isinstance(metric, TaskMetric):
        metric.of(task)
    return metric


def by_metric(task: Task) -> list[Task]:
    """Return a task as each of its metrics judges it, the watched one first; each judges alone.

    Raises
    ------
    ValueError
        As `check_metric` does.
    """
    watched = check_metric(task)
    found = [task.judged_by(name) for name in (watched, *task.more_metrics)] if task.more_metrics else []
    for each in found:
        check_metric(each)
    return found or [task]


def metric_of(task: Task) -> Metric:
    """Return the metric that judges a task."""
    name = check_metric(task)
    metric = name.of(task) if isinstance(name, TaskMetric) else find_metric(task.kind.metrics, name)
    assert metric is not None
    return metric.at(task.decide) if metric.decides and task.thresholds is not None else metric


def positive_class(task: Task) -> str | None:
    """Return the text of the positive class of two, None if the metric of the task does not depend on it."""
    return str(task.classes[1]) if task.is_binary and task.classes and metric_of(task).of_positive else None


def metrics_of_positive(task: Task) -> list[str]:
    """Return the metrics of a task that depend on the positive class of two."""
    return [check_metric(each) for each in by_metric(task) if positive_class(each) is not None]


def shown_metric(task: Task) -> str:
    """Return the metric of a task as tables show it, with the positive class if it depends on this one: "f1 of yes"."""
    positive = positive_class(task)
    return f"{check_metric(task)}{'' if positive is None else f' of {positive}'}"


def is_by_group(task: Task) -> bool:
    """Return whether any metric of a task compares groups of rows."""
    return any(metric_of(each).compares == "groups" for each in by_metric(task))


def with_metrics(tasks: Sequence[Task], metric: str | Sequence[str]) -> list[Task]:
    """Return tasks that are judged by other metrics; those of kinds that have none of these keep their own.

    Raises
    ------
    ValueError, TypeError
        If no kind of the tasks has one of the metrics, or they are no names.
    """
    names = listed_names("metric must be the name of a score", metric)
    found, fitting = [], set()
    for task in tasks:
        own = [name for name in names if isinstance(name, TaskMetric) or find_metric(task.kind.metrics, name)]
        fitting.update(own)
        found.append(task.judged_by(own) if own else task)
    for name in names:
        if name not in fitting:
            every = {name: each for task in tasks for name, each in task.kind.metrics.items()}
            raise ValueError(
                f"metric {name!r} fits no task; those of the tasks are {[*every]}{near_metric(name, every)}"
            )
    return found


def with_group_metrics(tasks: Sequence[Task]) -> list[Task]:
    """Return tasks with all metrics by group that their kinds have, behind their own."""
    found = []
    for task in tasks:
        own = [check_metric(task), *task.more_metrics]
        own += [name for name, each in task.kind.metrics.items() if each.compares == "groups" and name not in own]
        found.append(task.judged_by(own))
    return found


def counted(y: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray:
    """Return the mask (n,) of the rows that are labelled, and of positive weight."""
    labelled = ~np.isnan(y)
    return labelled if sample_weight is None else labelled & (sample_weight > 0)


def counting(
    task: Task, y: np.ndarray, sample_weight: np.ndarray | None = None, group: np.ndarray | None = None
) -> np.ndarray:
    """Return the mask (n,) of the rows that count in the score of a task.

    These are the `counted` ones, and, by a metric that compares groups, those of groups with two different labels.

    Raises
    ------
    ValueError
        If the metric compares groups, and there are none.
    """
    rows = counted(y, sample_weight)
    if metric_of(task).compares != "groups":
        return rows
    refuse_without_groups([task], group)
    assert group is not None
    number, labels = np.unique(group[rows], return_inverse=True)[1], y[rows]
    first = np.empty(number.max(initial=-1) + 1)
    first[number] = labels
    rows[rows] = (np.bincount(number, labels != first[number]) > 0)[number] if len(labels) else False
    return rows


def refuse_without_groups(tasks: Sequence[Task], groups: Any, rows: str = "the rows", cure: str | None = None) -> None:
    """Raise a ValueError for a task with a metric by group, if rows have no groups, which are None."""
    judging = (each for task in tasks for each in by_metric(task))
    asking = ((each.name, check_metric(each)) for each in judging if metric_of(each).compares == "groups")
    found = next(asking, None) if groups is None else None
    if found is None:
        return
    name, metric = found
    if cure is None:
        is_command = in_command.get()
        cure = "name the column of X that holds them, or give one for every row, as groups="
        cure = "name the column that holds them by --group-column" if is_command else cure
    raise ValueError(
        f"task {name!r}: {metric} compares rows of one group, such as a user, and {rows} have no groups; {cure}"
    )


def count_groups(task: Task, y: np.ndarray, sample_weight: np.ndarray | None, group: np.ndarray) -> tuple[int, int]:
    """Return how many groups of labelled rows count in a score, and how many do not, since their labels are alike."""
    n_labelled, n_counting = (
        len(np.unique(group[rows])) for rows in (counted(y, sample_weight), counting(task, y, sample_weight, group))
    )
    return n_counting, n_labelled - n_counting


def undefined_reason(
    task: Task, y: np.ndarray, sample_weight: np.ndarray | None = None, group: np.ndarray | None = None
) -> str | None:
    """Explain why the score of a task has no value on these labels, for any model.

    Ask once before a loop that scores the same rows again and again, and leave such tasks out of it.

    Parameters
    ----------
    task : Task
        The task and, in ``task.metric``, how it is judged.
    y, sample_weight, group
        As for :func:`score_task`.

    Returns
    -------
    str or None
        The reason, or None where the score is defined.
    """
    return _reason(metric_of(task), y[counting(task, y, sample_weight, group)])


def score_task(
    task: Task,
    y: np.ndarray,
    output: np.ndarray,
    sample_weight: np.ndarray | None = None,
    group: np.ndarray | None = None,
) -> float:
    """Score one task on its labelled rows.

    Parameters
    ----------
    task : Task
        The task and, in ``task.metric``, how it is judged. Binary, focal: "roc_auc" (default), "average_precision",
        "accuracy", "balanced_accuracy", "neg_log_loss", "neg_brier_score", "neg_expected_calibration_error" (the mean
        gap in ten bins of equal width, less the noise of their labels: about 0 for a calibrated model, and now and then
        above 0; without intervals), "neg_log_predicted_over_observed" (the logarithm of the sum of probabilities
        over the number that came, without its sign), "f1", "f1_macro". Multiclass: the same without
        "average_precision", the ratio and "f1", the calibration error by the most probable class; "roc_auc" is the
        plain mean over the labelled classes of one against the rest. Ordinal: "quadratic_kappa" (default), as
        scikit-learn's ``cohen_kappa_score``, "neg_mean_absolute_error" in classes, both of the median, "accuracy",
        "neg_log_loss", "roc_auc". Binary, focal and ordinal, by group: "gauc", "ndcg@10", "mrr", "hit_rate@10", or any
        k for 10; see :mod:`tabmtl.metrics.groups`. Regression: "r2" (default), "explained_variance",
        "neg_root_mean_squared_error", "neg_mean_absolute_error", "neg_mean_squared_error". Poisson: "d2_poisson"
        (default), the share of the deviance that is explained, as scikit-learn's ``d2_tweedie_score`` has it,
        "neg_mean_poisson_deviance", and those of a regression; gamma and tweedie have the same of theirs. Quantile:
        "d2_pinball" (default), "neg_mean_pinball_loss", and those of a regression. Quantiles: the same, the first two
        as means over the levels, those of a regression by the middle level. Huber: "d2_absolute_error" (default), and
        those of a regression.
    y : ndarray of shape (n,)
        Class indices 0..K-1 or, for regression, values in the target's own units. NaN is an unlabelled row.
    output : ndarray of shape (n, K) or (n,)
        Probabilities of the K classes (two of a binary task), or predictions in the target's own units, of K levels
        for quantiles.
    sample_weight : ndarray of shape (n,), optional
        Weights of the rows. A row of weight 0 counts as unlabelled.
    group : ndarray of int, shape (n,), optional
        Number of every row's group, such as a user, which metrics by group need.

    Returns
    -------
    float
        The score, higher is better. NaN with a TabmtlWarning where the labels leave it undefined: no labelled
        row, one single class, constant labels, also of each group (:func:`undefined_reason` tells beforehand).

    Raises
    ------
    ValueError
        If the metric does not fit the kind, ``output`` has the wrong shape, or a labelled row has an output
        that is not finite, or the metric is by group and there are no groups.

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
    rows = counting(task, y, sample_weight, group)
    labels = y[rows]
    reason = _reason(metric, labels)
    if reason is not None:
        what = "a score by group" if metric.compares == "groups" else check_metric(task)  # one warning for all of these
        warn_user(f"task {task.name!r}: {what} is undefined: {reason}")
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
    grouped = {"group": group[rows]} if metric.compares == "groups" and group is not None else {}
    score = metric.sign * float(metric.score(labels, answers.astype(np.float64), sample_weight=weight, **grouped))
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
    n_groups : dict of str to tuple of int, optional
    shown : dict of (str, str) to str, optional
        By task and metric, how a notebook shows the metric.

    Attributes
    ----------
    by_metric : dict of str to dict
        By task, the score of each of its metrics.
    n_groups : dict of str to tuple of int
        By task that has scores by group, the number of groups that count in these, and of those that do not, since
        their labels are all alike.
    """

    def __init__(
        self,
        rows: Sequence[tuple[str, str, float | None]],
        n_groups: Mapping[str, tuple[int, int]] = MappingProxyType({}),
        shown: Mapping[tuple[str, str], str] = MappingProxyType({}),
    ) -> None:
        self.n_groups, self._shown = dict(n_groups), dict(shown)
        self.by_metric: dict[str, dict[str, float | None]] = {}
        for task, metric, score in rows:
            self.by_metric.setdefault(task, {})[metric] = score
        super().__init__({task: next(iter(scores.values())) for task, scores in self.by_metric.items()})

    def __reduce__(self) -> Any:
        return dict, (dict(self),)  # a copy for another process is plain

    def _repr_html_(self) -> str:
        rows = [
            (task, self._shown.get((task, metric), metric), "-" if score is None else f"{score:z.4f}")
            for task, scores in self.by_metric.items()
            for metric, score in scores.items()
        ]
        groups = (
            f"{task}: {n} groups count, {left_out} of labels all alike do not"
            for task, (n, left_out) in self.n_groups.items()
        )
        return html_table(("task", "metric", "score"), rows, "; ".join(groups))


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
    group : ndarray of int, shape (n,), or None
        Number of every row's group.
    """

    tasks: Sequence[Task]
    labels: np.ndarray
    outputs: list[np.ndarray]
    weight: np.ndarray | None = None
    own_task: np.ndarray | None = None
    group: np.ndarray | None = None

    @classmethod
    def join(cls, tasks: Sequence[Task], parts: Sequence[Sequence[Any]]) -> Self:
        """Join what parts of the rows have, without tasks and weights."""
        labels, outputs, own_task, group = zip(*parts, strict=True)
        return cls(
            tasks,
            np.concatenate(labels),
            [np.concatenate(column) for column in zip(*outputs, strict=True)],
            own_task=None if own_task[0] is None else np.concatenate(own_task),
            group=None if group[0] is None else np.concatenate(group),
        )


def score_tasks(
    tasks: Sequence[Task],
    y: np.ndarray,
    outputs: Sequence[np.ndarray],
    sample_weight: np.ndarray | None = None,
    own_task: np.ndarray | None = None,
    group: np.ndarray | None = None,
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
    group : ndarray of int, shape (n,), optional
        Number of every row's group, as :func:`score_task` takes it.

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
    for each in each_task(tasks, y, outputs, sample_weight, own_task, group):
        task, score = each[0], score_task(*each)
        scores[task.name] = None if math.isnan(score) else score
    return scores


def score_metrics(answered: Answered) -> TaskScores:
    """Score every task by all its metrics, as `score_tasks` does by one."""
    rows: list[tuple[str, str, float | None]] = []
    n_groups: dict[str, tuple[int, int]] = {}
    shown: dict[tuple[str, str], str] = {}
    for task, labels, output, weight, group in each_task(*answered):
        for judged in by_metric(task):
            score = score_task(judged, labels, output, weight, group)
            rows.append((task.name, check_metric(judged), None if math.isnan(score) else score))
            shown[rows[-1][:2]] = shown_metric(judged)
            if group is not None and task.name not in n_groups and is_by_group(judged):
                n_groups[task.name] = count_groups(judged, labels, weight, group)
    return TaskScores(rows, n_groups, shown)


def each_task(
    tasks: Sequence[Task],
    y: np.ndarray,
    outputs: Sequence[np.ndarray],
    sample_weight: np.ndarray | None = None,
    own_task: np.ndarray | None = None,
    group: np.ndarray | None = None,
) -> Iterator[tuple[Task, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]]:
    """Yield every task with its own rows of labels, outputs, weights and groups, from those of `score_tasks`."""
    n_columns = len(tasks) if own_task is None else 1
    if not y.shape[1] == len(outputs) == n_columns:
        raise ValueError(
            f"expected one column of y and one output for each of {n_columns} tasks, "
            f"got {y.shape[1]} columns and {len(outputs)} outputs"
        )
    for t, task in enumerate(tasks):
        rows, column = (slice(None), t) if own_task is None else (np.flatnonzero(own_task == t), 0)
        weight = sample_weight if sample_weight is None or sample_weight.ndim == 1 else sample_weight[:, column]
        own_weight, own_group = (None if part is None else part[rows] for part in (weight, group))
        yield task, y[rows, column], outputs[column][rows], own_weight, own_group


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
        return "no group has two different labels" if metric.compares == "groups" else "no labelled row"
    if metric.compares in ("rows", "groups") or labels.min() != labels.max():
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
