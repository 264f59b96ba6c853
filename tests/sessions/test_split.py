"""A cut in time: nothing of the future in train, nothing lost, and sessions whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

import narwhals.stable.v2 as nw
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tabmtl.base.schema import TabmtlWarning
from tabmtl.sessions import temporal_split
from tabmtl.sessions.log import LogColumns, read_sessions
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.split import warn_of_leaks

rows = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=2, max_size=40)


def frame(log: list[tuple[int, int]]) -> pl.DataFrame:
    """A log of (session, time); items tell the rows apart."""
    table = pl.DataFrame(log, schema=["session_id", "time"], orient="row")
    return table.with_row_index("item_id").select("session_id", "item_id", "time")


def last_clicks(log: list[tuple[int, int]]) -> dict[int, int]:
    return {session: max(time for name, time in log if name == session) for session, _ in log}


def refused_or(split: Callable[[], Any], n_train: int, n: int) -> Any:
    """The parts, or None where one of them must be refused as empty."""
    if 0 < n_train < n:
        return split()
    with pytest.raises(ValueError, match=f"no session for {'test' if n_train else 'train'}"):
        split()
    return None


def check_parts(log: list[tuple[int, int]], train: pl.DataFrame, test: pl.DataFrame, tested: set[int]) -> None:
    """Whole sessions, all rows in their order, and no click of train at or after the cut."""
    table = frame(log)
    assert_frame_equal(test, table.filter(pl.col("session_id").is_in(tested)))
    assert_frame_equal(train, table.filter(~pl.col("session_id").is_in(tested)))


@settings(deadline=None, max_examples=60)
@given(log=rows, cut=st.integers(-1, 10))
def test_a_cut_leaks_nothing(log, cut):
    last = last_clicks(log)
    tested = {session for session, time in last.items() if time >= cut}
    parts = refused_or(lambda: temporal_split(frame(log), cut), len(last) - len(tested), len(last))
    if parts:
        check_parts(log, *parts, tested)
        assert parts[0]["time"].max() < cut


@settings(deadline=None, max_examples=60)
@given(log=rows, share=st.floats(0.01, 0.99))
def test_a_share_takes_the_newest_and_what_is_as_new(log, share):
    last = last_clicks(log)
    n_test = max(1, round(share * len(last)))
    cut = sorted(last.values())[-n_test]
    tested = {session for session, time in last.items() if time >= cut}
    parts = refused_or(lambda: temporal_split(frame(log), test_size=share), len(last) - len(tested), len(last))
    if parts:
        check_parts(log, *parts, tested)
        assert parts[0]["time"].max() < cut
        assert len(tested) >= n_test


@settings(deadline=None, max_examples=60)
@given(log=rows, share=st.floats(0.01, 0.99))
def test_without_times_sessions_are_as_old_as_their_first_rows(log, share):
    sessions = list(dict.fromkeys(session for session, _ in log))
    n_test = max(1, round(share * len(sessions)))
    split = partial(temporal_split, frame(log), test_size=share, time_column=None)
    parts = refused_or(split, len(sessions) - n_test, len(sessions))
    if parts:
        check_parts(log, *parts, set(sessions[-n_test:]))


LIBRARIES: dict[str, tuple[Callable[[pl.DataFrame], Any], str]] = {
    "polars": (lambda log: log, "polars"),
    "polars lazy": (pl.DataFrame.lazy, "polars"),
    "pandas": (pl.DataFrame.to_pandas, "pandas"),
    "pandas with an index": (lambda log: log.to_pandas().set_index(log["item_id"].to_numpy() + 7), "pandas"),
    "pyarrow": (pl.DataFrame.to_arrow, "pyarrow"),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_parts_are_frames_of_the_same_library(library):
    make, kind = LIBRARIES[library]
    log = frame([(0, 1), (1, 2), (1, 8), (2, 9), (0, 3)]).with_columns(note=pl.Series(["a", None, "b", "c", "d"]))
    native = make(log)
    for part, want in zip(temporal_split(native, 5), temporal_split(log, 5), strict=True):
        read = nw.from_native(part, eager_only=True)
        assert read.implementation.value == kind
        assert_frame_equal(read.to_polars(), want)
        if kind == "pandas":
            assert part.dtypes.equals(native.dtypes)
            assert part.index.isin(native.index).all()
            assert (native.loc[part.index, "item_id"] == part["item_id"]).all()


DAYS = pl.Series([date(2024, 1, day) for day in range(1, 11)])
TOKYO = "Asia/Tokyo"

#: A column of ten days, a cut, and the first day (from 0) of test.
CUTS: dict[str, tuple[pl.Series, Any, int]] = {
    "date": (DAYS, date(2024, 1, 8), 7),
    "date by datetime": (DAYS, datetime(2024, 1, 8, 1), 8),
    "datetime": (DAYS.cast(pl.Datetime("us")), datetime(2024, 1, 8), 7),
    "datetime in ns by date": (DAYS.cast(pl.Datetime("ns")), date(2024, 1, 8), 7),
    "datetime in ms": (DAYS.cast(pl.Datetime("ms")), datetime(2024, 1, 8, microsecond=1), 8),
    # midnight of Tokyo is 15:00 of the day before in UTC
    "zone": (DAYS.cast(pl.Datetime("us")).dt.replace_time_zone(TOKYO), datetime(2024, 1, 7, 15, tzinfo=UTC), 7),
    "zone by date": (DAYS.cast(pl.Datetime("us")).dt.replace_time_zone(TOKYO), date(2024, 1, 8), 7),
    "int": (pl.Series(range(10)), 7, 7),
    "int by float": (pl.Series(range(10)), 6.5, 7),
    "float": (pl.Series(range(10), dtype=pl.Float32), 7, 7),
}


@pytest.mark.parametrize("kind", CUTS)
def test_a_cut_is_a_time_of_the_column(kind):
    times, cut, first = CUTS[kind]
    log = pl.DataFrame({"s": range(10), "item_id": range(10), "when": times})
    for native in (log, log.to_pandas()):
        train, test = temporal_split(native, cut, session_column="s", time_column="when")
        assert list(train["s"]) == list(range(first))
        assert list(test["s"]) == list(range(first, 10))


def test_a_timedelta_is_the_last_so_much_of_the_log():
    log = pl.DataFrame({"session_id": range(10), "time": DAYS})
    # dates are whole days, a datetime is a moment: two days before midnight of day 10 it is midnight of day 8
    assert len(temporal_split(log, test_size=timedelta(days=2))[1]) == 2
    moments = log.with_columns(pl.col("time").cast(pl.Datetime("us")))
    assert len(temporal_split(moments, test_size=timedelta(days=2))[1]) == 3
    seconds = log.with_columns(time=pl.int_range(10) * 86_400)
    assert len(temporal_split(seconds, test_size=timedelta(days=2))[1]) == 3


LOG = frame([(0, 1), (1, 2), (2, 3)])
DATES = LOG.with_columns(time=DAYS[:3])
ZONED = DATES.with_columns(pl.col("time").cast(pl.Datetime("us")).dt.replace_time_zone(TOKYO))

SHARE, NUMBER = "between 0 and 1 or a timedelta, got ", r"finite number like the column 'time' \(Int64\), got "
DATED, HINT = r"datetime or a date like the column 'time' \(Date\), got ", r"; did you mean test_size=0.2\?$"
ORDER: dict[str, Any] = {"time_column": None}

REFUSED: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (LOG, {}, ValueError, "exactly one of cut and test_size, got none"),
    (LOG, {"cut": 2, "test_size": 0.5}, ValueError, "exactly one of cut and test_size, got both"),
    *((LOG, {"test_size": share}, ValueError, f"{SHARE}{share}") for share in (1.0, 0, float("nan"), True)),
    (LOG, {"test_size": "7d"}, TypeError, f"{SHARE}'7d'"),
    (LOG, {"test_size": timedelta(0)}, ValueError, "test_size must be a time longer than 0"),
    (LOG, ORDER | {"cut": 2}, ValueError, "cut needs times, .* as a share"),
    (LOG, ORDER | {"test_size": timedelta(1)}, ValueError, "test_size needs times, but time_column is None: .* share"),
    (LOG, ORDER | {"cut": 0.2}, ValueError, HINT),
    (DATES, {"cut": "2024-01-02"}, TypeError, f"{DATED}'2"),
    (DATES, {"cut": 2}, TypeError, f"{DATED}2"),
    (DATES, {"cut": 0.2}, TypeError, f"got 0.2{HINT}"),
    *((LOG, {"cut": cut}, TypeError, f"{NUMBER}{cut}") for cut in (float("nan"), True)),
    (LOG, {"cut": date(2024, 1, 2)}, TypeError, NUMBER),
    (ZONED, {"cut": datetime(2024, 1, 2)}, TypeError, "'time' has the time zone Asia/Tokyo, .* give"),
    (DATES, {"cut": datetime(2024, 1, 2, tzinfo=UTC)}, TypeError, "has no time zone, but cut is .*: leave it out"),
    (DATES, {"cut": date(2024, 1, 1)}, ValueError, "no session for train: .* 2024-01-01 .* to 2024-01-03"),
    (LOG, {"cut": 4}, ValueError, "leaves no session for test: .* 3 sessions are from 1.0 to 3.0: .*between them$"),
    (LOG, {"cut": 0.2}, ValueError, f"no session for train.*{HINT}"),
    (DATES, {"test_size": timedelta(9)}, ValueError, "test_size=.*days=9.* no session for train"),
    (LOG[:1], {"test_size": 0.5}, ValueError, "no session for train"),
    (LOG, {"cut": 2, "session_column": ["s"]}, TypeError, "session_column must be the name"),
    (LOG, {"cut": 2, "session_column": "s"}, ValueError, "no column 's'; .*: name it by session_column$"),
    (LOG, {"cut": 2, "time_column": "t"}, ValueError, "no column 't'; .*time_column=None"),
    (LOG.clear(), {"cut": 2}, ValueError, "no row"),
    (LOG.with_columns(time=pl.Series([1, None, 2])), {"cut": 2}, ValueError, "'time' .* in 1 of 3 rows"),
    (LOG.cast({"time": pl.String}), {"cut": "2"}, TypeError, "'time' .* hold dates, .* got String"),
    ([1], {"cut": 2}, TypeError, "must be a polars, pandas or pyarrow frame, got list"),
]


@pytest.mark.parametrize(("log", "arguments", "error", "message"), REFUSED)
def test_what_cannot_be_split_is_refused_with_the_cure(log, arguments, error, message):
    with pytest.raises(error, match=message):
        temporal_split(log, **arguments)


def sessions(names: Any, items: Any, catalogue: Any = (1, 2, 3)) -> Sessions:
    log = pl.DataFrame({"session_id": names, "item_id": items, "time": range(len(items))})
    return read_sessions(log, LogColumns(), pl.Series(catalogue))


@pytest.mark.parametrize(("dtype", "other"), [(pl.Int64,) * 2, (pl.UInt8, pl.Int16), (pl.String, pl.Categorical)])
def test_sessions_of_both_logs_are_warned_of(dtype, other):
    old = sessions(pl.Series([1, 1, 2, 2, 3]).cast(pl.String).cast(dtype), [1, 2, 3, 1, 2])
    new = sessions(pl.Series([2, 2, 3, 4, 4]).cast(pl.String).cast(other), [1, 2, 3, 1, 2])
    with pytest.warns(TabmtlWarning, match=r"^2 of the 3 sessions of clicks_val are named like sessions of clicks: "):
        warn_of_leaks(old, new)


def test_a_later_log_of_known_items_is_not_warned_of():
    old = sessions([1, 1, 2], [1, 2, 3])
    for new in (sessions([3, 3], [9, 1]), sessions(["1", "1"], [1, 2]), sessions([3, 4], [9, 9])):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_of_leaks(old, new)


def test_a_later_log_of_unknown_items_alone_is_warned_of():
    message = "^none of the 3 items to predict in clicks_val is in clicks or the item table"
    with pytest.warns(TabmtlWarning, match=message):
        warn_of_leaks(sessions([1, 1, 2], [1, 2, 3]), sessions([3, 3, 3, 4, 4], [1, 9, 8, 2, 9]))
