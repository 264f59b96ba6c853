"""Categorical columns: values to text, text to levels, levels to codes."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import polars.selectors as cs

from tabmtl.schema import FIRST_LEVEL


def text_of(name: str, dtype: pl.DataType) -> pl.Expr:
    """A categorical column as text; whole numbers without decimals, NaN as null."""
    # a selector, because pl.col takes a name like "*" or "^a$" for a pattern
    column = cs.by_name(name).as_expr()
    if not dtype.is_float():
        return column.cast(pl.String)
    whole = (column == column.round()) & column.is_finite() & (column.abs() < 2**53)
    digits = column.cast(pl.Int64, strict=False).cast(pl.String)
    return pl.when(column.is_nan()).then(None).when(whole).then(digits).otherwise(column.cast(pl.String)).alias(name)


def find_levels(
    lazy: pl.LazyFrame, schema: pl.Schema, names: Sequence[str], min_frequency: int
) -> tuple[tuple[str, ...], ...]:
    """Levels of every column that are seen often enough, sorted by code point."""
    # one small aggregation per column streams; counting all columns in one select would hold them in memory
    counts = pl.collect_all(
        [
            lazy.select(text_of(name, schema[name]).alias("level")).group_by("level").agg(pl.len().alias("count"))
            for name in names
        ]
    )
    return tuple(
        tuple(table.filter(pl.col("count") >= min_frequency)["level"].drop_nulls().sort().to_list()) for table in counts
    )


def code_of(name: str, dtype: pl.DataType, levels: pl.Enum) -> pl.Expr:
    """Codes of a categorical column, int32: 0 missing, 1 unseen, then the levels."""
    text = text_of(name, dtype)
    known = text.cast(levels, strict=False).to_physical().cast(pl.Int32) + FIRST_LEVEL
    # MISSING and UNSEEN are 0 and 1: whether there is a value
    return pl.coalesce(known, text.is_not_null().cast(pl.Int32)).alias(name)
