"""Rows to fit, stop and score a model on: of a table, or of a click log for a recommender."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from tabmtl.base.schema import RandomSplitWarning
from tabmtl.pipelines.data.clicks import ClickColumns, ClickRows, open_clicks
from tabmtl.pipelines.data.declared import DataSource
from tabmtl.pipelines.data.files import RowSource, asked
from tabmtl.pipelines.data.shards import ShardRows, TrainSource, open_shards
from tabmtl.pipelines.data.tables import TableRows, open_table
from tabmtl.pipelines.datasets import NAMES
from tabmtl.pipelines.model_choice import recommends
from tabmtl.pipelines.terminal import near

__all__ = [
    "ClickColumns",
    "ClickRows",
    "DataSource",
    "RowSource",
    "Rows",
    "ShardRows",
    "TableRows",
    "TrainSource",
    "open_rows",
    "open_shards",
    "rows_for",
]

Rows = TableRows | ClickRows


def open_rows(source: DataSource, clicks: ClickColumns, model: str, *, whole: bool = False) -> Rows:
    """Read the rows of a table, or of a click log for a recommender.

    Parameters
    ----------
    source : DataSource
    clicks : ClickColumns
    model : str
        Name of the estimator.
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
    wants_clicks = recommends(model)
    is_set = source.data in NAMES
    if is_set and wants_clicks:
        raise ValueError(f"{source.data} is a table, but {model} learns from a click log: name a file of one")
    if not is_set and not Path(source.data).is_file():
        raise ValueError(f"there is no file {source.data!r}, nor a data set of this name: {near(source.data, NAMES)}")
    given = [*asked(source), *asked(clicks), *(["part"] if whole else [])]
    for names, reason in _without_effect(source, model, wants_clicks=wants_clicks, is_set=is_set, whole=whole):
        for name in names:
            if name in given:
                raise ValueError(f"--{name.replace('_', '-')} {reason}")
    return open_clicks(source, clicks, whole=whole) if wants_clicks else open_table(source, whole=whole)


def rows_for(model: Any, source: RowSource, *, whole: bool = False, items: Path | None = None) -> Rows:
    """Return the rows with the targets and columns that a fitted model knows.

    Parameters
    ----------
    model : estimator
    source : RowSource
    whole : bool, default=False
        As in `open_rows`.
    items : Path, optional
        File of the item table, of a recommender.

    Raises
    ------
    ValueError, OSError
        As `open_rows` does.
    """
    from tabmtl.columns.declared import declare
    from tabmtl.sessions.recommender import Recommender

    columns = ClickColumns(items=items)
    options = {entry.name: getattr(source, entry.name) for entry in fields(RowSource)}
    if isinstance(model, Recommender):
        names = [entry.name for entry in fields(ClickColumns) if entry.name != "items"]
        columns = ClickColumns(items=items, **{name: getattr(model, name) for name in names})
        options["time_column"] = model.time_column
    else:
        options["target"] = [f"{task.name}={task.kind}" for task in model.coder_.labels.column_tasks]
        options["no_dates"] = not model.coder_.features.dates
        options["column"] = [f"{name}={own}" for name, own in declare(model.columns).items() if own.name != "ignore"]
        if Path(source.data).is_file():
            options |= {"task_column": model.task_column, "list_separator": model.coder_.list_separator}
    with warnings.catch_warnings(action="ignore", category=RandomSplitWarning):  # the split is that of training
        return open_rows(DataSource(**options), columns, type(model).__name__, whole=whole)


def _without_effect(
    source: DataSource, model: str, *, wants_clicks: bool, is_set: bool, whole: bool
) -> Iterator[tuple[Sequence[str], str]]:
    """Yield the options that have no effect on such rows, with the reason."""
    of_clicks = [entry.name for entry in fields(ClickColumns)]
    if wants_clicks:
        of_tables = [name for name in DataSource.__annotations__ if name not in ("column", "tasks")]
        of_tables += ["split_column", "group_column", "split_seed", "full"]
        yield of_tables, f"applies to tables only; {model} learns from a click log"
    else:
        yield of_clicks, f"applies to click logs only; {model} learns from a table"
    if is_set:
        reason = f"applies to files only; {source.data} has its own columns and split"
        shares = ["val_share", "test_share", "split_seed"]
        yield ["task_column", "split_column", "group_column", "time_column", *shares, "part"], reason
    else:
        yield ("folder", "full"), f"applies to named sets only; {source.data} is a file"
        if whole or source.split_column:
            by = "--part all" if whole else "--split-column"
            of_split = ("group_column", "val_share", "test_share", "split_seed")
            # clicks are in the order of their times
            yield of_split if wants_clicks else ("time_column", *of_split), f"has no effect with {by}"
        elif source.time_column:
            yield ("split_seed",), "has no effect with --time-column"
