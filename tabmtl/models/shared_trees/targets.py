"""Labels of tasks of all kinds, and their losses, wide or long.

A row has scores (B,), one per label column: an output of a task, of which a task with many classes has one for each. A
function of the rows has C outputs; `tabmtl.models.shared_trees.sums` brings the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from tabmtl.base.schema import Batch
from tabmtl.metrics.classes import auc_within
from tabmtl.metrics.intervals import standard_error
from tabmtl.models.shared_trees.sums import LongSums, Sums
from tabmtl.targets import Kind, Task, kind_blocks
from tabmtl.targets.kind import SURE, settle

Blocks = Sequence[tuple[Kind, slice]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Labels of a wide table; `LongTargets` are those of a long one.

    Attributes
    ----------
    blocks : sequence of (kind, slice)
        Kinds of the label columns: all regressions, all binary tasks, then every task of many classes.
    y : ndarray of float32, shape (n, B)
        Regression labels in training units, else 0 or 1; 0 where unlabelled.
    weight : ndarray of float32, shape (n, B)
        0 = unlabelled.
    sums : Sums
        Outputs at the rows, and sums over the rows.
    known_share : ndarray of shape (C,), optional
        The weighted mean of the labels of every output in an earlier fit, whose units stay.
    """

    blocks: Blocks
    y: np.ndarray
    weight: np.ndarray
    sums: Sums
    known_share: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    @cached_property
    def is_full(self) -> bool:
        """Whether every label is there, and has the weight 1."""
        return bool((self.weight == 1).all())

    @cached_property
    def is_quadratic(self) -> bool:
        """Whether all tasks are regressions, so that the hessian never changes."""
        return all(kind.is_quadratic for kind, _ in self.blocks)

    @cached_property
    def share(self) -> np.ndarray:
        """The weighted mean of the labels of every output: (C,)."""
        if self.known_share is not None:
            return self.known_share
        total = self.sums.total(self.weight)
        return self.sums.total(self.y * self.weight) / np.where(total > 0, total, 1)

    @property
    def output_blocks(self) -> Blocks:
        """Kinds of the outputs, as `blocks`."""
        return self.blocks

    def going_on(self, start: np.ndarray) -> Targets:
        """Return the labels in the units of a fit that began with the constants ``start`` (C,)."""
        share = np.empty_like(start)
        for kind, outputs in self.output_blocks:
            width = int((self.sums.function == self.sums.function[outputs.start]).sum())
            scores = start[outputs].reshape(-1, width)
            share[outputs] = kind.answered_means(kind.answers(scores, 0.0, 1.0, np), 0.0, 1.0).ravel()
        return replace(self, known_share=share)

    @cached_property
    def curvature(self) -> np.ndarray:
        """The hessian of a label at the start: (C,)."""
        return np.concatenate([kind.curvature(self.share[outputs]) for kind, outputs in self.output_blocks])

    @property
    def limits(self) -> np.ndarray:
        """The longest leaf step of every output: (C,)."""
        bounds = np.empty(len(self.sums.function))
        for kind, outputs in self.output_blocks:
            bounds[outputs] = kind.longest_step
        return bounds

    def start(self, penalty: float) -> np.ndarray:
        """Return the best constant of every output: (C,).

        The penalty has no effect here; it shrinks the constants of `LongTargets`.
        """
        start = np.concatenate([kind.start(self.share[outputs]) for kind, outputs in self.output_blocks])
        is_best = np.empty(len(start), dtype=bool)
        for kind, outputs in self.output_blocks:
            is_best[outputs] = kind.answers_means

        def slope(found: np.ndarray) -> np.ndarray:
            return self.sums.total(self.derivatives(self.sums.at_rows(found))[0])

        return settle(start, is_best, slope)

    def derivatives(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute weighted gradient and hessian of the loss by the scores: (n, B) float32 each, until the next call."""
        gradient, hessian = self._derivatives  # new memory would take as long as the rest
        for kind, columns in self.blocks:
            own = None if self.is_quadratic else hessian[:, columns]
            kind.derivatives(scores[:, columns], self.y[:, columns], gradient[:, columns], own)
        if not self.is_full:
            gradient *= self.weight
            if not self.is_quadratic:
                hessian *= self.weight
        return gradient, hessian

    @cached_property
    def _derivatives(self) -> tuple[np.ndarray, np.ndarray]:
        return np.empty_like(self.y), self.weight if self.is_quadratic else np.empty_like(self.y)

    def sketch(self, gradient: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return one gradient and hessian (n,), float32, from those of all columns and a factor (C,) of each output.

        In units of the tasks a gradient has the variance 1, and so the hessian 1.
        """
        scaled = factors / np.sqrt(self.curvature)
        return self.sums.sketch(gradient, scaled, None if self.is_full else self.weight, factors)

    def curvature_per_leaf(self, leaf: np.ndarray, n_leaves: int, hessian: np.ndarray) -> np.ndarray:
        """Sum the hessian (n, B) of the rows of every leaf, by output: (L, C), or (L, 1) if all are the same."""
        if self.is_full and self.is_quadratic:
            return np.bincount(leaf, minlength=n_leaves)[:, None].astype(np.float64)
        return self.sums.per_leaf(leaf, n_leaves, hessian)

    def losses(self, scores: np.ndarray) -> list[np.ndarray]:
        """Return the weighted losses of the labels of every function."""
        losses = self._cell_losses(scores)
        return [losses[labelled, cell] for cell, labelled in self._labelled()]

    def total_losses(self, scores: np.ndarray) -> np.ndarray:
        """Sum `losses` by function."""
        return self._cell_losses(scores).sum(axis=0, dtype=np.float64)[self._order]

    @cached_property
    def sizes(self) -> np.ndarray:
        """Total weight of the labels of every function."""
        weight = self.weight[:, self._firsts]
        return np.array([weight[labelled, cell].sum() for cell, labelled in self._labelled()])

    def _cell_losses(self, scores: np.ndarray) -> np.ndarray:
        """Return the weighted losses of the cells, a column for each task as `blocks` have them."""
        losses = [kind.losses(scores[:, columns], self.y[:, columns]) for kind, columns in self.blocks]
        return np.concatenate(losses, axis=1) * self.weight[:, self._firsts]

    @cached_property
    def _firsts(self) -> np.ndarray:
        """The first label column of every task, as `blocks` have them."""
        return np.flatnonzero(np.diff(self.sums.function, prepend=-1))

    @cached_property
    def _order(self) -> np.ndarray:
        """Cell of every task: (T,)."""
        return self.sums.function[self._firsts].argsort()

    def ranking(self, function: int, scores: np.ndarray) -> tuple[np.ndarray, ...] | None:
        """Return labels, scores and weights of a function of two classes; None of another one."""
        cell, labelled = self._labelled()[function]
        column = int(self._firsts[cell])
        kind = next(kind for kind, own in self.blocks if own.start <= column < own.stop)
        if next(iter(kind.metrics)) != "roc_auc":
            return None
        return tuple(array[labelled, column] for array in (self.y, scores, self.weight))

    def _labelled(self) -> list[tuple[int, np.ndarray]]:
        """Return for every function a cell, and which rows have a label in it."""
        return [(cell, self.weight[:, self._firsts[cell]] > 0) for cell in self._order.tolist()]

    def rows(self, index: np.ndarray) -> Targets:
        """Take some rows of a wide table."""
        sums = replace(self.sums, n_rows=len(index))
        return replace(self, y=self.y[index], weight=self.weight[index], sums=sums)

    def of_task(self, t: int) -> tuple[np.ndarray, Targets, tuple[np.ndarray, ...]] | None:
        """Take the rows with a label of one task: their numbers (m,), targets, and cells as `numpy.ix_` has them.

        Return None without any.
        """
        columns = np.flatnonzero(self.sums.function == t)
        index = np.flatnonzero(self.weight[:, columns[0]])
        if not len(index):
            return None
        cells = np.ix_(index, columns)
        kind = next(kind for kind, own in self.blocks if own.start <= columns[0] < own.stop)
        sums = Sums(n_rows=len(index), function=np.zeros(len(columns), dtype=np.int64))
        blocks = ((kind, slice(0, len(columns))),)
        return index, Targets(blocks=blocks, y=self.y[cells], weight=self.weight[cells], sums=sums), cells


@dataclass(frozen=True, kw_only=True, eq=False)
class LongTargets(Targets):
    """Labels of a long table: those of the own task of a row, then the same as pooled ones."""

    sums: LongSums

    @property
    def output_blocks(self) -> Blocks:
        kind, width = self.blocks[0][0], self.sums.width
        return [(kind, slice(t * width, (t + 1) * width)) for t in range(self.sums.n_functions)]

    @cached_property
    def curvature(self) -> np.ndarray:
        pooled = super().curvature[-self.sums.width :]  # a task of few rows may lack a class
        return np.tile(pooled, self.sums.n_functions)

    def start(self, penalty: float) -> np.ndarray:
        """Return the best constant of all rows, and for each task a step from it that the penalty shrinks."""
        sums, width = self.sums, self.sums.width
        pooled = np.tile(super().start(penalty)[-width:], sums.n_functions)
        gradient, hessian = self.derivatives(sums.at_rows(pooled))
        step = sums.total(gradient) / (sums.total(hessian) + penalty * self.curvature + SURE)
        step[-width:] = 0
        return pooled - step if self.is_quadratic else pooled - np.clip(step, -2, 2)

    def curvature_per_leaf(self, leaf: np.ndarray, n_leaves: int, hessian: np.ndarray) -> np.ndarray:
        return self.sums.per_leaf(leaf, n_leaves, hessian)

    def total_losses(self, scores: np.ndarray) -> np.ndarray:
        losses = self._cell_losses(scores)
        by_task = np.bincount(self.sums.task, losses[:, 0], self.sums.n_functions - 1)
        return np.append(by_task, losses[:, 1].sum())

    @cached_property
    def _firsts(self) -> np.ndarray:
        return np.array([0, self.sums.width])

    def _labelled(self) -> list[tuple[int, np.ndarray]]:
        labelled = self.weight[:, 0] > 0
        own = [(0, labelled & (self.sums.task == t)) for t in range(self.sums.n_functions - 1)]
        return [*own, (1, labelled)]


def are_ranked(function: int, parts: Sequence[tuple[Targets, np.ndarray]]) -> bool:
    """Return whether scores rank the labels of two classes of a function better than chance, by two errors.

    Each part has scores of its own, which do not compare with those of another.
    """
    found = [own for targets, scores in parts if (own := targets.ranking(function, scores)) is not None]
    if not found:
        return False
    y, score, weight = (np.concatenate(own) for own in zip(*found, strict=True))
    part = np.repeat(np.arange(len(found)), [len(own[0]) for own in found])
    classes = y.astype(np.intp)
    if len(np.unique(classes)) < 2:
        return False
    area, influence = auc_within(classes, np.column_stack([-score, score]), weight.astype(np.float64), part)
    error = standard_error(influence, classes)
    return error is not None and area - 0.5 > 2 * error


def make_targets(batch: Batch, tasks: Sequence[Task], center: np.ndarray, scale: np.ndarray) -> Targets:
    """Return the labels of a batch, given ``center`` and ``scale`` of its `LabelCoder`."""
    y = (batch.y - center) / scale
    weight = ~np.isnan(y) * (1.0 if batch.weight is None else batch.weight)
    y = np.nan_to_num(y)
    if batch.task is not None:
        kind, width = tasks[0].kind, tasks[0].width
        function, task = np.repeat(np.arange(len(tasks) + 1), width), batch.task.astype(np.int32)
        return LongTargets(
            blocks=((kind, slice(0, width)), (kind, slice(width, 2 * width))),
            y=np.tile(kind.means(y[:, 0], width), 2).astype(np.float32),
            weight=np.repeat(weight, 2 * width, axis=1).astype(np.float32),
            sums=LongSums(n_rows=len(y), function=function, width=width, task=task),
        )
    blocks = blocks_of(tasks)
    widths = [tasks[members[0]].width for _, members, _ in blocks]
    labels = [kind.means(y[:, members], width) for (kind, members, _), width in zip(blocks, widths, strict=True)]
    functions = [np.repeat(members, width) for (_, members, _), width in zip(blocks, widths, strict=True)]
    of_output = np.concatenate(functions)
    return Targets(
        blocks=[(kind, outputs) for kind, _, outputs in blocks],
        y=np.concatenate([part.reshape(len(y), -1) for part in labels], axis=1).astype(np.float32, order="C"),
        weight=np.ascontiguousarray(weight[:, of_output], dtype=np.float32),
        sums=Sums(n_rows=len(y), function=of_output),
    )


def blocks_of(tasks: Sequence[Task]) -> list[tuple[Kind, list[int], slice]]:
    """Return the tasks of a wide table and their outputs, by kind, and in the order of the outputs."""

    def place(block: tuple[Kind, list[int]]) -> tuple[bool, bool, str]:
        kind, members = block
        is_wide = tasks[members[0]].width > 1
        return not kind.is_quadratic, is_wide, "" if is_wide else kind.name

    found = sorted(kind_blocks(tasks), key=place)
    ends = np.cumsum([0, *(len(members) * tasks[members[0]].width for _, members in found)]).tolist()
    return [(*block, slice(*span)) for block, span in zip(found, pairwise(ends), strict=True)]
