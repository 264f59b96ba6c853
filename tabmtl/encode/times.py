"""Read the times of rows, by which they are split: dates and numbers of any library, as numbers in their order."""

from __future__ import annotations

from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl

from tabmtl.base.schema import in_command
from tabmtl.encode.columns import read_array, read_column
from tabmtl.encode.read import column_of


def read_time(time: Any, X: Any, n: int, *, source: str = "X") -> np.ndarray:
    """Read the times of rows as numbers (n,); see `time_series`."""
    return as_numbers(time_series(time, X, n, source=source))


def time_series(time: Any, X: Any, n: int, *, source: str = "X") -> pl.Series:
    """Read the times of rows.

    Parameters
    ----------
    time : str, series or array-like of shape (n,)
        Time of every row: dates, datetimes or numbers; or the name of a column of X.
    X : frame or array of shape (n, p)
    n : int
        Number of rows.
    source : str, default="X"
        Name of X in errors.

    Raises
    ------
    ValueError
        If X has no such column, the shape does not fit, or a value is missing.
    TypeError
        If the values are neither dates, datetimes nor numbers.
    """
    name = describe_time(time)
    if isinstance(time, str):
        time = column_of(X, time, source, "time")
    if nw.dependencies.is_into_series(time):
        series, shape = read_column(nw.from_native(time, series_only=True), name), (len(time),)
    else:
        array = np.asarray(time)
        shape = array.shape
        series = read_array(array, name) if array.ndim == 1 else pl.Series()
    if shape != (n,):
        is_name = shape == (1,) and isinstance(series[0], str)
        cure = f"; to name a column of X, give its name alone: time={series[0]!r}" if is_name else ""
        raise ValueError(f"{name} must hold one value per row, shape {(n,)!r}, got shape {shape!r}{cure}")
    check_time(series, name)
    return series


def describe_time(time: Any) -> str:
    """Return the name of times in messages."""
    return f"the column {time!r} of times" if isinstance(time, str) else "time"


def check_time(series: pl.Series, name: str) -> None:
    """Raise an error, with a name, for times that are of no fit type, or missing."""
    if not is_time(series.dtype):
        cure = "name a column of dates or numbers"
        if series.dtype in (pl.String, pl.Categorical, pl.Enum):
            cure = "read text as dates before, with its format"
            cure = "write dates as 2024-01-31, and leave --no-dates out" if in_command.get() else cure
        raise TypeError(f"{name} must hold dates, datetimes or numbers, got {series.dtype}; {cure}")
    n_missing = series.null_count() + (int(series.is_nan().sum()) if series.dtype.is_float() else 0)
    if n_missing:
        raise ValueError(
            f"{name} has {n_missing} missing values of {len(series)}; leave these rows out, or give them a time"
        )


def is_time(dtype: pl.DataType) -> bool:
    """Return whether rows can be in the order of values of a type: of the time of the day, they are not."""
    return dtype.is_numeric() or dtype in (pl.Date, pl.Datetime, pl.Duration)


def as_numbers(series: pl.Series) -> np.ndarray:
    """Return times as numbers (n,) of float64 in their order; dates and datetimes in microseconds since 1970."""
    if series.dtype == pl.Duration:
        series = series.cast(pl.Duration("us"))
    elif series.dtype.is_temporal():
        zone = getattr(series.dtype, "time_zone", None)
        series = series.cast(pl.Datetime("us", zone))
    return series.to_physical().cast(pl.Float64).to_numpy()


def check_times_differ(time: np.ndarray, name: str) -> None:
    """Raise a ValueError, with the name of the times, if they are all equal, so that no rows are newer than others."""
    if len(time) > 1 and not np.ptp(time):
        raise ValueError(f"all {len(time)} rows have the same time in {name}, so none are the newest; leave time out")
