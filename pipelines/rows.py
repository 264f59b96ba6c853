"""The rows that a model is fitted, stopped and scored on: of a table, or of a click log where it is a recommender."""

from __future__ import annotations

from pathlib import Path

from tabmtl.pipelines.click_rows import ClickRows, clicks_of_file, named_clicks
from tabmtl.pipelines.options import near
from tabmtl.pipelines.sources import ClickColumns, DataSource
from tabmtl.pipelines.table_rows import TableRows, named_table, table_of_file

Rows = TableRows | ClickRows


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
        If there is no such set, file or column, or the data do not fit the model.
    """
    from tabmtl.pipelines.datasets import NAMES, SESSION_NAMES
    from tabmtl.sessions.recommender import Recommender

    wants_clicks = issubclass(cls, Recommender)
    own, others = (SESSION_NAMES, NAMES) if wants_clicks else (NAMES, SESSION_NAMES)
    if source.data in others:
        kinds = "a table", "a click log"
        has, needs = kinds[not wants_clicks], kinds[wants_clicks]
        raise ValueError(f"{source.data} is {has}, and {cls.__name__} learns from {needs}: {', '.join(own)}, or a file")
    if source.data in own:
        _refuse_for_names(source, whole)
        return named_clicks(source) if wants_clicks else named_table(source)
    if not Path(source.data).is_file():
        raise ValueError(f"there is no file {source.data!r}, nor a data set of this name: {near(source.data, own)}")
    return clicks_of_file(source, clicks, whole=whole) if wants_clicks else table_of_file(source, whole=whole)


def _refuse_for_names(source: DataSource, whole: bool) -> None:
    """Refuse what only a file can be told."""
    given = {"--task-column": source.task_column, "--split-column": source.split_column, "--part all": whole}
    for option, value in given.items():
        if value:
            raise ValueError(f"{option} is about files; {source.data} has its own columns and split")
