"""Dates and datetimes, times of the day, and durations: elapsed time as a number, and parts of the calendar.

=========  ==================================================  ==================================================
column     networks                                            trees
=========  ==================================================  ==================================================
dates      ``elapsed`` (days) and ``year`` as numbers; the     ``elapsed``, ``year``, ``month``, ``day``,
           day of the month and, if minutes differ, the time   ``weekday`` and ``hour`` as numbers
           of the day as angles (``day cos``, ``day sin``,
           ``time cos``, ``time sin``); ``month``,
           ``weekday`` and ``hour`` as categories
times      ``hour`` as a number, and the angle                 ``hour``
durations  ``seconds``                                         ``seconds``
=========  ==================================================  ==================================================

A part of a date that is the same in all rows of the sample tells nothing, and is left out; ``elapsed`` stays. Weekday 1
is Monday. Hours have fractions as numbers, and none as categories.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import polars as pl

from tabmtl.columns.declared import Date
from tabmtl.columns.kind import ColumnKind, column_of
from tabmtl.columns.parted import Parted, varies

_DAY = 86_400  # in seconds
_PER_SECOND = {"ms": 10**3, "us": 10**6, "ns": 10**9}
_LONGEST_MONTH = 31
_FIRST = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, kw_only=True)
class Dates(Parted):
    """Columns of dates and datetimes, read by the clock on the wall of the time zone that they had in fit.

    Attributes
    ----------
    zones : tuple of str
        Time zone of every column; "" for none.
    starts : tuple of float
        The day of every column from which elapsed time is counted: the median of the sample.

    Examples
    --------
    >>> from datetime import datetime
    >>> import polars as pl
    >>> from tabmtl.encode import FeatureCoder
    >>> frame = pl.DataFrame({"when": [datetime(2024, 2, 28, 9), datetime(2024, 2, 29, 9), datetime(2024, 3, 1, 12)]})
    >>> coder = FeatureCoder.fit(frame, transform="none", flat=True)
    >>> coder.columns.numeric
    ('when: elapsed', 'when: month', 'when: day', 'when: weekday', 'when: hour')
    >>> coder.encode(frame).numbers
    array([[-0.625,  2.   , 28.   ,  3.   ,  9.   ],
           [ 0.375,  2.   , 29.   ,  4.   ,  9.   ],
           [ 1.5  ,  3.   ,  1.   ,  5.   , 12.   ]], dtype=float32)
    >>> FeatureCoder.fit(frame).columns.categorical  # for networks
    ('when: month', 'when: weekday', 'when: hour')
    """

    name = "dates"
    held = "held dates"
    cast = "dates, such as by .str.to_datetime() of polars or pandas.to_datetime()"
    declaration = Date()

    zones: tuple[str, ...]
    starts: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.zones) == len(self.starts) == len(self.names):
            raise ValueError(f"a column of {self.names[:5]} lacks its time zone or its start")

    @classmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether a type holds dates or datetimes."""
        return dtype in (pl.Date, pl.Datetime) and declared in (None, "dates", cls.name)

    @classmethod
    def flat(cls) -> type[ColumnKind]:
        """Return the kind whose parts are numbers."""
        return FlatDates

    @classmethod
    def all_parts(cls, column: pl.Expr, dtype: pl.DataType) -> dict[str, pl.Expr]:
        """Return days since 1970, and the parts of the calendar and of the clock."""
        if dtype == pl.Null:
            return cls.all_parts(column.cast(pl.Date), pl.Date())
        if dtype == pl.Date:
            elapsed = column.to_physical().cast(pl.Float64)
            hour = elapsed * 0
        else:
            elapsed = _in_units_of(_DAY, column, dtype)
            hour = column.dt.hour() + _seconds_of(column) * (1 / 3600)
        day = column.dt.day()
        return {
            "elapsed": elapsed,
            "year": column.dt.year(),
            "month": column.dt.month(),
            "day": day,
            "weekday": column.dt.weekday(),
            "hour": hour,
            **_angle("day", (day - 1) * (1 / _LONGEST_MONTH)),
            **_angle("time", hour * (1 / 24)),
        }

    @classmethod
    def plain_parts(cls, value: Any) -> dict[str, float]:
        """Return days since 1970, and the parts of the calendar and of the clock."""
        elapsed = float(value.toordinal() - _FIRST)
        hour = elapsed * 0
        if isinstance(value, datetime):
            hour = _plain_hour(value)
            seconds = (value.hour * 60 + value.minute) * 60 + value.second
            elapsed += float(seconds * 10**6 + value.microsecond) * (1e-6 / _DAY)
        return {
            "elapsed": elapsed,
            "year": value.year,
            "month": value.month,
            "day": value.day,
            "weekday": value.isoweekday(),
            "hour": hour,
            **_plain_angle("day", (value.day - 1) * (1 / _LONGEST_MONTH)),
            **_plain_angle("time", hour * (1 / 24)),
        }

    @classmethod
    def choose(cls, sample: Mapping[str, np.ndarray]) -> tuple[list[str], list[str]]:
        """Choose elapsed time and the parts that differ."""
        differ = _that_differ(sample)
        numbers = ["elapsed", *(part for part in differ if part == "year")]
        numbers += ["day cos", "day sin"] if "day" in differ else []
        full_hours = np.floor(sample["hour"])
        if "hour" in differ and varies(sample["hour"] - full_hours):
            numbers += ["time cos", "time sin"]
        categories = [part for part in differ if part in ("month", "weekday")]
        return numbers, [*categories, "hour"] if varies(full_hours) else categories

    @classmethod
    def more(cls, samples: Sequence[dict[str, Any]], dtypes: Sequence[pl.DataType]) -> dict[str, Any]:
        """Return the time zones, and the days from which elapsed time is counted."""
        starts = tuple(_middle(sample["elapsed"]) for sample in samples)
        for sample, start in zip(samples, starts, strict=True):
            sample["elapsed"] -= start
        return {"zones": tuple(getattr(dtype, "time_zone", None) or "" for dtype in dtypes), "starts": starts}

    def values_of(self, name: str) -> str:
        """Return "datetimes", with their time zone if they had one."""
        zone = self.zones[self.names.index(name)]
        return f"datetimes of {zone}" if zone else "datetimes"

    def read(self, name: str, dtype: pl.DataType) -> dict[str, pl.Expr]:
        """Return the parts by the clock of the time zone of fit, and days since the start."""
        place = self.names.index(name)
        column, zone, given = column_of(name), self.zones[place], getattr(dtype, "time_zone", None) or ""
        if dtype != pl.Null and bool(zone) != bool(given):
            raise TypeError(zone_error(name, zone, given, dtype))
        if given and given != zone:
            column = column.dt.convert_time_zone(zone)
        parts = self.all_parts(column, dtype)
        return parts | {"elapsed": parts["elapsed"] - self.starts[place]}

    def reads_rows(self, schema: pl.Schema) -> bool:
        """Return whether Python reads the same clock: that of UTC, or of no zone, since rules of zones may differ."""
        given = [(schema[name], zone) for name, zone in zip(self.names, self.zones, strict=True)]
        return all(
            dtype == pl.Null or (zone in ("", "UTC") and (getattr(dtype, "time_zone", None) or "") == zone)
            for dtype, zone in given
        )

    def read_plain(self, name: str, value: Any) -> dict[str, float]:
        """Return the parts, and days since the start."""
        parts = self.plain_parts(value)
        return parts | {"elapsed": parts["elapsed"] - self.starts[self.names.index(name)]}


