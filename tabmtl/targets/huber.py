"""Targets that are numbers with far outliers: a robust mean, standardised, and Huber's loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy.special import ndtr

from tabmtl.metrics.metric import Metric
from tabmtl.metrics.values import VALUES, find_quantile, pinballs
from tabmtl.targets.kind import LONGEST_STEP
from tabmtl.targets.regression import Regression

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Huber(Regression):
    """A number; a score s is a mean that far labels move no more than others: y = s · scale + center.

    At a distance e to the label, trees lose e² / 2 up to delta and delta (e - delta / 2) beyond, over the standard
    deviation of the slope of this loss at normal labels; networks lose twice as much. So a task of any delta weighs
    beside others as a regression does. Trees take the second derivative of a parabola which touches the loss at the
    score and lies above it everywhere (Huber, Robust Statistics, 1981, section 7.8): far labels hold no leaf.

    Far labels widen the standard deviation, and so delta: where they lie tens of deviations away, take 0.1 or the kind
    "quantile", the median, in place of 1.

    No unit of the labels is known where answers in own units are compared: there the absolute errors count.

    Parameters
    ----------
    delta : float, default=1.0
        Distance from which a label pulls no harder, in standard deviations of the labels.
    """

    loss_power: ClassVar[int] = 1
    name: ClassVar[str] = "huber"
    is_quadratic: ClassVar[bool] = False
    takes_curves: ClassVar[bool] = False
    answers_means: ClassVar[bool] = False
    longest_step: ClassVar[float] = LONGEST_STEP
    metrics: ClassVar[Mapping[str, Metric]] = {"d2_absolute_error": pinballs(0.5)["d2_pinball"], **VALUES}
    lightgbm_scaled: ClassVar[tuple[str, ...]] = ("alpha",)
    delta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.delta < math.inf:
            raise ValueError(
                "the delta of a huber task must be a finite number above 0, in standard deviations of the labels, such "
                f"as 1.0, got {self.delta!r}"
            )

    @cached_property
    def lightgbm(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Parameters of `lightgbm.train`."""
        return {"objective": "huber", "metric": "huber", "alpha": self.delta}

    @cached_property
    def _deviation(self) -> float:
        """Standard deviation of the slope, clipped to delta, at normal labels."""
        delta = self.delta
        density = math.exp(-(delta**2) / 2) / math.sqrt(2 * math.pi)
        return math.sqrt(1 - 2 * ndtr(-delta) - 2 * delta * density + 2 * delta**2 * ndtr(-delta))

    def constant(self, labels: np.ndarray, weight: np.ndarray | None, classes: tuple | None) -> np.ndarray:
        """Return the median of labels (n,), as one row of answers."""
        return np.array([find_quantile(labels, weight, 0.5)])

    def answer_losses(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the absolute errors (n,)."""
        return np.abs(labels - answers)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the losses."""
        from torch.nn.functional import huber_loss

        return huber_loss(scores, labels, reduction="none", delta=self.delta) * (2 / self._deviation)

    def losses(self, scores: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Return half of the losses of networks."""
        error = np.abs(means - scores)
        near = np.minimum(error, self.delta)
        return near * (error - near / 2) / self._deviation

    def derivatives(
        self, scores: np.ndarray, means: np.ndarray, gradient: np.ndarray, hessian: np.ndarray | None
    ) -> None:
        """Write F - y within delta, else delta or -delta, and the second derivative of the parabola."""
        np.subtract(scores, means, out=gradient)
        hessian = np.abs(gradient, out=hessian)
        np.clip(gradient, -self.delta, self.delta, out=gradient)
        gradient /= self._deviation
        np.maximum(hessian, self.delta, out=hessian)
        np.divide(self.delta / self._deviation, hessian, out=hessian)

    def curvature(self, mean: np.ndarray) -> np.ndarray:
        """Return the variance of the first derivative at normal labels."""
        return np.ones(mean.shape)
