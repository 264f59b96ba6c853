"""Click logs to sessions: one row per click, in any order, becomes ragged item codes in order of time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
import polars.selectors as cs
from scipy.sparse import issparse

from tabmtl.base.forks import check_pool
from tabmtl.base.schema import in_command
from tabmtl.columns.ragged import offsets_of
from tabmtl.estimators.source import is_source
from tabmtl.sessions.ragged import UNSEEN_ITEM, Sessions

_UNREADABLE = (TypeError, ValueError, OverflowError, NotImplementedError, pl.exceptions.PolarsError)


#: The first second after the year 9999.
_END_OF_SECONDS = 253_402_300_800
#: Finer units than seconds, the finest first, by their number in a second.
_UNITS = {"nanoseconds": 1_000_000_000, "microseconds": 1_000_000, "milliseconds": 1_000}


def check_column(name: str, value: Any) -> None:
    """Raise a TypeError for a value that is no name of a column."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be the name of a column, a text, got {value!r}")


Column = Annotated[str, check_column]


@dataclass(frozen=True, kw_only=True)
class LogColumns:
    """The columns of a click log by their roles.

    Attributes
    ----------
    session, item : str
        Names of the session and of the clicked item.
    time : str or None
        Time of the click: a date, a datetime or a number of seconds; numbers that can only be milliseconds or finer
        are refused. None: the log has an order only.
    order : str or None
        Orders the clicks of a session of equal time, or all of them where there is no time. Clicks that are equal in
        both stay in the order of the rows.
    event : str or None
        Names the kind of the click, where a recommender weighs its targets by it.
    """

    session: str = "session_id"
    item: str = "item_id"
    time: str | None = "time"
    order: str | None = None
    event: str | None = None

    def __post_init__(self) -> None:
        for role, name in self.roles.items():
            check_column(f"{role}_column", name)

    @property
    def roles(self) -> dict[str, str]:
        """Column of every role that the log has."""
        needed = ("session", "item")
        return {role: name for role, name in vars(self).items() if name is not None or role in needed}


def read_sessions(
    clicks: Any, columns: LogColumns, items: pl.Series, what: str = "the click log", *, asked: bool = False
) -> Sessions:
    """Read a click log.

    Sessions are sorted by the time of their last click, those of equal time and those of a log without time by their
    first row; those that are asked for, by their first row alone. Within a session, clicks are sorted by time, then by
    the order column, then by row.

    Parameters
    ----------
    clicks : polars DataFrame or LazyFrame, pandas DataFrame or pyarrow Table
        One row per click.
    columns : LogColumns
    items : polars.Series
        The catalogue: item i of it has code i + 1.
    what : str, default="the click log"
        Name of the frame in errors.
    asked : bool, default=False
        Whether the sessions are to be answered: they stay in the order given, and a log without a row, whose columns
        may then be of any type, is read as no session.

    Raises
    ------
    TypeError, ValueError
        If the log is no frame, is empty, lacks a column, has a missing session, item, time or order (null, NaN or
        infinite), has times or orders of a type that cannot be ordered, or items of another type than the catalogue.
    """
    log = read_log(clicks, columns, what, empty=asked)
    if log.is_empty():
        times = None if columns.time is None else np.zeros(0)
        return Sessions(ids=log["session"], offsets=offsets_of(np.zeros(0)), items=np.zeros(0, np.int32), times=times)
    return group_log(log, items, f"the items of {what} in {columns.item!r}", by_time=not asked)


def read_log(clicks: Any, columns: LogColumns, what: str = "the click log", *, empty: bool = False) -> pl.DataFrame:
    """Read a click log into columns named by their roles, such as ``session``; see `read_sessions`."""
    frame, roles = to_polars(clicks, what), columns.roles
    check_roles(frame.collect_schema().names(), columns, what)
    # selectors, because pl.col takes a name like "^a$" for a pattern
    log = frame.lazy().select(cs.by_name(name).as_expr().alias(role) for role, name in roles.items()).collect()
    if log.is_empty():
        if empty:
            return log
        raise ValueError(f"{what} has no row")
    for role, name in roles.items():
        if role != "event":  # which may be unknown
            _check_whole(log[role], f"the column {name!r} of {what}")
    if columns.order is not None:
        _check_order(log["order"], f"the order column {columns.order!r} of {what}")
    if columns.time is None:
        return log
    return log.with_columns(_seconds(log["time"], f"the time column {columns.time!r} of {what}"))


