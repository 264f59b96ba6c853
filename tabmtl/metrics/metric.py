"""A metric: its score, the influence of every row on it, and where its values lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
    decides : bool, default=False
        Whether the score is one of the classes that are answered, and no other of their probabilities.
    """

    score: Score
    influence: Influence
    sign: Literal[1, -1] = 1
    compares: Literal["rows", "classes", "values"] = "rows"
    worst: float = 0.0
    best: float = 1.0
    decides: bool = False

    @property
    def is_share(self) -> bool:
        """Whether the values lie between 0 and 1."""
        return (self.worst, self.best) == (0.0, 1.0)

    def at(self, decide: Callable[[np.ndarray], np.ndarray]) -> Metric:
        """Return the metric of answers that a function from probabilities (n, K) to classes (n,) decides."""

        def decided(p: np.ndarray) -> np.ndarray:
            return np.eye(p.shape[1])[decide(p)]

        return replace(
            self,
            score=lambda y, p, *, sample_weight: self.score(y, decided(p), sample_weight=sample_weight),
            influence=lambda y, p, weight: self.influence(y, decided(p), weight),
        )


def of_mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return influences on the weighted mean of some values."""
    total = weight.sum()
    return weight * (values - weight @ values / total) / total


def of_ratio(above: np.ndarray, below: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return influences on the ratio of two weighted sums."""
    total = weight @ below
    return weight * (above - below * (weight @ above / total)) / total
