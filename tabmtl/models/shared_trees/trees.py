"""Trees whose leaves have a value for every output: as they grow, and finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import lightgbm as lgb
import numpy as np
from scipy.sparse import csr_array

from tabmtl.base.schema import Batch
from tabmtl.base.storage.lightgbm_text import TreeText, constant_tree, fill_tree
from tabmtl.base.storage.stored import Stored
from tabmtl.estimators.boosted.border import Ensemble, Grown, tree_matrix
from tabmtl.estimators.boosted.gain import feature_gains
from tabmtl.estimators.boosted.walk import Walk, walks_together

_LEAF_TREES = 64  # whose leaves of all rows are in memory at a time
_GAIN_TREES = 100  # whose gains are in memory at a time
_PLACES = 1 << 16  # of the table that finds a leaf by its value


class VectorEnsemble:
    """A growing ensemble of trees whose leaves are known, so that they can get a value for every output.

    LightGBM finds the splits on one gradient; its own leaf values are ignored.

    Parameters
    ----------
    params, data, valid
        As those of `Ensemble`.
    rows : Batch
        The rows of ``data``.
    valid_rows : Batch, optional
        The rows of ``valid``.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        data: lgb.Dataset,
        rows: Batch,
        valid: lgb.Dataset | None = None,
        valid_rows: Batch | None = None,
    ) -> None:
        self._trees = Ensemble(params, data, valid)
        self._rows = [rows] if valid_rows is None else [rows, valid_rows]
        self._before = [np.zeros(each.num_data()) for each in (data, valid) if each is not None]
        self._highest = 0.0  # bound of all scores

    @property
    def rounds(self) -> int:
        """Trees grown so far."""
        return self._trees.rounds

    def grow(self, gradient: np.ndarray, hessian: np.ndarray) -> tuple[int, list[np.ndarray]] | None:
        """Grow one tree on a gradient and a hessian (n,), float32.

        Returns
        -------
        found : (int, list of ndarray) or None
            Number of its leaves, and the leaf (n,) int32 of every row, then those of every followed row; None if
            nothing could be split.
        """
        rounds = self.rounds
        self._trees.update(lambda _: (gradient[None], hessian[None]))
        if self.rounds == rounds:
            return None
        booster = self._trees.booster
        text = booster.model_to_string(num_iteration=1, start_iteration=booster.current_iteration() - 1)
        values = np.array(TreeText(text).first("leaf_value"), dtype=np.float64)
        self._highest += float(np.abs(values).max())
        return len(values), [self._find_leaves(i, values) for i in range(len(self._rows))]

    def finish(self) -> Grown:
        """Return the grown trees."""
        return self._trees.finish()

    def _find_leaves(self, followed: int, values: np.ndarray) -> np.ndarray:
        """Find the leaf of all rows by the change of their scores, which costs no pass through the tree."""
        now, before = self._trees.scores(of_valid=bool(followed))[0], self._before[followed]
        found = _nearest(np.subtract(now, before, out=before), values, 1e-9 * self._highest)
        before[:] = now
        if found is not None:
            return found
        newest = self._trees.booster.current_iteration() - 1
        matrix = tree_matrix(self._rows[followed])
        leaves = self._trees.booster.predict(matrix, pred_leaf=True, start_iteration=newest, num_iteration=1)
        return np.asarray(leaves).reshape(len(matrix)).astype(np.int32)


