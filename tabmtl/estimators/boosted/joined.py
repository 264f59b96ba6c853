"""Trees of several models as one model of LightGBM, for few rows: a call takes as long as some hundred trees."""

from __future__ import annotations

from collections.abc import Sequence

import lightgbm as lgb
import numpy as np

from tabmtl.storage.lightgbm_text import TreeText

#: Rows that are asked so, at most: for more, trees of one model at a time stay in the processor's cache.
FEW_ROWS = 16


class JoinedTrees:
    """Trees over the same features.

    Parameters
    ----------
    texts : sequence of TreeText
        Models, whose trees follow each other.
    """

    def __init__(self, texts: Sequence[TreeText]) -> None:
        header, trees = texts[0].cut()[0], _trees_of(texts)
        self._booster = lgb.Booster(model_str=TreeText.joined(header, trees, 1)) if trees else None

    def leaves(self, matrix: np.ndarray) -> np.ndarray:
        """Find the leaves (n, M) of rows of `tree_matrix`, counted in each tree."""
        if self._booster is None:
            return np.zeros((len(matrix), 0), dtype=np.int64)
        found = np.asarray(self._booster.predict(matrix, pred_leaf=True, num_threads=1))
        return found.reshape(len(matrix), -1).astype(np.int64)


class JoinedSums(JoinedTrees):
    """Ensembles of trees, of which each answers the sum of its leaves.

    Parameters
    ----------
    texts : sequence of TreeText
    output : ndarray of int, shape (M,)
        Number of the sum that every tree belongs to.
    n_outputs : int
    """

    def __init__(self, texts: Sequence[TreeText], output: np.ndarray, n_outputs: int) -> None:
        super().__init__(texts)
        values = [tree.partition("leaf_value=")[2].partition("\n")[0] for tree in _trees_of(texts)]
        self._values = np.array(" ".join(values).split(), dtype=np.float64)
        self._first = np.cumsum([0, *(value.count(" ") + 1 for value in values)], dtype=np.int64)[:-1]
        order = np.argsort(output, kind="stable")
        ends = np.searchsorted(output[order], np.arange(n_outputs))
        self._place = np.empty_like(order)  # of a tree among those of its sum
        self._place[order] = np.arange(len(order)) - ends[output[order]]
        self._output, self._shape = output, (int(self._place.max(initial=-1)) + 1, n_outputs)

    def sums(self, matrix: np.ndarray) -> np.ndarray:
        """Return the sums (n_outputs, n) of rows of `tree_matrix`, with the bits of LightGBM."""
        found = np.zeros((1 + self._shape[0], self._shape[1], len(matrix)))
        found[1 + self._place, self._output] = self._values[self.leaves(matrix) + self._first].T
        return np.add.accumulate(found, axis=0)[-1]  # one after the other, as a plain sum does not


def _trees_of(texts: Sequence[TreeText]) -> list[str]:
    return [tree for text in texts for tree in text.cut()[1]]
