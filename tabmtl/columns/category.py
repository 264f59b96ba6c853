"""Categories: the levels of text, booleans and whole numbers, and their codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import polars.selectors as cs

from tabmtl.base.schema import FIRST_LEVEL, MISSING, UNSEEN, IdColumnWarning, warn_about
from tabmtl.columns.cures import by_column
from tabmtl.columns.date_text import kind_of_levels
from tabmtl.columns.declared import Category, Date, Declared, Number
from tabmtl.columns.kind import TEXT, WHOLE, Coding, ColumnKind, Parts, Slices, Summary
from tabmtl.columns.number import LEAST_IDS, MOST_IDS, NAME_OF_ID
from tabmtl.columns.writing import are_whole, written_as

# text with more levels, at most this share of them no numbers, is taken for numbers that were read as text
_MOST_PLAIN_LEVELS, _MOST_OTHERS = 20, 0.1


@dataclass(frozen=True, kw_only=True)
class Categories(ColumnKind):
    """Columns of categories, coded by their level: 0 missing, 1 unseen or rare, then the levels.

    Levels of fit are sorted; those that `extended` adds follow them, sorted too. Whole numbers are levels under their
    decimal text, so 3, 3.0 and "3" are one level.

    Attributes
    ----------
    levels : tuple of tuple of str
        Of every column; level k has code ``k + 2``.
    """

    name = "categories"
    held = "was categorical"
    cast = "text"
    declaration: ClassVar[Declared] = Category()

    levels: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.names):
            raise ValueError("a categorical column lacks its levels")
        for name, levels in zip(self.names, self.levels, strict=True):
            if len(set(levels)) < len(levels):
                raise ValueError(f"the levels of {name!r} are not distinct")

    @classmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether a type holds text or booleans, or is declared to hold levels."""
        if declared is None:
            return dtype in (*TEXT, pl.Boolean)
        return declared == "categories" and is_feature(dtype)

    @classmethod
    def survey(cls, block: pl.DataFrame, names: Sequence[str], taken: np.ndarray) -> Summary:
        """Count the rows of every level."""
        return count_levels(block, names)

    @classmethod
    def learn(cls, names: tuple[str, ...], summary: Summary, coding: Coding) -> Self:
        """Keep the levels that are frequent enough."""
        unsaid = [name for name in names if coding.schema[name] == pl.String and name not in coding.columns]
        _warn_of_text({name: summary[name] for name in unsaid})
        levels = [_frequent(summary[name], coding.min_frequency) for name in names]
        return cls(names=names, levels=tuple(map(tuple, levels)))

    def extended(self, summary: Summary, min_frequency: int) -> Self:
        """Append the new levels that are frequent enough."""
        found = {name: _frequent(summary[name], min_frequency) for name in self.names}
        levels = tuple(
            (*known, *(level for level in found[name] if level not in known))
            for name, known in self.codes_of_levels.items()
        )
        return self if levels == self.levels else replace(self, levels=levels)

    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return names and levels."""
        return {"categorical": self.names, "levels": self.levels}

    def values_of(self, name: str) -> str:
        """Say that it was text, as which all levels are known."""
        return "text"

    def expressions(self, schema: pl.Schema) -> list[pl.Expr]:
        """Return the codes."""
        levels = zip(self.names, self.levels, strict=True)
        return [code_of(name, schema[name], pl.Enum(known)) for name, known in levels]

    def encode(self, slices: Slices, n: int) -> Parts:
        """Encode levels to int32."""
        found = np.empty((n, len(self.names)), dtype=np.int32)
        for rows, columns in slices:
            for j, column in enumerate(columns.iter_columns()):
                found[rows, j] = column.to_numpy()
        return {"codes": found}

    def reads_rows(self, schema: pl.Schema) -> bool:
        """Return whether Python makes the same text of plain values: that of floats is left to polars."""
        return all(has_plain_text(schema[name]) for name in self.names)

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> Parts:
        """Encode the levels of few rows."""
        codes = [[code_of_value(row[name], known) for name, known in self.codes_of_levels.items()] for row in rows]
        return {"codes": np.array(codes, dtype=np.int32).reshape(len(rows), len(self.names))}

    @cached_property
    def codes_of_texts(self) -> dict[str, pl.Expr]:
        """Make codes of a series of text named "text", by column: kept, since making them takes longer than a row."""
        levels = zip(self.names, self.levels, strict=True)
        return {name: code_of("text", pl.String(), pl.Enum(known)) for name, known in levels}

    @cached_property
    def codes_of_levels(self) -> dict[str, dict[str, int]]:
        """Codes by column and level."""
        found: dict[str, dict[str, int]] = {}
        for name, levels in zip(self.names, self.levels, strict=True):
            found[name] = {level: code for code, level in enumerate(levels, start=FIRST_LEVEL)}
        return found


def _frequent(counts: pl.DataFrame, least: int) -> list[str]:
    """Return the levels of at least so many rows, sorted."""
    return counts.filter(pl.col("count") >= least)["level"].drop_nulls().sort().to_list()


def has_plain_text(dtype: pl.DataType) -> bool:
    """Return whether Python makes the text of `text_of` from plain values of a type."""
    return dtype.is_integer() or dtype in (*TEXT, *WHOLE)


def code_of_value(value: Any, known: Mapping[str, int]) -> int:
    """Return the code of a plain value, given those of the levels."""
    if value is None:
        return MISSING
    # polars writes True and False in lower case
    return known.get(value if isinstance(value, str) else str(value).lower(), UNSEEN)


def is_feature(dtype: pl.DataType) -> bool:
    """Return whether a column of this type can name levels: numbers, text, booleans or categories."""
    return dtype in (*TEXT, pl.Boolean) or dtype.is_numeric() or dtype == pl.Null


def text_of(name: str, dtype: pl.DataType) -> pl.Expr:
    """Return a categorical column as text; whole numbers without decimals, NaN as null."""
    column = cs.by_name(name).as_expr()  # see `column_of`
    if not dtype.is_float():
        return column.cast(pl.String)
    whole = (column == column.round()) & column.is_finite() & (column.abs() < 2**53)
    digits = column.cast(pl.Int64, strict=False).cast(pl.String)
    return pl.when(column.is_nan()).then(None).when(whole).then(digits).otherwise(column.cast(pl.String)).alias(name)


def code_of(name: str, dtype: pl.DataType, levels: pl.Enum) -> pl.Expr:
    """Return the codes of a categorical column, int32: 0 missing, 1 unseen, then the levels."""
    text = text_of(name, dtype)
    known = text.cast(levels, strict=False).to_physical().cast(pl.Int32) + FIRST_LEVEL
    # MISSING and UNSEEN are 0 and 1: whether there is a value
    return pl.coalesce(known, text.is_not_null().cast(pl.Int32)).alias(name)


def count_levels(block: pl.DataFrame, names: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Count the rows of every level of some columns: a table with ``level`` and ``count`` for each."""
    # one small aggregation per column streams; counting all columns in one select would hold them in memory
    lazy, schema = block.lazy(), block.schema
    tables = pl.collect_all(
        [
            lazy.select(text_of(name, schema[name]).alias("level")).group_by("level").agg(pl.len().alias("count"))
            for name in names
        ]
    )
    return dict(zip(names, tables, strict=True))


