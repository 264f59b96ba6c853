"""Targets that are amounts, many of them 0: the logarithm of their mean, and the deviance of Tweedie's laws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from tabmtl.metrics.metric import Metric
from tabmtl.metrics.values import deviances
from tabmtl.targets.log_mean import LogMean


@dataclass(frozen=True)
class Tweedie(LogMean):
    """A number that is 0, or above it, such as a spend; a score s is the logarithm of the mean.

    The variance grows as the mean to the power p. Half of the deviance is
    y^(2-p) / ((1-p) (2-p)) - y exp((1-p) s) / (1-p) + exp((2-p) s) / (2-p).

    Parameters
    ----------
    power : float, default=1.5
        p, between 1, where the law is Poisson's, and 2, where it is the gamma law.
    """

    name: ClassVar[str] = "tweedie"
    power: float = 1.5

    def __post_init__(self) -> None:
        if not 1 < self.power < 2:
            raise ValueError(
                f"the power of a tweedie task must be between 1 and 2, got {self.power!r}; 1 is 'poisson', 2 is 'gamma'"
            )

    @property
    def variance_power(self) -> float:  # type: ignore[override]
        """Power of the mean that the variance of labels grows with."""
        return self.power

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:  # type: ignore[override]
        """By the names that a Task may give, the default first."""
        return deviances("tweedie", self.power)

    @cached_property
    def lightgbm(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Parameters of `lightgbm.train`."""
        return {"objective": "tweedie", "metric": "tweedie", "tweedie_variance_power": self.power}

    def half_deviance(self, scores: Any, means: Any, xp: Any) -> Any:
        """Return half of the deviances."""
        up, down = 2 - self.power, 1 - self.power
        at_best = means**up / (down * up)
        return at_best - means * xp.exp(down * scores) / down + xp.exp(up * scores) / up

    def derivatives(
        self, scores: np.ndarray, means: np.ndarray, gradient: np.ndarray, hessian: np.ndarray | None
    ) -> None:
        """Write exp((2-p) s) - y exp((1-p) s), and its derivative."""
        up, down = 2 - self.power, 1 - self.power
        falling = np.exp(down * scores) * means
        gradient[...] = np.exp(up * scores)
        hessian = np.multiply(gradient, up, out=hessian)
        hessian -= down * falling
        gradient -= falling
