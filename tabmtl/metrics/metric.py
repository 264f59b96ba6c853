"""A metric: its score, the influence of every row on it, and where its values lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Score = Callable[..., float]
Influence = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Score of a task, higher is better.

    Parameters
    ----------
    score : callable
        ``score(labels, answers, sample_weight=weight)`` of the labelled rows, as those of scikit-learn. Labels
        are class indices (n,) as integers, or values; answers are probabilities (n, K), or values (n,).
    influence : callable
        ``influence(labels, answers, weight)``, the infinitesimal jackknife (n,): the weight of a row times the
        derivative of the score by it, of the sign of the score.
    sign : {1, -1}, default=1
        -1 turns a loss, as ``score`` gives it, into a score.
    compares : {"rows", "classes", "values"}, default="rows"
        "rows": the score is a mean over rows. Otherwise it compares labels with each other, and needs two different
        ones; the error of one that compares classes is that of the rarest class.
    worst, best : float
        Where the values lie. A metric from 0 to 1 is a share.
    """

    score: Score
    influence: Influence
    sign: Literal[1, -1] = 1
    compares: Literal["rows", "classes", "values"] = "rows"
    worst: float = 0.0
    best: float = 1.0

    @property
    def is_share(self) -> bool:
        """Whether the values lie between 0 and 1."""
        return (self.worst, self.best) == (0.0, 1.0)


def of_mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return influences on the weighted mean of some values."""
    total = weight.sum()
    return weight * (values - weight @ values / total) / total


def of_ratio(above: np.ndarray, below: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return influences on the ratio of two weighted sums."""
    total = weight @ below
    return weight * (above - below * (weight @ above / total)) / total