@dataclass(frozen=True, kw_only=True)
class FlatDates(Dates):
    """Dates and datetimes as numbers."""

    name = "flat dates"

    @classmethod
    def choose(cls, sample: Mapping[str, np.ndarray]) -> tuple[list[str], list[str]]:
        """Choose elapsed time and the parts that differ."""
        return ["elapsed", *_that_differ(sample)], []


@dataclass(frozen=True, kw_only=True)
class Times(Parted):
    """Columns of times of the day."""

    name = "times"
    held = "held times"
    cast = "times, such as by .str.to_time() of polars"
    declaration = Date()

    @classmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether a type holds times of the day."""
        return dtype == pl.Time and declared in (None, "dates", cls.name)

    @classmethod
    def flat(cls) -> type[ColumnKind]:
        """Return the kind that is a number."""
        return FlatTimes

    def values_of(self, name: str) -> str:
        """Say that it was times."""
        return "times"

    @classmethod
    def all_parts(cls, column: pl.Expr, dtype: pl.DataType) -> dict[str, pl.Expr]:
        """Return the hour, and the angle."""
        times = column.cast(pl.Time)
        hour = times.dt.hour() + _seconds_of(times) * (1 / 3600)
        return {"hour": hour, **_angle("time", hour * (1 / 24))}

    @classmethod
    def plain_parts(cls, value: Any) -> dict[str, float]:
        """Return the hour, and the angle."""
        hour = _plain_hour(value)
        return {"hour": hour, **_plain_angle("time", hour * (1 / 24))}

    @classmethod
    def choose(cls, sample: Mapping[str, np.ndarray]) -> tuple[list[str], list[str]]:
        """Choose all parts."""
        return [*sample], []


@dataclass(frozen=True, kw_only=True)
class FlatTimes(Times):
    """Times of the day as hours."""

    name = "flat times"

    @classmethod
    def choose(cls, sample: Mapping[str, np.ndarray]) -> tuple[list[str], list[str]]:
        """Choose the hour."""
        return ["hour"], []


@dataclass(frozen=True, kw_only=True)
class Durations(Parted):
    """Columns of durations, as seconds."""

    name = "durations"
    held = "held durations"
    cast = "durations"
    declaration = Date()

    @classmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether a type holds durations."""
        return dtype == pl.Duration and declared in (None, "dates", cls.name)

    @classmethod
    def all_parts(cls, column: pl.Expr, dtype: pl.DataType) -> dict[str, pl.Expr]:
        """Return the seconds."""
        if dtype == pl.Null:
            return {"seconds": column.cast(pl.Float64)}
        return {"seconds": _in_units_of(1, column, dtype)}

    @classmethod
    def plain_parts(cls, value: Any) -> dict[str, float]:
        """Return the seconds."""
        return {"seconds": float(value.days * _DAY + value.seconds) + float(value.microseconds) * 1e-6}

    @classmethod
    def choose(cls, sample: Mapping[str, np.ndarray]) -> tuple[list[str], list[str]]:
        """Choose the seconds."""
        return [*sample], []


