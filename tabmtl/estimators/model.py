"""What an estimator has fitted, as one frozen object: a verb takes a `Model`, and gives a `Model` or answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

from tabmtl.base.schema import Batch
from tabmtl.encode import LabelCoder, TableCoder
from tabmtl.encode.drift.profile import Profile
from tabmtl.encode.drift.readings import Answers
from tabmtl.estimators.asked import part_of
from tabmtl.model_selection.repeats import SeenRows
from tabmtl.targets import Tasks

Places = tuple[int, ...]


class Fitted(Protocol):
    """What a method has learned: a frozen dataclass that knows encoded rows, and columns of y by their places.

    Give it ``eq=False``: what is made of it is kept by its identity; see `part_of`.
    """

    def answer(
        self, rows: Batch, labels: LabelCoder, how: Any, X: Any = None, places: Places | None = None
    ) -> list[np.ndarray]:
        """Return probabilities (n, K) or values (n,) of the columns of y.

        Parameters
        ----------
        rows : Batch
        labels : LabelCoder
            Of the columns that are asked for.
        how : object
            Parameters that say how to compute, such as ``n_jobs``; an estimator has them.
        X : frame, optional
            The same rows, behind the preprocessor.
        places : tuple of int, optional
            Columns of a wide table to answer, all by default. Parts that they do not need are not computed.
        """

    def without(self, t: int, coder: TableCoder) -> Fitted:
        """Return what is left without a task, given its place; the coder lacks it already."""


class Over:
    """What changes the answers of a method: a frozen dataclass with a ``name``, by which files know it.

    `tabmtl.load` takes its class in ``kinds``. It stays with the model through all verbs, and under other weights;
    a new fit drops it. Drift is told of the answers in front of it, and exports refuse it.
    """

    is_named: ClassVar[bool] = True
    name: ClassVar[str]

    def change(self, answers: Sequence[np.ndarray], labels: LabelCoder, task: np.ndarray | None) -> list[np.ndarray]:
        """Return other probabilities (n, K) or values (n,) of some columns of y, each changed by itself.

        Parameters
        ----------
        answers : sequence of ndarray
        labels : LabelCoder
            Of these columns, which may be any: know their tasks by name, as tasks come and go.
        task : ndarray of int64, shape (n,), or None
            Long layout: the task of every row.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """What an estimator has fitted.

    Attributes
    ----------
    coder : TableCoder
        How rows are read, and what was decided of answers.
    fitted : Fitted
        What answers encoded rows.
    over : tuple of Over
        What changes these answers, one after the other.
    profile : Profile or None
        What `drift` compares with.
    seen : SeenRows
        Rows that were learned in this process.
    """

    coder: TableCoder
    fitted: Fitted
    over: tuple[Over, ...] = ()
    profile: Profile | None = None
    seen: SeenRows = field(default_factory=SeenRows.unknown)

    @cached_property
    def tasks(self) -> Tasks:
        """The tasks, in the order of y."""
        return Tasks(self.coder.labels.tasks)

    def labels_of(self, places: Places, *, is_flat: bool = False) -> LabelCoder:
        """Return the encoding of some columns of y; for a row, making it would take as long as reading the row."""
        labels = self.coder.labels
        return part_of(labels, (places, is_flat), lambda: labels.of(places, is_flat=is_flat))

    def answer(self, rows: Batch, how: Any, X: Any = None, places: Places | None = None) -> list[np.ndarray]:
        """Return answers in front of decisions; see `Fitted`."""
        labels = self.coder.labels if places is None else self.labels_of(places)
        found = self.fitted.answer(rows, labels, how, X, places)
        for each in self.over:
            found = each.change(found, labels, rows.task)
        return found

    def of_method(self, rows: Batch, how: Any, X: Any = None) -> list[np.ndarray]:
        """Return the answers of the method alone."""
        return self.fitted.answer(rows, self.coder.labels, how, X)

    def check_plain(self, verb: str) -> None:
        """Raise a ValueError if something changes the answers of the method."""
        if self.over:
            raise ValueError(f"{verb} the answers of the method, which {self.over[0].name!r} of this model changes")


#: What asks a model, once it is fitted, for answers to rows that it has learned, or has not.
Asking = Callable[[Model], Sequence[Answers]]


def model_of(estimator: Any) -> Model:
    """Return what an estimator has fitted."""
    found: Model = estimator._model
    return found


def take_coder(estimator: Any, coder: TableCoder) -> None:
    """Let a fitted estimator read rows by another coder of the same columns and tasks."""
    estimator._model = replace(model_of(estimator), coder=coder)
