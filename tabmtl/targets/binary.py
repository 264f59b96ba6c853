"""Targets of two classes: one score, the log odds of the second, and the log loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import polars as pl
from scipy.special import logit

from tabmtl.base.params import near
from tabmtl.metrics.classes import TWO_CLASSES
from tabmtl.metrics.metric import Metric
from tabmtl.targets.classes import Classes, label_of
from tabmtl.targets.kind import RARE, SURE

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Binary(Classes):
    """Two classes; a score s says that the second has the probability p = 1 / (1 + exp(-s)).

    The loss is log(1 + exp(s)) - y s.

    Parameters
    ----------
    positive : str, optional
        Text of the positive class, which is then the second, as in "binary:fraud"; by default, the classes of a task
        are in their own order.
    """

    #: Fields that files leave out where they have the default.
    later_fields: ClassVar[tuple[str, ...]] = ("positive",)

    name: ClassVar[str] = "binary"
    takes_curves: ClassVar[bool] = True
    takes_thresholds: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, Metric]] = TWO_CLASSES
    calibration_axes: ClassVar[tuple[str, str]] = ("probability of {}", "share of {}")
    lightgbm: ClassVar[Mapping[str, Any]] = {"objective": "binary", "metric": "auc"}
    positive: str | None = field(default=None, kw_only=True)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the kind with a positive class; raise a ValueError if there is no text."""
        if not text:
            raise ValueError(f"kind must be {cls.name!r}, or name the positive class as in '{cls.name}:fraud'")
        return cls(positive=text)

    def fitted(self) -> Self:
        """Return the kind without the positive class, which is the second of a fitted task."""
        return self if self.positive is None else replace(self, positive=None)

    def check(self, task: str, classes: tuple) -> None:
        """Raise a ValueError unless there are two classes."""
        if len(classes) != 2:
            raise ValueError(f"task {task!r}: a {self} task has two classes, got {classes!r}")

    def learn(self, labels: pl.Series, task: str, classes: tuple | None, order: Sequence | None = None) -> tuple:
        """Return the two classes; the second is the positive one."""
        found = super().learn(labels, task, classes, order)
        if len(found) != 2:
            raise ValueError(
                f"task {task!r} is {self}, but its labels have {len(found)} classes, such as {list(found[:3])}; "
                "declare it 'multiclass', or 'regression' for numbers"
            )
        if self.positive is None:
            return found
        label = label_of(self.positive, labels.dtype)
        if label not in found:
            raise ValueError(
                f"task {task!r} is {self}, but its labels have the classes {list(found)}"
                f"{near(self.positive, map(str, found))}; name one of them"
            )
        return tuple(sorted(found, key=lambda each: each == label))

    def link(self, scores: Any, xp: Any) -> Any:
        """Return the probabilities (..., 2) of both classes."""
        positive = 1 / (1 + xp.exp(-scores))
        return xp.concatenate([1 - positive, positive], axis=-1)

    def unlink(self, means: Any, xp: Any) -> Any:
        """Return the log odds of probabilities."""
        return xp.log(xp.clip(means, RARE, 1)) - xp.log(xp.clip(1 - means, RARE, 1))

    def answered_means(self, answers: Any, center: Any, scale: Any) -> Any:
        """Return the probability (n, 1) of the second class."""
        return answers[:, 1:]

    def calibration(self, answers: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of the second class, and whether it came."""
        return answers[:, 1], labels

    def start(self, mean: np.ndarray) -> np.ndarray:
        """Return the log odds of a share."""
        return logit(np.clip(mean, SURE, 1 - SURE))

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the log losses."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(scores, labels, reduction="none")

    def member_mean(self, scores: Tensor) -> Tensor:
        """Return the log odds of the mean probability of members, always finite."""
        from torch.nn.functional import logsigmoid

        return logsigmoid(scores).logsumexp(dim=0) - logsigmoid(-scores).logsumexp(dim=0)

    def distance(self, scores: Tensor, means: Tensor) -> Tensor:
        """Return the Kullback-Leibler divergence from the probabilities."""
        return (self.loss(scores, means) - _entropy(means)).sum(dim=1)

    def variation(self, means: Tensor) -> Tensor:
        """Return the entropy of the mean probability, less the mean entropy."""
        return (_entropy(means.mean(dim=0)) - _entropy(means).mean(dim=0)).sum()

    def losses(self, scores: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Return the log losses."""
        return np.logaddexp(0, scores) - means * scores

    def derivatives(
        self, scores: np.ndarray, means: np.ndarray, gradient: np.ndarray, hessian: np.ndarray | None
    ) -> None:
        """Write p - y and p (1 - p)."""
        np.negative(scores, out=gradient)
        with np.errstate(over="ignore"):  # 1 / (1 + inf) is 0
            np.exp(gradient, out=gradient)
        gradient += 1
        np.reciprocal(gradient, out=gradient)
        hessian = np.subtract(1, gradient, out=hessian)
        hessian *= gradient
        gradient -= means

    def lightgbm_link(self, width: int, center: float, scale: float) -> tuple[str, float, float]:
        """Return the objective whose raw score is the log odds."""
        return "binary sigmoid:1", 1.0, 0.0

    def of_lightgbm(self, answers: np.ndarray) -> np.ndarray:
        """Return the probabilities of both classes, given those of the second."""
        both = np.empty((len(answers), 2))  # for one row, numpy's column_stack takes several times as long
        both[:, 0], both[:, 1] = 1 - answers, answers
        return both


def _entropy(p: Tensor) -> Tensor:
    """Return the entropy of two classes, given the probability of one."""
    from torch.special import entr

    return entr(p) + entr(1 - p)
