"""A metric: its score, the influence of every row on it, and where its values lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from tabmtl.base.params import near

Score = Callable[..., float]
Influence = Callable[..., np.ndarray]


def of_sklearn(name: str, **options: Any) -> Score:
    """Return a score of scikit-learn, which is loaded when it is first asked for."""

    def score(y: np.ndarray, answers: np.ndarray, **given: Any) -> float:
        from sklearn import metrics

        return getattr(metrics, name)(y, answers, **options, **given)

    return score


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Score of a task, higher is better.

    Parameters
    ----------
    score : callable
        ``score(labels, answers, sample_weight=weight)`` of the labelled rows, as those of scikit-learn. Labels
        are class indices (n,) as integers, or values; answers are probabilities (n, K), or values (n,).
    influence : callable or None
        ``influence(labels, answers, weight)``, the infinitesimal jackknife (n,): the weight of a row times the
        derivative of the score by it, of the sign of the score. None where no error of the score is known, so that it
        has no interval.
        Both get ``group=``, the numbers (n,) of the rows' groups, if the metric compares groups.
    sign : {1, -1}, default=1
        -1 turns a loss, as ``score`` gives it, into a score.
    compares : {"rows", "classes", "values", "groups"}, default="rows"
        "rows": the score is a mean over rows. Otherwise it compares labels with each other, and needs two different
        ones; the error of one that compares classes is that of the rarest class. "groups": it is a mean over groups of
        rows, and compares the labels of each; groups whose labels are all alike do not count.
    worst, best : float
        Where the values lie. A metric from 0 to 1 is a share.
    decides : bool, default=False
        Whether the score is one of the classes that are answered, and no other of their probabilities.
    of_positive : bool, default=False
        Whether it judges one of two classes, the positive one, and would have another value with the other one in its
        place.
    at_depth : callable, optional
        ``at_depth(k)`` is the metric of the first k rows of every group, where a name such as "ndcg@5" may say k.
    """

    score: Score
    influence: Influence | None
    sign: Literal[1, -1] = 1
    compares: Literal["rows", "classes", "values", "groups"] = "rows"
    worst: float = 0.0
    best: float = 1.0
    decides: bool = False
    of_positive: bool = False
    at_depth: Callable[[int], Metric] | None = None

    @property
    def is_share(self) -> bool:
        """Whether the values lie between 0 and 1."""
        return (self.worst, self.best) == (0.0, 1.0)

    def at(self, decide: Callable[[np.ndarray], np.ndarray]) -> Metric:
        """Return the metric of answers that a function from probabilities (n, K) to classes (n,) decides."""

        influence = self.influence

        def decided(p: np.ndarray) -> np.ndarray:
            return np.eye(p.shape[1])[decide(p)]

        return replace(
            self,
            score=lambda y, p, *, sample_weight: self.score(y, decided(p), sample_weight=sample_weight),
            influence=None if influence is None else lambda y, p, weight: influence(y, decided(p), weight),
        )


def find_metric(metrics: Mapping[str, Metric], name: str) -> Metric | None:
    """Return the metric of a name, or of one of them with another k behind its "@"; None if there is none.

    Examples
    --------
    >>> from tabmtl.metrics.classes import TWO_CLASSES
    >>> [find_metric(TWO_CLASSES, name) is None for name in ("gauc", "ndcg@3", "ndcg", "gauc@3", "ndcg@0")]
    [False, False, True, True, True]
    """
    if name in metrics:
        return metrics[name]
    stem, _, depth = name.partition("@")
    is_number = depth.isascii() and depth.isdigit() and depth[0] != "0"
    of_stem = (metric.at_depth for known, metric in metrics.items() if known.partition("@")[0] == stem)
    at = next(of_stem, None) if is_number else None
    return None if at is None else at(int(depth))


def near_metric(name: str, known: Mapping[str, Metric]) -> str:
    """Hint at the metric whose name is nearest, one by group only if no other is near: "auc" is ROC AUC."""
    plain = [each for each, metric in known.items() if metric.compares != "groups"]
    return near(name, plain) or near(name, known)


def of_mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return influences on the weighted mean of some values."""
    total = weight.sum()
    return weight * (values - weight @ values / total) / total


def of_ratio(above: np.ndarray, below: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return influences on the ratio of two weighted sums."""
    total = weight @ below
    return weight * (above - below * (weight @ above / total)) / total
