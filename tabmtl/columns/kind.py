"""What a kind of columns is: how columns of a frame are recognised, learned and encoded, all of one kind at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
import polars.selectors as cs

from tabmtl.columns.cures import Library
from tabmtl.processes.forks import has_pool
from tabmtl.storage.stored import Stored

#: What a kind keeps of some rows to learn from them: arrays and frames by name.
Summary = dict[str, Any]
#: Parts of a frame in their order, with their rows.
Slices = Iterable[tuple[slice, pl.DataFrame]]

TEXT = (pl.String, pl.Categorical, pl.Enum)
SLICE_ROWS = 65_536  # rows read at a time: bounds the memory beside the result
CHUNK_ROWS = 2_048  # rows scaled at a time: the block stays in the processor's cache


class LeanPickle:
    """Base of dataclasses whose pickles leave out the values that are computed on first use."""

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Coding:
    """What a kind may ask when it learns columns.

    Attributes
    ----------
    schema : mapping of str to DataType
        Of the features.
    transform : {"standardize", "quantile", "none"}
        Scaling of numbers.
    min_frequency : int
        Levels seen less often share one code.
    named : bool
        Whether the user named the categorical columns, and so knows them: nothing is warned of.
    library : {"polars", "pandas", "pyarrow", "numpy", "file"}
        Library of the frame, for cures.
    """

    schema: Mapping[str, pl.DataType]
    transform: Any = "standardize"
    min_frequency: int = 1
    named: bool = False
    library: Library = "polars"


@dataclass(frozen=True, kw_only=True)
class ColumnKind(LeanPickle, ABC):
    """A kind of columns. The class recognises and learns its columns, an object of it encodes all that were learned.

    A subclass is a dataclass, whose fields are what it has learned, and what a model's file keeps.

    Attributes
    ----------
    names : tuple of str
        The columns, in the order of the frame.
    form : {"numbers", "codes", "bags", "vectors"}
        The array of :class:`tabmtl.columns.Features` that the columns become: networks know these forms, and no kinds.
    held : str
        What a column was in fit, for the error that it no longer is.
    cast : str
        What to cast such a column to.
    """

    form: ClassVar[Literal["numbers", "codes", "bags", "vectors"]]
    held: ClassVar[str]
    cast: ClassVar[str]

    names: Annotated[tuple[str, ...], Stored(distinct=True)]

    @classmethod
    @abstractmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether a column of this type is of this kind, given the name of the kind that a user declared."""

    @classmethod
    def survey(cls, block: pl.DataFrame, names: Sequence[str], taken: np.ndarray) -> Summary:
        """Summarise the columns of a block, and the rows (m,) of it that belong to a sample of all rows."""
        return {}

    @classmethod
    def merge(cls, summaries: Sequence[Summary], kept: np.ndarray) -> Summary:
        """Summarise the rows of several summaries, whose order does not matter; of their samples some rows are kept."""
        return {}

    @classmethod
    @abstractmethod
    def learn(cls, names: tuple[str, ...], summary: Summary, coding: Coding) -> Self:
        """Learn the columns from the summary of all rows, which is used up."""

    @abstractmethod
    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return what networks and trees are told of the columns: fields of `tabmtl.schema.Columns`."""

    def fits(self, dtype: pl.DataType) -> bool:
        """Return whether a column of this type can be encoded; by default one that is read without a declaration."""
        return self.reads(dtype, None) or dtype == pl.Null

    def expressions(self, schema: pl.Schema) -> list[pl.Expr]:
        """Return what polars makes of the columns of a frame; by default nothing new."""
        return [column_of(name) for name in self.names]

    @abstractmethod
    def encode(self, slices: Slices, n: int) -> Any:
        """Encode n rows, given the results of `expressions` by slices: an array (n, m), or bags."""

    def reads_rows(self, schema: pl.Schema) -> bool:
        """Return whether `encode_rows` gives the bits of `encode` for columns of these types."""
        return False

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Encode few rows of plain values, for which polars takes longer than the work."""
        raise NotImplementedError

    @classmethod
    def of_name(cls, name: str) -> type[ColumnKind]:
        """Return a kind of the package by its name in a file."""
        found = import_module("tabmtl.columns").KINDS.get(name)
        if found is None:
            raise ValueError(f"there is no kind of columns {name!r}")
        return found


def column_of(name: str) -> pl.Expr:
    """Return a column by its plain name, which `polars.col` takes for a pattern where it is like "*" or "^a$"."""
    return cs.by_name(name).as_expr()


def in_slices(parts: Iterable[pl.DataFrame], expressions: Sequence[pl.Expr]) -> Iterator[tuple[slice, pl.DataFrame]]:
    """Collect expressions over parts of a frame, in order."""
    start = 0
    for part in parts if expressions else ():
        # for few rows, waking other threads takes longer than the work
        select = part.select if part.height > CHUNK_ROWS and has_pool() else part.select_seq
        yield slice(start, start + part.height), select(expressions)
        start += part.height


def is_whole(dtype: pl.DataType) -> bool:
    """Return whether plain values of this type are whole numbers, or all missing."""
    return dtype.is_integer() or dtype in (pl.Boolean, pl.Null)