def _that_differ(sample: Mapping[str, np.ndarray]) -> list[str]:
    """Return the parts of the calendar and of the clock that differ between rows."""
    return [part for part in ("year", "month", "day", "weekday", "hour") if varies(sample[part])]


# Nothing is divided by a number, which polars does in another way for one row than for many. All that a unit holds is
# taken apart as whole numbers first: nothing is too large, and whole days and seconds are exact.


def _in_units_of(seconds: int, column: pl.Expr, dtype: Any) -> pl.Expr:
    """Return datetimes or durations in units of so many seconds, to the microsecond."""
    whole, per_second = column.to_physical(), _PER_SECOND[dtype.time_unit]
    unit, rest = seconds * per_second, whole % (seconds * per_second)
    microseconds = rest // 1000 if per_second > 10**6 else rest * (10**6 // per_second)
    return (whole // unit).cast(pl.Float64) + microseconds.cast(pl.Float64) * (1e-6 / seconds)


def _seconds_of(column: pl.Expr) -> pl.Expr:
    """Return the seconds since the full hour."""
    return column.dt.minute().cast(pl.Float64) * 60 + column.dt.second().cast(pl.Float64)


def _angle(name: str, turns: pl.Expr) -> dict[str, pl.Expr]:
    angle = turns * (2 * np.pi)
    return {f"{name} cos": angle.cos(), f"{name} sin": angle.sin()}


def _plain_hour(value: Any) -> float:
    """Return the hour of a time of Python, as those of polars."""
    return value.hour + (value.minute * 60.0 + value.second) * (1 / 3600)


def _plain_angle(name: str, turns: float) -> dict[str, float]:
    angle = turns * (2 * math.pi)
    return {f"{name} cos": math.cos(angle), f"{name} sin": math.sin(angle)}


def _middle(days: np.ndarray) -> float:
    """Return the median as a whole day; 0 without any."""
    present = days[~np.isnan(days)]
    return float(np.round(np.median(present))) if present.size else 0.0


def zone_error(name: str, zone: str, given: str, dtype: pl.DataType) -> str:
    """Return the text of the error where a column had a time zone in fit, or none, and the reverse now."""
    if zone:
        moments, column = (".cast(pl.Datetime)", "pandas.to_datetime(column)") if dtype == pl.Date else ("", "")
        return (
            f"column {name!r} had the time zone {zone!r} in fit and has none now; say which one its times are of, such "
            f"as by {moments}.dt.replace_time_zone({zone!r}) of polars or {column}.dt.tz_localize({zone!r}) of pandas"
        )
    return (
        f"column {name!r} had no time zone in fit and has {given!r} now; give the times that clocks of fit would show, "
        "such as by .dt.replace_time_zone(None) of polars or .dt.tz_localize(None) of pandas, after a conversion to "
        "the time zone of fit if that is another"
    )
