"""Weights of classes: factors of the weights of labels in the losses of a fit, and in no score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from tabmtl.base.ranks import ALONE, Ranks
from tabmtl.base.schema import Batch
from tabmtl.encode.labels import LabelCoder
from tabmtl.targets import Task


@dataclass(frozen=True, eq=False)
class ClassFactors:
    """Factors of the weights of labels, by task and class.

    They leave the mean weight of the labels of a task as it was, so that tasks weigh as much against each other.

    Parameters
    ----------
    table : ndarray of shape (T, K) or None
        1 where a task has no weights of classes; None where no task has any.
    """

    table: np.ndarray | None

    @classmethod
    def learn(cls, labels: LabelCoder, blocks: Iterable[Batch], group: Ranks = ALONE, *, are_all: bool = True) -> Self:
        """Learn the factors of the labels to fit, given block by block; each rank of a group has some of them.

        Where ``are_all`` is False, a model has learned from others before, and a class needs no label.

        Raises
        ------
        ValueError
            If a class that has a weight has no label.
        """
        tasks = labels.tasks
        chosen = [t for t, task in enumerate(tasks) if task.class_weight is not None]
        if not chosen:
            return cls(None)
        table = np.ones((len(tasks), max(len(task.classes or ()) for task in tasks)))
        counts, weights = np.sum(group.gather(_sum_by_class(table.shape, chosen, blocks)), axis=0)
        if are_all:
            _check_counts(labels, counts)
        for t in chosen:
            classes = tasks[t].classes or ()
            own = _own_weights(tasks[t], counts[t, : len(classes)]) if counts[t].any() else np.ones(1)
            if np.ptp(own) > 0:
                own = np.ldexp(own, -np.frexp(own.max())[1])  # by a power of two: without rounding, and finite sums
                present = weights[t, : len(classes)]
                table[t, : len(classes)] = own * (present.sum() / (present @ own))
        return cls(None if (table == 1).all() else table)

    def of(self, y: np.ndarray, task: np.ndarray | None) -> np.ndarray | float:
        """Return the factors of labels (n, T) or, of a long table, (n, 1); 1 where there is no label."""
        if self.table is None:
            return 1.0
        of_task = np.arange(len(self.table)) if task is None else task[:, None]
        has_classes = (self.table != 1).any(axis=1)[of_task] & ~np.isnan(y)
        # the label of another task is a number, and no class
        return np.where(has_classes, self.table[of_task, np.where(has_classes, y, 0).astype(np.intp)], 1.0)

    def weighed(self, batch: Batch) -> Batch:
        """Return labelled rows with the factors in their weights."""
        if self.table is None:
            return batch
        of_class = np.asarray(self.of(batch.y, batch.task))
        weight = ~np.isnan(batch.y) * of_class if batch.weight is None else batch.weight * of_class
        return replace(batch, weight=weight, of_class=of_class)


def _sum_by_class(shape: tuple[int, int], chosen: Sequence[int], blocks: Iterable[Batch]) -> np.ndarray:
    """Return numbers and weights of labels by task and class, (2, T, K)."""
    sums = np.zeros((2, *shape))
    for batch in blocks:
        for t in chosen:
            column = t if batch.task is None else 0
            rows = ~np.isnan(batch.y[:, column])
            rows = rows if batch.task is None else rows & (batch.task == t)
            code = batch.y[rows, column].astype(np.intp)
            sums[0, t] += np.bincount(code, minlength=shape[1])
            sums[1, t] += np.bincount(code, None if batch.weight is None else batch.weight[rows, column], shape[1])
    return sums


def _check_counts(labels: LabelCoder, counts: np.ndarray) -> None:
    """Raise a ValueError for a class with a weight that no label of its column of y has, given numbers (T, K)."""
    of_columns = counts if labels.task_levels is None else counts.sum(axis=0, keepdims=True)
    for task, count in zip(labels.column_tasks, of_columns, strict=True):
        weights = () if isinstance(task.class_weight, str) else task.class_weight or ()
        for label, _ in weights:
            if not count[(task.classes or ()).index(label)]:
                raise ValueError(
                    f"task {task.name!r}: class_weight names the class {label!r}, of which there is no label to fit; "
                    "leave it out of class_weight, or label some rows"
                )


def _own_weights(task: Task, counts: np.ndarray) -> np.ndarray:
    """Return the weight of every class of a task as it is declared."""
    if isinstance(task.class_weight, str):  # "balanced"
        return counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    declared = dict(task.class_weight or ())
    return np.array([declared.get(label, 1.0) for label in task.classes or ()])


#: Of a fit without weights of classes.
NO_FACTORS = ClassFactors(None)
