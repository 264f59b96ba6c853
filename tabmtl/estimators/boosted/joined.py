"""Trees of several models as one model of LightGBM, for few rows: a call takes as long as some hundred trees."""

from __future__ import annotations

from collections.abc import Sequence

import lightgbm as lgb
import numpy as np

from tabmtl.base.storage.lightgbm_text import TreeText
from tabmtl.estimators.boosted.link import Link

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
        trees = _trees_of(texts)
        self._booster = lgb.Booster(model_str=TreeText.joined(texts[0].cut()[0], trees, 1)) if trees else None

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
        place = np.empty_like(order)  # of a tree among those of its sum
        place[order] = np.arange(len(order)) - np.searchsorted(output[order], np.arange(n_outputs))[output[order]]
        self._shape = n_outputs, int(place.max(initial=-1)) + 2  # the first term of a sum is 0
        self._place = output * self._shape[1] + place + 1

    def sums(self, matrix: np.ndarray) -> np.ndarray:
        """Return the sums (n_outputs, n) of rows of `tree_matrix`, with the bits of LightGBM."""
        found = np.zeros((len(matrix), *self._shape))
        found.reshape(len(matrix), -1)[:, self._place] = self._values[self.leaves(matrix) + self._first]
        return np.add.accumulate(found, axis=2)[:, :, -1].T  # one after the other, as a plain sum does not


class JoinedModels:
    """Whole models, of which each answers as `lightgbm.Booster.predict` does, with its bits.

    Parameters
    ----------
    texts : sequence of TreeText
    """

    def __init__(self, texts: Sequence[TreeText]) -> None:
        self._links = [Link.of(text) for text in texts]
        pairs = [*zip(texts, self._links, strict=True)]
        self._alone = [lgb.Booster(model_str=text) for text, link in pairs if link is None]
        joined = [(text, link.width) for text, link in pairs if link is not None]
        self._ends = np.cumsum([0, *(width for _, width in joined)])
        sizes = [(len(text.cut()[1]), width) for text, width in joined]
        outputs = [start + np.arange(n) % width for start, (n, width) in zip(self._ends[:-1], sizes, strict=True)]
        none = np.zeros(0, dtype=np.int64)
        self._sums = JoinedSums([text for text, _ in joined], np.concatenate([none, *outputs]), int(self._ends[-1]))

    def predict(self, matrix: np.ndarray) -> list[np.ndarray]:
        """Predict rows of `tree_matrix` by every model."""
        alone = iter([np.asarray(booster.predict(matrix, num_threads=1)) for booster in self._alone])
        scores = iter(np.split(self._sums.sums(matrix), self._ends[1:-1]))
        return [next(alone) if link is None else link.answers(next(scores)) for link in self._links]


def _trees_of(texts: Sequence[TreeText]) -> list[str]:
    return [tree for text in texts for tree in text.cut()[1]]
