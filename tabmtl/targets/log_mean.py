"""Kinds of positive means: one score, the logarithm of the mean, and a deviance."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl

from tabmtl.targets.kind import Kind, Units

if TYPE_CHECKING:
    from torch import Tensor

#: Least mean that a score stands for, in units of training; and a label whose logarithm is finite.
LEAST, TINY = 1e-9, 1e-30


class LogMean(Kind):
    """Base of the kinds of numbers that are 0 or more; a score s is the logarithm of the mean: exp(s) · scale.

    Networks lose the deviance, trees half of it. Labels are not centred, so that 0 stays 0 and factors stay factors;
    they are divided by the root of their mean square. So no unit of the labels changes what is learned.
    """

    units: ClassVar[Units] = "scaled"
    #: A step of Newton goes beyond the best constant of a leaf only where it is longer, at any learning rate up to 0.5.
    longest_step: ClassVar[float] = 2.0

    def encode(self, labels: pl.Series, task: str, classes: tuple | None) -> np.ndarray:
        """Return labels as float64, NaN = unlabelled; raise a ValueError for a negative one."""
        values = super().encode(labels, task, classes)
        if (values < 0).any():
            raise ValueError(
                f"task {task!r} is a {self.name} task, which expects numbers >= 0, but a label is "
                f"{np.nanmin(values):g}; make it null if it marks a missing label, or declare the task 'regression'"
            )
        return values

    def link(self, scores: Any, xp: Any) -> Any:
        """Return the means."""
        return xp.exp(scores)

    def unlink(self, means: Any, xp: Any) -> Any:
        """Return the logarithms of means."""
        return xp.log(xp.clip(means, LEAST, None))

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the deviances."""
        import torch

        return 2 * self.half_deviance(scores, labels, torch)

    def member_mean(self, scores: Tensor) -> Tensor:
        """Return the logarithm of the mean of members."""
        return scores.logsumexp(dim=0) - math.log(len(scores))

    def distance(self, scores: Tensor, means: Tensor) -> Tensor:
        """Return the deviances from the means, which are 0 at best."""
        return self.loss(scores, means).sum(dim=1)

    def losses(self, scores: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Return half of the deviances."""
        return self.half_deviance(scores, means, np)

    @abstractmethod
    def half_deviance(self, scores: Any, means: Any, xp: Any) -> Any:
        """Return half of the deviances, 0 at best; ``xp`` is numpy or torch."""

    def lightgbm_link(self, width: int, center: float, scale: float) -> tuple[str, float, float]:
        """Return the objective whose raw score is the logarithm of the answer."""
        return self.name, 1.0, math.log(scale)
