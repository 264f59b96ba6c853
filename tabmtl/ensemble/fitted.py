"""A mixture of models as it was fitted: it asks its models, and adds up their answers by weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tabmtl.base.schema import Batch
from tabmtl.encode import LabelCoder, TableCoder
from tabmtl.ensemble.asking import Asked
from tabmtl.ensemble.folds import read_frame
from tabmtl.ensemble.levels import LevelColumns
from tabmtl.ensemble.models import LINEAR
from tabmtl.ensemble.stack import LinearStack
from tabmtl.estimators.asked import part_of
from tabmtl.estimators.mixing.levels import LevelMeans
from tabmtl.estimators.mixing.stretch import Stretch
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.targets import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedMixture:
    """A mixture of models as it was fitted, frozen.

    Attributes
    ----------
    coder : TableCoder
        Of the table, behind the preprocessor.
    estimators : dict of str to tuple of MultiTaskEstimator
    weights : polars.DataFrame
    stretch : Stretch
    stack : LinearStack or None
        As `MultiTaskEnsemble` has them.
    levels : LevelMeans or None
        Means of levels that models may read.
    """

    coder: TableCoder
    estimators: dict[str, tuple[MultiTaskEstimator, ...]]
    weights: pl.DataFrame
    stretch: Stretch
    stack: LinearStack | None = None
    levels: LevelMeans | None = None

    def answer(
        self, rows: Batch, labels: LabelCoder, how: Any, X: Any = None, places: tuple[int, ...] | None = None
    ) -> list[np.ndarray]:
        """Return answers; see `tabmtl.estimators.model.Fitted`."""
        frame, tasks = read_frame(X, self.coder), self.coder.labels.tasks
        if places is None:
            return self.mixed(tasks, self._answers(frame, rows), rows.task)
        weights = {name: self.weights[name].to_numpy() for name in self.weights.columns[1:]}
        wanted = {name: tuple(t for t in places if weights[name][t]) for name in weights}
        every = tuple(range(len(tasks)))
        asked = {name: wanted.get(name, ()) for name in self.estimators}
        if wanted.get(LINEAR):
            asked[next(iter(self.estimators))] = every
        totals: dict[int, np.ndarray] = {}
        for name, answers in self._answers(frame, rows, asked):
            for t, answer in zip(every if name == LINEAR else asked[name], answers, strict=True):
                if t in wanted.get(name, ()):
                    totals[t] = totals.get(t, 0.0) + answer * weights[name][t]
        return [self.stretch.answer(tasks, t, totals[t]) for t in places]

    def mixed(
        self, tasks: Sequence[Task], several: Iterable[tuple[str, Sequence[np.ndarray]]], task: np.ndarray | None
    ) -> list[np.ndarray]:
        """Return the answers of the mixture, given those of every candidate by name, and the tasks of long rows."""
        totals: list[np.ndarray] = []
        for name, answers in several:
            totals = totals or [np.zeros_like(answer) for answer in answers]
            if name not in self.weights.columns:
                continue
            of_tasks = self.weights[name].to_numpy()  # (T,)
            for column, answer in enumerate(answers):
                weight = of_tasks[column] if task is None else of_tasks[task]
                totals[column] += answer * (weight if answer.ndim == 1 or task is None else weight[:, None])
        if task is None:
            return [self.stretch.answer(tasks, t, total) for t, total in enumerate(totals)]
        (total,) = totals
        for t in np.unique(task).tolist():
            own = task == t
            total[own] = self.stretch.answer(tasks, t, total[own])
        return totals

    def _answers(
        self, frame: pl.DataFrame, batch: Batch, asked: Mapping[str, tuple[int, ...]] | None = None
    ) -> Iterator[tuple[str, list[np.ndarray]]]:
        """Yield the mean answers of every candidate's models, one candidate after the other.

        They are to the columns of y that each is asked for, all by default. The linear models answer all, if the first
        candidate does.
        """
        labels, first = self.coder.labels, next(iter(self.estimators))
        is_whole = asked is None or asked[first] == tuple(range(len(labels.tasks)))
        for name, parts in part_of(self, "asked", self._asking).answers(frame, batch, asked):
            yield name, _mean(parts)
            if name == first and self.stack is not None and is_whole:  # whose answers linear models read
                yield LINEAR, _mean(self.stack.answer(labels, k, each) for k, each in enumerate(parts))

    def _asking(self) -> Asked:
        levels = None if self.levels is None else LevelColumns.of(self.levels, self.coder)
        return Asked(self.coder, self.estimators, levels)


def _mean(parts: Iterable[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Return the mean over models of their answers to every column of y, added in order for the same bits."""
    totals: list[np.ndarray] = []
    n = 0
    for answers in parts:
        totals = [a + b for a, b in zip(totals, answers, strict=True)] if n else list(answers)
        n += 1
    return [total / n for total in totals]
