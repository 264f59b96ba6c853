"""Labels and losses of tasks of one kind, long or wide, and the binned rows that carry them.

A function of the rows gives scores (K, n): K outputs for n rows. A cell is where a row meets a task. In the wide layout
a row has a cell for every task, and arrays of cells are (T, K, n), with weight 0 where no label is. In the long layout
a row has one cell, that of its own task, and arrays are (K, n), sorted by task. So no table is ever melted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import lightgbm as lgb
import numpy as np

from tabmtl.base.schema import Batch, Columns
from tabmtl.encode import TableCoder
from tabmtl.estimators.boosted.border import bin_rows, labelled_rows, subset
from tabmtl.targets import Kind
from tabmtl.targets.kind import settle

_LONGEST_START = 2.0  # of a first step in logits
_TINY = np.finfo(float).tiny


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Labels of T tasks of one kind, with a cell for every row and task; `LongTargets` are those of a long table.

    Attributes
    ----------
    kind : Kind
    width : int
        K: outputs of a function, one per class of multiclass tasks, else 1.
    y : ndarray of shape (n,) or (T, n)
        Regression labels in training units, class indices otherwise; 0 where the weight is 0.
    weight : ndarray like y
        0 = unlabelled.
    task_weight : ndarray of shape (T,), optional
        Factor, of mean 1, of every task where tasks meet: in sums over the tasks of a row, and in the total loss.
    """

    kind: Kind
    width: int
    y: np.ndarray
    weight: np.ndarray
    task_weight: np.ndarray | None = None

    @property
    def n_tasks(self) -> int:
        """T."""
        return len(self.y)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Bring values (T,) or (T, K) of the tasks to a shape that broadcasts to their cells."""
        return values.reshape(len(values), -1, 1)

    def at_rows(self, cells: np.ndarray, factor: np.ndarray | None = None) -> np.ndarray:
        """Sum cells, times the factor (T,) and the weight of their task, over the tasks of every row: (K, n)."""
        factor = self._with_task_weight(factor)
        return cells.sum(axis=0) if factor is None else np.tensordot(factor, cells, axes=1)

    def per_task(self, cells: np.ndarray) -> np.ndarray:
        """Sum the cells (T, n) or (n,) of every task: (T,)."""
        return cells.sum(axis=-1)

    def per_output(self, cells: np.ndarray) -> np.ndarray:
        """Sum the cells (T, K, n) or (K, n) of every task by output: (T, K)."""
        return np.stack([self.per_task(cells[..., k, :]) for k in range(self.width)], axis=1)

    def rows_of(self, t: int) -> np.ndarray:
        """Find the rows with a label of task t, ascending."""
        return np.flatnonzero(self.weight[t])

    def cells_of(self, t: int, cells: np.ndarray) -> np.ndarray:
        """Take the cells of task t at `rows_of` it."""
        return cells[t][..., self.rows_of(t)]

    def at_cells(self, scores: np.ndarray, factor: np.ndarray | None = None) -> np.ndarray:
        """Repeat scores (K, n) of rows at every cell, times the factor (T,) of its task."""
        if factor is None:
            return np.broadcast_to(scores, (*self.y.shape[:-1], *scores.shape))
        return self.spread(factor) * scores

    def constant(self, values: np.ndarray) -> np.ndarray:
        """Repeat constants (T, K) of the tasks at their cells."""
        return np.broadcast_to(self.spread(values), (*self.y.shape[:-1], self.width, self.y.shape[-1])).copy()

    def of_task(self, t: int) -> LongTargets:
        """Take the labels of task t alone."""
        y, weight = self.cells_of(t, self.y), self.cells_of(t, self.weight)
        return LongTargets(kind=self.kind, width=self.width, y=y, weight=weight, counts=np.array([len(y)]))

    @property
    def n_labels(self) -> np.ndarray:
        """Number of labels of every task: (T,)."""
        return self.per_task(self.weight > 0).astype(np.int64)

    def inner(self, cells: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Compute inner products of cells and scores (K, n) of rows over the outputs: (n,) or (T, n)."""
        if self.width == 1:
            return cells[..., 0, :] * scores[0]
        return (cells * scores).sum(axis=-2)

    def start(self) -> np.ndarray:
        """Find the best constant (T, K), of each wide task or of all long ones; 0 without a label."""
        means, weight = (array[None] if array.ndim == 2 else array for array in (self._means, self._weight))
        total = weight.sum(axis=-1)
        mean = (means * weight).sum(axis=-1) / np.maximum(total, _TINY)
        best = np.where(total > 0, self.kind.start(mean), 0.0)

        def slope(found: np.ndarray) -> np.ndarray:
            cells = self.constant(np.broadcast_to(found, (self.n_tasks, self.width)))
            return -self.derivatives(cells)[0].sum(axis=-1).reshape(best.shape)

        best = settle(best, np.array(self.kind.answers_means), slope)
        return np.broadcast_to(best, (self.n_tasks, self.width))

    def own_start(self) -> np.ndarray:
        """Compute the correction from `start` to each task's own best constant: (T, K)."""
        return np.stack([self.of_task(t).start()[0] for t in range(self.n_tasks)]) - self.start()

    def derivatives(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the first and second derivative of the loss by the scores F of the cells.

        Returns
        -------
        residuals : ndarray like the scores
            r = -∂L/∂F, weighted.
        hessians : ndarray that broadcasts to the scores
            Diagonal of ∂²L/∂F², weighted.
        """
        residuals = np.empty(np.broadcast_shapes(scores.shape, self._means.shape))
        hessians = None if self.kind.is_quadratic else np.empty_like(residuals)
        own = None if hessians is None else self._last(hessians)
        self.kind.derivatives(self._last(scores), self._last(self._means), self._last(residuals), own)
        np.negative(residuals, out=residuals)
        if not self.is_unweighted:
            residuals *= self._weight
        return residuals, self._weight if hessians is None else hessians * self._weight

    def cell_losses(self, scores: np.ndarray) -> np.ndarray:
        """Compute the weighted loss of every label: (n,) or (T, n)."""
        return self.kind.losses(self._last(scores), self._last(self._means))[..., 0] * self.weight

    def losses(self, scores: np.ndarray) -> np.ndarray:
        """Sum `cell_losses` over the labels of every task: (T,)."""
        return self.per_task(self.cell_losses(scores))

    def total_loss(self, scores: np.ndarray) -> float:
        """Sum `losses` over the tasks, times their weights."""
        losses = self.losses(scores)
        return float((losses if self.task_weight is None else losses * self.task_weight).sum())

    @cached_property
    def is_unweighted(self) -> bool:
        """Whether every cell, and every task, has the weight 1."""
        return self.task_weight is None and bool((self.weight == 1).all())

    def _with_task_weight(self, factor: np.ndarray | None) -> np.ndarray | None:
        """Multiply factors (T,) by the weights of the tasks; None is 1 for all."""
        if self.task_weight is None:
            return factor
        return self.task_weight if factor is None else factor * self.task_weight

    # with an axis of outputs: (1, n) or (T, 1, n)

    @cached_property
    def _means(self) -> np.ndarray:
        return np.moveaxis(self.kind.means(self.y, self.width), -1, -2)

    @property
    def _weight(self) -> np.ndarray:
        return self.weight[..., None, :]

    def _last(self, values: np.ndarray) -> np.ndarray:
        """Return values with the axis of outputs as the last one."""
        return np.moveaxis(values, -2, -1)


@dataclass(frozen=True, kw_only=True, eq=False)
class LongTargets(Targets):
    """Labels with one cell for a row, that of its own task.

    Rows are sorted by task. ``counts`` (T,) are the rows of each task.
    """

    counts: np.ndarray

    @property
    def n_tasks(self) -> int:
        return len(self.counts)

    def spread(self, values: np.ndarray) -> np.ndarray:
        return np.repeat(values.T, self.counts, axis=-1)

    def at_rows(self, cells: np.ndarray, factor: np.ndarray | None = None) -> np.ndarray:
        return self.at_cells(cells, self._with_task_weight(factor))

    def per_task(self, cells: np.ndarray) -> np.ndarray:
        sums, filled = np.zeros(self.n_tasks), np.flatnonzero(self.counts)
        firsts = np.cumsum(self.counts) - self.counts
        sums[filled] = np.add.reduceat(cells, firsts[filled])
        return sums

    def rows_of(self, t: int) -> np.ndarray:
        end = int(self.counts[: t + 1].sum())
        return np.arange(end - int(self.counts[t]), end)

    def cells_of(self, t: int, cells: np.ndarray) -> np.ndarray:
        return cells[..., self.rows_of(t)]


class Labelled(NamedTuple):
    """Binned rows with a label of any task, what else they hold, and their numbers (n,) among the rows given."""

    data: lgb.Dataset
    labels: Batch
    numbers: np.ndarray


@dataclass(kw_only=True, eq=False)
class BinnedRows:
    """Binned rows, their targets, and the scores F of the cells so far.

    Attributes
    ----------
    data : lightgbm.Dataset
    targets : Targets
    scores : ndarray of shape (K, n) or (T, K, n)
    valid : BinnedRows, optional
        Rows to stop on.
    is_shared : bool
        Whether other tasks grow on the same data.
    numbers : ndarray of int, shape (n,), optional
        Of the rows among those that were given.
    """

    data: lgb.Dataset
    targets: Targets
    scores: np.ndarray
    valid: BinnedRows | None = None
    is_shared: bool = False
    numbers: np.ndarray | None = None

    def with_constants(self, values: np.ndarray) -> BinnedRows:
        """Return the rows with constants (T, K) of the tasks as their scores."""
        valid = None if self.valid is None else self.valid.with_constants(values)
        return replace(self, scores=self.targets.constant(values), valid=valid)

    def of_task(self, t: int, start: np.ndarray) -> BinnedRows:
        """Take the rows with a label of task t and its targets alone, with a constant (K,) added to their scores."""
        index, valid = self.targets.rows_of(t), self.valid
        if valid is not None:
            has_rows = valid.targets.cells_of(t, valid.targets.weight).any()
            valid = valid.of_task(t, start) if has_rows else None
        data = subset(self.data, index)
        return BinnedRows(
            data=data,
            targets=self.targets.of_task(t),
            scores=self.targets.cells_of(t, self.scores) + start[:, None],
            valid=valid,
            is_shared=data is self.data and self.targets.n_tasks > 1,
        )

    def plain_residuals(self) -> np.ndarray | None:
        """Return residuals for LightGBM's own regression, which is faster; None where it cannot fit these rows."""
        targets = self.targets
        is_plain = isinstance(targets, LongTargets) and targets.kind.is_quadratic and targets.is_unweighted
        return targets.y - self.scores[0] if is_plain and not self.is_shared else None

    def shrunk_start(self) -> np.ndarray:
        """Compute a Newton step of a constant for every task, shrunk as far as chance explains the differences: (T, K).

        With step u and error v² of each task, τ² = mean(u² - v²) is left for the tasks, and u τ² / (τ² + v²) is taken.
        """
        targets = self.targets
        residuals, hessians = targets.derivatives(self.scores)
        hessians = np.broadcast_to(hessians, residuals.shape)
        r, r2, h = map(targets.per_output, (residuals, residuals**2, hessians))
        limit = np.inf if targets.kind.is_quadratic else _LONGEST_START
        step, error = np.clip(r / (h + _TINY), -limit, limit), r2 / (h**2 + _TINY)
        between = np.maximum(0, (step**2 - error).mean(axis=0))
        return step * between / (between + error + _TINY)


def bin_groups(
    batch: Batch, valid: Batch | None, coder: TableCoder, options: dict[str, Any]
) -> Iterator[tuple[np.ndarray, BinnedRows]]:
    """Bin the rows once, and yield the indices of the tasks of each loss with their rows, at scores 0.

    Every task needs a label in ``batch``; ``valid`` holds the rows to stop on, and ``options`` are LightGBM's
    parameters of data. Tasks share functions if they are of one kind and, with many classes, of the same classes.
    """
    columns = coder.features.columns
    binned = bin_labelled(batch, columns, options)
    followed = None if valid is None else bin_labelled(valid, columns, options, binned.data)
    groups: dict[Any, list[int]] = {}
    for t, task in enumerate(coder.labels.tasks):
        groups.setdefault((task.kind, task.classes if task.width > 1 else None), []).append(t)
    for members in map(np.array, groups.values()):
        rows = rows_of_tasks(binned, coder, members)
        assert rows is not None  # every task has a label to learn
        if followed is not None:
            rows.valid = rows_of_tasks(followed, coder, members)
        yield members, rows


def bin_labelled(
    batch: Batch, columns: Columns, options: dict[str, Any], reference: lgb.Dataset | None = None
) -> Labelled:
    """Bin the rows with a label, in the long layout sorted by task."""
    numbers = labelled_rows(batch)
    if len(numbers) < len(batch.y):
        batch = batch.rows(numbers)
    if batch.task is not None:
        order = np.argsort(batch.task, kind="stable")
        batch, numbers = batch.rows(order), numbers[order]
    return Labelled(bin_rows(batch, columns, options, reference), batch.without_features(), numbers)


def rows_of_tasks(binned: Labelled, coder: TableCoder, members: np.ndarray) -> BinnedRows | None:
    """Take the rows with a label of some tasks of one kind, at scores 0; None without any. Long rows are those of all.

    ``binned`` comes from `bin_labelled`.
    """
    data, batch, numbers = binned
    tasks = [coder.labels.tasks[t] for t in members]
    y = (batch.y - coder.labels.center) / coder.labels.scale
    weight = ~np.isnan(y) * (1.0 if batch.weight is None else batch.weight)
    y, factor = np.nan_to_num(y, copy=False), np.array([task.weight for task in tasks])
    task_weight = None if len(set(factor)) == 1 else factor / factor.mean()
    common: dict[str, Any] = {"kind": tasks[0].kind, "width": tasks[0].width, "task_weight": task_weight}
    targets: Targets
    if batch.task is not None:
        counts = np.bincount(batch.task, minlength=len(tasks))
        targets = LongTargets(y=y[:, 0], weight=weight[:, 0], counts=counts, **common)
    else:
        y, weight = y.T[members], weight.T[members]
        index = np.flatnonzero((weight > 0).any(axis=0))
        if not len(index):
            return None
        data, targets = subset(data, index), Targets(y=y[:, index], weight=weight[:, index], **common)
        numbers = numbers[index]
    scores = targets.constant(np.zeros((len(tasks), targets.width)))
    return BinnedRows(data=data, targets=targets, scores=scores, numbers=numbers)
