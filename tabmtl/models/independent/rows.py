"""Labelled rows of one task, and their move to the rank that fits it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from tabmtl.estimators.boosted.border import tree_matrix
from tabmtl.model_selection.repeats import number_groups
from tabmtl.processes.ranks import Ranks
from tabmtl.schema import Batch


class TaskRows(NamedTuple):
    """Rows with a label of one task, with its labels and weights (n,) alone: of fit, and of the validation rows.

    The former may be of one group or one time, where other tasks have several. They have ``numbers``, unless they
    moved. If folds were given, ``fold`` is the number of the fold of each.
    """

    rows: Batch
    watched: Batch | None
    are_one_unit: bool
    numbers: np.ndarray | None = None
    fold: np.ndarray | None = None

    @classmethod
    def of(cls, batch: Batch, valid: Batch | None, fold: np.ndarray | None, t: int) -> TaskRows:
        """Take the rows of task t."""
        index, rows = _labelled_rows(batch, t)
        is_lone = rows.time is not None and not np.ptp(rows.time)
        if batch.group is not None and not np.ptp(rows.group):
            is_lone |= bool(np.ptp(batch.group[~np.isnan(batch.y).all(axis=1)]))
        watched = None if valid is None else _labelled_rows(valid, t)[1]
        return cls(rows, watched, is_lone, index, None if fold is None else fold[index])

    @classmethod
    def moved(cls, batch: Batch, valid: Batch | None, t: int, owner: int, group: Ranks) -> TaskRows | None:
        """Move the rows of task t to the rank that fits it; on the others, return None."""
        labelled = None if batch.group is None else np.unique(batch.group[~np.isnan(batch.y).all(axis=1)])
        groups = group.gather(labelled, to=owner)
        found = _labelled_rows(batch, t)[1].gathered(group, owner)
        watched = [] if valid is None else _labelled_rows(valid, t)[1].gathered(group, owner)
        if not found:
            return None
        rows = Batch.join(found)
        is_lone = rows.group is not None and not np.ptp(rows.group) and bool(np.ptp(np.concatenate(groups)))
        is_lone |= rows.time is not None and not np.ptp(rows.time)
        if rows.group is not None:
            rows = replace(rows, group=number_groups(rows.group.tolist()))
        return cls(rows, None if valid is None else Batch.join(watched), is_lone)


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows with a label of one task as LightGBM takes them.

    Attributes
    ----------
    x : ndarray of float32, shape (n, p)
    y : ndarray of shape (n,)
    weight, group, time : ndarray of shape (n,), optional
    fold : ndarray of int, shape (n,), optional
        Folds that were given, in place of those that would be dealt.
    of_class : ndarray of shape (n,), optional
        Factors that the weights have of the classes.
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None
    group: np.ndarray | None
    fold: np.ndarray | None = None
    of_class: np.ndarray | None = None
    time: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    @classmethod
    def of(cls, rows: Batch, fold: np.ndarray | None = None) -> Sample:
        """Take the rows of a task."""
        return cls(tree_matrix(rows), rows.y, rows.weight, rows.group, fold, rows.of_class, rows.time)

    def rows(self, index: np.ndarray) -> Sample:
        """Take some of the rows."""
        parts = (self.weight, self.group, self.of_class, self.time)
        weight, group, of_class, time = (None if part is None else part[index] for part in parts)
        return Sample(self.x[index], self.y[index], weight, group, of_class=of_class, time=time)

    @property
    def score_weight(self) -> np.ndarray | None:
        """Weights of scores: those of losses without the factors of classes."""
        return self.weight if self.weight is None or self.of_class is None else self.weight / self.of_class

    def undivided(self) -> Sample:
        """Return the rows without their group or their time if it is but one, which no folds divide."""
        group, time = (None if part is None or not np.ptp(part) else part for part in (self.group, self.time))
        return self if group is self.group and time is self.time else replace(self, group=group, time=time)


def _labelled_rows(batch: Batch, t: int) -> tuple[np.ndarray, Batch]:
    """Return the numbers of the rows with a label of task t, and these rows with its labels and weights (n,) alone."""
    column = t if batch.task is None else 0
    labelled = ~np.isnan(batch.y[:, column])
    index = np.flatnonzero(labelled if batch.task is None else labelled & (batch.task == t))
    rows = batch if len(index) == len(batch) else batch.rows(index)  # no copy of a table whose rows are all labelled
    weight, of_class = (None if part is None else part[:, column] for part in (rows.weight, rows.of_class))
    return index, replace(rows, y=rows.y[:, column], weight=weight, of_class=of_class)
