"""Several fitted estimators asked as one, by rows that are encoded already."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from tabmtl.base.schema import Batch
from tabmtl.targets import Kind

T = TypeVar("T")

_MOST_PARTS = 32  # of one whole: servers ask for a few sets of tasks again and again
_parts: WeakKeyDictionary[Any, dict[Hashable, Any]] = WeakKeyDictionary()


def part_of(whole: Any, key: Hashable, make: Callable[[], T]) -> T:
    """Return what was made of an object for a key; it is kept as long as the object, if it is among the last few.

    Parameters
    ----------
    whole : object
        Its parts must not hold it, and it must not change. Copies and pickles of it have no parts.
    key : hashable
    make : callable
    """
    known = _parts.setdefault(whole, {})
    part = known.pop(key, None)
    if part is None:
        part = make()
    known[key] = part  # the newest last; another thread may take it out for a moment
    for oldest in [*known][:-_MOST_PARTS]:
        known.pop(oldest, None)
    return part


class Together:
    """Fitted estimators of one class that read rows alike, such as those of the folds of an ensemble.

    A class of estimators names by ``_together`` the subclass that asks several of it by fewer calls. It may keep what
    it has made of the estimators.

    Parameters
    ----------
    models : sequence of MultiTaskEstimator
    places : tuple of int, optional
        Numbers of the columns of a wide y to answer, all by default.
    """

    def __init__(self, models: Sequence[Any], places: tuple[int, ...] | None = None) -> None:
        self.models, self.places = models, places
        self.fitted = [model._fitted for model in models]

    def of(self, places: tuple[int, ...]) -> Self:
        """Return what asks the models for some columns of a wide y only; the last few are kept."""
        return part_of(self, places, lambda: type(self)(self.models, places))

    def answers(self, X: Any, batch: Batch) -> list[list[np.ndarray]]:
        """Return the answers of every model, with the bits of its own `answer`; of networks up to their rounding.

        A row has the same bits in any batch.

        Parameters
        ----------
        X : frame of n rows
            With the columns of fit, in their order.
        batch : Batch
            The same rows, encoded.
        """
        return [model._model.answer(batch, model, X, self.places) for model in self.models]

    @cached_property
    def _labels(self) -> list[Any]:
        """The encodings of the columns of y that are answered."""
        labels = [model.coder_.labels for model in self.models]
        return labels if self.places is None else [own.of(self.places) for own in labels]

    @cached_property
    def _units(self) -> list[tuple[Kind, np.ndarray, np.ndarray]]:
        """Kind of every column of y that is answered, and its center and scale for each model, shaped as answers."""
        found = []
        for t, task in enumerate(self._labels[0].column_tasks):
            shape = (-1, *[1] * (len(task.kind.answer_shape(1, task.classes)) - 1))
            center, scale = zip(*((own.center[t], own.scale[t]) for own in self._labels), strict=True)
            found.append((task.kind, np.reshape(center, shape), np.reshape(scale, shape)))
        return found

    def linked(self, scores: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        """Return the answers of every model, given its raw scores (n, width) for every column of y."""
        n_rows, columns = len(scores[0][0]), []
        with np.errstate(over="ignore"):  # 1 / (1 + inf) is 0
            for (kind, center, scale), column in zip(self._units, zip(*scores, strict=True), strict=True):
                # one call for all models: of few rows, it takes as long as one for each
                rows = np.concatenate(column).astype(np.float64)
                answers = kind.answers(rows, center.repeat(n_rows, axis=0), scale.repeat(n_rows, axis=0), np)
                columns.append(answers.reshape(len(self.models), n_rows, *answers.shape[1:]))
        return [list(own) for own in zip(*columns, strict=True)]
