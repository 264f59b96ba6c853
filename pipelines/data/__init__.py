"""The rows that a model is fitted, stopped and scored on: of a table, or of a click log where it is a recommender."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

from tabmtl.pipelines.data.clicks import ClickColumns, ClickRows, open_clicks
from tabmtl.pipelines.data.tables import DataSource, TableRows, open_table
from tabmtl.pipelines.terminal import near

Rows = TableRows | ClickRows

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
        If there is no such set, file or column, the data do not fit the model, or an option has no effect on them.
    """
    from tabmtl.pipelines.datasets import NAMES, SESSION_NAMES
    from tabmtl.sessions.recommender import Recommender

    wants_clicks = issubclass(cls, Recommender)
    own, others = (SESSION_NAMES, NAMES) if wants_clicks else (NAMES, SESSION_NAMES)
    if source.data in others:
        kinds = "a table", "a click log"
        has, needs = kinds[not wants_clicks], kinds[wants_clicks]
        raise ValueError(f"{source.data} is {has}, and {cls.__name__} learns from {needs}: {', '.join(own)}, or a file")
    is_set = source.data in own
    if not is_set and not Path(source.data).is_file():
        raise ValueError(f"there is no file {source.data!r}, nor a data set of this name: {near(source.data, own)}")
    given = {**asdict(source), **asdict(clicks), "part": "all" if whole else "val"}
    defaults = {**asdict(DataSource(data=source.data)), **asdict(ClickColumns()), "part": "val"}
    for names, reason in _without_effect(
        source, cls, wants_clicks=wants_clicks, is_set=source.data in own, whole=whole
    ):
        for name in names:
            if given[name] != defaults[name]:
                raise ValueError(f"--{name.replace('_', '-')} {reason}")
    return open_clicks(source, clicks, whole=whole) if wants_clicks else open_table(source, whole=whole)


def _without_effect(
    source: DataSource, cls: type, *, wants_clicks: bool, is_set: bool, whole: bool
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Options that have no effect on such rows, and why."""
    if wants_clicks:
        of_tables = ("target", "task_column", "categorical", "drop", "split_column", "split_seed", "full")
        yield of_tables, f"is about tables; {cls.__name__} learns from a click log"
    else:
        yield _OF_CLICKS, f"is about click logs; {cls.__name__} learns from a table"
    if is_set:
        of_files = ("task_column", "split_column", "test_share", "split_seed", "part", *_OF_CLICKS)
        # the newest train sessions of a log are drawn
        shares = () if wants_clicks else ("val_share",)
        yield (*shares, *of_files), f"is about files; {source.data} has its own columns and split"
    else:
        yield ("folder", "full"), f"is about named sets; {source.data} is a file"
        if whole or source.split_column:
            drawn = ("val_share", "test_share", "split_seed")
            yield drawn, f"has no effect with {'--part all' if whole else '--split-column'}"
