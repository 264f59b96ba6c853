"""Tasks that join a fitted model, and those that leave it: functions of what was fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from tabmtl.base.params import near
from tabmtl.base.schema import Batch
from tabmtl.encode import LabelCoder, TableCoder
from tabmtl.encode.new_tasks import Freeze, weighed
from tabmtl.estimators.model import Model
from tabmtl.model_selection.repeats import SeenRows, groups_of_rows


class Head(Protocol):
    """Way to learn the head of a new task from what a network computes."""

    def learn(self, blocks: Sequence[np.ndarray], labels: Any, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights (p, width) of all features and the constants (width,) of the scores, in float64.

        Parameters
        ----------
        blocks : sequence of ndarray
            Features of n rows, standardised, p in all: those that the heads read, (n, p_0); those that the last layers
            of S heads read, (n, S, H); and the vectors of the rows, (n, p_2).
        labels : Labels
            See `tabmtl.training.penalised`, whose functions learn from them.
        fold : ndarray of int, shape (n,)
            Number of the fold of every row, which judges what the others teach.
        """
        ...


def rows_of_new(coder: TableCoder, X: Any, prepared: Any, y: Any, weight: Any, groups: Any, n_old: int) -> Batch:
    """Return the rows that new tasks learn from, encoded, given those as they came and behind the preprocessor.

    Raises
    ------
    ValueError, TypeError
        If a new task has no label, or rows do not fit.
    """
    batch = coder.after.read(prepared, y, weight)
    counts = batch.count_labels(len(coder.labels.tasks))[n_old:]
    if not counts.all():
        name = coder.labels.tasks[n_old + int(np.argmin(counts))].name
        raise ValueError(f"the new task {name!r} has no label in y; give rows that have some")
    batch = weighed(coder.labels, batch)
    return replace(batch, group=groups_of_rows(groups, X, batch))


def place_of(model: Model, name: Any) -> int:
    """Return the place of a task that may leave a model.

    Raises
    ------
    ValueError
        If there is no such task, or no other.
    """
    names = [task.name for task in model.tasks]
    if not isinstance(name, str) or name not in names:
        raise ValueError(f"there is no task {name!r}{near(str(name), names)} to remove; the tasks are {names}")
    if len(names) == 1:
        raise ValueError(f"{name!r} is the only task of the model, which cannot do without one; fit another model")
    return names.index(name)


def without_task(model: Model, t: int) -> Model:
    """Return a model without a task, given its place."""
    coder = replace(model.coder, labels=model.coder.labels.without(model.tasks[t].name))
    names = [task.name for task in coder.labels.tasks]
    return replace(
        model,
        coder=coder,
        fitted=model.fitted.without(t, coder.after),
        seen=model.seen if coder.task_column is None else SeenRows.unknown(),  # codes of tasks have changed
        profile=model.profile and model.profile.of_tasks(names, coder.task_column),
    )


def learned(labels: LabelCoder, batch: Batch, n_old: int, freeze: Freeze) -> tuple[Batch, tuple[str, ...]]:
    """Return rows with the columns of y that a call has learned, and their names."""
    if batch.task is not None or freeze is None:
        return batch, labels.names
    return replace(batch, y=batch.y[:, n_old:]), labels.names[n_old:]
