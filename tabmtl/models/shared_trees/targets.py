"""Labels of tasks of all kinds, their losses, and sums over the leaves of a tree, wide or long.

A row has scores (B,), one per label column: an output of a task, of which a task with many classes has one for each. A
function of the rows has C outputs. In the wide layout B = C. In the long layout a row belongs to one task, and its
scores are those of its own task and the pooled ones, as if of one more task that all rows belong to: the answer for an
unknown task. So C = (T + 1) K there, and B = 2 K.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from tabmtl.processes.ranks import ALONE, Ranks
from tabmtl.schema import Batch
from tabmtl.targets import Kind, Task, kind_blocks
from tabmtl.targets.kind import SURE

_BLOCK = 4096  # rows whose float32 gradients are summed as such, before float64 takes over
_TINY = np.finfo(float).tiny


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Labels of a wide table; `LongTargets` are those of a long one.

    Attributes
    ----------
    blocks : tuple of (kind, slice)
        Kinds of the label columns: all regressions, all binary tasks, then every task of many classes.
    y : ndarray of float32, shape (n, B)
        Regression labels in training units, else 0 or 1; 0 where unlabelled.
    weight : ndarray of float32, shape (n, B)
        0 = unlabelled.
    function : ndarray of int, shape (C,)
        The task of every output.
    group : Ranks, optional
        Processes that hold the rows together. Sums over rows, and losses, are those of all ranks.
    """

    blocks: tuple[tuple[Kind, slice], ...]
    y: np.ndarray
    weight: np.ndarray
    function: np.ndarray
    group: Ranks = field(default=ALONE, kw_only=True)

    def __post_init__(self) -> None:
        if self.group.size > 1:  # now, and not in a cached property that one rank may ask for before another
            total = self.total(self.weight)
            share = self.total(self.y * self.weight) / np.where(total > 0, total, 1)
            vars(self).update(share=share, sizes=self.group.total(self._own_sizes()), n_rows=self._count_rows())

    def __len__(self) -> int:
        return len(self.y)

    @property
    def n_functions(self) -> int:
        """Number of functions with rounds of their own: one of each task, and in the long layout the pooled one."""
        return int(self.function.max()) + 1

    @cached_property
    def is_full(self) -> bool:
        """Whether every label is there, and has the weight 1; one process knows, and a group does not ask."""
        return self.group.size == 1 and bool((self.weight == 1).all())

    @cached_property
    def n_rows(self) -> int:
        """Number of the rows of all ranks with a label."""
        return len(self)

    def _count_rows(self) -> int:
        return int(self.group.total(np.array((self.weight > 0).any(axis=1).sum())))

    @cached_property
    def is_quadratic(self) -> bool:
        """Whether all tasks are regressions, so that the hessian never changes."""
        return all(kind.is_quadratic for kind, _ in self.blocks)

    @cached_property
    def share(self) -> np.ndarray:
        """The weighted mean of the labels of every output: (C,)."""
        total = self.total(self.weight)
        return self.total(self.y * self.weight) / np.where(total > 0, total, 1)

    @cached_property
    def curvature(self) -> np.ndarray:
        """The hessian of a label at the start: (C,)."""
        return np.concatenate([kind.curvature(self.share[outputs]) for kind, outputs in self.output_blocks])

    @cached_property
    def is_bounded(self) -> np.ndarray:
        """Whether the leaf steps of an output are bounded, as those of classifications are: (C,)."""
        bounded = np.ones(len(self.function), dtype=bool)
        for kind, outputs in self.output_blocks:
            bounded[outputs] = not kind.is_quadratic
        return bounded

    @property
    def output_blocks(self) -> Sequence[tuple[Kind, slice]]:
        """Kinds of the outputs, as `blocks`."""
        return self.blocks

    def start(self, penalty: float) -> np.ndarray:
        """Return the best constant of every output: (C,).

        The penalty has no effect here; it shrinks the constants of `LongTargets`.
        """
        return np.concatenate([kind.start(self.share[outputs]) for kind, outputs in self.output_blocks])

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

    @cached_property
    def _step(self) -> np.ndarray:
        return np.empty_like(self.y)

    def losses(self, scores: np.ndarray) -> list[np.ndarray]:
        """Return the weighted losses of the labels of every function."""
        losses, weight = self._cell_losses(scores)
        own = [losses[labelled, column] for column, labelled in self._cells_of_functions(weight)]
        return [np.concatenate(parts) for parts in zip(*self.group.gather(own), strict=True)]

    def total_losses(self, scores: np.ndarray) -> np.ndarray:
        """Sum `losses` by function."""
        losses, _ = self._cell_losses(scores)
        return self.group.total(losses.sum(axis=0, dtype=np.float64)[self._order])

    @cached_property
    def sizes(self) -> np.ndarray:
        """Total weight of the labels of every function."""
        return self._own_sizes()

    def _own_sizes(self) -> np.ndarray:
        _, weight = self._cell_losses(np.zeros_like(self.y))
        return np.array([weight[labelled, column].sum() for column, labelled in self._cells_of_functions(weight)])

    def _cell_losses(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the weighted losses and the weights of the cells, a column for each task as `blocks` have them."""
        losses, weights = [], []
        for kind, columns in self.blocks:
            loss = kind.losses(scores[:, columns], self.y[:, columns])
            weight = self.weight[:, columns][:, : loss.shape[1]]
            losses.append(loss * weight)
            weights.append(weight)
        return np.concatenate(losses, axis=1), np.concatenate(weights, axis=1)

    @cached_property
    def _order(self) -> np.ndarray:
        """Column of every task among those of `_cell_losses`: (T,)."""
        _, first = np.unique(self.function, return_index=True)
        return first.argsort().argsort()

    def _cells_of_functions(self, weight: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield a column of `_cell_losses` for every function, and whether rows have a label in it."""
        for column in self._order.tolist():
            yield column, weight[:, column] > 0

    def at_rows(self, outputs: np.ndarray) -> np.ndarray:
        """Return a constant of every output (C,) at the rows: (n, B) float32."""
        return np.tile(outputs.astype(np.float32), (len(self), 1))

    def add_leaves(self, scores: np.ndarray, values: np.ndarray, leaf: np.ndarray) -> None:
        """Add the values (L, C) of the leaf (n,) of every row to the scores (n, B), float32."""
        scores += values.astype(np.float32).take(leaf, axis=0, out=self._step, mode="clip")

    def per_leaf(self, leaf: np.ndarray, n_leaves: int, values: np.ndarray) -> np.ndarray:
        """Sum values (n, B) of the rows of every leaf, by output: (L, C) float64."""
        block, ends, ones = self._blocks
        shape = (len(leaf), n_leaves * (int(block[-1]) + 1))
        each = csr_array((ones, leaf + n_leaves * block, ends), shape)
        own = (each.T @ values).reshape(-1, n_leaves, values.shape[1]).sum(axis=0, dtype=np.float64)
        return self.group.total(own)

    @cached_property
    def _blocks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Block of every row, and ends and values of the rows of a sparse matrix of one value each."""
        rows = np.arange(len(self) + 1, dtype=np.int32)
        return rows[:-1] // _BLOCK, rows, np.ones(len(self), dtype=np.float32)

    def curvature_per_leaf(self, leaf: np.ndarray, n_leaves: int, hessian: np.ndarray) -> np.ndarray:
        """Sum the hessian (n, B) of the rows of every leaf, by output: (L, C), or (L, 1) if all are the same."""
        if self.is_full and self.is_quadratic:
            return np.bincount(leaf, minlength=n_leaves)[:, None].astype(np.float64)
        return self.per_leaf(leaf, n_leaves, hessian)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum values (n, B) by output: (C,)."""
        return self.per_leaf(np.zeros(len(self), dtype=np.int32), 1, values)[0]

    def of_cells(self, cells: tuple[np.ndarray, ...]) -> Targets:
        """Take the labels of one task at some rows and its columns, as `numpy.ix_` gives them."""
        y, first = self.y[cells], int(cells[1].ravel()[0])
        kind = next(kind for kind, columns in self.blocks if columns.start <= first < columns.stop)
        function = np.zeros(y.shape[1], dtype=np.int64)
        blocks = ((kind, slice(0, y.shape[1])),)
        return Targets(blocks=blocks, y=y, weight=self.weight[cells], function=function, group=self.group)

    def normalise(self, factors: np.ndarray) -> np.ndarray:
        """Scale the factors (C,) of a sketch, so that a row with all labels has the hessian 1."""
        return factors / max(np.sqrt(np.square(factors).sum()), _TINY)

    def sketch(self, gradient: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return one gradient and hessian (n,), float32, from those of all columns and a factor (C,) of each output.

        In units of the tasks a gradient has the variance 1, and so the hessian 1.
        """
        scaled = (factors / np.sqrt(self.curvature)).astype(np.float32)
        squares = np.square(factors).astype(np.float32)
        # All numbers here are finite. BLAS calculates with what stands beside them too, and may report that.
        with np.errstate(invalid="ignore"):
            hessian = np.full(len(self), squares.sum()) if self.is_full else self.weight @ squares
            return gradient @ scaled, hessian


@dataclass(frozen=True, kw_only=True, eq=False)
class LongTargets(Targets):
    """Labels of a long table: those of the own task of a row, then the same as pooled ones.

    Attributes
    ----------
    task : ndarray of int32, shape (n,)
        Own task of every row.
    """

    task: np.ndarray

    @property
    def width(self) -> int:
        """K: outputs of a function."""
        return self.y.shape[1] // 2

    @property
    def output_blocks(self) -> Sequence[tuple[Kind, slice]]:
        kind, width = self.blocks[0][0], self.width
        return [(kind, slice(t * width, (t + 1) * width)) for t in range(self.n_functions)]

    @cached_property
    def curvature(self) -> np.ndarray:
        pooled = super().curvature[-self.width :]  # a task of few rows may lack a class
        return np.tile(pooled, self.n_functions)

    def start(self, penalty: float) -> np.ndarray:
        """Return the best constant of all rows, and for each task a step from it that the penalty shrinks."""
        pooled = np.tile(super().start(penalty)[-self.width :], self.n_functions)
        gradient, hessian = self.derivatives(self.at_rows(pooled))
        step = self.total(gradient) / (self.total(hessian) + penalty * self.curvature + SURE)
        step[-self.width :] = 0
        return pooled - step if self.blocks[0][0].is_quadratic else pooled - np.clip(step, -2, 2)

    def at_rows(self, outputs: np.ndarray) -> np.ndarray:
        scores = np.zeros_like(self.y)
        self.add_leaves(scores, outputs[None], np.zeros(len(self), dtype=np.int32))
        return scores

    def add_leaves(self, scores: np.ndarray, values: np.ndarray, leaf: np.ndarray) -> None:
        by_task = values.astype(np.float32).reshape(-1, self.n_functions, self.width)
        scores[:, : self.width] += by_task[leaf, self.task]
        scores[:, self.width :] += by_task[leaf, -1]

    def per_leaf(self, leaf: np.ndarray, n_leaves: int, values: np.ndarray) -> np.ndarray:
        place, size = leaf * self.n_functions + self.task, n_leaves * self.n_functions
        own = np.stack([np.bincount(place, values[:, k], size) for k in range(self.width)], axis=1)
        sums = own.reshape(n_leaves, self.n_functions, self.width)
        sums[:, -1] = sums.sum(axis=1)
        if values.shape[1] == 2 * self.width:
            pooled = [np.bincount(leaf, values[:, self.width + k], n_leaves) for k in range(self.width)]
            sums[:, -1] = np.stack(pooled, axis=1)
        return self.group.total(sums.reshape(n_leaves, -1))

    def normalise(self, factors: np.ndarray) -> np.ndarray:
        largest = np.sqrt(np.bincount(self.function, np.square(factors)).max())
        return factors / max(largest, _TINY)

    def curvature_per_leaf(self, leaf: np.ndarray, n_leaves: int, hessian: np.ndarray) -> np.ndarray:
        return self.per_leaf(leaf, n_leaves, hessian)

    def sketch(self, gradient: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        by_task = factors.reshape(-1, self.width).astype(np.float32)
        scaled = (factors / np.sqrt(self.curvature)).reshape(-1, self.width).astype(np.float32)
        hessian = self.weight[:, 0] * np.square(by_task).sum(axis=1)[self.task]
        return np.einsum("nk,nk->n", gradient[:, : self.width], scaled[self.task]), hessian

    def total_losses(self, scores: np.ndarray) -> np.ndarray:
        losses, _ = self._cell_losses(scores)
        own = np.append(np.bincount(self.task, losses[:, 0], self.n_functions - 1), losses[:, 1].sum())
        return self.group.total(own)

    def _cells_of_functions(self, weight: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for t in range(self.n_functions - 1):
            yield 0, (self.task == t) & (weight[:, 0] > 0)
        yield 1, weight[:, 1] > 0


def make_targets(
    batch: Batch, tasks: Sequence[Task], center: np.ndarray, scale: np.ndarray, group: Ranks = ALONE
) -> Targets:
    """Return the labels of a batch, given ``center`` and ``scale`` of its `LabelCoder`."""
    y = (batch.y - center) / scale
    weight = ~np.isnan(y) * (1.0 if batch.weight is None else batch.weight)
    y = np.nan_to_num(y)
    if batch.task is not None:
        kind, width = tasks[0].kind, tasks[0].width
        labels = np.tile(kind.means(y[:, 0], width), 2).astype(np.float32)
        return LongTargets(
            blocks=((kind, slice(0, width)), (kind, slice(width, 2 * width))),
            y=labels,
            weight=np.repeat(weight, 2 * width, axis=1).astype(np.float32),
            function=np.repeat(np.arange(len(tasks) + 1), width),
            task=batch.task.astype(np.int32),
            group=group,
        )
    order = output_order(tasks)
    function = np.repeat(order, [tasks[t].width for t in order])
    labels = np.concatenate([tasks[t].kind.means(y[:, t], tasks[t].width) for t in order], axis=1)
    return Targets(
        blocks=tuple(_blocks([tasks[t] for t in order])),
        y=labels.astype(np.float32),
        weight=np.ascontiguousarray(weight[:, function], dtype=np.float32),
        function=function,
        group=group,
    )


def output_order(tasks: Sequence[Task]) -> list[int]:
    """Return the tasks of a wide table in the order of their outputs: by kind, so that kinds are blocks of columns."""
    kinds = [task.kind for task in tasks]

    def place(t: int) -> tuple[bool, bool, str, int]:
        is_wide = tasks[t].width > 1
        # kinds of one name may differ in their parameters
        return not kinds[t].is_quadratic, is_wide, *(("", 0) if is_wide else (kinds[t].name, kinds.index(kinds[t])))

    return sorted(range(len(tasks)), key=place)


def _blocks(tasks: Sequence[Task]) -> Iterator[tuple[Kind, slice]]:
    """Yield the output columns of ordered tasks by kind."""
    first = 0
    for kind, members in kind_blocks(tasks):
        width = sum(tasks[t].width for t in members)
        yield kind, slice(first, first + width)
        first += width
