"""Labelled cells of a table, as boosting sees them: where functions of a row meet the labels of tasks, long or wide.

A function of the rows gives scores (K, n): K outputs for n rows. In the long layout a row has one cell, that of its own
task, and cells are (K, n), sorted by task. In the wide layout a row has a cell for every task and cells are (T, K, n),
with weight 0 where no label is. All else is the same, so no table is ever melted.
"""

from __future__ import annotations

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
class Cells:
    """Labels of tasks of one kind.

    Attributes
    ----------
    kind : {"binary", "multiclass", "regression"}
    width : int
        K: outputs of a function, one per class of multiclass tasks, else 1.
    y : ndarray of shape (n,) or (T, n)
        Long or wide: regression labels in training units, class indices otherwise; 0 where the weight is 0.
    weight : ndarray like y
        0 = unlabelled.
    counts : ndarray of int, shape (T,), or None
        Long layout: rows of every task.
    task_weight : ndarray of shape (T,), optional
        Factor, of mean 1, of every task where tasks meet: in sums over the tasks of a row, and in the total loss.
    """

    kind: Kind
    width: int
    y: np.ndarray
    weight: np.ndarray
    counts: np.ndarray | None
    task_weight: np.ndarray | None = None

    @property
    def n_tasks(self) -> int:
        """T."""
        return len(self.y if self.counts is None else self.counts)

    def at_cells(self, scores: np.ndarray, factor: np.ndarray | None = None) -> np.ndarray:
        """Scores (K, n) of rows at every cell, times the factor (T,) of its task."""
        if self.counts is None:
            return (
                np.broadcast_to(scores, (self.n_tasks, *scores.shape))
                if factor is None
                else np.multiply.outer(factor, scores)
            )
        return scores if factor is None else scores * np.repeat(factor, self.counts)

    def at_rows(self, cells: np.ndarray, factor: np.ndarray | None = None) -> np.ndarray:
        """Cells, times the factor (T,) of their task, summed over the tasks of every row: (K, n)."""
        if self.task_weight is not None:
            factor = self.task_weight if factor is None else factor * self.task_weight
        if self.counts is None:
            return cells.sum(axis=0) if factor is None else np.tensordot(factor, cells, axes=1)
        return cells if factor is None else cells * np.repeat(factor, self.counts)

    def inner(self, cells: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Inner products of cells and scores (K, n) of rows over the outputs: (n,) or (T, n)."""
        if self.width == 1:
            return cells[..., 0, :] * scores[0]
        return (cells * scores).sum(axis=-2)

    def constant(self, values: np.ndarray) -> np.ndarray:
        """A constant (T, K) of every task, at its cells."""
        if self.counts is None:
            return np.repeat(values[:, :, None], self.y.shape[-1], axis=-1)
        return np.repeat(values.T, self.counts, axis=1)

    def per_task(self, cells: np.ndarray) -> np.ndarray:
        """Sums (T,) over the cells (n,) or (T, n) of every task."""
        if self.counts is None:
            return cells.sum(axis=-1)
        sums, filled = np.zeros(self.n_tasks), np.flatnonzero(self.counts)
        firsts = np.cumsum(self.counts) - self.counts
        sums[filled] = np.add.reduceat(cells, firsts[filled])
        return sums

    def rows_of(self, t: int) -> np.ndarray:
        """The rows with a label of task t, ascending."""
        if self.counts is None:
            return np.flatnonzero(self.weight[t])
        end = int(self.counts[: t + 1].sum())
        return np.arange(end - int(self.counts[t]), end)

    def of_task(self, t: int, rows: np.ndarray) -> Cells:
        """The cells of task t alone, at some of its rows."""
        at = (t, rows) if self.counts is None else (rows,)
        counts = np.array([len(rows)])
        return Cells(kind=self.kind, width=self.width, y=self.y[at], weight=self.weight[at], counts=counts)

    def start(self) -> np.ndarray:
        """The best constant of every task (T, K): mean, log odds, or log probabilities; in the long layout of all."""
        y, weight = (self.y, self.weight) if self.counts is None else (self.y[None], self.weight[None])
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


@dataclass(kw_only=True, eq=False)
class Rows:
    """Binned rows, their cells, and the scores F of the cells so far; other tasks may share the data."""

    data: lgb.Dataset
    cells: Cells
    scores: np.ndarray
    is_shared: bool = False

    def plain_target(self) -> np.ndarray | None:
        """What LightGBM's own regression is to fit, if it can: then it knows that the hessian is constant."""
        cells = self.cells
        is_plain = cells.kind == "regression" and cells.counts is not None and cells.is_unweighted
        if self.is_shared or not is_plain:
            return None
        return self.cells.y - self.scores[0]

    def of_task(self, t: int, start: np.ndarray, options: dict[str, Any]) -> Rows:
        """The rows with a label of task t, its cells alone, and a constant (K,) more in their scores."""
        index = self.cells.rows_of(t)
        scores = self.scores if self.cells.counts is not None else self.scores[t]
        data = subset(self.data, index, options)
        return Rows(
            data=data,
            cells=self.cells.of_task(t, index),
            scores=scores[:, index] + start[:, None],
            is_shared=data is self.data and self.cells.n_tasks > 1,
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
) -> Rows | None:
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
    counts = None
    if batch.task is not None:
        counts = np.bincount(batch.task, minlength=len(tasks))
        y, weight = y[:, 0], weight[:, 0]
    else:
        y, weight = y.T[members], weight.T[members]
        index = np.flatnonzero((weight > 0).any(axis=0))
        if not len(index):
            return None
        data, y, weight = subset(data, index, options), y[:, index], weight[:, index]
    cells = Cells(
        kind=first.kind,
        width=first.width,
        y=y,
        weight=weight,
        counts=counts,
        task_weight=None if len(set(factor)) == 1 else factor / factor.mean(),
    )
    return Rows(data=data, cells=cells, scores=cells.constant(np.zeros((len(members), first.width))))


def subset(data: lgb.Dataset, index: np.ndarray, options: dict[str, Any]) -> lgb.Dataset:
    """Some rows of binned data; the data itself if these are all."""
    return data if len(index) == data.num_data() else data.subset(index.tolist(), params=options).construct()


def own_start(cells: Cells) -> np.ndarray:
    """What makes the common constant of the tasks the best one of each: (T, K)."""
    own = [cells.of_task(t, cells.rows_of(t)).start()[0] for t in range(cells.n_tasks)]
    return np.stack(own) - cells.start()


def shrunk_start(rows: Rows) -> np.ndarray:
    """Newton step of a constant for every task, shrunk to 0 as far as chance explains the differences: (T, K).

    With step u and error v² of each task, τ² = mean(u² - v²) is left for the tasks, and u τ² / (τ² + v²) is taken.
    """
    cells = rows.cells
    residuals, hessians = cells.derivatives(rows.scores)
    hessians = np.broadcast_to(hessians, residuals.shape)
    r, r2, h = (
        np.stack([cells.per_task(values[..., k, :]) for k in range(cells.width)], axis=1)
        for values in (residuals, residuals**2, hessians)
    )
    limit = np.inf if cells.kind == "regression" else _LONGEST_START
    tiny = np.finfo(float).tiny
    step, error = np.clip(r / (h + tiny), -limit, limit), r2 / (h**2 + tiny)
    between = np.maximum(0, (step**2 - error).mean(axis=0))
    return step * between / (between + error + tiny)
