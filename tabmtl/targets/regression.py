"""Targets that are numbers: their mean, standardised, and the squared error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tabmtl.metrics.metric import Metric
from tabmtl.metrics.values import VALUES
from tabmtl.targets.kind import Kind, Units

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Regression(Kind):
    """A number; a score s is its mean in units of training: y = s · scale + center.

    Networks lose (s - y)², trees half of it.
    """

    name: ClassVar[str] = "regression"
    metrics: ClassVar[Mapping[str, Metric]] = VALUES
    is_quadratic: ClassVar[bool] = True
    takes_curves: ClassVar[bool] = True
    units: ClassVar[Units] = "standardized"
    longest_step: ClassVar[float] = math.inf
    lightgbm: ClassVar[Mapping[str, Any]] = {"objective": "regression", "metric": "rmse"}

    def link(self, scores: Any, xp: Any) -> Any:
        """Return the scores."""
        return scores

    def unlink(self, means: Any, xp: Any) -> Any:
        """Return the means."""
        return means

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the squared errors."""
        return (scores - labels).square()

    def answer_losses(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the squared errors (n,)."""
        return np.square(labels - answers)

    def distance(self, scores: Tensor, means: Tensor) -> Tensor:
        """Return the squared distances, whatever the loss: a quantile of answers, say, would be none of labels."""
        return (scores - means).square().sum(dim=1)

    def variation(self, means: Tensor) -> Tensor:
        """Return the variance."""
        return means.var(correction=0)

    def losses(self, scores: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Return half of the squared errors."""
        return np.square(means - scores) / 2

    def derivatives(
        self, scores: np.ndarray, means: np.ndarray, gradient: np.ndarray, hessian: np.ndarray | None
    ) -> None:
        """Write F - y and 1."""
        np.subtract(scores, means, out=gradient)
        if hessian is not None:
            hessian[...] = 1

    def lightgbm_link(self, width: int, center: float, scale: float) -> tuple[str, float, float]:
        """Return the objective whose raw score is the answer."""
        return "regression", scale, center
