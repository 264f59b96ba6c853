"""Read dates, times and durations of numpy, pandas, pyarrow and Python as series of polars, none lost in silence."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

#: Types of Python objects that are moments, and those that are spans.
MOMENTS, SPANS = (datetime.date, np.datetime64), (datetime.timedelta, np.timedelta64)

# the unit of polars that keeps a unit of numpy: days are dates, and nothing is finer than nanoseconds
_KEPT = {"D": "D", "W": "D", "M": "D", "Y": "D", "h": "ms", "m": "ms", "s": "ms", "ms": "ms", "us": "us"}
_LONGEST = datetime.timedelta(days=100_000_000)  # in microseconds, some more days are too large a number


def read_moments(array: np.ndarray, name: str) -> pl.Series:
    """Read an array of ``datetime64`` or ``timedelta64``, NaT = missing; days become dates.

    Raises
    ------
    ValueError
        If a value is out of the range of the unit in which polars keeps it.
    TypeError
        If durations have no unit, or one of months or years, whose length differs.
    """
    kind, unit = array.dtype.kind, np.datetime_data(array.dtype)[0]
    if kind == "m" and unit in ("generic", "Y", "M"):
        held = "no unit" if unit == "generic" else f"the unit {unit!r}, whose length differs"
        raise TypeError(f"column {name!r} holds durations with {held}; give one, such as .astype('timedelta64[s]')")
    kept = "ms" if unit == "generic" or (kind, _KEPT.get(unit)) == ("m", "D") else _KEPT.get(unit, "ns")
    values = np.ascontiguousarray(array.astype(f"{kind}8[{kept}]"))
    missing = np.isnat(array)
    wrong = ~missing & (values.astype(array.dtype) != array)
    if kept == "ns":  # what is finer is cut off
        wrong = np.isnat(values) & ~missing
    if kept == "D":
        wrong |= ~missing & (np.abs(values.view(np.int64)) >= 2**31)  # days of polars have 32 bits
    if wrong.any():
        raise ValueError(
            f"column {name!r} holds {array[wrong][0]!r}, which is out of range; replace it by a missing value (NaT)"
        )
    return pl.Series(values).alias(name)


def read_arrow_moments(array: Any, name: str) -> pl.Series:
    """Read a chunked array of pyarrow that holds dates, timestamps, times or durations.

    A fixed offset of full hours is a time zone; any other is read in UTC.

    Raises
    ------
    ValueError
        If a value is out of range, or the time zone has a name that nobody knows.
    """
    import pyarrow as pa

    kind = array.type
    unit, zone = getattr(kind, "unit", ""), getattr(kind, "tz", None)
    if pa.types.is_timestamp(kind) and zone is not None:
        array = array.cast(pa.timestamp(unit, _named_zone(zone)))
        kind = array.type
    try:
        if pa.types.is_date64(kind):
            array = array.cast(pa.date32())
        elif unit == "s" and pa.types.is_timestamp(kind):  # polars has no seconds, and would wrap what does not fit
            array = array.cast(pa.timestamp("ms", kind.tz))
        elif unit == "s" and pa.types.is_duration(kind):
            array = array.cast(pa.duration("ms"))
        return pl.Series(array).alias(name)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"column {name!r} holds a value that is out of range ({error}); replace it by a missing value"
        ) from error
    except pl.exceptions.ComputeError as error:
        raise ValueError(_unknown_zone(name, zone)) from error


def read_zoned(utc: np.ndarray, zone: Any, name: str) -> pl.Series:
    """Read moments in UTC, an array of ``datetime64``, as those of a time zone, an object of ``tzinfo``."""
    return _in_zone(read_moments(utc, name), name_of_zone(zone), name)


def read_objects(values: Sequence[Any], name: str) -> pl.Series:
    """Read Python objects that are all moments, all spans, or all times of the day; None = missing.

    Dates alone are dates, and midnights among datetimes. Datetimes of one time zone keep it, and those of several are
    read in UTC.

    Raises
    ------
    ValueError
        If some datetimes have a time zone and others have none, or a value is out of range.
    """
    kinds = {type(value) for value in values} - {type(None)}
    if all(issubclass(kind, np.datetime64 | np.timedelta64) for kind in kinds):
        missing = (
            np.datetime64("NaT") if any(issubclass(kind, np.datetime64) for kind in kinds) else np.timedelta64("NaT")
        )
        return read_moments(np.array([missing if value is None else value for value in values]), name)
    values = [_plain(value, name) for value in values]
    # named afterwards: polars reads the name of new moments and spans as a pattern, such as "^a$"
    if all(issubclass(kind, datetime.time) for kind in kinds):
        return pl.Series(values, dtype=pl.Time).alias(name)
    if all(issubclass(kind, SPANS) for kind in kinds):
        for value in values:
            if value is not None and abs(value) > _LONGEST:
                raise ValueError(f"column {name!r} holds {value!r}, which is out of range; replace it by None")
        return pl.Series(values, dtype=pl.Duration("us")).alias(name)
    if not any(isinstance(value, datetime.datetime) for value in values):
        return pl.Series(values, dtype=pl.Date).alias(name)
    moments = [value if value is None or isinstance(value, datetime.datetime) else _midnight(value) for value in values]
    found = {moment.tzinfo for moment in moments if moment is not None}
    zones = {None if zone is None else name_of_zone(zone) for zone in found}
    named = [zone for zone in zones if zone is not None]
    if None in zones and named:
        raise ValueError(
            f"column {name!r} holds moments with and without a time zone; give all of them one, such as by "
            "each.replace(tzinfo=...)"
        )
    if not named:
        return pl.Series(moments, dtype=pl.Datetime("us")).alias(name)
    utc = pl.Series(moments, dtype=pl.Datetime("us", "UTC")).alias(name)
    return _in_zone(utc, named[0] if len(named) == 1 else "UTC", name)


def name_of_zone(zone: datetime.tzinfo) -> str:
    """Return the name of a time zone; of a fixed offset the zone of so many full hours, and UTC where there is none."""
    found = getattr(zone, "key", None) or getattr(zone, "zone", None)
    if isinstance(found, str):
        return found
    offset = zone.utcoffset(None)
    hours, rest = divmod(offset or datetime.timedelta(0), datetime.timedelta(hours=1))
    return f"Etc/GMT{-hours:+d}" if hours and not rest and -14 <= -hours <= 12 else "UTC"


def _named_zone(zone: str) -> str:
    """Return a time zone of pyarrow by a name that polars knows, which may be an offset such as "+02:00"."""
    if zone[:1] not in ("+", "-"):
        return zone
    sign = -1 if zone[0] == "-" else 1
    hours, minutes = zone[1:3], zone[3:].lstrip(":") or "0"
    return name_of_zone(datetime.timezone(sign * datetime.timedelta(hours=int(hours), minutes=int(minutes))))


def _in_zone(moments: pl.Series, zone: str, name: str) -> pl.Series:
    """Return moments in UTC, which may say so in their type, in a time zone; by no thread of polars, as forks need."""
    try:
        return moments.cast(pl.Datetime(moments.dtype.time_unit, zone))  # type: ignore[attr-defined]
    except pl.exceptions.ComputeError as error:
        raise ValueError(_unknown_zone(name, zone)) from error


def _unknown_zone(name: str, zone: Any) -> str:
    return f"column {name!r} has the time zone {zone!r}, which nobody knows; give it one such as 'UTC'"


def _plain(value: Any, name: str) -> Any:
    """Return a scalar of numpy as an object of Python."""
    if not isinstance(value, np.datetime64 | np.timedelta64):
        return value
    found = value.astype(f"{value.dtype.kind}8[us]").item()
    if isinstance(found, int):
        raise ValueError(f"column {name!r} holds {value!r}, which is out of range; replace it by None")
    return found


def _midnight(day: datetime.date) -> datetime.datetime:
    return datetime.datetime(day.year, day.month, day.day)
