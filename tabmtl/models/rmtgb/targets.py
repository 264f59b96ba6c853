"""Labelled cells of a table, as boosting sees them: where functions of a row meet the labels of tasks, long or wide.

A function of the rows gives scores (K, n): K outputs for n rows. In the long layout a row has one cell, that of its own
task, and cells are (K, n), sorted by task. In the wide layout a row has a cell for every task and cells are (T, K, n),
with weight 0 where no label is. All else is the same, so no table is ever melted.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import lightgbm as lgb
import numpy as np
from scipy.special import expit, logit, logsumexp, softmax

from tabmtl.encode import TableCoder
from tabmtl.schema import Batch, Columns, Kind
from tabmtl.trees import bin_rows

_LONGEST_START = 2.0  # of a first step in logits

_SURE = 1e-6  # least probability that a constant start gives a class


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Labels of tasks of one kind; a subclass knows where the labels of a task are.

    Attributes
    ----------
    kind : {"binary", "multiclass", "regression"}
    width : int
        K: outputs of a function, one per class of multiclass tasks, else 1.
    y : ndarray of shape (n,) or (T, n)
        Long or wide: regression labels in training units, class indices otherwise; 0 where the weight is 0.
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
    @abstractmethod
    def n_tasks(self) -> int:
        """T."""

    @abstractmethod
    def at_cells(self, scores: np.ndarray, factor: np.ndarray | None = None) -> np.ndarray:
        """Repeat scores (K, n) of rows at every cell, times the factor (T,) of its task."""

    @abstractmethod
    def summed(self, cells: np.ndarray, factor: np.ndarray | None) -> np.ndarray:
        """Sum cells, times the factor (T,) of their task, over the tasks of every row: (K, n)."""

    @abstractmethod
    def constant(self, values: np.ndarray) -> np.ndarray:
        """Repeat a constant (T, K) of every task at its cells."""

    @abstractmethod
    def per_task(self, cells: np.ndarray) -> np.ndarray:
        """Sum the cells (n,) or (T, n) of every task: (T,)."""

    @abstractmethod
    def rows_of(self, t: int) -> np.ndarray:
        """Find the rows with a label of task t, ascending."""

    @abstractmethod
    def cells_of(self, t: int, cells: np.ndarray) -> np.ndarray:
        """Take the cells (..., n) of task t, of all rows."""

    @abstractmethod
    def plain_labels(self) -> np.ndarray | None:
        """Return the labels that LightGBM's own regression fits as they are; None where it does not."""

    def of_task(self, t: int, rows: np.ndarray) -> LongTargets:
        """Take the cells of task t alone, at some of its rows."""
        y, weight = (self.cells_of(t, values)[rows] for values in (self.y, self.weight))
        return LongTargets(kind=self.kind, width=self.width, y=y, weight=weight, counts=np.array([len(rows)]))

    def at_rows(self, cells: np.ndarray, factor: np.ndarray | None = None) -> np.ndarray:
        """Sum cells, times the factor (T,) and the weight of their task, over the tasks of every row: (K, n)."""
        if self.task_weight is not None:
            factor = self.task_weight if factor is None else factor * self.task_weight
        return self.summed(cells, factor)

    def inner(self, cells: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Inner products of cells and scores (K, n) of rows over the outputs: (n,) or (T, n)."""
        if self.width == 1:
            return cells[..., 0, :] * scores[0]
        return (cells * scores).sum(axis=-2)

    def start(self) -> np.ndarray:
        """The best constant of every task (T, K): mean, log odds, or log probabilities; in the long layout of all."""
        y, weight = np.atleast_2d(self.y), np.atleast_2d(self.weight)
        total = np.maximum(weight.sum(axis=-1, keepdims=True), np.finfo(float).tiny)
        if self.kind == "multiclass":
            share = (self._indicators * self._weight).sum(axis=-1).reshape(len(y), -1) / total
            best = np.log(np.maximum(share, _SURE))
        else:
            mean = (y * weight).sum(axis=-1, keepdims=True) / total
            best = (
                logit(np.clip(np.where(weight.any(axis=-1, keepdims=True), mean, 0.5), _SURE, 1 - _SURE))
                if self.kind == "binary"
                else mean
            )
        return np.broadcast_to(best, (self.n_tasks, self.width))

    def derivatives(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and second derivative of the loss by the scores F of the cells.

        Returns
        -------
        residuals : ndarray like the scores
            r = -∂L/∂F, weighted: y - F, y - σ(F), or the indicator of each class - softmax(F).
        hessians : ndarray that broadcasts to the scores
            Diagonal of ∂²L/∂F², weighted: 1, p (1 - p), or K / (K - 1) p (1 - p) as LightGBM has it.
        """
        if self.kind == "regression":
            residuals = self._y - scores
            return residuals if self.is_unweighted else residuals * self._weight, self._weight
        if self.kind == "binary":
            p = expit(scores)
            return (self._y - p) * self._weight, p * (1 - p) * self._weight
        p = softmax(scores, axis=-2)
        return (self._indicators - p) * self._weight, p * (1 - p) * (self._weight * self.width / (self.width - 1))

    def cell_losses(self, scores: np.ndarray) -> np.ndarray:
        """Loss of every label, weighted: ½ (y - F)², or the log loss; (n,) or (T, n)."""
        if self.kind == "regression":
            losses = np.square(self._y - scores) / 2
        elif self.kind == "binary":
            losses = np.logaddexp(0, scores) - self._y * scores
        else:
            losses = logsumexp(scores, axis=-2, keepdims=True) - (self._indicators * scores).sum(-2, keepdims=True)
        return (losses * self._weight)[..., 0, :]

    def losses(self, scores: np.ndarray) -> np.ndarray:
        """Sum of `cell_losses` over the labels of every task: (T,)."""
        return self.per_task(self.cell_losses(scores))

    def total_loss(self, scores: np.ndarray) -> float:
        """Sum of `losses` over the tasks, times their weights."""
        losses = self.losses(scores)
        return float((losses if self.task_weight is None else losses * self.task_weight).sum())

    # with an axis of outputs: (1, n) or (T, 1, n)

    @cached_property
    def is_unweighted(self) -> bool:
        """Whether every cell, and every task, has the weight 1."""
        return self.task_weight is None and bool((self.weight == 1).all())

    @property
    def _y(self) -> np.ndarray:
        return self.y[..., None, :]

    @property
    def _weight(self) -> np.ndarray:
        return self.weight[..., None, :]

    @cached_property
    def _indicators(self) -> np.ndarray:
        """1 at the label's class, like the cells."""
        return np.moveaxis(np.eye(self.width)[self.y.astype(np.int64)], -1, -2)


@dataclass(frozen=True, kw_only=True, eq=False)
class WideTargets(Targets):
    """A row has a cell for every task: cells are (T, K, n)."""

    @property
    def n_tasks(self) -> int:
        """T."""
        return len(self.y)

    def at_cells(self, scores: np.ndarray, factor: np.ndarray | None = None) -> np.ndarray:
        """Repeat scores (K, n) of rows at every cell, times the factor (T,) of its task."""
        if factor is None:
            return np.broadcast_to(scores, (self.n_tasks, *scores.shape))
        return np.multiply.outer(factor, scores)

    def summed(self, cells: np.ndarray, factor: np.ndarray | None) -> np.ndarray:
        """Sum cells, times the factor (T,) of their task, over the tasks of every row: (K, n)."""
        return cells.sum(axis=0) if factor is None else np.tensordot(factor, cells, axes=1)

    def constant(self, values: np.ndarray) -> np.ndarray:
        """Repeat a constant (T, K) of every task at its cells."""
        return np.repeat(values[:, :, None], self.y.shape[-1], axis=-1)

    def per_task(self, cells: np.ndarray) -> np.ndarray:
        """Sum the cells (T, n) of every task: (T,)."""
        return cells.sum(axis=-1)

    def rows_of(self, t: int) -> np.ndarray:
        """Find the rows with a label of task t, ascending."""
        return np.flatnonzero(self.weight[t])

    def cells_of(self, t: int, cells: np.ndarray) -> np.ndarray:
        """Take the cells (..., n) of task t."""
        return cells[t]

    def plain_labels(self) -> None:
        """Return None: a function of several tasks has no single label at a row."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LongTargets(Targets):
    """A row has one cell, that of its own task: cells are (K, n), sorted by task; ``counts`` (T,) are rows of tasks."""

    counts: np.ndarray

    @property
    def n_tasks(self) -> int:
        """T."""
        return len(self.counts)

    def at_cells(self, scores: np.ndarray, factor: np.ndarray | None = None) -> np.ndarray:
        """Multiply scores (K, n) by the factor (T,) of the row's task."""
        return scores if factor is None else scores * np.repeat(factor, self.counts)

    def summed(self, cells: np.ndarray, factor: np.ndarray | None) -> np.ndarray:
        """Multiply cells by the factor (T,) of their task: a row has one."""
        return self.at_cells(cells, factor)

    def constant(self, values: np.ndarray) -> np.ndarray:
        """Repeat a constant (T, K) of every task at its cells."""
        return np.repeat(values.T, self.counts, axis=1)

    def per_task(self, cells: np.ndarray) -> np.ndarray:
        """Sum the cells (n,) of every task: (T,)."""
        sums, filled = np.zeros(self.n_tasks), np.flatnonzero(self.counts)
        firsts = np.cumsum(self.counts) - self.counts
        sums[filled] = np.add.reduceat(cells, firsts[filled])
        return sums

    def rows_of(self, t: int) -> np.ndarray:
        """Find the rows of task t, ascending."""
        end = int(self.counts[: t + 1].sum())
        return np.arange(end - int(self.counts[t]), end)

    def cells_of(self, t: int, cells: np.ndarray) -> np.ndarray:
        """Return all cells: rows of the task are picked by number."""
        return cells

    def plain_labels(self) -> np.ndarray | None:
        """Return the labels of a regression whose cells all have the weight 1."""
        return self.y if self.kind == "regression" and self.is_unweighted else None


@dataclass(kw_only=True, eq=False)
class BinnedRows:
    """Binned rows, their cells, and the scores F of the cells so far; other tasks may share the data."""

    data: lgb.Dataset
    targets: Targets
    scores: np.ndarray
    is_shared: bool = False

    def plain_target(self) -> np.ndarray | None:
        """Return what LightGBM's own regression is to fit, if it can: then it knows that the hessian is constant."""
        labels = None if self.is_shared else self.targets.plain_labels()
        return None if labels is None else labels - self.scores[0]

    def of_task(self, t: int, start: np.ndarray, options: dict[str, Any]) -> BinnedRows:
        """Take the rows with a label of task t, its cells alone, with a constant (K,) added to their scores."""
        index = self.targets.rows_of(t)
        data = subset(self.data, index, options)
        return BinnedRows(
            data=data,
            targets=self.targets.of_task(t, index),
            scores=self.targets.cells_of(t, self.scores)[:, index] + start[:, None],
            is_shared=data is self.data and self.targets.n_tasks > 1,
        )


def count_labels(batch: Batch, n_tasks: int) -> np.ndarray:
    """Labels of every task (T,)."""
    labelled = ~np.isnan(batch.y)
    if batch.task is None:
        return labelled.sum(axis=0)
    return np.bincount(batch.task, labelled[:, 0], minlength=n_tasks).astype(np.int64)


def bin_labelled(
    batch: Batch, columns: Columns, options: dict[str, Any], reference: lgb.Dataset | None = None
) -> tuple[lgb.Dataset, Batch]:
    """Bin the rows with a label, in the long layout sorted by task.

    Parameters as in `bin_rows`.

    Returns
    -------
    data : lightgbm.Dataset
    labels : Batch
        Labels, weights and tasks of these rows, without features.
    """
    labelled = ~np.isnan(batch.y).all(axis=1)
    if batch.task is not None:
        order = np.argsort(batch.task, kind="stable")
        batch = batch.rows(order[labelled[order]])
    elif not labelled.all():
        batch = batch.rows(np.flatnonzero(labelled))
    nothing = np.empty((len(batch), 0))
    return bin_rows(batch, columns, options, reference), replace(batch, x_num=nothing, x_cat=nothing)


def rows_of_tasks(
    data: lgb.Dataset, batch: Batch, coder: TableCoder, members: np.ndarray, options: dict[str, Any]
) -> BinnedRows | None:
    """The rows with a label of some tasks of one kind, all scores 0; None if there are none.

    Parameters
    ----------
    data : lightgbm.Dataset
        All rows of the batch, binned.
    batch : Batch
        Their labels, as `bin_labelled` gives them.
    coder : TableCoder
    members : ndarray of int
        The tasks; in the long layout all.
    options : dict
        LightGBM's parameters of data.
    """
    tasks = coder.labels.tasks
    first = tasks[members[0]]
    y = (batch.y - coder.labels.center) / coder.labels.scale
    weight = ~np.isnan(y) * (1.0 if batch.weight is None else batch.weight)
    factor = np.array([tasks[t].weight for t in members])
    y = np.nan_to_num(y, copy=False)
    facts: dict[str, Any] = {
        "kind": first.kind,
        "width": first.width,
        "task_weight": None if len(set(factor)) == 1 else factor / factor.mean(),
    }
    targets: Targets
    if batch.task is not None:
        counts = np.bincount(batch.task, minlength=len(tasks))
        targets = LongTargets(**facts, y=y[:, 0], weight=weight[:, 0], counts=counts)
    else:
        y, weight = y.T[members], weight.T[members]
        index = np.flatnonzero((weight > 0).any(axis=0))
        if not len(index):
            return None
        data = subset(data, index, options)
        targets = WideTargets(**facts, y=y[:, index], weight=weight[:, index])
    return BinnedRows(data=data, targets=targets, scores=targets.constant(np.zeros((len(members), first.width))))


def subset(data: lgb.Dataset, index: np.ndarray, options: dict[str, Any]) -> lgb.Dataset:
    """Some rows of binned data; the data itself if these are all."""
    return data if len(index) == data.num_data() else data.subset(index.tolist(), params=options).construct()


def own_start(targets: Targets) -> np.ndarray:
    """Compute the correction from the shared start to each task's own best constant, shape (T, K)."""
    own = [targets.of_task(t, targets.rows_of(t)).start()[0] for t in range(targets.n_tasks)]
    return np.stack(own) - targets.start()


def shrunk_start(rows: BinnedRows) -> np.ndarray:
    """Newton step of a constant for every task, shrunk to 0 as far as chance explains the differences: (T, K).

    With step u and error v² of each task, τ² = mean(u² - v²) is left for the tasks, and u τ² / (τ² + v²) is taken.
    """
    targets = rows.targets
    residuals, hessians = targets.derivatives(rows.scores)
    hessians = np.broadcast_to(hessians, residuals.shape)
    r, r2, h = (
        np.stack([targets.per_task(values[..., k, :]) for k in range(targets.width)], axis=1)
        for values in (residuals, residuals**2, hessians)
    )
    limit = np.inf if targets.kind == "regression" else _LONGEST_START
    tiny = np.finfo(float).tiny
    step, error = np.clip(r / (h + tiny), -limit, limit), r2 / (h**2 + tiny)
    between = np.maximum(0, (step**2 - error).mean(axis=0))
    return step * between / (between + error + tiny)
