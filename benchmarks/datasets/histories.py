"""Click logs as tables: what a user did so far, and what the next session holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

__all__ = ["history_table"]


def history_table(
    log: pl.DataFrame,
    *,
    user_column: str,
    session_column: str,
    time_column: str,
    item_columns: Sequence[str],
    label_column: str,
    labels: int | Sequence[str] = 5,
    max_length: int = 50,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Make a table of a log of clicks or purchases: the past of a user, and whether the next session holds each label.

    A row is a session of a user who had one before. Its lists hold what the user took in sessions that began earlier,
    the newest last; of one session, in the order of the log. Nothing of the row's own session is in them, nor of
    another one of the same time.

    Parameters
    ----------
    log : polars.DataFrame
        A line for each item that a user took.
    user_column, session_column, time_column : str
        Columns that name the user, the session (a basket, a visit) and its time, a date or datetime. A session begins
        with its earliest line.
    item_columns : sequence of str
        Columns of what was taken, such as the product and its category; each becomes a list.
    label_column : str
        Column whose values are labels, such as the department.
    labels : int or sequence of str, default=5
        The labels, or how many of the most frequent ones.
    max_length : int, default=50
        The newest entries of a list that are kept.

    Returns
    -------
    X : polars.DataFrame
        ``user_column``, ``time_column``, a list ``last_<column>`` for each of ``item_columns``, and ``last_days``: how
        many days before the row's session each entry was taken, float32. Sorted by time.
    y : polars.DataFrame
        Int8 0/1, one column for each label: whether the row's session holds it.

    Raises
    ------
    ValueError
        If a column is missing, or has nulls where it names users, sessions or times, ``labels`` holds one that the log
        does not, or ``max_length`` or their number is less than 1.

    Examples
    --------
    >>> from datetime import date
    >>> log = pl.DataFrame(
    ...     {
    ...         "user": ["a", "a", "a", "a"],
    ...         "basket": [1, 1, 2, 3],
    ...         "day": [date(2026, 1, 1), date(2026, 1, 1), date(2026, 1, 3), date(2026, 1, 4)],
    ...         "product": ["milk", "soap", "milk", "bread"],
    ...         "department": ["food", "drugs", "food", "food"],
    ...     }
    ... )
    >>> of = {"user_column": "user", "session_column": "basket", "time_column": "day"}
    >>> X, y = history_table(log, **of, item_columns=["product"], label_column="department")
    >>> X["last_product"].to_list(), X["last_days"].to_list()
    ([['milk', 'soap'], ['milk', 'soap', 'milk']], [[2.0, 2.0], [3.0, 3.0, 1.0]])
    >>> y.to_dicts()
    [{'food': 1, 'drugs': 0}, {'food': 1, 'drugs': 0}]
    """
    if max_length < 1:
        raise ValueError(f"max_length must be an integer >= 1, got {max_length!r}")
    _check_columns(log, (user_column, session_column, time_column), (*item_columns, label_column))
    by, time = [user_column, session_column], pl.col(time_column)
    began = log.with_columns(time.min().over(by)).sort(user_column, time_column, maintain_order=True)
    lines = began.with_row_index("line")
    # the lines of the user's earlier sessions end where those of this time begin
    ends = pl.col("line").min().over(user_column, time_column).alias("end")
    first = pl.col("line").min().over(user_column).alias("first")
    names = _labels(began, label_column, by, labels)
    held = [(pl.col(label_column) == name).any().cast(pl.Int8).alias(f"label {k}") for k, name in enumerate(names)]
    rows = (
        lines.with_columns(ends, first)
        .group_by(by, maintain_order=True)
        .agg(time.first(), pl.col("end", "first").first(), *held)
        .filter(pl.col("end") > pl.col("first"))
        .sort(time_column, *by)
    )
    last = [began[name].alias(f"last_{name}") for name in item_columns]
    lists = _lists_of(pl.DataFrame(last), began[time_column], rows, rows[time_column], max_length)
    y = rows.select(pl.col(f"label {k}").alias(str(name)) for k, name in enumerate(names))
    return rows.select(user_column, time_column).hstack(lists), y


def _lists_of(
    taken: pl.DataFrame, times: pl.Series, rows: pl.DataFrame, now: pl.Series, max_length: int
) -> pl.DataFrame:
    """Return the newest lines from ``first`` to ``end`` of each row as lists, and how many days ago they were."""
    end, start = (rows[name].to_numpy().astype(np.int64) for name in ("end", "first"))
    lengths = np.minimum(end - start, max_length)
    row = np.repeat(np.arange(rows.height), lengths)
    line = np.arange(len(row)) + np.repeat(end - np.cumsum(lengths), lengths)
    days = (now.gather(row) - times.gather(line)).dt.total_seconds() / 86_400
    entries = taken[line].with_columns(days.cast(pl.Float32).alias("last_days"))
    return entries.group_by(pl.Series("row", row), maintain_order=True).agg(pl.all()).drop("row")


def _check_columns(log: pl.DataFrame, keys: Sequence[str], others: Sequence[str]) -> None:
    for name in (*keys, *others):
        if name not in log.columns:
            raise ValueError(f"the log has no column {name!r}; it has {log.columns}")
    for name in keys:
        if log[name].null_count():
            raise ValueError(f"the column {name!r} of the log has missing values; leave out these lines")
    if not isinstance(log.schema[keys[-1]], pl.Date | pl.Datetime):
        raise ValueError(f"the column {keys[-1]!r} must hold dates or datetimes, got {log.schema[keys[-1]]}")


def _labels(log: pl.DataFrame, column: str, by: Sequence[str], labels: int | Sequence[str]) -> list[str]:
    """Return the labels: those given, or those that most sessions hold."""
    held = log.select(*by, column).unique().drop_nulls(column)[column].value_counts(sort=True)
    if isinstance(labels, int):
        if labels < 1:
            raise ValueError(f"labels must be at least 1, got {labels}")
        return held.sort("count", column, descending=[True, False])[column].head(labels).to_list()
    missing = [name for name in labels if name not in held[column]]
    if missing:
        raise ValueError(f"no line of the log has {missing} in {column!r}")
    return list(labels)
