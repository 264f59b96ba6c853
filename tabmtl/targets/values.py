"""Values of labels that can be compared, whatever types their columns have."""

from __future__ import annotations

import polars as pl


def is_text(series: pl.Series) -> bool:
    """Return whether the values can only be classes."""
    return series.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean)


def as_values(series: pl.Series) -> pl.Series:
    """Return class labels as text or numbers that can be compared; a missing one is null."""
    if series.dtype in (pl.Categorical, pl.Enum):
        return series.cast(pl.String)
    if series.dtype == pl.Boolean:
        return series.cast(pl.UInt8)
    return series.fill_nan(None) if series.dtype.is_float() else series
