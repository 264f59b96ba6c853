"""Outputs of functions at the rows, and sums over rows by leaf and output, wide or long.

In the wide layout a row has a column for every output. In the long layout a row belongs to one task, and its columns
are those of its own task and the pooled ones, as if of one more task that all rows belong to: the answer for an unknown
task. So of T tasks with K outputs each, functions have C = (T + 1) K outputs there, and rows B = 2 K columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csc_array

_BLOCK = 4096  # rows whose float32 gradients are summed as such, before float64 takes over
_TINY = np.finfo(float).tiny


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """Outputs and sums of a wide table; `LongSums` are those of a long one.

    Attributes
    ----------
    n_rows : int
    function : ndarray of int, shape (C,)
        The task of every output.
    """

    n_rows: int
    function: np.ndarray

    @cached_property
    def n_functions(self) -> int:
        """Number of functions with rounds of their own: one of each task, and in the long layout the pooled one."""
        return int(self.function.max()) + 1

    def at_rows(self, outputs: np.ndarray) -> np.ndarray:
        """Return a constant of every output (C,) at the rows: (n, B) float32."""
        return np.tile(outputs.astype(np.float32), (self.n_rows, 1))

    def add_leaves(self, scores: np.ndarray, values: np.ndarray, leaf: np.ndarray) -> None:
        """Add the values (L, C) of the leaf (n,) of every row to the scores (n, B), float32."""
        scores += values.astype(np.float32).take(leaf, axis=0, out=self._step, mode="clip")

    @cached_property
    def _step(self) -> np.ndarray:
        return np.empty((self.n_rows, len(self.function)), dtype=np.float32)

    def per_leaf(self, leaf: np.ndarray, n_leaves: int, values: np.ndarray) -> np.ndarray:
        """Sum values (n, B) of the rows of every leaf, by output: (L, C) float64."""
        block = self._block
        each, n_sums = self._each, n_leaves * (int(block[-1]) + 1)
        if each.shape[0] < n_sums:
            each.resize((n_sums, self.n_rows))
        each.indices = leaf + n_leaves * block if block[-1] else leaf
        return (each @ values)[:n_sums].reshape(-1, n_leaves, values.shape[1]).sum(axis=0, dtype=np.float64)

    @cached_property
    def _each(self) -> csc_array:
        """A sparse matrix with a one for every row, whose places are filled in: to make one takes longer than a sum."""
        ends = np.arange(self.n_rows + 1, dtype=np.int32)
        return csc_array((np.ones(self.n_rows, dtype=np.float32), np.zeros_like(ends[:-1]), ends), (1, self.n_rows))

    @cached_property
    def _block(self) -> np.ndarray:
        """Block of every row."""
        return np.arange(self.n_rows, dtype=np.int32) // _BLOCK

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum values (n, B) by output: (C,)."""
        return self.per_leaf(np.zeros(self.n_rows, dtype=np.int32), 1, values)[0]

    def normalise(self, factors: np.ndarray) -> np.ndarray:
        """Scale the factors (C,) of a sketch, so that a row with all labels has the hessian 1."""
        return factors / max(np.sqrt(np.square(factors).sum()), _TINY)

    def sketch(
        self, gradient: np.ndarray, scaled: np.ndarray, weight: np.ndarray | None, factors: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return one gradient and hessian (n,), float32, by factors (C,) of the outputs; those of gradients are scaled.

        Without weights (n, B), all are 1.
        """
        squares = np.square(factors).astype(np.float32)
        # All numbers here are finite. BLAS calculates with what stands beside them too, and may report that.
        with np.errstate(invalid="ignore"):
            hessian = np.full(self.n_rows, squares.sum()) if weight is None else weight @ squares
            return gradient @ scaled.astype(np.float32), hessian


@dataclass(frozen=True, kw_only=True, eq=False)
class LongSums(Sums):
    """Outputs and sums of a long table.

    Attributes
    ----------
    width : int
        K: outputs of a function.
    task : ndarray of int32, shape (n,)
        Own task of every row.
    """

    width: int
    task: np.ndarray

    def at_rows(self, outputs: np.ndarray) -> np.ndarray:
        scores = np.zeros((self.n_rows, 2 * self.width), dtype=np.float32)
        self.add_leaves(scores, outputs[None], np.zeros(self.n_rows, dtype=np.int32))
        return scores

    def add_leaves(self, scores: np.ndarray, values: np.ndarray, leaf: np.ndarray) -> None:
        by_task = values.astype(np.float32).reshape(-1, self.n_functions, self.width)
        scores[:, : self.width] += by_task[leaf, self.task]
        scores[:, self.width :] += by_task[leaf, -1]

    def per_leaf(self, leaf: np.ndarray, n_leaves: int, values: np.ndarray) -> np.ndarray:
        place, size = leaf * self.n_functions + self.task, n_leaves * self.n_functions
        sums = np.empty((n_leaves, self.n_functions, self.width))
        for k in range(self.width):
            sums[:, :, k] = np.bincount(place, values[:, k], size).reshape(n_leaves, -1)
            sums[:, -1, k] = np.bincount(leaf, values[:, self.width + k], n_leaves)
        return sums.reshape(n_leaves, -1)

    def normalise(self, factors: np.ndarray) -> np.ndarray:
        largest = np.sqrt(np.bincount(self.function, np.square(factors)).max())
        return factors / max(largest, _TINY)

    def sketch(
        self, gradient: np.ndarray, scaled: np.ndarray, weight: np.ndarray | None, factors: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        own = scaled.reshape(-1, self.width).astype(np.float32)[self.task]
        hessian = np.square(factors.reshape(-1, self.width).astype(np.float32)).sum(axis=1)[self.task]
        if weight is not None:
            hessian *= weight[:, 0]
        return np.einsum("nk,nk->n", gradient[:, : self.width], own), hessian
