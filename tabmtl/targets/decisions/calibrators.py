"""Calibrators of probabilities: those of scikit-learn, kept as numbers and applied by numpy.

A map takes one probability and returns another. Of two classes there is one, of the second class. Of K classes each has
one against the rest, and the results are divided by their sum. Of K ordered classes, each of the K - 1 probabilities
that a label lies above a class has one, and none may exceed that before it. A temperature divides the logarithms of all
probabilities of a row, so that one number is enough for any classes.

An isotonic regression answers 0 or 1 where all labels near by are alike, and a single other one would have an endless
log loss. Probabilities of n labels are therefore at least 1 / (n + 2), as the rule of succession has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol, Self

import numpy as np
from scipy.special import expit, softmax

from tabmtl.base.params import check_choice
from tabmtl.base.storage.stored import POSITIVE, Stored
from tabmtl.targets import Task
from tabmtl.targets.classes import above_each

Method = Literal["isotonic", "sigmoid", "temperature"]

#: Labels that a method needs: on the rarer side of each of its maps, or in all for a temperature. A logistic function
#: has two numbers to learn, an isotonic regression one for each of its steps.
NEEDED: dict[str, int] = {"isotonic": 20, "sigmoid": 10, "temperature": 10}
#: Added to a probability before its logarithm is taken, as scikit-learn does.
_TINY = 1e-12


class ProbabilityMap(Protocol):
    """A function from the probabilities (n,) of one event to calibrated ones."""

    def __call__(self, p: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities (n,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Isotonic:
    """Lines between the knots of an isotonic regression; beyond the outer knots it is constant.

    Attributes
    ----------
    x, y : ndarray of shape (m,)
        The knots, both rising.
    """

    x: Annotated[np.ndarray, Stored("f8", "m", low=0)]
    y: Annotated[np.ndarray, Stored("f8", "m", low=0)]

    def __post_init__(self) -> None:
        if not len(self.x) or (np.diff(self.x) <= 0).any() or (np.diff(self.y) < 0).any() or self.y[-1] > 1:
            raise ValueError("the knots of a calibrator do not rise, or end above 1")

    @classmethod
    def learn(cls, p: np.ndarray, event: np.ndarray, weight: np.ndarray | None) -> Self:
        """Learn from the probabilities (n,) of an event, and whether it came."""
        from sklearn.isotonic import IsotonicRegression

        found = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, event, weight)
        return cls(x=found.X_thresholds_, y=found.y_thresholds_)

    def __call__(self, p: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities (n,)."""
        return np.interp(p, self.x, self.y)


