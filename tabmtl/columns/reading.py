"""Text that is read as its column is declared, before a kind sees it: numbers, dates, and levels that have an order."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import polars as pl

from tabmtl.columns.category import text_of
from tabmtl.columns.cures import by_column
from tabmtl.columns.date_text import NOTHING
from tabmtl.columns.declared import Category, Declared
from tabmtl.columns.kind import column_of, select_seq
from tabmtl.columns.writing import written_as

_SHOWN = 3


def find_readings(columns: Mapping[str, Declared], schema: Mapping[str, pl.DataType]) -> dict[str, Declared]:
    """Return the columns of a frame that must be read, and how."""
    return {name: own for name, own in columns.items() if name in schema and own.reads(schema[name])}


def read_declared(frame: Any, readings: Mapping[str, Declared]) -> Any:
    """Return a DataFrame or LazyFrame with columns of text read as they are declared; others stay as they are.

    Raises
    ------
    ValueError
        If a value cannot be read; a LazyFrame raises it as it is collected.
    """
    found = find_readings(readings, frame.collect_schema())
    if isinstance(frame, pl.DataFrame):
        return frame.with_columns(_read(frame[name], kind) for name, kind in found.items()) if found else frame
    return frame.with_columns(
        column_of(name).map_batches(partial(_read, kind=kind), return_dtype=kind.read_type, is_elementwise=True)
        for name, kind in found.items()
    )


def _read(column: pl.Series, kind: Declared) -> pl.Series:
    text = text_of("text", column.dtype)
    read = kind.read(text)
    is_lost = read.is_null() & text.is_not_null() & ~text.is_in(NOTHING)
    found = select_seq(column.alias("text").to_frame(), read.alias("read"), is_lost.alias("is lost"))
    if found["is lost"].any():
        raise ValueError(_describe(column.filter(found["is lost"]), column, kind))
    return found["read"].alias(column.name)


def _describe(lost: pl.Series, column: pl.Series, kind: Declared) -> str:
    """Describe values that cannot be read."""
    other = written_as(column.cast(pl.String).drop_nulls().unique().sort())
    cure = "replace them by null"
    if isinstance(kind, Category):
        cure += ", or name them in the order too"
    elif other is not None and other[0] != kind:
        cure = f"say {by_column([column.name], str(other[0]))}"
    return (
        f"column {column.name!r} is declared {str(kind)!r}, which {len(lost)} of its {len(column)} values are not, "
        f"such as {lost.unique(maintain_order=True).head(_SHOWN).to_list()}; {cure}"
    )
