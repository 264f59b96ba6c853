"""Kinds whose labels are classes: their names, their codes, and probabilities as answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl

from tabmtl.base.params import near
from tabmtl.base.schema import in_command
from tabmtl.targets.kind import TEXT, Kind


class Classes(Kind):
    """Base of the kinds of classes; a label is the index of its class."""

    answer: ClassVar[Literal["probabilities", "values"]] = "probabilities"
    label_type: ClassVar[type] = np.int64
    calibration_axes: ClassVar[tuple[str, str]] = ("probability of the answer", "share of right answers")

    def answer_shape(self, n_rows: int, classes: tuple | None) -> tuple[int, ...]:
        """Return (n, K)."""
        return (n_rows, len(classes or ()))

    def check(self, task: str, classes: tuple) -> None:
        """Let all classes pass; `learn` compares them with the labels."""

    def learn(self, labels: pl.Series, task: str, classes: tuple | None, order: Sequence | None = None) -> tuple:
        """Return the declared classes, or those of the labels, ordered or sorted."""
        seen = found_classes(labels, order)
        if classes is not None:
            plain = tuple(label.item() if isinstance(label, np.generic) else label for label in classes)
            unknown = [label for label in seen if label not in plain]
            if unknown:
                raise ValueError(f"task {task!r}: labels {unknown} are not among its classes {list(plain)}")
            return plain  # which JSON can hold
        if len(seen) == 1:
            raise ValueError(
                f"task {task!r} has only one class, {seen[0]!r}, among its labels; a classifier needs at "
                "least two classes: drop the task, or declare its classes"
            )
        return seen

    def encode(self, labels: pl.Series, task: str, classes: tuple | None) -> np.ndarray:
        """Return the index of every label's class as float64, NaN = unlabelled."""
        expected, values = list(classes or ()), as_values(labels)
        known = as_values(class_values(task, classes))
        if values.null_count() == len(values):
            return np.full(len(values), np.nan)
        if (known.dtype == pl.String) != (values.dtype == pl.String):
            raise ValueError(f"task {task!r}: labels are {labels.dtype}, expected ones like {expected[:5]}")
        if known.dtype != values.dtype:
            common = pl.Float64 if known.dtype.is_float() or values.dtype.is_float() else pl.Int128
            values, known = values.cast(common), known.cast(common)
        codes = values.replace_strict(known, np.arange(float(len(known))), default=None, return_dtype=pl.Float64)
        unknown = labels.filter(codes.is_null() & values.is_not_null())
        if len(unknown):
            hint = near(unknown[0], [label for label in expected if isinstance(label, str)])
            cure = (
                "fit with rows that have it, or drop"
                if in_command.get()
                else "declare it by Task(classes=...), or drop"
            )
            raise ValueError(
                f"task {task!r}: the label {unknown[0]!r} was not seen in fit{hint}; expected one of {expected}; "
                f"{cure} its rows"
            )
        return codes.to_numpy()

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Return the index of every label's class."""
        return labels.astype(np.intp)

    def decode(self, labels: np.ndarray, classes: tuple | None) -> pl.Series:
        """Return the classes of indices (n,), NaN as null."""
        return class_values("", classes).gather(pl.Series(labels, nan_to_null=True).cast(pl.UInt32))

    def dtype(self, labels: pl.Series, classes: tuple | None) -> pl.DataType:
        """Return the type of the labels in fit; an Enum that lacks a declared class becomes text."""
        dtype = labels.dtype
        lacks = isinstance(dtype, pl.Enum) and not set(classes or ()) <= set(dtype.categories)
        return pl.String() if lacks else dtype

    def answers(self, scores: Any, center: Any, scale: Any, xp: Any) -> Any:
        """Return probabilities (n, K) of scores (n, width)."""
        return self.link(scores, xp)

    def constant(self, labels: np.ndarray, weight: np.ndarray | None, classes: tuple | None) -> np.ndarray:
        """Return the shares (1, K) of the classes; without labels all are alike."""
        counts = np.bincount(labels.astype(np.int64), weight, len(classes or ()))
        return (counts / counts.sum() if counts.any() else np.full(len(counts), 1 / len(counts)))[None]

    def answer_losses(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the log losses (n,) of probabilities."""
        return -np.log(np.maximum(answers[np.arange(len(labels)), labels.astype(np.int64)], 1e-15))

    def calibration(self, answers: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of the class that is answered, and whether it came."""
        answered = self.decide(answers)
        return answers[np.arange(len(answers)), answered], labels == answered

    def decide(self, answers: np.ndarray, thresholds: tuple[float, ...] | None = None) -> np.ndarray:
        """Return the index (n,) of the most probable class, or of the last class whose threshold is reached."""
        return np.argmax(answers, axis=1) if thresholds is None else count_reached(above_each(answers), thresholds)


def above_each(p: np.ndarray) -> np.ndarray:
    """Return the probabilities (n, K - 1) of labels above each class but the last, given those (n, K) of classes."""
    return p[:, 1:] if p.shape[1] == 2 else np.minimum(np.cumsum(p[:, ::-1], axis=1)[:, -2::-1], 1.0)


def count_reached(above: np.ndarray, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return how many probabilities (n, K - 1) of a row, from the first on, reach their thresholds: (n,)."""
    return np.logical_and.accumulate(above >= np.asarray(thresholds), axis=1).sum(axis=1)


def as_values(series: pl.Series) -> pl.Series:
    """Return class labels as text or numbers that can be compared; a missing one is null."""
    if series.dtype in (pl.Categorical, pl.Enum):
        return series.cast(pl.String)
    if series.dtype == pl.Boolean:
        return series.cast(pl.UInt8)
    return series.fill_nan(None) if series.dtype.is_float() else series


def label_of(text: str, dtype: pl.DataType) -> Any:
    """Return the label of a type that a text names, None if there is none."""
    if dtype in TEXT:
        return text
    if dtype == pl.Boolean:
        return {"true": True, "false": False, "1": True, "0": False}.get(text.lower())
    return pl.Series([text]).cast(dtype, strict=False)[0]


def class_values(task: str, classes: tuple | None) -> pl.Series:
    """Return the classes of a task, text, booleans or numbers.

    Raises
    ------
    TypeError
        If they are something else or a mixture.
    """
    found = list(classes or ())
    if all(isinstance(label, int) and not isinstance(label, bool) for label in found):
        return pl.Series(found, dtype=pl.Int128)
    for kinds, dtype in ((bool, pl.Boolean), (str, pl.String), (int | float, pl.Float64)):
        if all(isinstance(label, kinds) for label in found):
            return pl.Series(found, dtype=dtype, strict=False)
    raise TypeError(f"task {task!r}: classes must be all text, all booleans or all numbers, got {found}")


def new_classes(labels: pl.Series, task: str, classes: tuple) -> tuple:
    """Return the classes that occur and are not known, sorted, as values of the type of the known ones.

    Labels that cannot be classes like the known ones are left out; `Classes.encode` refuses them.
    """
    known, values = class_values(task, classes), as_values(labels).drop_nulls().unique().sort()
    if known.dtype == pl.Boolean or (known.dtype == pl.String) != (values.dtype == pl.String):
        return ()
    if known.dtype.is_integer() and values.dtype.is_float():
        values = values.filter(values == values.round())
    values = values.cast(known.dtype, strict=False).drop_nulls()
    return tuple(values.filter(~values.is_in(known.implode())).to_list())


def found_classes(labels: pl.Series, order: Sequence | None) -> tuple:
    """Return the classes that occur, in the order of all categories, or of an Enum, or sorted."""
    values = (labels.cast(pl.String) if labels.dtype == pl.Categorical else labels).unique().sort().to_list()
    if order is None:
        return tuple(values)
    found = set(values)
    return tuple(category for category in order if category in found)
