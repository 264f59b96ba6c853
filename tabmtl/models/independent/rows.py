"""Labelled rows of one task."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from tabmtl.base.schema import Batch
from tabmtl.estimators.boosted.border import tree_matrix
from tabmtl.estimators.mixing.levels import LevelParts, LevelRows

#: Takes the rows of a task.
Take = Callable[[int], Any]


class TaskRows(NamedTuple):
    """Rows with a label of one task, with its labels and weights (n,) alone: of fit, and of the validation rows.

    The former, which have ``numbers``, may be of one group or one time, where other tasks have several. If folds were
    given, ``fold`` is the number of the fold of each.
    """

    rows: Batch
    watched: Batch | None
    are_one_unit: bool
    numbers: np.ndarray
    fold: np.ndarray | None = None
    levels: Levels | None = None

    @classmethod
    def of(
        cls, batch: Batch, valid: Batch | None, fold: np.ndarray | None, t: int, levels: LevelParts | None = None
    ) -> TaskRows:
        """Take the rows of task t."""
        index, rows = labelled_rows(batch, t)
        is_lone = rows.time is not None and not np.ptp(rows.time)
        if batch.group is not None and not np.ptp(rows.group):
            is_lone |= bool(np.ptp(batch.group[~np.isnan(batch.y).all(axis=1)]))
        watched = None if valid is None else labelled_rows(valid, t)[1]
        own = None if levels is None or fold is None else Levels.of(batch, levels, fold, t)
        return cls(rows, watched, is_lone, index, None if fold is None else fold[index], own)


@dataclass(frozen=True, eq=False)
class Levels:
    """Means of levels that a task may read: of no target, of its own, or of all.

    Attributes
    ----------
    fold, group : ndarray of int, shape (n,)
        Of all rows of the fit; rows of a group are learned from together.
    first : int
        Place of the first of their numbers among those of a row.
    own : ndarray of bool, shape (E,)
        Whether a number tells of the task.
    parts : LevelParts
        The rows in parts.
    """

    fold: np.ndarray
    group: np.ndarray | None
    first: int
    own: np.ndarray
    parts: LevelParts

    @classmethod
    def of(cls, batch: Batch, parts: LevelParts, fold: np.ndarray, t: int) -> Levels:
        """Return the levels of task t, by parts that are the folds."""
        whole = parts.rows.whole
        return cls(fold, batch.group, batch.x.numbers.shape[1] - whole.n_numbers, whole.is_own(t), parts)

    @property
    def readings(self) -> tuple[str, ...]:
        """Which means there are to choose from: "none", "all", and "own" if other tasks have some."""
        return ("none", "all") if self.own.all() else ("none", "all", "own")

    def parted(self, fold: np.ndarray) -> Levels:
        """Return the levels with other folds (n,) of all rows as parts."""
        return replace(self, fold=fold, parts=self.parts.rows.parted(fold + 1))

    def modulo(self, n: int) -> Levels:
        """Return the levels with n folds of all rows; those below 0 stay in none."""
        return self.parted(np.where(self.fold < 0, self.fold, self.fold % n))

    def without(self, numbers: np.ndarray) -> Levels:
        """Return the levels by which nothing is known of some rows, and of others of their groups."""
        fold = self.fold.copy()
        is_gone = np.zeros(len(fold), dtype=bool)
        is_gone[numbers] = True
        if self.group is not None:
            is_gone = np.isin(self.group, self.group[numbers])
        fold[is_gone] = -2
        return self.parted(fold)

    def filled(self, x: np.ndarray, numbers: np.ndarray, reading: str, held: int) -> np.ndarray:
        """Return rows x by their numbers with the means that are read, by labels of none of the fold held."""
        if reading == "none":
            return x
        means = self.parts.numbers(numbers, held + 1)
        found = x.copy()
        found[:, self.first : self.first + len(self.own)] = np.where(self.own | (reading == "all"), means, 0.0)
        return found


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows with a label of one task as LightGBM takes them.

    Attributes
    ----------
    x : ndarray of float32, shape (n, p)
    y : ndarray of shape (n,)
    weight, group, time : ndarray of shape (n,), optional
    fold : ndarray of int, shape (n,), optional
        Folds that the table has, in place of those that would be dealt.
    of_class : ndarray of shape (n,), optional
        Factors that the weights have of the classes.
    numbers : ndarray of int, shape (n,), optional
        Of the rows among all of the fit.
    levels : Levels, optional
        Means of levels, which are 0 in ``x`` until `filled` gives them.
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None
    group: np.ndarray | None
    fold: np.ndarray | None = None
    of_class: np.ndarray | None = None
    time: np.ndarray | None = None
    numbers: np.ndarray | None = None
    levels: Levels | None = None

    def __len__(self) -> int:
        return len(self.y)

    @classmethod
    def of(cls, rows: Batch) -> Sample:
        """Take rows of a task."""
        return cls(tree_matrix(rows), rows.y, rows.weight, rows.group, of_class=rows.of_class, time=rows.time)

    @classmethod
    def of_task(cls, given: TaskRows) -> Sample:
        """Take all rows of a task."""
        return replace(cls.of(given.rows), fold=given.fold, numbers=given.numbers, levels=given.levels)

    def rows(self, index: np.ndarray) -> Sample:
        """Take some of the rows, which have no folds."""
        parts = {name: part for name, part in vars(self).items() if isinstance(part, np.ndarray) and name != "fold"}
        return replace(self, fold=None, **{name: part[index] for name, part in parts.items()})

    def apart(self, index: np.ndarray) -> Sample:
        """Return the rows, whose means of levels know nothing of some of them."""
        if self.levels is None or self.numbers is None:
            return self
        return replace(self, levels=self.levels.without(self.numbers[index]))

    @property
    def readings(self) -> tuple[str, ...]:
        """Which means of levels there are to choose from."""
        return ("none",) if self.levels is None else self.levels.readings

    def places(self, reading: str) -> np.ndarray:
        """Return the columns of x that are not blank."""
        return np.flatnonzero(self._is_read(reading))

    def pieces(self, reading: str, n_numbers: int, n: int) -> list[int]:
        """Return the pieces of the curves of all numbers: n, 1 of means of levels, and 0 of those that are blank."""
        pieces = np.full(self.x.shape[1], n)
        if self.levels is not None:
            pieces[self.levels.first : self.levels.first + len(self.levels.own)] = 1
        return (pieces * self._is_read(reading))[:n_numbers].tolist()

    def _is_read(self, reading: str) -> np.ndarray:
        is_read = np.ones(self.x.shape[1], dtype=bool)
        if self.levels is not None:
            own = np.zeros_like(self.levels.own) if reading == "none" else self.levels.own | (reading == "all")
            is_read[self.levels.first : self.levels.first + len(own)] = own
        return is_read

    def filled(self, reading: str, held: int = -1) -> Sample:
        """Return the rows with the means of levels that are read, by labels of none of the fold held."""
        if self.levels is None or self.numbers is None:
            return self
        return replace(self, x=self.levels.filled(self.x, self.numbers, reading, held))

    @property
    def score_weight(self) -> np.ndarray | None:
        """Weights of scores: those of losses without the factors of classes."""
        return self.weight if self.weight is None or self.of_class is None else self.weight / self.of_class

    def undivided(self) -> Sample:
        """Return the rows without their group or their time if it is but one, which no folds divide."""
        group, time = (None if part is None or not np.ptp(part) else part for part in (self.group, self.time))
        return self if group is self.group and time is self.time else replace(self, group=group, time=time)


def reading(levels: LevelRows, batch: Batch, valid: Batch | None, fold: np.ndarray, reads: Collection[int]) -> Take:
    """Return what takes the rows of a task, of which some may read means of levels, by folds (n,) of all rows."""
    blank, parts = levels.whole.blank(batch), levels.parted(fold + 1)
    asked = None if valid is None else levels.whole.extended(valid)
    return lambda t: TaskRows.of(blank, asked, fold, t, parts if t in reads else None)


def labelled_rows(batch: Batch, t: int) -> tuple[np.ndarray, Batch]:
    """Return the numbers of the rows with a label of task t, and these rows with its labels and weights (n,) alone."""
    column = t if batch.task is None else 0
    labelled = ~np.isnan(batch.y[:, column])
    index = np.flatnonzero(labelled if batch.task is None else labelled & (batch.task == t))
    rows = batch if len(index) == len(batch) else batch.rows(index)  # no copy of a table whose rows are all labelled
    weight, of_class = (None if part is None else part[:, column] for part in (rows.weight, rows.of_class))
    return index, replace(rows, y=rows.y[:, column], weight=weight, of_class=of_class)
