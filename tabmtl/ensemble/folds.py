"""Rows of a table with their labels, and the folds in which every candidate answers rows that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl

from tabmtl.base.schema import Batch, unsaid
from tabmtl.columns.declared import ignored
from tabmtl.encode import TableCoder
from tabmtl.ensemble.levels import LevelFolds
from tabmtl.estimators.encoded import reads_frames
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.model_selection.stratify import Strata, deal
from tabmtl.model_selection.times import borders, can_split, even_blocks, forward_folds, learnable_after
from tabmtl.models.independent import IndependentTasks
from tabmtl.targets import Task

#: Folds, and those of a large table, unless a task has few labels.
_FOLDS, _FOLDS_OF_MANY, _MANY_ROWS, _FEW_LABELS = 5, 3, 200_000, 500
#: Parts of every fold of a wide table, by which models of single tasks with few labels learn from more of them.
_PARTS = 2


@dataclass(frozen=True, eq=False)
class Table:
    """Rows as every candidate takes them: features, labels, weights and groups.

    Attributes
    ----------
    X : polars DataFrame of n rows
    y : polars DataFrame of shape (n, C)
        Labels in their own units and classes; null = unlabelled.
    batch : Batch
        The same rows, encoded.
    tasks : tuple of Task
    coder : TableCoder or None
        The coder of ``batch.x`` where this is that of a candidate.
    """

    X: pl.DataFrame
    y: pl.DataFrame
    batch: Batch
    tasks: tuple[Task, ...]
    coder: TableCoder | None = None

    @classmethod
    def read(cls, X: Any, coder: TableCoder, batch: Batch) -> Table:
        """Read the features of encoded rows."""
        return cls(read_frame(X, coder), _labels(coder.labels.column_tasks, batch.y), batch, coder.labels.tasks)

    def __len__(self) -> int:
        return len(self.batch)

    def rows(self, index: np.ndarray) -> Table:
        """Return some rows."""
        return replace(self, X=self.X[index], y=self.y[index], batch=self.batch.rows(index))

    def encoded(self, coder: TableCoder) -> Table:
        """Return the rows with their features encoded by another coder of their columns."""
        return replace(self, batch=replace(self.batch, x=coder.features.encode(self.X)), coder=coder)

    def beside(self, other: Table) -> Table:
        """Return the rows of both tables; rows without groups are one group, and rows without weights weigh 1.

        That is the mean weight of rows that have any. Where one table has no times, no row has one.
        """
        batches = [self.batch, other.batch]
        if any(batch.group is not None for batch in batches):
            batches = [b if b.group is not None else replace(b, group=np.full(len(b), -1)) for b in batches]
        if any(batch.weight is not None for batch in batches):
            batches = [b if b.weight is not None else replace(b, weight=np.ones_like(b.y)) for b in batches]
        if any(batch.time is None for batch in batches):
            batches = [replace(b, time=None) for b in batches]
        frames = pl.concat([self.X, other.X], how="vertical_relaxed")
        return replace(self, X=frames, y=pl.concat([self.y, other.y]), batch=Batch.join(batches))

    def fit_arguments(self) -> dict[str, Any]:
        """Return the arguments of ``fit``; without groups or times where no split could part them."""
        weight = self.batch.score_weight  # candidates weigh the classes of their own rows
        if weight is not None and weight.shape[1] == 1:
            weight = weight[:, 0]
        groups = self.batch.group if self._can_part_groups() else None
        arguments = {"X": self.X, "y": self.y, "sample_weight": weight, "groups": groups}
        # whether the newest rows could judge what is learned from older ones
        time = self.batch.time
        has_newest = time is not None and can_split(self.batch.y, self.tasks, time, self.batch.task)
        return arguments | ({"time": time} if has_newest else {})

    def _can_part_groups(self) -> bool:
        """Return whether labels of some task or class lie in two groups."""
        if self.batch.group is None:
            return False
        strata = Strata.of(self.batch.y, self.tasks, self.batch.task)
        spread = strata.spread(np.unique(self.batch.group, return_inverse=True)[1])
        return bool((spread[:-1] > 1).any())


@dataclass(frozen=True, eq=False)
class Folds:
    """Parts of the rows to fit and to judge.

    Attributes
    ----------
    table : Table
        Rows to fit.
    judged : Table
        Rows whose answers judge the candidates: the same ones, or those of X_val.
    pairs : list of tuple of ndarray
        Numbers of the rows to fit and of the judged rows, by fold. A row that no fold judges is in every fit.
    fine : ndarray of int, shape (n,), optional
        Numbers of smaller folds, by which models of single tasks may answer rows unseen.
    levels : LevelFolds, optional
        Means of levels, which candidates that learn together read.
    dropped : sequence of str
        Columns that the candidate does without.
    """

    table: Table
    judged: Table
    pairs: list[tuple[np.ndarray, np.ndarray]]
    fine: np.ndarray | None = None
    levels: LevelFolds | None = None
    dropped: Sequence[str] = ()

    @cached_property
    def whole(self) -> Table:
        """All rows with a label, those that judge too."""
        if self.levels is not None and self.table.coder is not None:
            return self._beside(self.levels, np.arange(len(self.table)))
        return self.table if self.judge_fits else self.table.beside(self.judged)

    @classmethod
    def deal(cls, table: Table, coder: TableCoder, n_folds: int | Literal["auto"], seed: int) -> Folds:
        """Divide the rows so that every fold judges, and every fit sees, labels of every task and class.

        Groups stay on one side. Rows with the only labels of a task or class, or the only group of them, are in every
        fit. Where nothing can be judged, one pair has all rows to fit.

        Rows with times are divided forward in time instead: every fit sees all rows that are older than those that it
        judges, of which the oldest have labels of every task.
        """
        tasks, batch = coder.labels.tasks, table.batch
        strata = Strata.of(batch.y, tasks, batch.task)
        if batch.time is not None:
            return cls._forward(table, tasks, _count_folds(strata, batch) if n_folds == "auto" else n_folds)
        unit = np.arange(len(table)) if batch.group is None else np.unique(batch.group, return_inverse=True)[1]
        spread = strata.spread(None if batch.group is None else unit)
        n_parts = _PARTS if n_folds == "auto" and batch.task is None else 1
        n = min(_count_folds(strata, batch) if n_folds == "auto" else n_folds, int(spread[-1]))
        if n < 2:
            return cls(table, table, [(np.arange(len(table)), np.arange(0))])
        fine = deal(batch.y, tasks, batch.task, batch.group, n * n_parts, seed)
        fold = fine % n
        counts = strata.count(fold, n)  # (n, S)
        alone = np.append(counts == counts.sum(axis=0), np.zeros((n, 1), dtype=bool), axis=1)
        alone[:, :-1] &= counts > 0
        kept = np.unique(unit[alone[fold, strata.codes].any(axis=0)])
        fold[np.isin(unit, kept)] = -1
        pairs = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(n)]
        pairs = [pair for pair in pairs if len(pair[1])]
        if len(pairs) < 2:
            return cls(table, table, pairs or [(np.arange(len(table)), np.arange(0))])
        found = cls(table, table, pairs, fine)
        return replace(found, levels=LevelFolds.learn(batch, coder, found.numbers))

    @classmethod
    def _forward(cls, table: Table, tasks: Sequence[Task], n: int) -> Folds:
        batch = table.batch
        times = batch.time[~np.isnan(batch.y).all(axis=1)]
        found = borders(times, even_blocks(len(times), n), learnable_after(batch.y, tasks, batch.time, batch.task))
        pairs = forward_folds(batch.time, found, batch.group)
        return cls(table, table, pairs or [(np.arange(len(table)), np.arange(0))])

    @classmethod
    def given(cls, table: Table, judged: Table) -> Folds:
        """Return one pair: all rows to fit, and given ones to judge."""
        return cls(table, judged, [(np.arange(len(table)), np.arange(len(judged)))])

    def encoded(self, candidate: MultiTaskEstimator) -> Folds:
        """Return the folds with all rows encoded as a candidate reads them, by one coder for the models of all folds.

        Its features are learned from all rows. Of their labels it knows the means of levels, which rows read by those
        of other folds.
        """
        if reads_frames(candidate):
            return replace(self, levels=None)
        whole, levels = self.whole, None if isinstance(candidate, IndependentTasks) else self.levels
        X = (
            whole.X
            if levels is None
            else levels.beside(whole.X, np.arange(len(whole)), dropped=ignored(candidate.columns))
        )
        # the ensemble's own coder has given the warnings
        with unsaid():
            coder = candidate.__learner__().coder(X, whole.y)
        if levels is not None:
            table = replace(self.table, coder=coder)
            return replace(self, table=table, judged=table, levels=levels, dropped=ignored(candidate.columns))
        table = self.table.encoded(coder)
        return replace(self, table=table, judged=table if self.judge_fits else self.judged.encoded(coder), levels=None)

    def tables(self, fold: int) -> tuple[Table, Table]:
        """Return the rows of a fold to fit and to judge."""
        fitted, judged = self.pairs[fold]
        if self.levels is None:
            return self.table.rows(fitted), self.judged.rows(judged)
        return self._beside(self.levels, fitted, fold), self._beside(self.levels, judged, fold)

    def _beside(self, levels: LevelFolds, rows: np.ndarray, held: int = -1) -> Table:
        """Return some rows with means of levels, encoded by the coder of a candidate."""
        table = self.table.rows(rows)
        assert table.coder is not None
        return replace(table, X=levels.beside(table.X, rows, held, self.dropped)).encoded(table.coder)

    @property
    def numbers(self) -> np.ndarray:
        """Number (n,) of the fold that judges a row, -1 where none does."""
        fold = np.full(len(self.judged), -1)
        for f, (_, rows) in enumerate(self.pairs):
            fold[rows] = f
        return fold

    @property
    def go_forward(self) -> bool:
        """Whether fits are judged by later rows, so that the first ones know old rows alone."""
        return self.judge_fits and self.table.batch.time is not None

    @property
    def judge_fits(self) -> bool:
        """Whether the judged rows are among those to fit."""
        return self.judged is self.table

    @property
    def cure(self) -> str:
        """Name the way to more labels of a task, by which candidates are judged."""
        if not self.judge_fits:
            return "label more rows of them in y_val"
        if self.go_forward:
            return "label more of their later rows, by which candidates are judged"
        if self.table.batch.group is not None:
            return "label more rows of them, or give smaller groups"
        return "label more rows of them"


def read_frame(X: Any, coder: TableCoder) -> pl.DataFrame:
    """Return the features as a polars frame with the names of fit."""
    frame = coder.read_frame(X)
    return frame.collect() if isinstance(frame, pl.LazyFrame) else frame


def _labels(tasks: tuple[Task, ...], y: np.ndarray) -> pl.DataFrame:
    """Return encoded labels (n, C) in their own units and classes."""
    return pl.DataFrame({task.name: task.kind.decode(own, task.classes) for task, own in zip(tasks, y.T, strict=True)})


def _count_folds(strata: Strata, batch: Batch) -> int:
    """Choose the number of folds."""
    has_few = np.bincount(strata.task[:-1], strata.spread(None)[:-1]).min() < _FEW_LABELS
    return _FOLDS_OF_MANY if len(batch) > _MANY_ROWS and not has_few else _FOLDS
