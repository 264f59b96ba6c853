"""The fitted functions of shared trees: what all tasks have learned, and how rows are scored by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any

import lightgbm as lgb
import numpy as np

from tabmtl.base.forks import count_threads
from tabmtl.base.schema import Batch, Columns
from tabmtl.base.storage.stored import Stored
from tabmtl.encode import LabelCoder, TableCoder
from tabmtl.estimators.asked import part_of
from tabmtl.estimators.boosted.border import tree_matrix
from tabmtl.models.shared_trees.growth import Growth
from tabmtl.models.shared_trees.newcomer import Settled
from tabmtl.models.shared_trees.targets import blocks_of
from tabmtl.models.shared_trees.trees import VectorForest

_CHUNK = 8192  # rows whose leaves are in memory at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedFunctions:
    """The fitted functions of all tasks.

    Attributes
    ----------
    forest : VectorForest
    start : ndarray of shape (C,)
        Constants of the outputs.
    rounds : ndarray of int, shape (n_functions,)
        Shared trees that each function has.
    own_rounds : ndarray of int, shape (T,)
        Trees of each task alone, after the shared ones.
    gains : ndarray of shape (F,)
        Total gain of all splits on every feature.
    n_labels : ndarray of int, shape (T,)
        Labels that the fit learned from.
    """

    forest: VectorForest
    start: Annotated[np.ndarray, Stored("f8", "outputs")]
    rounds: Annotated[np.ndarray, Stored("i8", "functions", low=0)]
    own_rounds: Annotated[np.ndarray, Stored("i8", "tasks", low=0)]
    gains: Annotated[np.ndarray, Stored("f8", "F", low=0)]
    n_labels: Annotated[np.ndarray, Stored("i8", "tasks", low=0)]

    @classmethod
    def join(
        cls, shared: Growth, own: Sequence[Growth | None], function: np.ndarray, n_labels: np.ndarray
    ) -> SharedFunctions:
        """Join the shared trees and those of the tasks alone, given the task of every output."""
        trees, values = list(shared.trees.ensembles[0]), list(shared.values)
        own_rounds = np.zeros_like(n_labels)
        for t, growth in enumerate(own):
            if growth is None:
                continue
            trees += growth.trees.ensembles[0]
            own_rounds[t] = growth.rounds[0]
            for found in growth.values:
                values.append(np.zeros((len(found), len(function))))
                values[-1][:, function == t] = found
        forest = VectorForest.join(shared.trees.header, trees, values, len(function))
        return cls(
            forest=forest,
            start=shared.start,
            rounds=shared.rounds,
            own_rounds=own_rounds,
            gains=forest.booster.feature_importance("gain"),
            n_labels=n_labels,
        )

    def restricted(self, outputs: Sequence[slice]) -> tuple[SharedFunctions, list[slice]]:
        """Return what answers some tasks, given their outputs, and where their outputs lie in it."""
        columns = np.concatenate([np.arange(own.start, own.stop) for own in outputs])
        ends = np.cumsum([0, *(own.stop - own.start for own in outputs)]).tolist()
        functions = replace(self, forest=self.forest.restricted(columns), start=self.start[columns])
        return functions, [slice(*pair) for pair in pairwise(ends)]

    def extended(self, growth: Growth, n_labels: np.ndarray, learns: np.ndarray) -> SharedFunctions:
        """Return the functions with further trees, constants and labels (T,), given which functions learn."""
        trees, values = growth.trees.ensembles[0], self.forest.values_by_tree + growth.values
        rounds = self.rounds + growth.rounds * learns
        start, n_labels = self.start + growth.start, self.n_labels + n_labels
        return self._with(trees, values, start=start, rounds=rounds, n_labels=n_labels)

    def placed(self, outputs: np.ndarray, functions: np.ndarray, tasks: np.ndarray) -> SharedFunctions:
        """Return the functions with other outputs (C,), functions and tasks, given their numbers here; -1 is new."""
        values = [_taken(own, outputs) for own in self.forest.values_by_tree]
        return self._with(
            [],
            values,
            start=_taken(self.start, outputs),
            rounds=_taken(self.rounds, functions),
            own_rounds=_taken(self.own_rounds, tasks),
            n_labels=_taken(self.n_labels, tasks),
        )

    def with_task(self, t: int, outputs: slice, found: Settled) -> SharedFunctions:
        """Return the functions with what a task has learned that had nothing yet."""
        trees = [] if found.own is None else found.own.trees.ensembles[0]
        values = [own.copy() for own in self.forest.values_by_tree]
        own = [] if found.own is None else found.own.values
        values += [np.zeros((len(each), len(self.start))) for each in own]
        for whole, new in zip(values, found.values, strict=False):
            whole[:, outputs] = new
        for whole, new in zip(values[len(values) - len(own) :], own, strict=True):
            whole[:, outputs] = new
        changed = {"start": self.start, "rounds": self.rounds, "own_rounds": self.own_rounds, "n_labels": self.n_labels}
        changed = {name: array.copy() for name, array in changed.items()}
        changed["start"][outputs], changed["rounds"][t] = found.start, sum(own.any() for own in found.values)
        changed["own_rounds"][t], changed["n_labels"][t] = len(trees), found.n_labels
        return self._with(trees, values, **changed)

    def _with(
        self, trees: Sequence[str], values: Sequence[np.ndarray], start: np.ndarray, **changes: Any
    ) -> SharedFunctions:
        """Return the functions with further trees, the values of all, the start of every output, and other changes."""
        header, known = self.forest.text.cut()
        forest = VectorForest.join(header, [*known, *trees], values, len(start))
        gains = forest.booster.feature_importance("gain")
        return replace(self, forest=forest, gains=gains, start=start, **changes)

    def gains_of(self, outputs: Sequence[slice]) -> np.ndarray:
        """Return the gain of every column for every task, given its outputs: (T, F)."""
        gains = self.forest.gains(len(self.gains))
        return np.stack([gains[:, own].sum(axis=1) for own in outputs])

    def scores(
        self, matrix: np.ndarray, outputs: Sequence[slice], task: np.ndarray | None, n_threads: int
    ) -> list[np.ndarray]:
        """Return raw scores (n, K) of rows for every task, given its outputs, or for the own task (n,) of each row.

        A task below 0 is the pooled one.
        """
        parts = [
            self._scores(
                matrix[first : first + _CHUNK],
                outputs,
                None if task is None else task[first : first + _CHUNK],
                n_threads,
            )
            for first in range(0, max(len(matrix), 1), _CHUNK)
        ]
        return parts[0] if len(parts) == 1 else [np.concatenate(part) for part in zip(*parts, strict=True)]

    def _scores(
        self, matrix: np.ndarray, outputs: Sequence[slice], task: np.ndarray | None, n_threads: int
    ) -> list[np.ndarray]:
        if task is None:
            scores = self.start + self.forest.sum_rows(matrix, n_threads)
            return [scores[:, own] for own in outputs]
        return self.scores_at(self.forest.find_leaves(matrix, n_threads), outputs, task)

    def scores_at(self, leaves: np.ndarray, outputs: Sequence[slice], task: np.ndarray | None) -> list[np.ndarray]:
        """Return what `scores` does, given the leaves (n, M) of rows."""
        if task is None:
            scores = self.start + self.forest.sum_values(leaves)
            return [scores[:, own] for own in outputs]
        scores = np.empty((len(leaves), outputs[0].stop - outputs[0].start))
        for t in np.unique(task).tolist():
            rows, own = np.flatnonzero(task == t), outputs[t]
            scores[rows] = self.start[own] + self.forest.sum_values(leaves[rows], own)
        return [scores]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedTrees:
    """The functions of the tasks, and where the outputs of each lie among those of all.

    Attributes
    ----------
    functions : SharedFunctions
    outputs : tuple of slice
        Of every task; of a long table, those of the pooled function last.
    """

    functions: SharedFunctions
    outputs: tuple[slice, ...]

    @classmethod
    def of(cls, functions: SharedFunctions, labels: LabelCoder) -> FittedTrees:
        """Return the functions of the tasks of a table."""
        return cls(functions=functions, outputs=outputs_of_tasks(labels))

    def answer(
        self, rows: Batch, labels: LabelCoder, how: Any, X: Any = None, places: tuple[int, ...] | None = None
    ) -> list[np.ndarray]:
        """Return answers; see `tabmtl.estimators.model.Fitted`."""
        some = self.restricted(places)
        n_threads = count_threads(how.n_jobs)
        return labels.outputs(some.functions.scores(tree_matrix(rows), some.outputs, rows.task, n_threads))

    def restricted(self, places: tuple[int, ...] | None) -> FittedTrees:
        """Return what answers some tasks of a wide table, all by default."""
        if places is None:
            return self

        def some() -> FittedTrees:
            functions, outputs = self.functions.restricted([self.outputs[t] for t in places])
            return FittedTrees(functions=functions, outputs=tuple(outputs))

        return part_of(self.functions, places, some)

    def without(self, t: int, coder: TableCoder) -> FittedTrees:
        """Return the functions without that of a task."""
        return self.placed(coder.labels, np.delete(np.arange(len(self.functions.n_labels)), t))

    def placed(self, labels: LabelCoder, kept: np.ndarray) -> FittedTrees:
        """Return the functions of other tasks, given their numbers (T,) here; -1 is new."""
        after, functions, n_tasks = outputs_of_tasks(labels), kept, len(self.functions.n_labels)
        if len(self.outputs) > n_tasks:
            functions = np.append(kept, n_tasks)  # the pooled one
        outputs = np.full(max(own.stop for own in after), -1)
        for place, known in zip(after, functions.tolist(), strict=True):
            if known >= 0:
                outputs[place] = np.arange(self.outputs[known].start, self.outputs[known].stop)
        return FittedTrees(functions=self.functions.placed(outputs, functions, kept), outputs=after)

    def gains(self, columns: Columns) -> dict[str, np.ndarray]:
        """Return the gain (T, F) of every column for every task."""
        return {"all": self.functions.gains_of(self.outputs[: len(self.functions.n_labels)])}

    def export(self, task: int, objective: str, scale: float, center: float) -> lgb.Booster:
        """Return the function of a task as one model, whose raw scores are those times scale plus center."""
        own, functions = self.outputs[task], self.functions
        return functions.forest.export(own, scale * functions.start[own] + center, scale, objective)


def outputs_of_tasks(labels: LabelCoder) -> tuple[slice, ...]:
    """Return the outputs of every task; of a long table, those of the pooled function last."""
    tasks = labels.tasks
    if labels.task_levels is not None:
        width = tasks[0].width
        return tuple(slice(t * width, (t + 1) * width) for t in range(len(tasks) + 1))
    found: dict[int, slice] = {}
    for _, members, outputs in blocks_of(tasks):
        width = tasks[members[0]].width
        found |= {t: slice(outputs.start + k * width, outputs.start + (k + 1) * width) for k, t in enumerate(members)}
    return tuple(found[t] for t in range(len(tasks)))


def _taken(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Take places of the last axis, 0 for those below 0."""
    return np.where(places < 0, np.zeros_like(values[..., :1]), values[..., places])
