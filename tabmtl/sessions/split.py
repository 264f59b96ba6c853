"""One cut in time through a click log: train on the sessions before it, test on those after it."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl

from tabmtl.base.params import is_number
from tabmtl.base.schema import warn_user
from tabmtl.sessions.log import LogColumns, code_items, family, read_log, to_polars
from tabmtl.sessions.ragged import UNSEEN_ITEM, Sessions


def temporal_split(
    clicks: Any,
    cut: datetime | date | float | None = None,
    *,
    test_size: float | timedelta | None = None,
    session_column: str = "session_id",
    time_column: str | None = "time",
) -> tuple[Any, Any]:
    """Split a click log in two by one global time cut.

    A session whose last click is at or after the cut goes whole to test, every other one to train. So no session is in
    both, and no click of train is at or after the cut: nothing leaks. A session that straddles the cut shows its early
    clicks in test only. No item is removed: items of test that train does not hold measure the cold start.

    Parameters
    ----------
    clicks : polars DataFrame or LazyFrame, pandas DataFrame or pyarrow Table
        One row per click, in any order.
    cut : datetime, date or number, optional
        The cut, of the type of the time column; a date stands for its first moment.
    test_size : float or datetime.timedelta, optional
        Instead of ``cut``. A number between 0 and 1 is the share of sessions, the newest by their last click, that go
        to test; sessions whose last clicks are equally old stay together, so there may be more. A timedelta is a period
        at the end of the log: up to its last click, or, where the times are dates, up to the end of its last day.
    session_column : str, default="session_id"
        Column that names the session.
    time_column : str or None, default="time"
        Time of a click: a date, a datetime, or a number of seconds. None: the log has an order only, and sessions
        follow one another as their first rows do; ``test_size`` must then be a share.

    Returns
    -------
    train, test : frame like ``clicks``, of polars.DataFrame for a LazyFrame
        All columns, rows in their order.

    Raises
    ------
    TypeError, ValueError
        If not exactly one of ``cut`` and ``test_size`` is given, if it does not fit the time column, if the log cannot
        be read, or if one part would be empty.

    Examples
    --------
    >>> import polars as pl
    >>> log = pl.DataFrame({"session_id": ["a", "b", "a", "b"], "item_id": [1, 2, 3, 4], "time": [1, 2, 3, 9]})
    >>> train, test = temporal_split(log, 5)
    >>> train["item_id"].to_list(), test["item_id"].to_list()
    ([1, 3], [2, 4])
    >>> temporal_split(log, test_size=0.5)[1]["session_id"].unique().to_list()
    ['b']
    """
    if (cut is None) == (test_size is None):
        given = "none" if cut is None else "both"
        raise ValueError(f"temporal_split takes exactly one of cut and test_size, got {given}")
    if isinstance(clicks, pl.LazyFrame):
        clicks = clicks.collect()
    # a split needs no items: the session stands in for them
    columns = LogColumns(session=session_column, item=session_column, time=time_column)
    frame = to_polars(clicks, "the click log")
    rows = read_log(frame, columns).drop("item").with_row_index("row")
    last = pl.col("row").min().cast(pl.Float64) if time_column is None else pl.col("time").max()
    first = pl.col("row") == pl.col("row").min().over("session")
    log = rows.select(last=last.over("session"), first=first)
    times = log.filter("first")["last"].sort().to_numpy()  # of sessions
    dtype = None if time_column is None else frame.collect_schema()[time_column]
    if isinstance(test_size, int | float | np.number):
        start = _start_of_newest(times, test_size)
    elif dtype is None:
        name = "cut" if test_size is None else "test_size"
        raise ValueError(
            f"{name} needs times, but time_column is None: give test_size as a share of sessions{_hint(cut)}"
        )
    elif test_size is None:
        start = _start_at(cut, dtype, time_column)
    else:
        start = _start_of_period(times[-1], test_size, dtype)
    _check_both(times, start, dtype, "test_size" if cut is None else "cut", test_size if cut is None else cut)
    tested = log["last"] >= start
    return _rows(clicks, ~tested), _rows(clicks, tested)


def warn_of_leaks(sessions: Sessions, later: Sessions) -> None:
    """Warn of a validation log that repeats sessions of training, or whose targets are all unknown."""
    comparable = family(sessions.ids.dtype) == family(later.ids.dtype)
    shared = np.count_nonzero(code_items(later.ids, sessions.ids)) if comparable else 0
    if shared:
        warn_user(
            f"{shared} of the {len(later)} sessions of clicks_val are named like sessions of clicks: sessions "
            "of training cannot validate; give later sessions, as temporal_split does, or other names if they differ"
        )
    warn_of_unknown(later)


def warn_of_unknown(later: Sessions) -> None:
    """Warn of a validation log whose targets are all unknown."""
    targets = later.next_clicks()
    if len(targets) and (targets == UNSEEN_ITEM).all():
        warn_user(
            f"none of the {len(targets)} items to predict in clicks_val is in clicks or the item table, so that every "
            "validation score is 0: are its items named as those of clicks are?"
        )


def _start_of_newest(times: np.ndarray, share: float) -> float:
    """Find the least time of the newest share of sessions."""
    if isinstance(share, bool) or not 0 < share < 1:
        raise ValueError(f"test_size must be a share between 0 and 1 or a timedelta, got {share!r}")
    return float(times[-max(1, round(share * len(times)))])


def _start_of_period(newest: float, period: Any, dtype: pl.DataType) -> float:
    """Find the start of the last period of the log."""
    if not isinstance(period, timedelta):
        raise TypeError(f"test_size must be a share between 0 and 1 or a timedelta, got {period!r}")
    if period <= timedelta(0):
        raise ValueError(f"test_size must be a time longer than 0, got {period!r}")
    return newest + (86_400.0 if dtype == pl.Date else 0.0) - period.total_seconds()


def _start_at(cut: Any, dtype: pl.DataType, time_column: str | None) -> float:
    """Convert a cut to seconds, as `read_log` converts times."""
    if not dtype.is_temporal():
        if not is_number(cut) or not math.isfinite(cut):
            raise TypeError(f"cut must be a finite number like the column {time_column!r} ({dtype}), got {cut!r}")
        return float(cut)
    if not isinstance(cut, date):
        raise TypeError(
            f"cut must be a datetime or a date like the column {time_column!r} ({dtype}), got {cut!r}{_hint(cut)}"
        )
    zone = dtype.time_zone if isinstance(dtype, pl.Datetime) else None
    if not isinstance(cut, datetime):
        cut = datetime.combine(cut, time(), tzinfo=None if zone is None else ZoneInfo(zone))
    if (cut.tzinfo is None) != (zone is None):
        has, cure = ("no time zone", "leave it out") if zone is None else (f"the time zone {zone}", "give one")
        raise TypeError(f"the column {time_column!r} has {has}, but cut is {cut!r}: {cure}")
    return (cut if zone else cut.replace(tzinfo=UTC)).timestamp()


def _hint(cut: Any) -> str:
    """Suggest test_size where a share was given as the cut."""
    return f"; did you mean test_size={cut!r}?" if is_number(cut) and 0 < cut < 1 else ""


def _check_both(times: np.ndarray, start: float, dtype: pl.DataType | None, name: str, value: Any) -> None:
    """Refuse a cut that leaves one part without a session."""
    n_train = int(np.searchsorted(times, start))
    if 0 < n_train < len(times):
        return
    part = "train" if n_train == 0 else "test"
    ends: list[Any] = [float(times[0]), float(times[-1])]
    if dtype is not None and dtype.is_temporal():
        ends = [str(datetime(1970, 1, 1) + timedelta(seconds=end)) for end in ends]
    raise ValueError(
        f"{name}={value!r} leaves no session for {part}: the last clicks of the {len(times)} sessions are from "
        f"{ends[0]} to {ends[1]}: cut between them{_hint(value) if name == 'cut' else ''}"
    )


def _rows(clicks: Any, kept: pl.Series) -> Any:
    if isinstance(clicks, pl.DataFrame):
        return clicks.filter(kept)
    return nw.from_native(clicks, eager_only=True).filter(kept.to_list()).to_native()
