"""Dates, times and durations of any library are read as they are, or refused by name; none is lost in silence."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabmtl.encode.read import read_features

NAIVE = st.datetimes(dt.datetime(1600, 1, 1), dt.datetime(3000, 12, 31))
ZONES = ("Europe/Berlin", "UTC", "Asia/Kolkata")
# a moment of a zone may not come twice an hour, for objects of Python do not say which is meant
ZONED = st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2030, 12, 31)).map(lambda each: each.replace(tzinfo=dt.UTC))
DAYS = st.dates(dt.date(1600, 1, 1), dt.date(3000, 12, 31))
SPANS = st.timedeltas(dt.timedelta(-200_000), dt.timedelta(200_000))
TIMES = st.times()


def lists(values: Any) -> Any:
    return st.lists(st.none() | values, min_size=1, max_size=8).filter(any)


def read(frame: Any) -> list[Any]:
    return read_features(frame)[0].to_series().to_list()


def arrow(values: list[Any], kind: pa.DataType) -> list[Any]:
    column = pa.chunked_array([pa.array(values, kind)])
    return [pa.table({"d": column}), pd.DataFrame({"d": pd.arrays.ArrowExtensionArray(column)})]


@given(lists(NAIVE))
def test_datetimes_of_every_library_are_read_as_they_are(values):
    numpy = np.array([np.datetime64("NaT") if value is None else np.datetime64(value) for value in values])
    frames = [pd.DataFrame({"d": numpy}), pd.DataFrame({"d": pd.Series(values, dtype=object)}), numpy[:, None]]
    for frame in [*frames, *arrow(values, pa.timestamp("us")), pl.DataFrame({"d": values})]:
        assert read(frame) == values


@given(lists(ZONED), st.sampled_from(ZONES))
def test_zones_are_kept(values, zone):
    values = [None if value is None else value.astimezone(ZoneInfo(zone)) for value in values]
    column = pl.Series("d", values, dtype=pl.Datetime("us", zone))
    pandas = pd.Series(pd.to_datetime(pd.Series(values), utc=True)).dt.tz_convert(zone)
    frames = [pd.DataFrame({"d": pandas}), pd.DataFrame({"d": pd.Series(values, dtype=object)})]
    for frame in [*frames, *arrow(values, pa.timestamp("us", zone))]:
        found = read_features(frame)[0].to_series()
        assert found.dtype == column.dtype
        assert found.equals(column)


@given(lists(DAYS), lists(SPANS), lists(TIMES))
def test_dates_durations_and_times_are_read_as_they_are(days, spans, times):
    for values, kind in ((days, pa.date32()), (spans, pa.duration("us")), (times, pa.time64("us"))):
        for frame in [pd.DataFrame({"d": pd.Series(values, dtype=object)}), *arrow(values, kind)]:
            assert read(frame) == values
    missing = [np.datetime64("NaT") if day is None else day for day in days]
    assert read(np.array(missing, dtype="M8[D]")[:, None]) == days
    assert read(pd.DataFrame({"d": pd.Series(spans, dtype="m8[us]")})) == spans


DAY, NEW_YEAR = dt.date(2020, 2, 29), dt.datetime(2020, 1, 1)


def objects(*values: Any) -> pd.Series:
    return pd.Series(values, dtype=object)


def utc(*moments: dt.datetime, zone: str = "UTC") -> pl.Series:
    return pl.Series(moments).dt.replace_time_zone("UTC").dt.convert_time_zone(zone)


#: A column, and what is read of it.
READ: dict[str, tuple[Any, pl.Series]] = {
    "seconds": (np.array(["3000-01-01"], "M8[s]"), pl.Series([dt.datetime(3000, 1, 1)])),
    "months": (np.array(["2020-02", "NaT"], "M8[M]"), pl.Series([dt.date(2020, 2, 1), None])),
    "finer": (np.array([5_000], "m8[ps]"), pl.Series([5], dtype=pl.Int64).cast(pl.Duration("ns"))),
    "big end": (np.array(["2020-02-29"], ">M8[D]"), pl.Series([DAY])),
    "days of durations": (np.array([3], "m8[D]"), pl.Series([dt.timedelta(3)])),
    "periods": (pd.Series(pd.period_range("2020-01", periods=1, freq="M")), pl.Series([NEW_YEAR])),
    "a day among moments": (objects(DAY, NEW_YEAR), pl.Series([dt.datetime(2020, 2, 29), NEW_YEAR])),
    "scalars of numpy": (
        objects(np.datetime64("2020-02-29"), NEW_YEAR),
        pl.Series([dt.datetime(2020, 2, 29), NEW_YEAR]),
    ),
    "NaT and NA": (objects(pd.NaT, pd.NA, DAY, np.datetime64("NaT")), pl.Series([None, None, DAY, None])),
    "an offset": (pd.Series(pd.to_datetime(["2020-01-01 02:00+02:00"])), utc(NEW_YEAR, zone="Etc/GMT-2")),
    "half an hour": (pd.Series(pd.to_datetime(["2020-01-01 05:30+05:30"])), utc(NEW_YEAR)),
    "an offset of arrow": (pa.array([0], pa.timestamp("us", "-03:30")), utc(dt.datetime(1970, 1, 1))),
    "two zones": (
        objects(NEW_YEAR.replace(tzinfo=ZoneInfo("Asia/Kolkata")), NEW_YEAR.replace(tzinfo=dt.UTC)),
        utc(dt.datetime(2019, 12, 31, 18, 30), NEW_YEAR),
    ),
    "seconds of arrow": (pa.array([0], pa.timestamp("s", "UTC")), utc(dt.datetime(1970, 1, 1))),
    "times of arrow": (pa.array([dt.time(3, 4)], pa.time32("s")), pl.Series([dt.time(3, 4)])),
}


def frames_of(column: Any) -> list[Any]:
    if isinstance(column, np.ndarray):
        return [column[:, None]]  # pandas has units of its own
    if isinstance(column, pd.Series):
        return [pd.DataFrame({"x0": column})]
    return [pa.table({"x0": column}), pd.DataFrame({"x0": pd.arrays.ArrowExtensionArray(column)})]


@pytest.mark.parametrize("case", READ)
def test_rare_types_are_read(case):
    column, expected = READ[case]
    for frame in frames_of(column):
        found = read_features(frame)[0].to_series()
        assert found.dtype.base_type() == expected.dtype.base_type()
        assert found.to_list() == expected.to_list()


UNIT = "out of range; replace it by a missing value"
REFUSED: dict[str, tuple[Any, str]] = {
    "seconds": (np.array([2**60], "M8[s]"), UNIT),
    "days": (np.array([2**40], "M8[D]"), UNIT),
    "seconds of durations": (np.array([2**60], "m8[s]"), UNIT),
    "no unit": (np.array([2], "m8"), r"holds durations with no unit; give one, such as \.astype\('timedelta64\[s\]"),
    "months": (np.array([2], "m8[M]"), "with the unit 'M', whose length differs"),
    "seconds of arrow": (pa.array([2**60], pa.timestamp("s")), "holds a value that is out of range"),
    "durations of arrow": (pa.array([2**60], pa.duration("s")), "holds a value that is out of range"),
    "a zone": (pa.array([0], pa.timestamp("us", "Nowhere/Bad")), "has the time zone 'Nowhere/Bad', which nobody knows"),
    "a long span": (objects(dt.timedelta.max), "out of range; replace it by None"),
    "a late day": (objects(np.datetime64("30000-01-01"), DAY), "out of range; replace it by None"),
    "half zoned": (objects(NEW_YEAR, NEW_YEAR.replace(tzinfo=dt.UTC)), "moments with and without a time zone"),
    "kinds mixed": (objects(DAY, dt.timedelta(1)), r"got objects of type \['date', 'timedelta'\]"),
    "intervals": (pa.array([(1, 2, 3)], pa.month_day_nano_interval()), "has type month_day_nano_interval; expected"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_kept_is_refused_by_name(case):
    column, message = REFUSED[case]
    for frame in frames_of(column):
        with pytest.raises((TypeError, ValueError), match=f"column 'x0'.*{message}"):
            read_features(frame)


@pytest.mark.parametrize("value", [dt.timedelta(1), dt.date(2020, 1, 1), dt.datetime(2020, 1, 1), dt.time(1)])
def test_a_name_is_no_pattern(value):
    frame = pd.DataFrame({"^a$": pd.Series([value, None], dtype=object)})
    assert read_features(frame)[0].columns == ["^a$"]
