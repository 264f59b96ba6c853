"""What a kind of columns is: how columns of a frame are recognised, learned and encoded, all of one kind at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
import polars.selectors as cs

from tabmtl.base.forks import has_pool
from tabmtl.base.storage.stored import Stored
from tabmtl.columns.declared import TEXT as TEXT
from tabmtl.columns.declared import Declared

#: What a kind keeps of some rows to learn from them, by names: a frame counts each ``level``, whose counts are added,
#: and a series (m,) or an array (m,) or (c, m) has values of sampled rows.
Summary = dict[str, Any]
Form = Literal["numbers", "codes", "bags", "sequences", "vectors"]
#: Encoded columns by their form: arrays (n, m), or a tuple of bags.
Parts = dict[Form, Any]
#: The field of `tabmtl.base.schema.Columns` that has an entry for each feature of a form.
FIELDS: dict[Form, str] = {
    "numbers": "numeric",
    "codes": "categorical",
    "bags": "bag_sizes",
    "sequences": "sequences",
    "vectors": "vector_widths",
}
#: Parts of a frame in their order, with their rows.
Slices = Iterable[tuple[slice, pl.DataFrame]]

#: Types, besides those of integers, whose plain values are whole numbers, or all missing.
WHOLE = (pl.Boolean, pl.Null)
SLICE_ROWS = 65_536  # rows read at a time: bounds the memory beside the result
MOST_ROWS = 4  # few rows: reading them without polars takes less time
CHUNK_ROWS = 2_048  # rows scaled at a time: the block stays in the processor's cache
_MOST_LEVELS = 20_000_000


class RowError(ValueError):
    """A row that cannot be encoded.

    Parameters
    ----------
    before, after : str
        What is said around the row.
    row : int
        Its number, counted from 0 in what is encoded, or in a file.
    file : str, optional
    """

    def __init__(self, before: str, row: int, after: str, file: str | None = None) -> None:
        super().__init__(before, row, after, file)  # by which it is pickled

    def __str__(self) -> str:
        before, row, after, file = self.args
        return f"{before}row {row}{f' of {file}' if file else ''}, counted from 0{after}"

    @property
    def row(self) -> int:
        """The number of the row."""
        return int(self.args[1])

    def at(self, row: int, file: str | None) -> RowError:
        """Return the error of the row by its number in a file."""
        before, _, after, _ = self.args
        return RowError(before, row, after, file)


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
    columns : mapping of str to Declared
        The columns that the user declares, and so knows: nothing is warned of.
    """

    schema: Mapping[str, pl.DataType]
    transform: Any = "standardize"
    min_frequency: int = 1
    columns: Mapping[str, Declared] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ColumnKind(LeanPickle, ABC):
    """A kind of columns. The class recognises and learns its columns, an object of it encodes all that were learned.

    A subclass is a dataclass, whose fields are what it has learned, and what a model's file keeps.

    Attributes
    ----------
    names : tuple of str
        The columns, in the order of the frame.
    name : str
        The kind in a file.
    held : str
        What a column was in fit, for the error that it no longer is.
    cast : str
        What to cast such a column to.
    declaration : Declared
        What makes another such column be of this kind.
    """

    #: Kinds of the package, which a file names; `tabmtl.columns` lists them.
    known: ClassVar[Sequence[type[ColumnKind]]] = ()
    name: ClassVar[str]
    held: ClassVar[str]
    cast: ClassVar[str]
    declaration: ClassVar[Declared]

    names: Annotated[tuple[str, ...], Stored(distinct=True)]

    @classmethod
    @abstractmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether a column of this type is of this kind.

        ``declared`` is None where nobody said, and else the name of a kind. With its own name, this kind says whether
        such a column can be encoded.
        """

    @classmethod
    def flat(cls) -> type[ColumnKind]:
        """Return the kind that makes numbers and codes of the same columns, which trees read; by default this one."""
        return cls

    @classmethod
    def survey(cls, block: pl.DataFrame, names: Sequence[str], taken: np.ndarray) -> Summary:
        """Summarise the columns of a block, and the rows (m,) of it that belong to a sample of all rows."""
        return {}

    @classmethod
    @abstractmethod
    def learn(cls, names: tuple[str, ...], summary: Summary, coding: Coding) -> Self:
        """Learn the columns from the summary of all rows, which is used up."""

    def extended(self, summary: Summary, min_frequency: int) -> Self:
        """Return what encodes the columns of more rows too, so that a fit can go on with them instead of anew.

        A network that was trained on codes of this object can go on with those of the result: a code that stands for a
        level keeps it, and new levels have the codes after it, so that embeddings grow at their end. Scales, hashes and
        lengths stay as they are, and by default nothing changes. Without anything new, the result is this object.

        Parameters
        ----------
        summary : Summary
            What `survey` says of new rows of the same columns; `merge` joins several.
        min_frequency : int
            Rows among the new ones that a new level needs.
        """
        return self

    @abstractmethod
    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return what networks and trees are told of the columns: fields of `tabmtl.base.schema.Columns`."""

    def origins(self) -> dict[Form, tuple[str, ...]]:
        """Return the column behind every feature, by the form of these; by default all columns have as many."""
        facts, found = self.facts(), {}
        for form, name_of in FIELDS.items():
            each = len(facts.get(name_of, ())) // max(len(self.names), 1)
            found[form] = tuple(name for name in self.names for _ in range(each))
        return found

    def values_of(self, name: str) -> str:
        """Return what a column held in fit, in a word of `tabmtl.columns.values`."""
        return self.name

    def declared(self) -> dict[str, Declared]:
        """Return what makes the columns be of this kind in another coder."""
        return dict.fromkeys(self.names, self.declaration)

    def together(self) -> tuple[tuple[str, ...], ...]:
        """Return sets of columns that must come from one row, since they lie beside each other."""
        return ()

    def expressions(self, schema: pl.Schema) -> list[pl.Expr]:
        """Return what polars makes of the columns of a frame; by default nothing new."""
        return [column_of(name) for name in self.names]

    @abstractmethod
    def encode(self, slices: Slices, n: int) -> Parts:
        """Encode n rows, given the results of `expressions` by slices.

        Networks and trees know the forms of the result, which are those of :class:`tabmtl.columns.Features`, and no
        kinds.
        """

    def raw(self) -> Self:
        """Return what encodes numbers as they are, NaN where missing: an exported network scales them itself."""
        parts = {name: own.raw() for name, own in self.__getstate__().items() if hasattr(own, "raw")}
        return replace(self, **parts) if parts else self

    def scalers(self) -> dict[Form, tuple[Any, ...]]:
        """Return the `NumericScaler` of numbers and of vectors, and one for the numbers of each sequence, by form."""
        return {}

    def reads_rows(self, schema: pl.Schema) -> bool:
        """Return whether `encode_rows` gives the bits of `encode` for columns of these types."""
        return False

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> Parts:
        """Encode few rows of plain values, for which polars takes longer than the work."""
        raise NotImplementedError

    @classmethod
    def of_name(cls, name: str) -> type[ColumnKind]:
        """Return a kind of the package by its name in a file."""
        for kind in (*cls.known, *(kind.flat() for kind in cls.known)):
            if kind.name == name:
                return kind
        raise ValueError(f"there is no kind of columns {name!r}")


