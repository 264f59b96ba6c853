"""Coders of tables that new tasks join."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from tabmtl.base.schema import Batch, warn_user
from tabmtl.encode.class_factors import ClassFactors
from tabmtl.encode.labels import LabelCoder
from tabmtl.encode.table import TableCoder, sort_tasks, task_texts
from tabmtl.encode.tasks import DeclaredTasks

Freeze = Literal["shared"] | None


def with_new_tasks(
    coder: TableCoder, X: Any, y: Any, tasks: DeclaredTasks, sample_weight: Any, freeze: Freeze, force: Any
) -> tuple[TableCoder, Any, Any]:
    """Return the coder of all tasks, and the labels and weights of all columns of y.

    Parameters
    ----------
    coder : TableCoder
        Of the model.
    X : rows behind the preprocessor
    y, tasks, sample_weight, freeze : as in `add_task`
    force : str or None
        Kind of every undeclared task, as in `LabelCoder.fit`.

    Raises
    ------
    ValueError, TypeError
        If the model has a task already, or labels do not fit.
    """
    if coder.task_column is not None:
        if tasks is not None:
            raise ValueError("tasks of a long table are of one kind, that of fit; leave out tasks")
        return replace(coder, labels=coder.labels.with_levels(_new_levels(coder.after, X, freeze))), y, sample_weight
    labels, frame, weight = coder.labels.beside(y, sample_weight, tasks=tasks, force=force)
    known = [name for name in coder.labels.names if frame[name].null_count() < len(frame)]
    if known and freeze is not None:
        raise ValueError(
            f"the model has the tasks {known} already; leave them out of y, part with them by remove_task, or say "
            "freeze=None to train them on"
        )
    return replace(coder, labels=labels), frame, weight


def undecided(coder: TableCoder) -> TableCoder:
    """Return a coder without what was learned of answers that are to change, with a warning if there was some."""
    if coder.labels.decisions is None:
        return coder
    warn_user(
        "freeze=None changes the answers of all tasks, so what calibrate, tune_thresholds and conformalize have "
        "learned is dropped; call them again, on rows that the model has not seen"
    )
    tasks = tuple(replace(task, name=task.name) for task in coder.labels.tasks)  # without their thresholds
    return replace(coder, labels=replace(coder.labels, tasks=tasks, decisions=None))


def weighed(labels: LabelCoder, batch: Batch) -> Batch:
    """Return rows whose weights know the weights of classes, of the tasks that have labels."""
    counts = batch.count_labels(len(labels.tasks))
    tasks = [task if n else replace(task, class_weight=None) for task, n in zip(labels.tasks, counts, strict=True)]
    return ClassFactors.learn(replace(labels, tasks=tuple(tasks)), [batch]).weighed(batch)


def _new_levels(coder: TableCoder, X: Any, freeze: Freeze) -> tuple[str, ...]:
    """Return the new tasks among those that rows of a long table belong to."""
    column, frame = str(coder.task_column), coder.read_frame(X)
    texts = task_texts(frame, column)
    found = sort_tasks(texts.unique(), column, frame.collect_schema()[column])
    known = coder.labels.task_levels or ()
    old, new = [name for name in found if name in known], tuple(name for name in found if name not in known)
    if not new:
        raise ValueError(f"task_column {column!r} names no new task: the model has {old[:10]} already")
    if old and freeze is not None:
        raise ValueError(
            f"task_column {column!r}: rows belong to the tasks {old[:10]}, which the model has already; give the "
            f"rows of {[*new[:10]]} alone, or say freeze=None to train the others on"
        )
    return new
