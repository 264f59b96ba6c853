"""Click logs to sessions: one row per click, in any order, becomes ragged item codes in order of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl

#: Code of an item that the catalogue does not hold; known items count from 1.
UNSEEN_ITEM = 0


@dataclass(frozen=True, kw_only=True)
class LogColumns:
    """Which columns of a click log say what.

    Attributes
    ----------
    session, item : str
        Names of the session and of the clicked item.
    time : str or None
        When the click was: a date, a datetime or a number of seconds. None: the log has order only.
    order : str or None
        Orders the clicks of a session of equal time, or all of them where there is no time. Clicks that are equal in
        both stay in the order of the rows.
    """

    session: str = "session_id"
    item: str = "item_id"
    time: str | None = "time"
    order: str | None = None

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        return [name for name in (self.session, self.item, self.time, self.order) if name is not None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sessions:
    """Sessions as ragged arrays, sorted by the time of their last click.

    Attributes
    ----------
    ids : polars.Series of length S
        Session names.
    offsets : ndarray of int64, shape (S + 1,)
        Clicks of session s are ``offsets[s]`` up to ``offsets[s + 1]``.
    items : ndarray of int32, shape (n,)
        Code of the clicked item, from 1; 0 is an item that the catalogue does not hold.
    times : ndarray of float64, shape (n,), or None
        Seconds.

    Examples
    --------
    >>> import polars as pl
    >>> log = pl.DataFrame({"session_id": ["b", "a", "b"], "item_id": [7, 9, 8], "time": [3, 1, 2]})
    >>> sessions = read_sessions(log, LogColumns(), pl.Series([7, 8]))
    >>> sessions.ids.to_list(), sessions.offsets.tolist(), sessions.items.tolist()
    (['a', 'b'], [0, 1, 3], [0, 2, 1])
    """

    ids: pl.Series
    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray | None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Clicks of every session, (S,)."""
        return np.diff(self.offsets)

    def take(self, index: np.ndarray) -> Sessions:
        """Sessions by number, (m,)."""
        index = np.asarray(index, dtype=np.int64)
        return self._ragged(index, self.offsets[index], self.lengths[index])

    def last(self, n: int) -> Sessions:
        """The last n clicks of every session."""
        kept = np.minimum(self.lengths, n)
        return self._ragged(np.arange(len(self)), self.offsets[1:] - kept, kept)

    def without_unseen(self) -> Sessions:
        """The clicks on items of the catalogue; a session may become empty."""
        return self._keep(self.items != UNSEEN_ITEM)

    def at_least(self, n: int) -> Sessions:
        """The sessions of at least n clicks."""
        return self.take(np.flatnonzero(self.lengths >= n))

    def count_prefixes(self, first: int = 1) -> int:
        """Number of proper prefixes of at least ``first`` clicks."""
        return int(np.maximum(self.lengths - first, 0).sum(dtype=np.int64))

    def prefixes(self, first: int = 1, chosen: np.ndarray | None = None) -> tuple[Sessions, np.ndarray]:
        """Every proper prefix of at least ``first`` clicks, session by session, and the item clicked next.

        ``chosen`` (m,) takes some of them by number; see `spread`.

        Returns
        -------
        prefixes : Sessions
            m of them; ids repeat.
        targets : ndarray of int32, shape (m,)
        """
        ends = np.cumsum(np.maximum(self.lengths - first, 0), dtype=np.int64)
        if chosen is None:
            chosen = np.arange(self.count_prefixes(first))
        owner = np.searchsorted(ends, chosen, side="right")
        length = self.lengths[owner] - (ends[owner] - chosen)
        starts = self.offsets[owner]
        return self._ragged(owner, starts, length), self.items[starts + length]

    def padded(self, *, newest_first: bool = False) -> np.ndarray:
        """Item codes (S, longest) of int32, 0 behind the end of a session."""
        lengths = self.lengths
        codes = np.zeros((len(self), int(lengths.max(initial=1))), dtype=np.int32)
        place = ranges(0, lengths)
        if newest_first:
            place = np.repeat(lengths, lengths) - 1 - place
        codes[np.repeat(np.arange(len(self)), lengths), place] = self.items
        return codes

    def _ragged(self, owner: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Sessions:
        """Sessions whose clicks are given as ranges of these."""
        clicks = ranges(starts, lengths)
        return Sessions(
            ids=self.ids.gather(owner),
            offsets=offsets_of(lengths),
            items=self.items[clicks],
            times=None if self.times is None else self.times[clicks],
        )

    def _keep(self, kept: np.ndarray) -> Sessions:
        """These sessions with some of their clicks."""
        before = np.concatenate([[0], np.cumsum(kept)])
        times = None if self.times is None else self.times[kept]
        return Sessions(ids=self.ids, offsets=before[self.offsets], items=self.items[kept], times=times)


def spread(n: int, most: int) -> np.ndarray:
    """Whole numbers below n: all of them, or if there are more than ``most``, so many, evenly spread."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.int64)


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Where ranges of these lengths start, and behind them where the last one ends: (S + 1,) of int64."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def ranges(starts: np.ndarray | int, lengths: np.ndarray) -> np.ndarray:
    """Whole numbers of ranges with these starts, all of them or each, and lengths, one range behind the other."""
    offsets = offsets_of(lengths)
    return np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])


def read_sessions(clicks: Any, columns: LogColumns, items: pl.Series) -> Sessions:
    """Read a click log.

    Sessions are sorted by the time of their last click, those of equal time and those of a log without time by their
    first row. Within a session, clicks are sorted by time, then by the order column, then by row.

    Parameters
    ----------
    clicks : polars DataFrame or LazyFrame, pandas DataFrame or pyarrow Table
        One row per click.
    columns : LogColumns
    items : polars.Series
        The catalogue: item i of it has code i + 1.

    Raises
    ------
    TypeError, ValueError
        If the log is no frame, is empty, lacks a column, has a missing session, item, time or order (null, NaN or
        infinite), or a time of a type that is none, or items of another type than the catalogue.
    """
    return group_log(read_log(clicks, columns), items, f"the items of the click log in {columns.item!r}")


def read_log(clicks: Any, columns: LogColumns) -> pl.DataFrame:
    """The columns of a click log, checked, under the names ``session``, ``item``, ``time`` and ``order``."""
    frame = to_polars(clicks, "the click log")
    known = frame.collect_schema().names()
    missing = [name for name in columns.names if name not in known]
    if missing:
        cure = "name the columns by session_column, item_column, time_column and order_column"
        if missing == [columns.time]:
            cure = "name it by time_column, or say time_column=None if the log has an order only"
        raise ValueError(f"the click log has no column {missing[0]!r}; its columns are {known}: {cure}")
    roles = {"session": columns.session, "item": columns.item, "time": columns.time, "order": columns.order}
    chosen = [pl.col(f"^{_escape(name)}$").alias(role) for role, name in roles.items() if name is not None]
    log = frame.lazy().select(chosen).collect()
    if log.is_empty():
        raise ValueError("the click log has no row")
    for role in log.columns:
        holes = log[role].null_count()
        if log[role].dtype.is_float():
            holes += int((~log[role].is_finite()).sum())
        if holes:
            raise ValueError(
                f"the column {roles[role]!r} of the click log is missing (null, NaN or infinite) in {holes} of "
                f"{len(log)} rows: drop or fill them"
            )
    if columns.time is None:
        return log
    return log.with_columns(_seconds(log["time"], columns.time))


def group_log(log: pl.DataFrame, items: pl.Series, what: str = "the items of the click log") -> Sessions:
    """The sessions of a log that `read_log` has read; an error calls its items ``what``."""
    timed = "time" in log.columns
    log = log.with_columns(code_items(log["item"], items, what).alias("item"))
    grouped = log.lazy().select("session", *(["time"] if timed else [])).group_by("session", maintain_order=True)
    last = pl.col("time").max() if timed else pl.lit(0.0).alias("time")
    sessions = grouped.agg(last).sort("time", maintain_order=True).with_row_index("code").collect()
    keys = ["code", *(name for name in ("time", "order") if name in log.columns)]
    coded = (
        log.lazy()
        .join(sessions.lazy().select("session", "code"), on="session", how="left", maintain_order="left")
        .drop("session")
        .sort(keys, maintain_order=True)
        .collect()
    )
    return Sessions(
        ids=sessions["session"],
        offsets=offsets_of(np.bincount(coded["code"].to_numpy(), minlength=len(sessions))),
        items=coded["item"].to_numpy().astype(np.int32, copy=False),
        times=coded["time"].to_numpy() if timed else None,
    )


def to_polars(frame: Any, what: str) -> pl.DataFrame | pl.LazyFrame:
    """A frame of any library as polars."""
    if isinstance(frame, pl.DataFrame | pl.LazyFrame):
        return frame
    if not nw.dependencies.is_into_dataframe(frame):
        raise TypeError(f"{what} must be a polars, pandas or pyarrow frame, got {type(frame).__name__}")
    return nw.from_native(frame, eager_only=True).to_polars()


def like(frame: pl.DataFrame, example: Any) -> Any:
    """A polars frame in the library of another frame."""
    if isinstance(example, pl.DataFrame | pl.LazyFrame):
        return frame
    native = nw.from_native(frame)
    return native.to_arrow() if nw.from_native(example).implementation.is_pyarrow() else native.to_pandas()


def code_items(values: pl.Series, items: pl.Series, what: str = "the items of the click log") -> pl.Series:
    """Codes of items: their place in the catalogue from 1, 0 where it has none; an error calls them ``what``.

    Raises
    ------
    TypeError
        If the catalogue holds another type of names.
    """
    if _family(values.dtype) != _family(items.dtype):
        raise TypeError(f"{what} are {values.dtype}, those of the catalogue {items.dtype}: cast one of them")
    if values.dtype != items.dtype:
        values = values.cast(items.dtype, strict=False)
    place = np.arange(len(items), dtype=np.int32)
    if len(values) < len(items):  # a join would make a table of the whole catalogue for a few clicks
        place = place[items.is_in(values.unique().implode()).to_numpy()]
    vocabulary = pl.DataFrame({"item": items.gather(place), "code": place + 1})
    coded = pl.DataFrame({"item": values}).join(vocabulary, on="item", how="left", maintain_order="left")
    return coded["code"].fill_null(UNSEEN_ITEM)


def _family(dtype: pl.DataType) -> str:
    if dtype.is_integer():
        return "whole number"
    return "text" if dtype in (pl.String, pl.Categorical, pl.Enum) else str(dtype)


def _seconds(times: pl.Series, name: str) -> pl.Series:
    if times.dtype == pl.Date:
        times = times.cast(pl.Datetime("us"))
    if isinstance(times.dtype, pl.Datetime):
        return times.dt.epoch("us").cast(pl.Float64) / 1e6
    if times.dtype.is_numeric():
        return times.cast(pl.Float64)
    raise TypeError(
        f"the time column {name!r} must hold dates, datetimes or seconds, got {times.dtype}: parse it first"
    )


def _escape(name: str) -> str:
    """A column's name as a pattern that only it fits: pl.col takes names that begin with ^ for patterns."""
    return "".join(f"\\x{{{ord(letter):x}}}" for letter in name)
