"""Rows of a fit, of which some are set aside and the others are trained on: what it asks of them, and a frame's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from tabmtl.base.ranks import ALONE, Ranks
from tabmtl.base.schema import Batch
from tabmtl.model_selection.folds import train_valid_split
from tabmtl.model_selection.suspects import warn_of_random_split
from tabmtl.model_selection.times import newest_split
from tabmtl.targets import Task
from tabmtl.training.rows import MemoryRows, Rows

#: Cures for rows that were set aside and tell nothing.
TO_SET_ASIDE = "give X_val and y_val, set early_stopping=False, or take another random_state or validation_fraction"


class FitRows(Protocol):
    """Rows of a fit, or those that judge it, encoded and with labels in own units; each rank has some of them."""

    @property
    def group(self) -> Ranks:
        """Processes that fit together."""

    @property
    def frame(self) -> Any:
        """The rows as they were given to fit, behind the preprocessor; None of a source."""

    @property
    def n_labels(self) -> np.ndarray:
        """Number of labels per task, (T,), of all ranks."""

    @property
    def dates(self) -> Sequence[str]:
        """Names of the features by which rows could be split in place of chance."""

    def __len__(self) -> int:
        """Return the number of the rows, of all ranks."""

    def read(self) -> Batch:
        """Return the rows of this rank."""

    def some(self, n: int) -> Batch:
        """Return n rows of all ranks, or all if there are fewer."""

    def drawn(self, n: int) -> Batch:
        """Return n random rows of all ranks, or all if there are fewer."""

    def split(self, share: float, seed: int) -> tuple[Self, Self]:
        """Split the rows in those to train and those to validate on: the newest by their time, or random ones."""

    def to_train(self, prepare: Callable[[Batch], Batch], seed: int) -> Rows:
        """Return the rows as those of a training, in its units; the seed may give the order."""


@dataclass(frozen=True, eq=False)
class FrameRows:
    """Rows of one process, in memory or on memory maps; see `FitRows`.

    Parameters
    ----------
    batch : Batch
        Encoded rows, with labels in own units.
    tasks : sequence of Task
    frame : frame or array, optional
        The rows as they were given to fit, behind the preprocessor; those of a source have none.
    index : ndarray of int, optional
        Numbers of those of the rows that are meant; None for all.
    dates : sequence of str
        Names of the features by which rows could be split in place of chance.
    """

    batch: Batch
    tasks: Sequence[Task]
    frame: Any = None
    index: np.ndarray | None = None
    dates: Sequence[str] = ()

    group: ClassVar[Ranks] = ALONE

    def __len__(self) -> int:
        return len(self.batch.y if self.index is None else self.index)

    @property
    def n_labels(self) -> np.ndarray:
        """Number of labels per task, (T,)."""
        y, task, rows = self.batch.y, self.batch.task, slice(None) if self.index is None else self.index
        labelled = Batch(x=None, y=y[rows], task=None if task is None else task[rows])
        return labelled.count_labels(len(self.tasks))

    def read(self) -> Batch:
        """Return the rows."""
        return self.batch if self.index is None else self.batch.rows(self.index)

    def some(self, n: int) -> Batch:
        """Return the first n rows."""
        return self.batch.rows(np.arange(n) if self.index is None else self.index[:n])

    def drawn(self, n: int) -> Batch:
        """Return n random rows, always the same ones."""
        places = draw(len(self), n)
        return self.batch.rows(places if self.index is None else self.index[places])

    def split(self, share: float, seed: int) -> tuple[Self, Self]:
        """Split the rows in those to train and those to validate on; see `newest_split` and `train_valid_split`."""
        batch = self.batch
        if batch.time is not None:
            kept, held_out = newest_split(batch.y, self.tasks, share, batch.time, batch.task, batch.group)
        else:
            warn_of_random_split(self.dates, len(self))
            rng = np.random.default_rng(seed)
            kept, held_out = train_valid_split(batch.y, self.tasks, share, rng, batch.task, batch.group)
        return replace(self, index=kept), replace(self, index=held_out)

    def to_train(self, prepare: Callable[[Batch], Batch], seed: int) -> MemoryRows:
        """Return the rows as those of a training, in its units; torch's generator gives the order."""
        return MemoryRows(prepare(self.read()))


def draw(n_rows: int, n: int) -> np.ndarray:
    """Draw n numbers below another, or all, in their order: even ones would meet any rhythm of the rows."""
    if n >= n_rows:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(0).choice(n_rows, n, replace=False, shuffle=False))
