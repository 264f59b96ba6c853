"""Rows that are no frame, such as those of files larger than memory: what a fit asks of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import Any, ClassVar


class Source(ABC):
    """A table that gives its rows to a fit by itself. Nothing but a fit takes one; see `refuse_source`.

    Attributes
    ----------
    cure : str
        What to give where all rows are read at once.
    """

    cure: ClassVar[str]

    @abstractmethod
    def coder(self, learner: Any, y: Any, sample_weight: Any) -> Any:
        """Learn columns and tasks for a `TableLearner`, as its `coder` does of a frame."""

    @abstractmethod
    def rows(self, learner: Any, stack: ExitStack, y: Any, weight: Any, marks: Any, X_val: Any, y_val: Any) -> Any:
        """Return the coder of a `TableLearner`, the rows, and those to validate on, as its `rows` does of frames."""


def is_source(X: Any) -> bool:
    """Tell whether rows are a `Source`, of which searches and recommenders ask more than a fit of a table does."""
    return isinstance(X, Source)


def refuse_source(X: Any, what: str) -> None:
    """Raise a TypeError for a source, of what reads all rows at once."""
    if is_source(X):
        raise TypeError(f"{what} reads a frame in memory, got {type(X).__name__}: {X.cure}")