def merge(several: Sequence[Mapping[str, Summary]], kept: Any) -> dict[str, Summary]:
    """Join the summaries of several blocks by kind, in any order; of their samples, some rows are kept.

    Raises
    ------
    ValueError
        If a column has more than twenty million levels.
    """
    found: dict[str, Summary] = {kind: {} for kind in several[0]}
    for kind, summary in several[0].items():
        for name, part in summary.items():
            parts = [one[kind][name] for one in several]
            if isinstance(part, pl.DataFrame):
                found[kind][name] = add_counts(parts, name)
            else:
                found[kind][name] = (
                    pl.concat(parts)[kept] if isinstance(part, pl.Series) else _join_samples(parts)[..., kept]
                )
    return found


def _join_samples(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join samples, (m,) or (c, m), whose c may differ; what is not there is NaN."""
    c = max(len(part) for part in parts) if parts[0].ndim > 1 else 0
    if any(len(part) < c for part in parts):
        parts = [np.pad(part, ((0, c - len(part)), (0, 0)), constant_values=np.nan) for part in parts]
    return np.concatenate(parts, axis=-1)


def add_counts(tables: Sequence[pl.DataFrame], name: str) -> pl.DataFrame:
    """Add the counts of the levels of a column."""
    table = pl.concat(tables).group_by("level").agg(pl.col("count").sum())
    if table.height > _MOST_LEVELS:
        raise ValueError(
            f"column {name!r} has more than {_MOST_LEVELS:_} levels; declare it 'ignore', or write a hash with fewer"
        )
    return table


def column_of(name: str) -> pl.Expr:
    """Return a column by its plain name, which `polars.col` takes for a pattern where it is like "*" or "^a$"."""
    return cs.by_name(name).as_expr()


def in_slices(frame: pl.DataFrame, expressions: Sequence[pl.Expr]) -> Slices:
    """Collect expressions over a frame, some rows at a time where there are many, in order."""
    if frame.height > SLICE_ROWS:
        return of_parts(frame.iter_slices(SLICE_ROWS), expressions)
    return [(slice(0, frame.height), _select(frame, expressions))] if expressions and frame.height else ()


def of_parts(parts: Iterable[pl.DataFrame], expressions: Sequence[pl.Expr]) -> Iterator[tuple[slice, pl.DataFrame]]:
    """Collect expressions over parts of a frame, in order."""
    start = 0
    for part in parts if expressions else ():
        yield slice(start, start + part.height), _select(part, expressions)
        start += part.height


def _select(part: pl.DataFrame, expressions: Sequence[pl.Expr]) -> pl.DataFrame:
    # for few rows, waking other threads takes longer than the work
    return part.select(expressions) if part.height > CHUNK_ROWS and has_pool() else select_seq(part, *expressions)


def select_seq(frame: pl.DataFrame, *expressions: pl.Expr) -> pl.DataFrame:
    """Return expressions over a frame one after another, also in a forked process, where polars lacks its threads.

    polars deals the parts of an expression to its threads where it has more of these than expressions, so that
    ``select_seq`` alone would wait for ever there; constants make up for their number.
    """
    if has_pool():
        return frame.select_seq(expressions)
    idle = (pl.lit(0).alias(f"\0{k}") for k in range(pl.thread_pool_size()))  # no column of a user has such a name
    return pl.DataFrame(frame.select_seq(*expressions, *idle).get_columns()[: -pl.thread_pool_size()])


def series_by(series: pl.Series, expression: pl.Expr) -> pl.Series:
    """Return an expression over a series by its name; see `select_seq`."""
    return select_seq(series.to_frame(), expression).to_series()
