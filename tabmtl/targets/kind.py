"""Contract of a kind of targets: everything that the package asks about the values of a target."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import polars as pl

from tabmtl.metrics.metric import Metric
from tabmtl.targets.written import Written

if TYPE_CHECKING:
    from torch import Tensor

Units = Literal["own", "scaled", "standardized"]

#: Labels are squared in losses, and trees hold them in single precision.
LARGEST_LABEL = 1e37
#: Least probability, or mean, that a constant or a score of an answer stands for.
SURE, RARE = 1e-6, 1e-6
#: Threshold that no probability reaches.
NEVER = math.nextafter(1.0, 2.0)
#: Most logits that a leaf adds, before the learning rate: LightGBM's ``max_delta_step``. It floors the hessian of a
#: leaf at 1 / LONGEST_STEP of its gradient. A Newton step of rows whose class has the probability p is 1 / p, so a few
#: rows of a rare class would send every row of their leaf out of reach.
LONGEST_STEP = 20.0
#: Farthest that the best constant is looked for from that of normal labels, in units of training, and how many times.
_FAR, _HALVINGS = 1024.0, 40
#: Types of labels that are no numbers.
TEXT = (pl.String, pl.Categorical, pl.Enum)


class Kind(Written, ABC):
    """Kind of the values of a target: how labels become numbers, and scores become answers.

    This base reads labels as numbers; a kind of its own is a subclass with a name, and has no state but its parameters,
    the fields of a frozen dataclass. Functions take whole blocks: arrays (..., width), where the last axis holds the
    scores of one task, or, for kinds of one score, one score of every task. Four forms of a value meet here:

    ========  ======================================================  ==========================================
    form      what it is                                              of two classes, of K classes, of a number
    ========  ======================================================  ==========================================
    label     a number in memory, NaN = unlabelled                    0 or 1; 0 to K - 1; the number
    mean      a label as columns, or what is expected of it           p of the second; p of each; standardised number
    score     what a model computes                                   log odds; log probabilities; the mean
    answer    what ``predict_proba``, or ``predict``, gives           p of both; p of each; number in own units
    ========  ======================================================  ==========================================

    Attributes
    ----------
    name : str
        By which a Task and a file name the kind.
    is_named : bool
        Whether a file names the class, with the parameters: of every kind.
    answer : {"probabilities", "values"}
        Whether an answer has a probability for each class, or is one value, or one for each of several levels.
    label_type : type
        Of labels as metrics take them.
    is_quadratic : bool
        Whether the second derivative of the loss by a score is 1 everywhere.
    takes_curves : bool
        Whether a linear model fits the scores: ridge regression for values, logistic for classes.
    has_one_slope : bool
        Whether a linear model moves the first score alone, and the others are constants.
    answers_means : bool
        Whether the best answer to labels is their mean, as forests give it.
    takes_thresholds : bool
        Whether `decide` takes thresholds of probabilities.
    takes_new_classes : bool
        Whether a class may join those that a model knows, behind them.
    takes_monotone : bool
        Whether LightGBM can keep answers from falling, or rising, with a column.
    units : {"own", "scaled", "standardized"}
        Whether models see labels as they are, or over the root of their mean square, so that 0 stays 0, or less their
        mean and over their standard deviation.
    levels : tuple of float
        Of the quantiles that an answer (n, L) holds; empty where it holds none, or one.
    variance_power : float
        Power of the mean that the variance of labels grows with; labels whose power is not 0 are never below 0.
    loss_power : int
        Power of a far error that `answer_losses` grow with: 2 of squares, 1 of absolute errors.
    longest_step : float
        Most that a leaf of a tree adds to a score, before the learning rate.
    metrics : mapping of str to Metric
        By the names that a Task may give, the default first.
    calibration_axes : pair of str
        What the two arrays of `calibration` are, with {} for the target.
    lightgbm : mapping of str to object
        Parameters of `lightgbm.train` for one task: objective, metric and what else they need. With the objective
        "none", LightGBM grows on `derivatives`; such a kind has labels in own units. Of several levels there are none,
        since each has a model.
    lightgbm_scaled : tuple of str
        Those among them that are in units of training, where LightGBM takes units of the labels.
    """

    is_named: ClassVar[bool] = True
    answer: ClassVar[Literal["probabilities", "values"]] = "values"
    label_type: ClassVar[type] = np.float64
    is_quadratic: ClassVar[bool] = False
    takes_curves: ClassVar[bool] = False
    has_one_slope: ClassVar[bool] = False
    answers_means: ClassVar[bool] = True
    takes_thresholds: ClassVar[bool] = False
    takes_new_classes: ClassVar[bool] = False
    takes_monotone: ClassVar[bool] = True
    units: ClassVar[Units] = "own"
    loss_power: ClassVar[int] = 2
    longest_step: ClassVar[float] = LONGEST_STEP
    levels: tuple[float, ...] = ()
    variance_power: ClassVar[float] = 0.0
    metrics: ClassVar[Mapping[str, Metric]]
    calibration_axes: ClassVar[tuple[str, str]] = ("predicted {}", "mean of {}")
    lightgbm: ClassVar[Mapping[str, Any]]
    lightgbm_scaled: ClassVar[tuple[str, ...]] = ()

    # labels

    def width(self, classes: tuple | None) -> int:
        """Return the number of scores of a task."""
        return 1

    def answer_shape(self, n_rows: int, classes: tuple | None) -> tuple[int, ...]:
        """Return the shape of the answers to rows."""
        return (n_rows,)

    def check(self, task: str, classes: tuple) -> None:
        """Raise a ValueError for declared classes that do not fit the kind of a task."""
        raise ValueError(f"task {task!r}: a {self} task has no classes, got {classes!r}")

    def learn(self, labels: pl.Series, task: str, classes: tuple | None, order: Sequence | None = None) -> tuple | None:
        """Return the classes of a task, declared or found among its observed labels, None for numbers.

        Found classes have an order, or are sorted.

        Raises
        ------
        ValueError
            If the labels do not fit the kind or the declared classes.
        """
        if labels.dtype in TEXT:
            raise ValueError(
                f"task {task!r} is a {self} task, but its labels are text ({labels.dtype}); cast y to "
                "numbers, or declare the task 'binary' or 'multiclass'"
            )
        return None

    def encode(self, labels: pl.Series, task: str, classes: tuple | None) -> np.ndarray:
        """Return labels as float64, NaN = unlabelled; raise a ValueError for one that the task cannot have."""
        if labels.dtype in TEXT:
            raise ValueError(f"task {task!r} expects numbers, got labels of type {labels.dtype}")
        values = labels.cast(pl.Float64).to_numpy()
        if np.isinf(values).any():
            raise ValueError(f"task {task!r}: a label is infinite; replace it by null or a finite number")
        largest = float(np.abs(values, where=~np.isnan(values), out=np.zeros(len(values))).max(initial=0.0))
        if largest > LARGEST_LABEL:
            raise ValueError(
                f"task {task!r}: a label has the size {largest:.3g}, and models compute in single precision, "
                f"which ends at {LARGEST_LABEL:.0e}; divide the labels, or take their logarithm"
            )
        return values

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return the class (n,) of labels without a missing one, 0 where there are no classes."""
        return np.zeros(len(labels), dtype=np.intp)

    def decode(self, labels: np.ndarray, classes: tuple | None) -> pl.Series:
        """Return encoded labels (n,) as a frame has them, NaN as null."""
        return pl.Series(labels, nan_to_null=True)

    def dtype(self, labels: pl.Series, classes: tuple | None) -> pl.DataType:
        """Return the type of predictions, given that of the labels in fit."""
        return pl.Float32() if labels.dtype == pl.Float32 else pl.Float64()

    # forms

    def means(self, labels: Any, width: int) -> Any:
        """Return labels (...) without a missing one as means (..., width)."""
        return labels[..., None]

    @abstractmethod
    def link(self, scores: Any, xp: Any) -> Any:
        """Return answers (..., K) of scores (..., width), in the units of training; ``xp`` is numpy or torch."""

    @abstractmethod
    def unlink(self, means: Any, xp: Any) -> Any:
        """Return the finite scores (..., width) that stand for means (..., width)."""

    def answers(self, scores: Any, center: Any, scale: Any, xp: Any) -> Any:
        """Return answers of scores (n, width) in own units: probabilities (n, K), or values (n,)."""
        return self.link(scores, xp)[:, 0] * scale + center

    def answered_means(self, answers: Any, center: Any, scale: Any) -> Any:
        """Return means (n, width) of answers in own units."""
        return (answers[:, None] - center) / scale

    def start(self, mean: np.ndarray) -> np.ndarray:
        """Return the best constant scores (..., width) of labels with a mean."""
        return self.unlink(mean, np)

    def constant(self, labels: np.ndarray, weight: np.ndarray | None, classes: tuple | None) -> np.ndarray:
        """Return the best constant answer to labels (n,), as one row of answers."""
        return np.array([np.average(labels, weights=weight)])

    def calibration(self, answers: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what answers expect, and what labels came, (n,) each: their means agree if answers are calibrated."""
        return answers, labels

    def answer_losses(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the losses (n,) of answers in own units, 0 at best."""
        scores = self.unlink(self.answered_means(answers, 0.0, 1.0), np)
        return self.losses(scores, self.means(labels, 1))[:, 0]

    def decide(self, answers: np.ndarray, thresholds: tuple[float, ...] | None = None) -> np.ndarray:
        """Return the labels (n,) that answers predict, at the thresholds of a task if the kind takes some."""
        return answers

    # losses of networks

    @abstractmethod
    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the losses of scores (B, width) and labels or means, of one task, or of one score and label a task."""

    def member_mean(self, scores: Tensor) -> Tensor:
        """Return the scores (B, width) of the mean answer of members (k, B, width)."""
        import torch

        return self.unlink(self.link(scores, torch).mean(dim=0), torch)

    def distance(self, scores: Tensor, means: Tensor) -> Tensor:
        """Return how much more scores (B, width) lose at means (B, width) than the best ones: (B,)."""
        import torch

        return (self.loss(scores, means) - self.loss(self.unlink(means, torch), means)).sum(dim=1)

    def variation(self, means: Tensor) -> Tensor:
        """Return the mean distance of means (n, width) to theirs."""
        import torch

        mean = means.mean(dim=0, keepdim=True).expand_as(means)
        return self.distance(self.unlink(mean, torch), means).mean()

    # losses of trees

    @abstractmethod
    def losses(self, scores: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Return the losses of scores and means (..., width), or (..., 1) where several scores have one; 0 at best."""

    @abstractmethod
    def derivatives(
        self, scores: np.ndarray, means: np.ndarray, gradient: np.ndarray, hessian: np.ndarray | None
    ) -> None:
        """Write the derivatives of `losses` by the scores into arrays like them; of the hessian its diagonal.

        There is no array for the hessian where all kinds of a fit are quadratic: it is 1 then.
        """

    def curvature(self, mean: np.ndarray) -> np.ndarray:
        """Return the second derivative at the best constant of labels with a mean."""
        gradient, hessian = np.empty((2, *mean.shape))
        self.derivatives(self.start(mean), mean, gradient, hessian)
        return hessian

    @abstractmethod
    def lightgbm_link(self, width: int, center: float, scale: float) -> tuple[str, float, float]:
        """Return LightGBM's objective as a file names it, which links raw scores, and how scores become these.

        Raw scores, whose answers are in own units, are scores times a factor plus a summand.
        """

    def of_lightgbm(self, answers: np.ndarray) -> np.ndarray:
        """Return answers of those of a LightGBM model."""
        return answers


def settle(start: np.ndarray, is_best: np.ndarray, slope: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the best constant scores, near those that `Kind.start` tells by the mean.

    A quantile of skewed labels, say, may lie far from that of normal labels with their mean; of scores below all
    labels, no split would gain anything.

    Parameters
    ----------
    start : ndarray of shape (...)
    is_best : ndarray of bool, broadcasts to ``start``
        Whether a score is the best one already.
    slope : callable
        Takes scores, and returns the sum of the first derivatives over the labels, like them, which rises with them.
    """
    if is_best.all():
        return start
    far = np.where(is_best, 0.0, _FAR)
    low, high = start - far, start + far
    is_best = is_best | (slope(low) == 0)  # without a label
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_below = slope(middle) < 0
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    return np.where(is_best, start, (low + high) / 2)
