"""Facts about rows and features, and words to the user: plain, and free of any frame or tensor."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from html import escape
from threading import Lock
from types import FrameType
from typing import Any

import numpy as np

#: Codes of a categorical feature that every column reserves before its own levels.
MISSING, UNSEEN, FIRST_LEVEL = 0, 1, 2

# scikit-learn calls a fit that has callbacks, and contextlib the end of a block
_INSIDE = ("tabmtl", "sklearn", "contextlib")


class TabmtlWarning(UserWarning):
    """Warning of this package: it names a guess, an omission or an undefined value, and the cure.

    A warning about columns or tasks is given once in a process, for the same names, however many models are fitted.
    """


class TargetInFeaturesWarning(TabmtlWarning):
    """Warning of a target that is a feature too."""


class PerfectFeatureWarning(TabmtlWarning):
    """Warning of a feature that alone predicts a task, as one does that is known only with the target."""


class IdColumnWarning(TabmtlWarning):
    """Warning of a column of text or whole numbers with a value of its own in nearly every row."""


class ConstantFeatureWarning(TabmtlWarning):
    """Warning of features that have one value, or none, in all rows."""


class IndexMismatchWarning(TabmtlWarning):
    """Warning of pandas targets whose index is not that of the features: rows are aligned by position."""


class FewLabelsWarning(TabmtlWarning):
    """Warning of tasks with so few labels that chance decides their scores."""


class FrequentClassWarning(TabmtlWarning):
    """Warning of a score of the positive class, where this is the more frequent of two, and nothing names it."""


class RandomSplitWarning(TabmtlWarning):
    """Warning of rows that are split at random, although a column says when they were."""


class TimeLimitWarning(TabmtlWarning):
    """Warning of a fit that its time limit has ended early: the model is the best so far."""


#: Whether words to the user name options of a command, and the file that it reads, in place of arguments and frames.
in_command: ContextVar[bool] = ContextVar("in_command", default=False)


@contextmanager
def for_commands() -> Iterator[None]:
    """Word cures inside as options of a command, and as changes of the file that it reads."""
    token = in_command.set(True)
    try:
        yield
    finally:
        in_command.reset(token)


#: Whether warnings of this package are left unsaid, as those of a fit inside another one.
_is_unsaid: ContextVar[bool] = ContextVar("is_unsaid", default=False)


@contextmanager
def unsaid() -> Iterator[None]:
    """Give no warning of this package inside: its rows and tasks are not those that the user chose.

    No such warning counts as given, and other threads warn as ever.
    """
    token = _is_unsaid.set(True)
    try:
        yield
    finally:
        _is_unsaid.reset(token)


#: Warnings about columns and tasks that this process has given: their categories, names, and words without numbers.
told: set[tuple[type[TabmtlWarning], tuple[str, ...], str]] = set()
_telling = Lock()


def warn_about(names: Sequence[str], message: str, category: type[TabmtlWarning] = TabmtlWarning) -> None:
    """Give a warning about columns or tasks, as `warn_user` does, but once in a process.

    The counts in it differ between the parts of one table, so they do not make it another one. A warning that a filter
    hides counts as given; one that a filter turns into an error, or that is inside `unsaid`, does not.
    """
    if _is_unsaid.get():
        return
    key = category, (*names,), re.sub(r"[\d.,]", "", message)
    with _telling:
        if key in told:
            return
        told.add(key)
    try:
        warn_user(message, category)
    except Warning:
        told.discard(key)
        raise


def warn_user(message: str, category: type[TabmtlWarning] = TabmtlWarning) -> None:
    """Give a warning of this package at the line outside this package that called it, however deep."""
    if _is_unsaid.get():
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def outer_frame() -> FrameType | None:
    """Return the frame of the code that called this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "tabmtl":
        frame = frame.f_back
    return frame


def is_asked_by_sklearn() -> bool:
    """Return whether scikit-learn called this package, rather than a user."""
    frame = outer_frame()
    return frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "sklearn"


def counted(number: int, unit: str) -> str:
    """Return a number with its unit, of which there may be one."""
    return f"{number} {unit}{'' if number == 1 else 's'}"


