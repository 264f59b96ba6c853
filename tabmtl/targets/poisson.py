"""Targets that are counts: the logarithm of their mean, and the deviance of Poisson's law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tabmtl.metrics.metric import Metric
from tabmtl.metrics.values import deviances
from tabmtl.targets.log_mean import TINY, LogMean


@dataclass(frozen=True)
class Poisson(LogMean):
    """A count, or any number >= 0 whose variance grows as its mean; a score s is the logarithm of the mean.

    Half of the deviance is exp(s) - y - y (s - log y).
    """

    name: ClassVar[str] = "poisson"
    variance_power: ClassVar[float] = 1.0
    metrics: ClassVar[Mapping[str, Metric]] = deviances("poisson", 1.0)
    lightgbm: ClassVar[Mapping[str, Any]] = {"objective": "poisson", "metric": "poisson"}

    def half_deviance(self, scores: Any, means: Any, xp: Any) -> Any:
        """Return half of the deviances."""
        return xp.exp(scores) - means * (1 + scores - xp.log(xp.clip(means, TINY, None)))

    def derivatives(
        self, scores: np.ndarray, means: np.ndarray, gradient: np.ndarray, hessian: np.ndarray | None
    ) -> None:
        """Write exp(s) - y and exp(s)."""
        hessian = np.exp(scores, out=hessian)
        np.subtract(hessian, means, out=gradient)
