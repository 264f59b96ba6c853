"""Links of LightGBM's models: what it predicts, given raw scores, with its bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from tabmtl.base.storage.lightgbm_text import TreeText

_VALUES = ("", "regression", "regression_l1", "huber", "fair", "quantile", "mape")
_EXPONENTIALS = ("poisson", "gamma", "tweedie")
_FARTHEST = 709.7  # whose exponential is a number


@dataclass(frozen=True)
class Link:
    """Link of a model whose raw scores are sums of leaves.

    Attributes
    ----------
    objective : str
        As LightGBM's text names it.
    width : int
        Number of scores.
    """

    objective: str
    width: int

    @classmethod
    def of(cls, text: TreeText) -> Self | None:
        """Read the link off a model; None if it is not known here, or if answers are no sums of leaves."""
        header, _ = text.cut()
        lines = dict(line.partition("=")[::2] for line in header.splitlines())
        width, objective = int(lines["num_class"]), lines.get("objective", "")
        known = (*_VALUES, *_EXPONENTIALS, "binary sigmoid:1", f"multiclass num_class:{width}")
        # a forest of LightGBM answers the mean of its trees
        is_plain = "average_output" not in lines and "\nis_linear=1\n" not in text
        return cls(objective, width) if objective in known and is_plain else None

    def answers(self, scores: np.ndarray) -> np.ndarray:
        """Return what LightGBM predicts of scores (width, n): (n,), or (n, width)."""
        if self.objective.startswith("binary"):
            return np.array([1 / (1 + math.exp(-score)) if score > -_FARTHEST else 0.0 for score in scores[0].tolist()])
        if self.objective.startswith("multiclass"):
            each = _exponentials(scores - scores.max(axis=0))
            return (each / each.cumsum(axis=0)[-1]).T
        if self.objective in _EXPONENTIALS:
            return _exponentials(scores)[0]
        return scores[0] if self.width == 1 else scores.T


def _exponentials(scores: np.ndarray) -> np.ndarray:
    # by the C library, as LightGBM does: numpy's exponential has other last bits
    return np.array([[math.exp(score) if score < _FARTHEST else math.inf for score in own] for own in scores.tolist()])