def _nearest(changes: np.ndarray, values: np.ndarray, least_gap: float) -> np.ndarray | None:
    """Find the index of the value nearest to every change (n,); None if two values are nearer than the least gap.

    The changes serve as memory.
    """
    order = np.argsort(values)
    rising = values[order]
    gap, width = np.diff(rising).min(initial=np.inf), rising[-1] - rising[0]
    if gap <= least_gap:
        return None
    places = np.rint((rising - rising[0]) * ((_PLACES - 3) / width)).astype(np.int64) + 1
    if np.diff(places).min(initial=3) < 3:
        return order[np.searchsorted((rising[1:] + rising[:-1]) / 2, changes)].astype(np.int32)
    # a table look-up takes a tenth of the time of a search; a change is at most one place from its value
    table = np.zeros(_PLACES, dtype=np.int32)
    for step in (-1, 0, 1):
        table[places + step] = order
    changes -= rising[0]
    changes *= (_PLACES - 3) / width
    changes += 1.5
    return table.take(changes.astype(np.int32), mode="clip")


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorForest:
    """Trees whose leaves have a value for every output.

    Attributes
    ----------
    values : ndarray of float64, shape (L, C)
        Values of all leaves, tree after tree.
    text : TreeText
        LightGBM's text of the trees; its own leaf values are ignored.
    """

    values: Annotated[np.ndarray, Stored("f8", "leaves outputs")]
    text: Annotated[TreeText, Stored(shape="F 1 trees 0")]

    def __post_init__(self) -> None:
        if len(self.values) != self._offsets[-1]:
            raise ValueError(f"there are values of {len(self.values)} leaves, expected {self._offsets[-1]}")

    @classmethod
    def join(cls, header: str, trees: Sequence[str], values: Sequence[np.ndarray], n_outputs: int) -> VectorForest:
        """Join grown trees and the values (leaves, C) of each; trees without any value are left out."""
        pairs = [(tree, own) for tree, own in zip(trees, values, strict=True) if own.any()]
        text = TreeText.joined(header, [tree for tree, _ in pairs], 1)
        return cls(values=np.concatenate([np.zeros((0, n_outputs)), *(own for _, own in pairs)]), text=text)

    def restricted(self, outputs: np.ndarray) -> VectorForest:
        """Return the trees that have values for some outputs, given by their numbers, with these values alone."""
        header, trees = self.text.cut()
        values = np.split(self.values[:, outputs], self._offsets[1:-1]) if trees else []
        return VectorForest.join(header, trees, values, len(outputs))

    @cached_property
    def booster(self) -> lgb.Booster:
        """The trees alone."""
        return lgb.Booster(model_str=self.text)

    @cached_property
    def _walk(self) -> Walk | None:
        return Walk.of(self.text.cut()[1])

    @cached_property
    def _offsets(self) -> np.ndarray:
        """The first leaf of every tree, and the number of all: (M + 1,)."""
        leaves = [int(tree.partition("=")[2].partition("\n")[0]) for tree in self.text.cut()[1]]
        return np.cumsum([0, *leaves], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def values_by_tree(self) -> list[np.ndarray]:
        """The values (leaves, C) of every tree."""
        return np.split(self.values, self._offsets[1:-1]) if len(self) else []

    def leaves_by_tree(self, matrix: np.ndarray, n_threads: int = 1) -> Iterator[np.ndarray]:
        """Find the leaf (n,) int32 of rows of `tree_matrix` in every tree, some trees at a time."""
        for first in range(0, len(self), _LEAF_TREES):
            n = min(_LEAF_TREES, len(self) - first)
            found = self.booster.predict(
                matrix, pred_leaf=True, start_iteration=first, num_iteration=n, num_threads=n_threads
            )
            yield from np.asarray(found).reshape(len(matrix), n).T.astype(np.int32, order="C")

    def find_leaves(self, matrix: np.ndarray, n_threads: int = 1) -> np.ndarray:
        """Find the leaves (n, M) of rows of `tree_matrix`, counted through all trees."""
        if not len(self):
            return np.zeros((len(matrix), 0), dtype=np.int64)
        if walks_together(matrix, n_threads) and self._walk is not None:
            return self.counted(self._walk.find(matrix))
        leaves = np.asarray(self.booster.predict(matrix, pred_leaf=True, num_threads=n_threads))
        return self.counted(leaves.reshape(len(matrix), len(self)).astype(np.int64))

    def counted(self, leaves: np.ndarray) -> np.ndarray:
        """Return leaves (n, M) counted through all trees, given those counted in each tree."""
        return leaves + self._offsets[:-1]

    def sum_rows(self, matrix: np.ndarray, n_threads: int = 1) -> np.ndarray:
        """Sum the values of the leaves of rows for all outputs: (n, C); the bits are those of `sum_values`."""
        if walks_together(matrix, n_threads) and self._walk is not None:
            return self._walk.vector_sums(matrix, np.split(self.values, self._offsets[1:-1]))
        return self.sum_values(self.find_leaves(matrix, n_threads))

    def sum_values(self, leaves: np.ndarray, outputs: slice = slice(None)) -> np.ndarray:
        """Sum the values of leaves (n, M) for some outputs: (n, C).

        Trees are added one after the other, so a row has the same sum alone and among others.
        """
        values = self.values[:, outputs]
        if len(leaves) == 1:
            return np.add.accumulate(np.concatenate([np.zeros((1, values.shape[1])), values[leaves[0]]]))[-1:]
        starts = np.arange(0, leaves.size + 1, max(len(self), 1)) if len(self) else np.zeros(len(leaves) + 1, int)
        each = csr_array((np.ones(leaves.size), leaves.ravel(), starts), shape=(len(leaves), len(values)))
        return each @ values

    def gains(self, n_features: int) -> np.ndarray:
        """Return the gain of every column for every output: (F, C)."""
        trees, gains = self.text.cut()[1], np.zeros((n_features, self.values.shape[1]))
        for i in range(0, len(self), _GAIN_TREES):
            own = trees[i : i + _GAIN_TREES]
            gains += feature_gains(own, n_features, self.values[self._offsets[i] : self._offsets[i + len(own)]])
        return gains

    def export(self, outputs: slice, start: np.ndarray, scale: float, objective: str) -> lgb.Booster:
        """Return some outputs as one plain model: the constants ``start``, then the trees times ``scale``."""
        header, trees = self.text.cut()
        kept = [constant_tree(value) for value in start]
        for tree, first, end in zip(trees, self._offsets[:-1], self._offsets[1:], strict=True):
            own = scale * self.values[first:end, outputs]
            if own.any():
                kept += [fill_tree(tree, values) for values in own.T.tolist()]
        return lgb.Booster(model_str=TreeText.joined(header, kept, len(start), objective))
