"""Levels of categories as means of all targets: numbers by which targets with many labels tell a scarce one of levels.

The mean of a level is drawn to that of all rows, as if further rows had it (Micci-Barreca 2001): of `PRIORS`, as many
as let means by some parts of the rows predict the others best. Rows that a model learns from read means of other parts
of the rows, and none of those that judge the model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Self

import numpy as np
from scipy import sparse

from tabmtl.base.schema import UNSEEN, Batch, Columns
from tabmtl.base.storage.stored import Stored
from tabmtl.targets import Task

#: Levels that a column has at least; trees part fewer ones by themselves.
LEAST_LEVELS = 8
#: Labels that the mean of all rows may count as.
PRIORS = 3.0, 10.0, 30.0, 100.0
#: Parts by which the priors of all rows are chosen.
_N_PARTS = 5
#: Most numbers that are added.
_MOST_NUMBERS = 256
#: Shares by whose quantiles labels of numbers become ranks, so that a far label moves no mean.
_SHARES = np.linspace(0, 1, 65)
#: Classes of a task that has means, at most.
_MOST_CLASSES = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelMeans:
    """Sums of targets by levels, which give the means of levels.

    An output is the share of a class, or the mean rank of a number. In a long table the tasks share the outputs, and a
    row reads the means of its own task and of all.

    Attributes
    ----------
    places : ndarray of int, shape (C,)
        The columns among all columns of codes.
    sizes : ndarray of int, shape (C,)
        Number of the codes of each column; the levels of all follow each other.
    task, label : ndarray of int, shape (O,)
        Column of y behind every output, -1 of a task that was removed; and the class whose share it is, -1 of a number.
    knots : ndarray of shape (O, K)
        Quantiles of the labels of every output.
    sums, weights : ndarray of shape (L, O)
        Over the rows with a label; in a long table (L, T O), by task.
    rows : ndarray of shape (L,)
        Number of rows with a level.
    priors : ndarray of shape (C, O)
        Labels that the mean of all rows counts as; in a long table (C, (T + 1) O), those of the means of all last.
    blocks : ndarray of int, shape (T,), or None
        Long tables: the block of sums of every task; further tasks read the means of all.
    """

    places: Annotated[np.ndarray, Stored("i8", "level_columns", low=0)]
    sizes: Annotated[np.ndarray, Stored("i8", "level_columns", low=1)]
    task: Annotated[np.ndarray, Stored("i8", "level_outputs", low=-1)]
    label: Annotated[np.ndarray, Stored("i8", "level_outputs", low=-1)]
    knots: Annotated[np.ndarray, Stored("f8", "level_outputs level_knots")]
    sums: Annotated[np.ndarray, Stored("f8", "levels level_sums")]
    weights: Annotated[np.ndarray, Stored("f8", "levels level_sums", low=0)]
    rows: Annotated[np.ndarray, Stored("f8", "levels", low=0)]
    priors: Annotated[np.ndarray, Stored("f8", "level_columns level_means", low=0)]
    blocks: Annotated[np.ndarray, Stored("i8", "level_tasks", low=0)] | None = None

    def __post_init__(self) -> None:
        n_blocks = self.sums.shape[1] // len(self.task)
        fits = n_blocks == 1 if self.blocks is None else self.blocks.max(initial=0) < n_blocks
        fits &= self.priors.shape[1] == self.sums.shape[1] + self.is_long * len(self.task)
        if self.sizes.sum() != len(self.rows) or self.sums.shape[1] % len(self.task) or not fits:
            raise ValueError(
                f"there are sums {self.sums.shape} of {self.sizes.sum()} levels and {len(self.task)} outputs"
            )

    def check(self, columns: Columns, tasks: Sequence[Task]) -> None:
        """Raise a ValueError unless the means are of levels and tasks of a table."""
        sizes = np.array(columns.cardinalities, dtype=np.int64)
        if self.places.max() >= len(sizes) or (sizes[self.places] < self.sizes).any() or self.task.max() >= len(tasks):
            raise ValueError("the means of levels are of other columns or tasks than those of the table")

    @property
    def is_long(self) -> bool:
        """Whether sums are by the task of a row."""
        return self.blocks is not None

    @property
    def n_numbers(self) -> int:
        """Number of the numbers of a row."""
        return len(self.places) * (len(self.task) * (1 + self.is_long) + 1)

    def sources(self, columns: Columns) -> list[str]:
        """Return the column of levels behind each number."""
        return [columns.categorical[place] for place in self.places for _ in range(self.n_numbers // len(self.places))]

    def names(self, columns: Columns, taken: Collection[str]) -> tuple[str, ...]:
        """Return names of the numbers that no column has."""
        n_each = self.n_numbers // len(self.places)
        names = [f"{source}, mean {k % n_each + 1}" for k, source in enumerate(self.sources(columns))]
        while {*names} & {*taken}:
            names = [f"{name}_" for name in names]
        return tuple(names)

    def columns(self, columns: Columns) -> Columns:
        """Return the columns with those of the means behind the numbers."""
        names = self.names(columns, [*columns.numeric, *columns.categorical])
        return replace(columns, numeric=(*columns.numeric, *names))

    def is_own(self, t: int) -> np.ndarray:
        """Return which numbers (E,) are of task t, in a long table of the task of a row, or count rows of a level."""
        own = np.ones(len(self.task), dtype=bool) if self.is_long else self.task == t
        common = [~own] if self.is_long else []
        return np.tile(np.concatenate([own, *common, [True]]), len(self.places))

    def without(self, t: int) -> Self:
        """Return the means without a task, whose labels stay in those of its levels."""
        if self.blocks is not None:
            return replace(self, blocks=np.delete(self.blocks, t))
        return replace(self, task=np.where(self.task == t, -1, self.task - (self.task > t)))

    def blank(self, batch: Batch) -> Batch:
        """Return rows whose further numbers are 0."""
        return with_numbers(batch, np.zeros((len(batch), self.n_numbers), dtype=np.float32))

    def gains(self, gains: np.ndarray, n_numeric: int) -> np.ndarray:
        """Return gains (F,) of columns, given those of all with the numbers of means (F + E,)."""
        numbers, added, codes = np.split(gains, [n_numeric, n_numeric + self.n_numbers])
        codes = codes.copy()
        codes[self.places] += added.reshape(len(self.places), -1).sum(axis=1)
        return np.concatenate([numbers, codes])

    def extended(self, batch: Batch) -> Batch:
        """Return rows with the means of their levels as further numbers."""
        return with_numbers(batch, self.numbers_of(batch))

    def numbers_of(self, batch: Batch) -> np.ndarray:
        """Return the means (n, E) of the levels of rows."""
        return self.numbers(self._whole, self._levels(batch), np.zeros(len(batch), dtype=np.intp), batch.task)

    @cached_property
    def _whole(self) -> np.ndarray:
        return self.means(self.sums[None], self.weights[None], self.priors)

    def added(self, batch: Batch) -> Self:
        """Return the sums with those of further rows."""
        values, weights = self._values(batch)
        member = _membership(self._levels(batch), None, 1, len(self.rows))
        return replace(
            self,
            sums=self.sums + member @ (values * weights),
            weights=self.weights + member @ weights,
            rows=self.rows + np.asarray(member.sum(axis=1)).ravel(),
        )

    def means(self, sums: np.ndarray, weights: np.ndarray, priors: np.ndarray) -> np.ndarray:
        """Return means (P, L, O) of sums by parts, drawn to those of all rows; of a long table, (P, L, (T + 1) O)."""
        sums, weights = self._with_common(sums), self._with_common(weights)
        prior = np.repeat(priors, self.sizes, axis=0)
        return (sums + prior * self._mean(sums, weights)) / (weights + prior)

    def choose_priors(self, sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the priors (C, O) whose means by the other parts have the least squared error."""
        other_sums, other_weights = (self._with_common(own.sum(axis=0) - own) for own in (sums, weights))
        sums, weights = self._with_common(sums), self._with_common(weights)
        mean, starts = self._mean(other_sums, other_weights), np.cumsum(self.sizes) - self.sizes
        errors = []
        for prior in PRIORS:
            means = (other_sums + prior * mean) / (other_weights + prior)
            errors.append(np.add.reduceat((weights * means**2 - 2 * sums * means).sum(axis=0), starts, axis=0))
        return np.array(PRIORS)[np.argmin(errors, axis=0)]

    def _mean(self, sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the means (P, 1, O) of all rows of parts."""
        first = slice(0, int(self.sizes[0]))  # every row has a level of each column
        total = weights[:, first].sum(axis=1, keepdims=True)
        return sums[:, first].sum(axis=1, keepdims=True) / np.where(total > 0, total, 1.0)

    def _with_common(self, sums: np.ndarray) -> np.ndarray:
        """Return sums (P, L, O); of a long table with those of all tasks behind, (P, L, (T + 1) O)."""
        if not self.is_long:
            return sums
        return np.concatenate([sums, sums.reshape(*sums.shape[:2], -1, len(self.task)).sum(axis=2)], axis=2)

    def _levels(self, batch: Batch) -> np.ndarray:
        """Return the numbers (n, C) of the levels of rows among all; those beyond the sizes are unseen."""
        codes = batch.x.codes[:, self.places]
        return np.where(codes < self.sizes, codes, UNSEEN) + np.append(0, np.cumsum(self.sizes)[:-1])

    def _values(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Return the outputs and weights (n, O) of labels, or (n, T O)."""
        y = batch.y[:, self.task]
        weight = np.ones_like(y) if batch.score_weight is None else batch.score_weight[:, self.task]
        weight = np.where(np.isnan(y) | (self.task < 0), 0.0, weight)
        values = (y == self.label).astype(np.float64)
        for o in np.flatnonzero(self.label < 0):
            sides = (np.searchsorted(self.knots[o], y[:, o], side) for side in ("left", "right"))
            values[:, o] = sum(sides) / (2 * len(_SHARES))
        if not self.is_long:
            return values, weight
        wide = np.zeros((2, len(y), self.sums.shape[1] + len(self.task)))
        for k, own in enumerate((values, weight)):
            np.put_along_axis(wide[k], self._own(batch.task), own, axis=1)
        return tuple(wide[:, :, : self.sums.shape[1]])

    def _own(self, task: np.ndarray) -> np.ndarray:
        """Return the places (n, O) of the outputs of the tasks of long rows; those of unknown tasks are behind all."""
        assert self.blocks is not None
        n_outputs, n_tasks = len(self.task), len(self.blocks)
        known = np.append(self.blocks, self.sums.shape[1] // n_outputs)
        block = known[np.where((task < 0) | (task > n_tasks), n_tasks, task)]
        return block[:, None] * n_outputs + np.arange(n_outputs)

    def numbers(self, means: np.ndarray, levels: np.ndarray, part: np.ndarray, task: np.ndarray | None) -> np.ndarray:
        """Return the numbers (n, E) of rows, given means (P, L, O) by part, and the levels and the part of each."""
        found = []
        n_outputs = len(self.task)
        for level in levels.T:
            own = means[part, level]
            if task is not None:
                own = np.column_stack([np.take_along_axis(own, self._own(task), axis=1), own[:, -n_outputs:]])
            found += [own, np.log1p(self.rows[level])[:, None]]
        return np.concatenate(found, axis=1, dtype=np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelRows:
    """Rows of a fit, whose levels have means by other rows.

    Attributes
    ----------
    whole : LevelMeans
        Of all rows.
    levels : ndarray of int, shape (n, C)
    values, weights : ndarray of shape (n, O)
    task : ndarray of int, shape (n,), or None
    """

    whole: LevelMeans
    levels: np.ndarray
    values: np.ndarray
    weights: np.ndarray
    task: np.ndarray | None

    @classmethod
    def learn(cls, batch: Batch, columns: Columns, tasks: Sequence[Task]) -> LevelRows | None:
        """Learn the means of labelled rows; None where no column has enough levels, or they would be too many."""
        sizes = np.array(columns.cardinalities, dtype=np.int64)
        places = np.flatnonzero([len(levels) >= LEAST_LEVELS for levels in columns.levels])
        outputs = np.array([
            (t, label)
            for t, task in enumerate(tasks if batch.task is None else tasks[:1])
            for label in _labels_with_means(task)
        ]).reshape(-1, 2)  # fmt: skip
        is_long = batch.task is not None
        n_sums = len(outputs) * (len(tasks) if is_long else 1)
        n_numbers = len(places) * (len(outputs) * (1 + is_long) + 1)
        if not (n_sums and len(places)) or max(n_sums, n_numbers) > _MOST_NUMBERS:
            return None
        n_levels = int(sizes[places].sum())
        known = [own[~np.isnan(own)] for own in batch.y.T[outputs[:, 0]]]
        empty = LevelMeans(
            places=places,
            sizes=sizes[places],
            task=outputs[:, 0],
            label=outputs[:, 1],
            knots=np.stack([np.quantile(own, _SHARES) if len(own) else _SHARES for own in known]),
            sums=np.zeros((n_levels, n_sums)),
            weights=np.zeros((n_levels, n_sums)),
            rows=np.zeros(n_levels),
            priors=np.full((len(places), n_sums + is_long * len(outputs)), PRIORS[0]),
            blocks=np.arange(len(tasks)) if is_long else None,
        )
        values, weights = empty._values(batch)
        levels = empty._levels(batch)
        rows = cls(whole=empty.added(batch), levels=levels, values=values * weights, weights=weights, task=batch.task)
        parts = rows.parted((np.arange(len(levels)) if batch.group is None else batch.group) % _N_PARTS + 1)
        return replace(rows, whole=replace(rows.whole, priors=empty.choose_priors(parts.sums, parts.weights)))

    def parted(self, part: np.ndarray) -> LevelParts:
        """Return the rows in parts (n,), from 1; nothing is learned from rows below 0."""
        learned = np.flatnonzero(part >= 0)
        n_parts = int(part.max(initial=0)) + 1
        member = _membership(self.levels[learned], part[learned], n_parts, len(self.whole.rows))
        sums, weights = (
            (member @ each[learned]).reshape(n_parts, -1, each.shape[1]) for each in (self.values, self.weights)
        )
        return LevelParts(rows=self, part=part, sums=sums, weights=weights)


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelParts:
    """Parts of the rows of a fit, each of which reads means of the others.

    Attributes
    ----------
    rows : LevelRows
    part : ndarray of int, shape (n,)
        From 1; those below 0 are of none.
    sums, weights : ndarray of shape (P, L, O)
        By part; part 0 has none.
    """

    rows: LevelRows
    part: np.ndarray
    sums: np.ndarray
    weights: np.ndarray

    def numbers(self, rows: np.ndarray, held: int = 0) -> np.ndarray:
        """Return the numbers (m, E) of some rows, by the means of other parts, and of none of a part that is held."""
        free = np.arange(len(self.sums)) != held
        sums, weights = self.sums * free[:, None, None], self.weights * free[:, None, None]
        priors = self.rows.whole.choose_priors(sums, weights)
        means = self.rows.whole.means(sums.sum(axis=0) - sums, weights.sum(axis=0) - weights, priors)
        task = None if self.rows.task is None else self.rows.task[rows]
        return self.rows.whole.numbers(means, self.rows.levels[rows], np.maximum(self.part[rows], 0), task)


def _labels_with_means(task: Task) -> Sequence[int]:
    """Return the classes of a task whose shares are outputs, or -1 for a number."""
    n = len(task.classes or ())
    return [-1] if not n else [1] if n == 2 else range(n) if n <= _MOST_CLASSES else []


def with_numbers(batch: Batch, numbers: np.ndarray) -> Batch:
    """Return rows with further numbers."""
    found = np.concatenate([batch.x.numbers, numbers], axis=1, dtype=np.float32)
    return replace(batch, x=replace(batch.x, numbers=found))


def _membership(levels: np.ndarray, part: np.ndarray | None, n_parts: int, n_levels: int) -> sparse.csr_matrix:
    """Return which rows have which level of which part: (P L, n)."""
    at = levels if part is None else levels + part[:, None] * n_levels
    n, width = levels.shape
    ones, first = np.ones(n * width), np.arange(0, n * width + 1, width)
    return sparse.csc_matrix((ones, at.ravel(), first), shape=(n_parts * n_levels, n)).tocsr()