def check_roles(known: Sequence[str], columns: LogColumns, what: str) -> None:
    """Raise a ValueError if a log with the known columns lacks one."""
    for role, name in columns.roles.items():
        if name not in known:
            cure = f"name it by {role}_column"
            cure += ", or say time_column=None if the log has an order only" if role == "time" else ""
            raise ValueError(f"{what} has no column {name!r}; its columns are {list(known)}: {cure}")


def group_log(
    log: pl.DataFrame, items: pl.Series, what: str = "the items of the click log", *, by_time: bool = True
) -> Sessions:
    """Group the clicks that `read_log` has read by session; an error calls its items ``what``.

    Sessions are sorted by the time of their last click, if there are times and ``by_time``, then by their first row. A
    column ``weight`` gives the weights of the clicks.

    Raises
    ------
    TypeError, ValueError
        If the items are of another type than the catalogue.
    """
    clicks = log.with_columns(code_items(log["item"], items, what).alias("item")).with_row_index("row")
    has_times = "time" in log.columns
    last_time = [pl.col("time").max().over("session")] if has_times and by_time else []
    first_row = pl.col("row").min().over("session")
    within = [name for name in ("time", "order") if name in log.columns]
    clicks = clicks.sort(*last_time, first_row, *within, "row")
    runs = clicks["session"].rle().struct.unnest()
    offsets = offsets_of(runs["len"].to_numpy())
    return Sessions(
        ids=runs["value"].alias("session"),
        offsets=offsets,
        items=clicks["item"].to_numpy(),
        times=clicks["time"].to_numpy() if has_times else None,
        weights=clicks["weight"].to_numpy() if "weight" in clicks.columns else None,
    )


def to_polars(frame: Any, what: str) -> pl.DataFrame | pl.LazyFrame:
    """Convert a frame of any library to polars."""
    check_pool()
    if isinstance(frame, pl.DataFrame | pl.LazyFrame):
        return frame
    if is_source(frame):
        raise TypeError(
            f"{what} is read as one frame, not as Shards: give it in parts of whole sessions, such as "
            "polars.scan_parquet(files).filter(...)"
        )
    if not nw.dependencies.is_into_dataframe(frame):
        cure = "; say polars.DataFrame(matrix.toarray()), and name its columns" if issparse(frame) else ""
        raise TypeError(f"{what} must be a polars, pandas or pyarrow frame, got {type(frame).__name__}{cure}")
    columns = []
    for column in nw.from_native(frame, eager_only=True).iter_columns():
        try:
            columns.append(column.to_polars().alias(str(column.name)))
        except _UNREADABLE as error:  # pandas may hold text and numbers in one column
            kinds = ", ".join(sorted({type(value).__name__ for value in column.to_list() if value is not None}))
            found = f"the column {column.name!r} of {what} holds values of the types {kinds}"
            raise TypeError(f"{found}: cast it to numbers, text or dates, or drop it") from error
    return pl.DataFrame(columns)


def to_series(items: Iterable[Any]) -> pl.Series:
    """Convert items in a list, an array or a series of any library to polars."""
    check_pool()
    if nw.dependencies.is_into_series(items):
        return nw.from_native(items, series_only=True).to_polars()
    return pl.Series(list(items), strict=False)


def is_list(sessions: Any) -> bool:
    """Return whether sessions are given as one list or series of items, and not as a frame."""
    return isinstance(sessions, list | tuple | np.ndarray) or nw.dependencies.is_into_series(sessions)


