"""Targets that are numbers: several quantiles of them that never cross, standardised, and the pinball losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy.special import ndtri

from tabmtl.metrics.metric import Metric
from tabmtl.metrics.values import pinballs_of_levels
from tabmtl.targets.kind import LONGEST_STEP
from tabmtl.targets.quantile import Quantile
from tabmtl.targets.regression import Regression

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Quantiles(Regression):
    """A number; scores s say which values the shares q_1 < ... < q_L of the labels do not exceed.

    Every score is learned as that of a `Quantile` of its own; the loss is the mean of theirs. Answers are the scores in
    order, so that they never cross, and are nowhere farther from the true quantiles than before (Chernozhukov,
    Fernández-Val and Galichon, Econometrica 78, 2010).

    Parameters
    ----------
    levels : tuple of float, default=(0.1, 0.5, 0.9)
        Rising, between 0 and 1. ``predict`` answers the middle one; of an even number of levels, the lower of the two
        in the middle.

    Examples
    --------
    >>> kind = Quantiles((0.05, 0.5, 0.95))
    >>> str(kind)
    'quantiles:0.05:0.5:0.95'
    >>> kind.answers(np.array([[0.1, 0.0, 0.4]]), 100.0, 10.0, np)
    array([[100., 101., 104.]])
    """

    loss_power: ClassVar[int] = 1
    name: ClassVar[str] = "quantiles"
    is_quadratic: ClassVar[bool] = False
    takes_curves: ClassVar[bool] = False
    takes_monotone: ClassVar[bool] = Quantile.takes_monotone
    answers_means: ClassVar[bool] = False
    longest_step: ClassVar[float] = LONGEST_STEP
    calibration_axes: ClassVar[tuple[str, str]] = Quantile.calibration_axes
    levels: tuple[float, ...] = (0.1, 0.5, 0.9)

    def __post_init__(self) -> None:
        try:
            levels = tuple(np.ravel(np.asarray(self.levels, dtype=np.float64)).tolist())
        except (TypeError, ValueError):
            raise ValueError(
                f"the levels of a quantiles task must be numbers, such as (0.1, 0.5, 0.9), got {self.levels!r}"
            ) from None
        object.__setattr__(self, "levels", levels)
        if len(self.levels) < 2:
            raise ValueError(
                f"the levels of a quantiles task must be two or more, such as (0.1, 0.5, 0.9), got {self.levels!r}; "
                "for one level, declare the kind 'quantile'"
            )
        if not all(low < high for low, high in pairwise((0, *self.levels, 1))):
            raise ValueError(
                "the levels of a quantiles task must rise, between 0 and 1, such as (0.1, 0.5, 0.9), got "
                f"{self.levels!r}; sort them, and name each once"
            )

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:  # type: ignore[override]
        """By the names that a Task may give, the default first."""
        return pinballs_of_levels(self.levels, self.middle)

    @property
    def middle(self) -> int:
        """Index of the level that ``predict`` answers."""
        return (len(self.levels) - 1) // 2

    @cached_property
    def _alone(self) -> list[Quantile]:
        """The kind of every level by itself."""
        return [Quantile(level) for level in self.levels]

    # labels

    def width(self, classes: tuple | None) -> int:
        """Return the number of levels."""
        return len(self.levels)

    def answer_shape(self, n_rows: int, classes: tuple | None) -> tuple[int, ...]:
        """Return (n, L)."""
        return (n_rows, len(self.levels))

    # forms

    def means(self, labels: Any, width: int) -> Any:
        """Return labels (...) for every level (..., L)."""
        return np.repeat(labels[..., None], width, axis=-1)

    def link(self, scores: Any, xp: Any) -> Any:
        """Return the scores in order."""
        found = xp.sort(scores, -1)
        return getattr(found, "values", found)  # torch has places too

    def answers(self, scores: Any, center: Any, scale: Any, xp: Any) -> Any:
        """Return quantiles (n, L) in own units."""
        return self.link(scores, xp) * scale + center

    def answered_means(self, answers: Any, center: Any, scale: Any) -> Any:
        """Return quantiles (n, L) in units of training."""
        return (answers - center) / scale

    def start(self, mean: np.ndarray) -> np.ndarray:
        """Return the quantiles of normal labels with a mean; see `settle`."""
        return mean + ndtri(self.levels)

    def constant(self, labels: np.ndarray, weight: np.ndarray | None, classes: tuple | None) -> np.ndarray:
        """Return the quantiles (1, L) of labels."""
        return np.stack([kind.constant(labels, weight, classes) for kind in self._alone], axis=1)

    def calibration(self, answers: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return for every answer of a row the share of labels that it is not to be below, and whether it is."""
        return np.tile(self.levels, len(answers)), (labels[:, None] <= answers).ravel().astype(np.float64)

    def answer_losses(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the losses (n,)."""
        return self.losses(answers, self.means(labels, len(self.levels)))[:, 0]

    def decide(self, answers: np.ndarray, thresholds: tuple[float, ...] | None = None) -> np.ndarray:
        """Return the quantile (n,) of the middle level."""
        return answers[:, self.middle]

    # losses of networks

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the losses (B, 1) of one task."""
        import torch

        each = [kind.loss(scores[:, k : k + 1], labels) for k, kind in enumerate(self._alone)]
        return torch.stack(each).mean(dim=0)

    def variation(self, means: Tensor) -> Tensor:
        """Return the sum of the variances of the levels."""
        return means.var(dim=0, correction=0).sum()

    # losses of trees

    def losses(self, scores: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Return the losses (..., 1)."""
        # a level at a time: numpy calls its loops for every row of a few numbers
        each = [kind.losses(scores[..., k : k + 1], means[..., k : k + 1]) for k, kind in enumerate(self._alone)]
        return np.mean(each, axis=0)

    def derivatives(
        self, scores: np.ndarray, means: np.ndarray, gradient: np.ndarray, hessian: np.ndarray | None
    ) -> None:
        """Write what `Quantile` has for every level, over their number."""
        arrays = [array for array in (scores, means, gradient, hessian) if array is not None]
        for k, kind in enumerate(self._alone):
            kind.derivatives(*(array[..., k : k + 1] for array in arrays))
        for array in arrays[2:]:
            array /= len(self.levels)

    def curvature(self, mean: np.ndarray) -> np.ndarray:
        """Return the variance of the first derivative, where a share of the labels does not exceed the quantile."""
        each = [kind.curvature(mean[..., k]) for k, kind in enumerate(self._alone)]
        return np.stack(each, axis=-1) / len(self.levels) ** 2

    def lightgbm_link(self, width: int, center: float, scale: float) -> tuple[str, float, float]:
        """Return no objective, as LightGBM has none that puts answers in order."""
        return "", scale, center

    def of_lightgbm(self, answers: np.ndarray) -> np.ndarray:
        """Return quantiles in order."""
        return np.sort(answers, axis=1)
