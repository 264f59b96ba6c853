"""Targets of several classes: a score of each, the softmax, and the log loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tabmtl.metrics.classes import CLASSES
from tabmtl.metrics.metric import Metric
from tabmtl.targets.classes import Classes
from tabmtl.targets.kind import RARE, SURE

if TYPE_CHECKING:
    from torch import Tensor

#: Classes from which numpy is fast row by row; it also sums so many in another order.
_FEW = 8


@dataclass(frozen=True)
class Multiclass(Classes):
    """K classes; scores s say that class k has the probability exp(s_k) / sum_j exp(s_j).

    The loss is log(sum_k exp(s_k)) - s_y.
    """

    name: ClassVar[str] = "multiclass"
    takes_curves: ClassVar[bool] = True
    takes_new_classes: ClassVar[bool] = True
    takes_monotone: ClassVar[bool] = False  # scores would be, and not the shares of their exponentials
    metrics: ClassVar[Mapping[str, Metric]] = CLASSES
    lightgbm: ClassVar[Mapping[str, Any]] = {"objective": "multiclass", "metric": "multi_logloss"}

    def width(self, classes: tuple | None) -> int:
        """Return the number of classes."""
        return len(classes or ())

    def means(self, labels: Any, width: int) -> Any:
        """Return the indicators (..., K) of the classes."""
        return np.eye(width)[labels.astype(np.int64)]

    def link(self, scores: Any, xp: Any) -> Any:
        """Return the softmax of the scores."""
        exponent = xp.exp(scores - xp.amax(scores, axis=-1, keepdims=True))
        return exponent / exponent.sum(axis=-1, keepdims=True)

    def unlink(self, means: Any, xp: Any) -> Any:
        """Return log probabilities."""
        return xp.log(xp.clip(means, RARE, 1))

    def answered_means(self, answers: Any, center: Any, scale: Any) -> Any:
        """Return the probabilities."""
        return answers

    def start(self, mean: np.ndarray) -> np.ndarray:
        """Return the log shares of the classes."""
        return np.log(np.maximum(mean, SURE))

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the log losses (B, 1) of one task."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(scores, labels[:, 0].long(), reduction="none")[:, None]

    def member_mean(self, scores: Tensor) -> Tensor:
        """Return the log of the mean probabilities of members, always finite."""
        return scores.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(scores))

    def distance(self, scores: Tensor, means: Tensor) -> Tensor:
        """Return the Kullback-Leibler divergence from the probabilities."""
        from torch.nn.functional import cross_entropy
        from torch.special import entr

        return cross_entropy(scores, means, reduction="none") - entr(means).sum(dim=1)

    def variation(self, means: Tensor) -> Tensor:
        """Return the entropy of the mean probabilities, less the mean entropy."""
        from torch.special import entr

        return (entr(means.mean(dim=0)) - entr(means).mean(dim=0)).sum()

    def losses(self, scores: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Return the log losses (..., 1)."""
        scores = _apart(scores)
        high = scores.max(axis=-1, keepdims=True)
        total = high + np.log(np.exp(scores - high).sum(axis=-1, keepdims=True))
        return total - (means * scores).sum(axis=-1, keepdims=True)

    def derivatives(
        self, scores: np.ndarray, means: np.ndarray, gradient: np.ndarray, hessian: np.ndarray | None
    ) -> None:
        """Write p - y and K / (K - 1) p (1 - p), as LightGBM has it."""
        hessian = np.empty_like(scores) if hessian is None else hessian
        n_classes = scores.shape[-1]
        p = _apart(scores)
        p -= p.max(axis=-1, keepdims=True)
        np.exp(p, out=p)
        p /= p.sum(axis=-1, keepdims=True)
        variance = 1 - p
        variance *= p
        variance *= p.dtype.type(n_classes / (n_classes - 1))
        for k in range(n_classes) if n_classes < _FEW else [slice(None)]:
            np.subtract(p[..., k], means[..., k], out=gradient[..., k])
            hessian[..., k] = variance[..., k]

    def curvature(self, mean: np.ndarray) -> np.ndarray:
        """Return K / (K - 1) p (1 - p)."""
        p = np.clip(mean, SURE, 1 - SURE)
        return p * (1 - p) * (mean.shape[-1] / (mean.shape[-1] - 1))

    def lightgbm_link(self, width: int, center: float, scale: float) -> tuple[str, float, float]:
        """Return the objective whose raw scores are those of the softmax."""
        return f"multiclass num_class:{width}", 1.0, 0.0


def _apart(scores: np.ndarray) -> np.ndarray:
    """Return a copy (..., K), in whose memory each of few classes has all rows in turn, so that one call takes them."""
    if scores.shape[-1] >= _FEW:
        return scores.copy()
    return np.moveaxis(np.moveaxis(scores, -1, 0).copy(), 0, -1)
