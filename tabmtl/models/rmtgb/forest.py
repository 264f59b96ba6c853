"""Finished ensembles as one LightGBM model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Annotated

import lightgbm as lgb
import numpy as np

from tabmtl.estimators.boosted.ensembles import Grown
from tabmtl.storage.lightgbm_text import TreeText, constant_tree, scale_tree
from tabmtl.storage.stored import Stored


@dataclass(frozen=True, kw_only=True, eq=False)
class Forest:
    """Several ensembles over the same features in one LightGBM model, one after the other.

    Attributes
    ----------
    offsets : ndarray of int64, shape (E + 1,)
        Ensemble e has the iterations from ``offsets[e]`` up to ``offsets[e + 1]``.
    text : TreeText
        LightGBM's text of the whole, which `Ensemble` wrote.
    """

    offsets: Annotated[np.ndarray, Stored("i8", "E+1", offsets="R")]
    text: Annotated[TreeText, Stored(shape="F K R 0")]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def join(cls, grown: Sequence[Grown], width: int) -> Forest:
        """Join all ensembles over the same features, each with ``width`` outputs, to one model."""
        ensembles = [trees for each in grown for trees in each.ensembles]
        offsets = np.cumsum([0, *(len(trees) // width for trees in ensembles)], dtype=np.int64)
        return cls(offsets=offsets, text=TreeText.join(grown[0].header, chain.from_iterable(ensembles), width))

    @cached_property
    def booster(self) -> lgb.Booster:
        """The model of all ensembles."""
        return lgb.Booster(model_str=self.text)

    @cached_property
    def abreast(self) -> lgb.Booster:
        """The ensembles as outputs of one model, the shorter ones filled up with trees of one leaf, of value 0."""
        header, trees = self.text.cut()
        ensembles = [self._own(trees, ensemble) for ensemble in range(len(self))]
        longest = max(map(len, ensembles))
        filled = [own + [constant_tree(0)] * (longest - len(own)) for own in ensembles]
        rounds = range(0, longest, self.width)
        dealt = [tree for first in rounds for own in filled for tree in own[first : first + self.width]]
        return lgb.Booster(model_str=TreeText.join(header, dealt, self.width * len(self)))

    @cached_property
    def width(self) -> int:
        """Number of outputs of every ensemble."""
        # without the booster, which single rows do not need
        return int(self.text.first("num_tree_per_iteration")[0])

    def predict(self, ensemble: int, matrix: np.ndarray, n_threads: int = 1) -> np.ndarray:
        """Return raw scores (width, n) of one ensemble for rows of `tree_matrix`."""
        start, end = self._range(ensemble)
        if start == end:
            return np.zeros((self.width, len(matrix)))
        scores = self.booster.predict(
            matrix, start_iteration=start, num_iteration=end - start, raw_score=True, num_threads=n_threads
        )
        return np.asarray(scores).reshape(len(matrix), self.width).T

    def predict_row(self, row: np.ndarray) -> np.ndarray:
        """Return raw scores (n_ensembles, width, 1) of all ensembles for one row (1, p), bit-equal to `predict`.

        Calls LightGBM once, because a call takes as long as some hundred trees. Many rows are slower this way: the
        trees of one ensemble stay in the processor's cache from row to row, those of all ensembles do not.
        """
        scores = self.abreast.predict(row, num_iteration=-1, raw_score=True, num_threads=1)
        return np.asarray(scores).reshape(len(self), self.width, 1)

    def export(self, factors: Mapping[int, float], start: Sequence[float], objective: str) -> lgb.Booster:
        """Return a weighted sum of ensembles and a constant as one plain model.

        Parameters
        ----------
        factors : mapping of int to float
            Ensembles to sum, with the factor of their trees.
        start : sequence of float, length width
            The constant of every output.
        objective : str
            LightGBM's objective, which names the link: "regression", "binary sigmoid:1", "multiclass num_class:3".
        """
        header, trees = self.text.cut()
        kept = [constant_tree(value) for value in start]
        for ensemble, factor in factors.items():
            kept += [scale_tree(tree, factor) for tree in self._own(trees, ensemble)]
        return lgb.Booster(model_str=TreeText.join(header, kept, self.width, objective))

    def _range(self, ensemble: int) -> tuple[int, int]:
        return int(self.offsets[ensemble]), int(self.offsets[ensemble + 1])

    def _own(self, trees: list[str], ensemble: int) -> list[str]:
        """Return the trees of one ensemble."""
        start, end = self._range(ensemble)
        return trees[self.width * start : self.width * end]