@dataclass(frozen=True, kw_only=True)
class Sigmoid:
    """Platt's logistic function 1 / (1 + exp(a f + b)) of the log odds f of a probability."""

    a: float
    b: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.a) and math.isfinite(self.b)):
            raise ValueError(f"a calibrator has the coefficients {self.a} and {self.b}, expected finite ones")

    @classmethod
    def learn(cls, p: np.ndarray, event: np.ndarray, weight: np.ndarray | None) -> Self:
        """Learn from the probabilities (n,) of an event, and whether it came."""
        from tabmtl.targets.decisions.by_sklearn import by_sklearn

        found = by_sklearn(np.outer(log_odds(p), [-1, 1]), event, weight, "sigmoid")
        return cls(a=float(found.a_), b=float(found.b_))

    def __call__(self, p: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities (n,)."""
        return expit(-(self.a * log_odds(p) + self.b))


@dataclass(frozen=True, kw_only=True)
class Calibrator:
    """What turns the probabilities of one task into calibrated ones.

    Attributes
    ----------
    method : {"isotonic", "sigmoid", "temperature"}
    is_ordered : bool
        Whether classes are ordered, so that maps take the probabilities above each class.
    isotonic : tuple of Isotonic
        The maps of the method.
    sigmoid : tuple of Sigmoid
        The maps of the method.
    inverse_temperature : float
        1 where the method is another.
    floor : float
        Least probability of a class, before those of several are divided by their sum; 0 where the method is not
        "isotonic".
    """

    #: Fields that files of earlier releases lack.
    later_fields: ClassVar[tuple[str, ...]] = ("floor",)

    method: Method
    is_ordered: bool
    isotonic: tuple[Isotonic, ...] = ()
    sigmoid: tuple[Sigmoid, ...] = ()
    inverse_temperature: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        counts = {"isotonic": len(self.isotonic), "sigmoid": len(self.sigmoid)}
        if any((count > 0) != (self.method == name) for name, count in counts.items()):
            raise ValueError(f"a calibrator by {self.method} has the maps {counts}")
        if not POSITIVE <= self.inverse_temperature < np.inf:
            raise ValueError(f"a calibrator has the inverse temperature {self.inverse_temperature}, expected above 0")
        if not 0 <= self.floor <= 0.5:
            raise ValueError(f"a calibrator has the floor {self.floor}, expected 0 to 0.5")

    @classmethod
    def learn(cls, task: Task, y: np.ndarray, p: np.ndarray, weight: np.ndarray | None, method: str) -> Self:
        """Learn from labels and probabilities, by scikit-learn.

        Parameters
        ----------
        task : Task
        y : ndarray of int, shape (n,)
            The class of every row.
        p : ndarray of shape (n, K)
        weight : ndarray of shape (n,), or None
            Above 0.
        method : {"isotonic", "sigmoid", "temperature"}

        Raises
        ------
        ValueError
            If the labels are too few for the method; the message says how many are needed.
        """
        check_choice("method", method, [*NEEDED])
        is_ordered = task.kind.name == "ordinal"
        if method == "temperature":
            _check_labels(task, len(y) if len(np.unique(y)) > 1 else 0, len(y), method)
            return cls(method="temperature", is_ordered=is_ordered, inverse_temperature=_temperature(y, p, weight))
        happened = events(np.eye(p.shape[1])[y], is_ordered) > 0.5
        for k, own in enumerate(happened.T):
            _check_labels(task, int(min(own.sum(), (~own).sum())), len(y), method, k)
        pairs = zip(events(p, is_ordered).T, happened.T, strict=True)
        if method == "sigmoid":
            sigmoid = tuple(Sigmoid.learn(own, event, weight) for own, event in pairs)
            return cls(method="sigmoid", is_ordered=is_ordered, sigmoid=sigmoid)
        isotonic = tuple(Isotonic.learn(own, event, weight) for own, event in pairs)
        return cls(method="isotonic", is_ordered=is_ordered, isotonic=isotonic, floor=1 / (len(y) + 2))

    def check(self, n_classes: int) -> None:
        """Raise a ValueError unless there is a map for every event of so many classes."""
        expected = n_classes - 1 if self.is_ordered or n_classes == 2 else n_classes
        found = len(self.isotonic or self.sigmoid)
        if self.method != "temperature" and found != expected:
            raise ValueError(f"a calibrator of {n_classes} classes has {found} maps, expected {expected}")

    def __call__(self, p: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities (n, K) of probabilities (n, K)."""
        if self.method == "temperature":
            return softmax(self.inverse_temperature * np.log(p + _TINY), axis=1)
        maps: tuple[ProbabilityMap, ...] = self.isotonic or self.sigmoid
        found = np.column_stack([each(own) for each, own in zip(maps, events(p, self.is_ordered).T, strict=True)])
        if self.is_ordered or p.shape[1] == 2:
            found = of_events(np.minimum.accumulate(found, axis=1))
        found = np.clip(found, self.floor, 1 - self.floor)
        if p.shape[1] == 2 or (self.is_ordered and self.floor == 0):
            return found
        total = found.sum(axis=1, keepdims=True)
        return np.divide(found, total, out=np.full_like(found, 1 / p.shape[1]), where=total != 0)


def log_odds(p: np.ndarray) -> np.ndarray:
    """Return the log odds of probabilities, which are finite."""
    p = np.clip(p, _TINY, 1 - _TINY)
    return np.log(p) - np.log1p(-p)


def events(p: np.ndarray, is_ordered: bool) -> np.ndarray:
    """Return the probabilities (n, M) of the events that maps take, of probabilities (n, K) of classes.

    These are that of the second of two classes, that of each of several, or those above each class but the last.
    """
    return above_each(p) if is_ordered or p.shape[1] == 2 else p


def of_events(above: np.ndarray) -> np.ndarray:
    """Return the probabilities (n, K) of classes, given those (n, K - 1) above each but the last, which fall."""
    return np.column_stack([1 - above[:, :1], above[:, :-1] - above[:, 1:], above[:, -1:]])


def _temperature(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None) -> float:
    """Return the inverse of the temperature."""
    n_classes = p.shape[1]
    absent = np.setdiff1d(np.arange(n_classes), y)
    if len(absent):  # scikit-learn counts the classes of labels: a row of weight 0 says that there is one more
        weight = np.append(np.ones(len(y)) if weight is None else weight, np.zeros(len(absent)))
        y, p = np.append(y, absent), np.vstack([p, np.full((len(absent), n_classes), 1 / n_classes)])
    from tabmtl.targets.decisions.by_sklearn import by_sklearn

    return float(by_sklearn(p, y, weight, "temperature").beta_)


def _check_labels(task: Task, found: int, n: int, method: str, k: int = 0) -> None:
    """Raise a ValueError if the labels on the rarer side of an event, or of all classes, are too few."""
    if found >= NEEDED[method]:
        return
    label = (task.classes or ())[min(k + (len(task.classes or ()) == 2), len(task.classes or ()) - 1)]
    others = [f"{name!r} ({needed})" for name, needed in NEEDED.items() if needed < NEEDED[method]]
    least = ", or say method=" + " or ".join(others) if others else ""
    if method == "temperature":
        raise ValueError(
            f"task {task.name!r}: a temperature needs at least {NEEDED[method]} labels of two classes or more, and the "
            f"rows have {n} labels{'' if found else ', of one class at most'}; give more labelled rows"
        )
    side = f"up to {label!r} and above it" if task.kind.name == "ordinal" else f"of {label!r} and of the others"
    raise ValueError(
        f"task {task.name!r}: calibration by {method} needs at least {NEEDED[method]} labels {side}, and the rows have "
        f"{found} on the rarer side; give more labelled rows, or name other tasks by tasks={least}"
    )