def listed(texts: Sequence[str], most: int = 10) -> str:
    """Join the first texts by commas, and say how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return f"{', '.join(texts[:most])}{more}"


def text_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table as plain text, columns aligned right."""
    texts = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in texts)


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Return a table of texts for notebooks, numbers in columns to the right of the first."""

    def line(cells: Sequence[str], tag: str) -> str:
        align = ("left", *["right"] * (len(cells) - 1))
        pairs = zip(align, cells, strict=True)
        return "".join(f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>' for side, cell in pairs)

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    title = f'<caption style="text-align: left">{escape(caption)}</caption>' if caption else ""
    return f"<table>{title}<thead><tr>{line(header, 'th')}</tr></thead><tbody>{body}</tbody></table>"


def is_unicode(text: str) -> bool:
    """Return whether a text is valid Unicode: half of a surrogate pair is not."""
    return text.isascii() or text.encode("utf-8", "replace").decode() == text


def describe_error(error: BaseException) -> str:
    """Return the type and the words of an error, as a text that every frame, file and database can hold."""
    return f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace").decode()


class DivergenceError(ValueError):
    """Error for training that is no longer finite; a lower learning rate is the usual cure."""


@dataclass(frozen=True, kw_only=True)
class SequenceColumn:
    """What networks know of a column of sequences.

    Parameters
    ----------
    name : str
    item : str or None
        The categorical column of the items of the sequence, whose codes its entries have.
    size : int
        Without such a column, the number of codes of the entries, the two reserved ones included; else 0.
    n_numbers : int
        Number of lists of numbers beside it.
    label_sizes : tuple of int
        Number of codes of every list of text beside it.
    max_length : int
        Most entries of a row.
    """

    name: str
    item: str | None
    size: int
    n_numbers: int = 0
    label_sizes: tuple[int, ...] = ()
    max_length: int = 50


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Features of a fitted model, and the form of their encoded values: all that networks and trees know of them.

    Parameters
    ----------
    numeric, categorical : tuple of str
        Names, in the order of the encoded matrices.
    levels : tuple of tuple
        Per categorical column its levels; level k has code ``k + 2``. Code 0 is a missing value, code 1 an unseen
        or rare level.
    has_missing : tuple of bool
        Per numeric column, whether it held a missing value in fit (then a network learns an indicator for it).
    bins : tuple of tuple of float
        Per numeric column, increasing quantile edges of the *encoded* training values, at least two; the knots of
        piecewise-linear embeddings.
    bag_sizes : tuple of int
        Per column of tags or text, the number of its codes, the two reserved ones included; trees know none.
    vector_widths : tuple of int
        Per column of vectors, their length; trees know none.
    sequences : tuple of SequenceColumn
        Columns of sequences; trees know none.
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    has_missing: tuple[bool, ...]
    bins: tuple[tuple[float, ...], ...]
    bag_sizes: tuple[int, ...] = ()
    vector_widths: tuple[int, ...] = ()
    sequences: tuple[SequenceColumn, ...] = ()

    @property
    def n_features(self) -> int:
        """Number of all columns."""
        ragged = len(self.bag_sizes) + len(self.sequences)
        return len(self.numeric) + len(self.categorical) + len(self.vector_widths) + ragged

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of codes per categorical column, the two reserved ones included."""
        return tuple(len(levels) + FIRST_LEVEL for levels in self.levels)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Encoded rows: numpy arrays at the border, torch tensors in training.

    Attributes
    ----------
    x : Features
        See `tabmtl.columns.Features`.
    y : (B, T) or None
        Labels, NaN = unlabelled. In the long layout (B, 1).
    weight : (B, T) or None
        Weights of losses; in the long layout (B, 1).
    of_class : (B, T) or None
        Training rows: the factor that each weight has of the class of its label; see `tabmtl.encode.class_factors`.
    task : (B,) int64 or None
        Long layout: the index of every row's own task.
    group : (B,) int64 or None
        Training rows: the number of every row's group, which no split divides.
    time : (B,) float64 or None
        Training rows: the time of every row, by which splits set the newest aside.
    """

    x: Any
    y: Any = None
    weight: Any = None
    of_class: Any = None
    task: Any = None
    group: Any = None
    time: Any = None

    def __len__(self) -> int:
        return len(self.x.numbers)

    @property
    def score_weight(self) -> Any:
        """Weights of scores: those of losses without the factors of classes."""
        return self.weight if self.of_class is None else self.weight / self.of_class

    def map(self, function: Callable[[Any], Any]) -> Batch:
        """Return the batch with a function applied to every array in it, which keeps its rows."""
        others = ((name, part) for name, part in vars(self).items() if name != "x")
        mapped = {name: None if part is None else function(part) for name, part in others}
        return Batch(x=self.x.map(function), **mapped)

    def arrays(self) -> dict[str, Any]:
        """Return all arrays by name, those of the features among them; None for one that is not there.

        Arrays of several blocks of rows add up to those of all.
        """
        return {**self.x.arrays(), **{name: part for name, part in vars(self).items() if name != "x"}}

    def like(self, arrays: dict[str, Any]) -> Batch:
        """Return a batch of other arrays, by the names of `arrays`."""
        others = dict(arrays)
        return Batch(x=self.x.of(others), **others)

    def rows(self, index: Any) -> Batch:
        """Return some rows, by an index array or tensor, or by a slice, whose arrays are views."""
        is_tensor = hasattr(self.x.numbers, "index_select") and not isinstance(index, slice)
        others = {
            name: None if part is None else part.index_select(0, index) if is_tensor else part[index]
            for name, part in vars(self).items()
            if name != "x"
        }
        return Batch(x=self.x.rows(index), **others)

    def unlabelled(self) -> Batch:
        """Return the rows as those to predict."""
        return Batch(x=self.x, task=self.task)

    def without_features(self) -> Batch:
        """Return the rows with all that they hold but their features."""
        return replace(self, x=self.x.without_columns())

    @classmethod
    def join(cls, batches: Sequence[Batch], concatenate: Callable[[list[Any]], Any] = np.concatenate) -> Batch:
        """Return the rows of several batches as one; of tensors, by ``torch.cat``."""
        if len(batches) == 1:
            return batches[0]
        parts = [batch.arrays() for batch in batches]
        columns = {name: [part[name] for part in parts] for name in parts[0]}
        joined = {name: None if own[0] is None else concatenate(own) for name, own in columns.items()}
        return batches[0].like(joined)

    def wide_labels(self, n_tasks: int) -> np.ndarray:
        """Return labels (n, T) as numpy: in the long layout, every row's one label under its own task."""
        if self.task is None:
            return self.y
        wide = np.full((len(self), n_tasks), np.nan)
        wide[np.arange(len(self)), self.task] = self.y[:, 0]
        return wide

    def count_labels(self, n_tasks: int) -> np.ndarray:
        """Return the number of labels of every task, (T,)."""
        labelled = ~np.isnan(self.y)
        if self.task is None:
            return labelled.sum(axis=0)
        return np.bincount(self.task, labelled[:, 0], minlength=n_tasks)
