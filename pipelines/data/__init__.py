"""The rows that a model is fitted, stopped and scored on: of a table, or of a click log where it is a recommender."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from tabmtl.pipelines.data.clicks import ClickRows, clicks_of_file, named_clicks
from tabmtl.pipelines.data.files import ClickColumns, DataSource
from tabmtl.pipelines.data.tables import TableRows, named_table, table_of_file
from tabmtl.pipelines.terminal import near

Rows = TableRows | ClickRows

#: Options that say nothing where the rows are no table; which draw the rows of a file; and which only files need.
_OF_TABLES = ("target", "task_column", "categorical", "drop", "split_column", "split_seed", "full")
_OF_DRAWING = ("val_share", "test_share", "split_seed")
_OF_FILES = ("task_column", "split_column", "test_share", "split_seed")
_OF_CLICKS = tuple(entry.name for entry in fields(ClickColumns))


def open_rows(source: DataSource, clicks: ClickColumns, cls: type, *, whole: bool = False) -> Rows:
    """Read the rows of a table, or of a click log where the model is a recommender.

    Parameters
    ----------
    source : DataSource
    clicks : ClickColumns
    cls : type
        Class of the estimator.
    whole : bool, default=False
        One part "all" of a file's rows, none drawn.

    Returns
    -------
    TableRows or ClickRows

    Raises
    ------
    ValueError, OSError
        If there is no such set, file or column, the data do not fit the model, or an option says nothing of them.
    """
    from tabmtl.pipelines.datasets import NAMES, SESSION_NAMES
    from tabmtl.sessions.recommender import Recommender

    wants_clicks = issubclass(cls, Recommender)
    own, others = (SESSION_NAMES, NAMES) if wants_clicks else (NAMES, SESSION_NAMES)
    if source.data in others:
        kinds = "a table", "a click log"
        has, needs = kinds[not wants_clicks], kinds[wants_clicks]
        raise ValueError(f"{source.data} is {has}, and {cls.__name__} learns from {needs}: {', '.join(own)}, or a file")
    named = source.data in own
    if not named and not Path(source.data).is_file():
        raise ValueError(f"there is no file {source.data!r}, nor a data set of this name: {near(source.data, own)}")
    _refuse_ignored(source, clicks, cls, wants_clicks=wants_clicks, named=named, whole=whole)
    if named:
        return named_clicks(source) if wants_clicks else named_table(source)
    return clicks_of_file(source, clicks, whole=whole) if wants_clicks else table_of_file(source, whole=whole)


def _refuse_ignored(
    source: DataSource, clicks: ClickColumns, cls: type, *, wants_clicks: bool, named: bool, whole: bool
) -> None:
    """Refuse options that say nothing of such rows."""
    plain, plain_clicks = DataSource(data=source.data), ClickColumns()
    if wants_clicks:
        _refuse(source, plain, _OF_TABLES, f"is about tables; {cls.__name__} learns from a click log")
    else:
        _refuse(clicks, plain_clicks, _OF_CLICKS, f"is about click logs; {cls.__name__} learns from a table")
    if named:
        reason = f"is about files; {source.data} has its own columns and split"
        _refuse(source, plain, _OF_FILES if wants_clicks else ("val_share", *_OF_FILES), reason)
        _refuse(clicks, plain_clicks, _OF_CLICKS, reason)
        if whole:
            raise ValueError(f"--part all {reason}")
        return
    _refuse(source, plain, ("folder", "full"), f"is about named sets; {source.data} is a file")
    drawn_by = "--part all" if whole else "--split-column" if source.split_column else None
    if drawn_by:
        _refuse(source, plain, _OF_DRAWING, f"has no effect with {drawn_by}")


def _refuse(given: Any, plain: Any, names: Sequence[str], reason: str) -> None:
    """Refuse those of the options that are not as they are by default."""
    for name in names:
        if getattr(given, name) != getattr(plain, name):
            raise ValueError(f"--{name.replace('_', '-')} {reason}")