def describe_numbers(levels: pl.Series) -> str | None:
    """Describe distinct texts that are nearly all numbers; None where they are few, or text."""
    others = levels.filter(levels.cast(pl.Float64, strict=False).is_null())
    if len(levels) <= _MOST_PLAIN_LEVELS or len(others) > _MOST_OTHERS * len(levels):
        return None
    return f"numbers, except {others[0]!r} and the like" if len(others) else "numbers"


def _warn_of_text(counts: Mapping[str, pl.DataFrame]) -> None:
    """Warn of columns of text whose levels are dates, or numbers that are no codes, or names of the rows."""
    written, whole = dict[str, tuple[Declared, Declared | None]](), dict[str, tuple[Declared, Declared | None]]()
    for name, table in counts.items():
        present = table.drop_nulls("level")
        levels, rows = present["level"].sort(), int(present["count"].sum())
        dates = kind_of_levels(present)
        if dates is not None:
            written[name] = Date("%H:%M") if dates == "times" else Date(), None
            continue
        line = written_as(levels)
        if line is not None:
            written[name] = line
            continue
        found, numbers = describe_numbers(levels), levels.cast(pl.Float64, strict=False)
        if found is not None and not (numbers == numbers.round()).all():
            replaced = "" if found == "numbers" else "replace those by null and "
            warn_about(
                [name],
                f"column {name!r} is text, so each of its {len(levels)} values is a category, yet they are {found}; "
                f"{replaced}say {by_column([name], 'number')}, or {by_column([name], 'category')}",
            )
        elif len(levels) > MOST_IDS * rows >= LEAST_IDS:
            warn_about(
                [name],
                f"column {name!r} is text with {len(levels)} values in {rows} rows, so it is a name of the rows, from "
                f"which nothing can be learned for others; say {by_column([name], 'ignore')}, or, if its words tell "
                f"something, {by_column([name], 'text')}",
                IdColumnWarning,
            )
        elif found is not None and are_whole(levels) and not NAME_OF_ID.search(name):
            whole[name] = Number(), None
    _warn_of_writing(written, "dates or numbers")
    _warn_of_writing(whole, "whole numbers")


def _warn_of_writing(kinds: Mapping[str, tuple[Declared, Declared | None]], are: str) -> None:
    """Warn once of columns of text that are dates or numbers, given what to declare, and other kinds if in doubt."""
    if kinds:
        doubts = [f", or {name!r} as {str(other)!r}" for name, (_, other) in kinds.items() if other is not None]
        warn_about(
            [*kinds],
            f"columns {[*kinds]} are text, so each of their values is a category, yet they are {are}; say "
            f"{by_column([*kinds], *(str(own) for own, _ in kinds.values()))}{''.join(doubts)}; or "
            f"{by_column([*kinds], 'category')} if they are codes",
        )
