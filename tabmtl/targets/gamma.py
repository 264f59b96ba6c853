"""Targets that are positive amounts: the logarithm of their mean, and the deviance of the gamma law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from tabmtl.metrics.metric import Metric
from tabmtl.metrics.values import deviances
from tabmtl.targets.log_mean import TINY, LogMean


@dataclass(frozen=True)
class Gamma(LogMean):
    """A number above 0 whose standard deviation grows as its mean; a score s is the logarithm of the mean.

    Half of the deviance is y exp(-s) - 1 + s - log y: only ratios of labels and means count.
    """

    name: ClassVar[str] = "gamma"
    variance_power: ClassVar[float] = 2.0
    metrics: ClassVar[Mapping[str, Metric]] = deviances("gamma", 2.0)
    lightgbm: ClassVar[Mapping[str, Any]] = {"objective": "gamma", "metric": "gamma"}

    def encode(self, labels: pl.Series, task: str, classes: tuple | None) -> np.ndarray:
        """Return labels as float64, NaN = unlabelled; raise a ValueError for one that is 0 or less."""
        values = super().encode(labels, task, classes)
        if (values == 0).any():
            raise ValueError(
                f"task {task!r} is a gamma task, which expects numbers > 0, but a label is 0; make it null if it marks "
                "a missing label, or declare the task 'tweedie', whose labels may be 0"
            )
        return values

    def half_deviance(self, scores: Any, means: Any, xp: Any) -> Any:
        """Return half of the deviances."""
        return means * xp.exp(-scores) - 1 + scores - xp.log(xp.clip(means, TINY, None))

    def derivatives(
        self, scores: np.ndarray, means: np.ndarray, gradient: np.ndarray, hessian: np.ndarray | None
    ) -> None:
        """Write 1 - y exp(-s) and y exp(-s)."""
        hessian = np.exp(-scores, out=hessian)
        hessian *= means
        np.subtract(1, hessian, out=gradient)