def read_list(items: Any, catalogue: pl.Series, what: str) -> Sessions:
    """Read a list or series of items, in the order of the clicks, as one session; see `read_sessions`."""
    if isinstance(items, np.ndarray) and items.ndim != 1:
        raise ValueError(f"{what} has {items.ndim} dimensions, expected one: the items of one session in their order")
    names = to_series(items)
    if names.null_count():
        raise ValueError(f"{what} holds a missing item at place {names.is_null().arg_max()}: leave it out")
    codes = (
        np.zeros(0, np.int32) if names.is_empty() else code_items(names, catalogue, f"the items of {what}").to_numpy()
    )
    return Sessions(ids=pl.Series("session", [0]), offsets=offsets_of(np.array([len(codes)])), items=codes, times=None)


def like(frame: pl.DataFrame, example: Any) -> Any:
    """Convert a polars frame to the library of another frame."""
    if isinstance(example, pl.DataFrame | pl.LazyFrame):
        return frame
    native = nw.from_native(frame)
    return native.to_arrow() if nw.from_native(example).implementation.is_pyarrow() else native.to_pandas()


def code_items(values: pl.Series, items: pl.Series, what: str = "the items of the click log") -> pl.Series:
    """Look up the codes of items: their place in the catalogue from 1, or 0; an error calls them ``what``.

    Raises
    ------
    TypeError
        If the catalogue holds another type of names.
    """
    if family(values.dtype) != family(items.dtype):
        raise TypeError(f"{what} are {values.dtype}, those of the catalogue {items.dtype}: cast one of them")
    if values.dtype != items.dtype:
        values = values.cast(items.dtype, strict=False)
    place = np.arange(len(items), dtype=np.int32)
    if len(values) < len(items):  # a join would make a table of the whole catalogue for a few clicks
        place = place[items.is_in(values.unique().implode()).to_numpy()]
    vocabulary = pl.DataFrame({"item": items.gather(place), "code": place + 1})
    coded = pl.DataFrame({"item": values}).join(vocabulary, on="item", how="left", maintain_order="left")
    return coded["code"].fill_null(UNSEEN_ITEM)


def family(dtype: pl.DataType) -> str:
    """Name the types that can be compared with one."""
    if dtype.is_integer():
        return "whole number"
    return "text" if dtype in (pl.String, pl.Categorical, pl.Enum) else str(dtype)


def _check_whole(values: pl.Series, what: str) -> None:
    holes = values.null_count()
    if values.dtype.is_float():
        holes += int((~values.is_finite()).sum())
    if holes:
        raise ValueError(
            f"{what} is missing (null, NaN or infinite) in {holes} of {len(values)} rows: drop or fill them"
        )


def _check_order(order: pl.Series, what: str) -> None:
    if not (order.dtype.is_numeric() or order.dtype.is_temporal()):
        raise TypeError(
            f'{what} must hold numbers, dates or datetimes, got {order.dtype}, which would put "10" before "2": cast it'
        )


def _seconds(times: pl.Series, what: str) -> pl.Series:
    if times.dtype == pl.Date:
        times = times.cast(pl.Datetime("us"))
    if isinstance(times.dtype, pl.Datetime):
        return times.dt.epoch("us").cast(pl.Float64) / 1e6
    if times.dtype.is_numeric():
        _check_unit(times, what)
        return times.cast(pl.Float64)
    cure = "parse it first, by pandas.to_datetime or by .str.to_datetime() of polars"
    raise TypeError(f"{what} must hold dates, datetimes or seconds, got {times.dtype}: {cure}")


def _check_unit(times: pl.Series, what: str) -> None:
    """Refuse numbers that cannot be seconds, since they lie beyond the year 9999, where datetimes end."""
    newest: Any = times.max()
    cure = "say time_column=None and name them by order_column"
    if in_command.get():
        cure = "name them by --order-column, without --time-column, and by another name than time"
    for unit, per_second in _UNITS.items():
        if newest >= _END_OF_SECONDS * per_second / 1000:
            raise ValueError(
                f"{what} must hold dates, datetimes or seconds, got numbers up to {newest}, which look like {unit}: "
                f"divide them by {per_second:_}; or, if they tell an order only, {cure}"
            )
