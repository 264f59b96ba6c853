"""What a column held in fit, in a word; the types behind the words, and columns read by them.

A preprocessor stores these words, and kinds of columns say them (`tabmtl.columns.ColumnKind.values_of`), so that files,
servers and errors know no kinds. A word that is none of these stands for what only its own reader knows.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from tabmtl.base.forks import check_pool
from tabmtl.columns.category import text_of
from tabmtl.columns.date import zone_error
from tabmtl.columns.date_text import LEAST_SHARE, NOTHING, ZONED, read_text
from tabmtl.columns.kind import TEXT, column_of
from tabmtl.columns.tags import split_texts

#: Words, but for a time zone behind " of ", and the types that such columns have.
_TYPES: dict[str, pl.DataType] = {
    "integers": pl.Int64(),
    "numbers": pl.Float64(),
    "booleans": pl.Boolean(),
    "text": pl.String(),
    "free text": pl.String(),
    "dates": pl.Date(),
    "datetimes": pl.Datetime("us"),
    "times": pl.Time(),
    "durations": pl.Duration("us"),
    "lists of text": pl.List(pl.String()),
    "lists of integers": pl.List(pl.Int64()),
    "lists of numbers": pl.List(pl.Float64()),
}
_TEMPORAL = {pl.Date: "dates", pl.Datetime: "datetimes", pl.Time: "times", pl.Duration: "durations", pl.Null: "none"}
# text that the files and the servers of a model have where fit saw other values
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
_OF_TEXT: dict[str, Callable[[pl.Series], pl.Series]] = {
    "integers": lambda texts: texts.cast(pl.Float64),
    "numbers": lambda texts: texts.cast(pl.Float64),
    "booleans": lambda texts: texts.str.to_lowercase().replace_strict(_BOOLEANS, return_dtype=pl.Boolean),
    "durations": lambda texts: (texts.cast(pl.Float64) * 1e6).round().cast(pl.Int64),
}


def type_of(values: str) -> pl.DataType:
    """Return the type of a column with such values; text for a word that is unknown."""
    return _TYPES.get(values if values in _TYPES else values.partition(" of ")[0], pl.String())


def served_type(values: str) -> pl.DataType:
    """Return the type in which a server gets such values: numbers as floats, durations as seconds, the rest as text."""
    held = type_of(values)
    if isinstance(held, pl.List):
        return held
    return pl.Float64() if held.is_numeric() or held == pl.Duration else pl.String()


def from_text(column: pl.Series, values: str, separator: str | None) -> pl.Series:
    """Return a column of a file or a server as what it held in fit, which its text may tell.

    Dates are in ISO 8601, durations may be seconds, and lists are text with a sign between their items.
    """
    held = type_of(values)
    if held.is_temporal() and not column.dtype.is_temporal():
        return as_fit(column, values)
    if isinstance(held, pl.List) and column.dtype == pl.String and separator is not None:
        check_pool()
        return split_texts(column, separator, values)
    return column


def values_of(dtype: pl.DataType) -> str:
    """Return what a column of a type holds; of datetimes with their time zone, if they have one."""
    if dtype.is_integer():
        return "integers"
    if dtype.is_numeric():
        return "numbers"
    if dtype == pl.Boolean:
        return "booleans"
    zone = getattr(dtype, "time_zone", None)
    return "text" if dtype in TEXT else _TEMPORAL.get(dtype.base_type(), "other") + (f" of {zone}" if zone else "")


def as_fit(series: pl.Series, values: str) -> pl.Series:
    """Return a column with the values that it held in fit, such as dates where a file or a server has their text.

    Numbers are seconds of durations.

    Raises
    ------
    ValueError
        If the column holds something else.
    TypeError
        If its moments have a time zone, in their type or in their text, and had none in fit.
    """
    found = values_of(series.dtype)
    if found == values or values in ("none", "other"):
        return series
    zone = getattr(series.dtype, "time_zone", None)
    if zone and values in ("dates", "datetimes"):
        raise TypeError(zone_error(series.name, "", zone, series.dtype))
    if "text" in (found, values):
        check_pool()
    try:
        return _cast(series, found, values)
    except pl.exceptions.PolarsError as error:
        raise _refusal(series, values, series.drop_nulls()) from error


def _refusal(series: pl.Series, values: str, wrong: pl.Series) -> ValueError:
    return ValueError(
        f"column {series.name!r} held {values} in fit, and holds {values_of(series.dtype)} now, such as "
        f"{wrong.head(1).to_list()}; give {values}, or text that says them: digits, true, ISO 8601"
    )


def _cast(series: pl.Series, found: str, values: str) -> pl.Series:
    if values == "text":
        return series.to_frame().select(text_of(series.name, series.dtype)).to_series()
    if found == "text":
        series = series.cast(pl.String).replace(NOTHING, None)
    kind, _, zone = values.partition(" of ")
    if found == "text" and kind in ("dates", "datetimes", "times"):
        return _from_text(series, values)
    if kind == "datetimes":
        return _in_zone(series, zone)
    if kind == "durations" and found in ("integers", "numbers"):
        return (series * 1e6).round().cast(pl.Int64).cast(pl.Duration("us"))
    if found == "text" and kind in _OF_TEXT:
        series = _OF_TEXT[kind](series)
    if kind == "integers" and series.dtype.is_float():
        is_whole = not series.null_count() and (series == series.round()).all() and series.is_finite().all()
        return series.cast(pl.Int64) if is_whole else series
    is_number = kind in ("integers", "numbers") and series.dtype.is_numeric()
    return series if is_number else series.cast(type_of(kind))


def _from_text(series: pl.Series, values: str) -> pl.Series:
    """Read text as dates; see `read_text`. As in a fit from a file, one in a hundred may be none, and is missing."""
    if values in ("dates", "datetimes") and len(zoned := series.filter(series.str.contains(ZONED))):
        raise TypeError(
            f"column {series.name!r} had no time zone in fit and has one now, such as in {zoned[0]!r}; write the times "
            "that clocks of fit would show, without a zone, such as '2024-02-29 13:45'"
        )
    read = series.to_frame().select(read_text(column_of(series.name), values)).to_series()
    wrong = series.filter(read.is_null() & series.is_not_null())
    if len(wrong) > (1 - LEAST_SHARE) * series.count():
        raise _refusal(series, values, wrong)
    return read


def _in_zone(series: pl.Series, zone: str) -> pl.Series:
    """Return datetimes of a time zone. Those without one are taken to be of it."""
    known = getattr(series.dtype, "time_zone", None)
    times = series.cast(pl.Datetime("us", known))
    if known:
        return times.dt.convert_time_zone(zone)
    return times.dt.replace_time_zone(zone) if zone else times
