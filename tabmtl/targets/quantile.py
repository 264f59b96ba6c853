"""Targets that are numbers: a quantile of them, standardised, and the pinball loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy.special import ndtri

from tabmtl.metrics.metric import Metric
from tabmtl.metrics.values import find_quantile, pinballs
from tabmtl.targets.kind import LONGEST_STEP
from tabmtl.targets.regression import Regression

if TYPE_CHECKING:
    from torch import Tensor

#: Distance to a label, in standard deviations, below which it holds a leaf of a tree no faster.
_NEAR = 0.05


@dataclass(frozen=True)
class Quantile(Regression):
    """A number; a score s is the value that a share of the labels does not exceed: y = s · scale + center.

    At the level q, the loss is (y - s) / (1 - q) above the score, and (s - y) / q below it: the pinball loss over
    q (1 - q). At 0.5 it is twice the absolute error, and s is the median.

    Its second derivative is 0. Trees take that of a parabola which touches the loss at the score and lies above it
    everywhere (Hunter and Lange, Journal of Computational and Graphical Statistics 9, 2000), so that a leaf steps as
    far as its labels are away.

    Parameters
    ----------
    level : float, default=0.5
        q, between 0 and 1.
    """

    loss_power: ClassVar[int] = 1
    name: ClassVar[str] = "quantile"
    is_quadratic: ClassVar[bool] = False
    takes_curves: ClassVar[bool] = False
    takes_monotone: ClassVar[bool] = False  # LightGBM sets the leaves anew after it has grown a tree
    answers_means: ClassVar[bool] = False
    longest_step: ClassVar[float] = LONGEST_STEP
    calibration_axes: ClassVar[tuple[str, str]] = ("level of {}", "share up to the answer")
    level: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"the level of a quantile task must be between 0 and 1, such as 0.9, got {self.level!r}")

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:  # type: ignore[override]
        """By the names that a Task may give, the default first."""
        return pinballs(self.level)

    @cached_property
    def lightgbm(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Parameters of `lightgbm.train`."""
        return {"objective": "quantile", "metric": "quantile", "alpha": self.level}

    def start(self, mean: np.ndarray) -> np.ndarray:
        """Return the quantile of normal labels with a mean; see `settle`."""
        return mean + ndtri(self.level)

    def constant(self, labels: np.ndarray, weight: np.ndarray | None, classes: tuple | None) -> np.ndarray:
        """Return the quantile of labels (n,), as one row of answers."""
        return np.array([find_quantile(labels, weight, self.level)])

    def calibration(self, answers: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the share of labels that answers are not to be below, and whether each is."""
        return np.full(len(answers), self.level), (labels <= answers).astype(np.float64)

    def answer_losses(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the losses (n,)."""
        return self.losses(answers, labels)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the losses."""
        import torch

        above = labels - scores
        return torch.maximum(above / (1 - self.level), -above / self.level)

    def losses(self, scores: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Return the losses."""
        above = means - scores
        return np.maximum(above / (1 - self.level), -above / self.level)

    def derivatives(
        self, scores: np.ndarray, means: np.ndarray, gradient: np.ndarray, hessian: np.ndarray | None
    ) -> None:
        """Write 1 / q where y < F, -1 / (1 - q) where y > F, and the second derivative of the parabola."""
        above = np.subtract(means, scores)
        gradient[...] = (above < 0) / self.level - (above > 0) / (1 - self.level)
        hessian = np.abs(above, out=hessian)
        hessian += _NEAR
        hessian *= 2 * self.level * (1 - self.level)
        np.reciprocal(hessian, out=hessian)

    def curvature(self, mean: np.ndarray) -> np.ndarray:
        """Return the variance of the first derivative, where a share of the labels does not exceed the score."""
        return np.full(mean.shape, 1 / (self.level * (1 - self.level)))
