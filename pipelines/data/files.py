"""Where rows come from, as options: a data set by name, or a file; and how files are read."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import polars as pl

from tabmtl.pipelines.options import Help, near

Part = str  # "train", "val", "test", or "all"
PARTS = ("train", "val", "test")

#: What the parts are for.
_USES = {"train": "to train on", "val": "to stop on", "test": "to score", "all": "to score"}


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """Data: a set by name, or a file; and how its rows are split.

    Parameters
    ----------
    data : str
        A name of `tabmtl.pipelines.datasets`, or the path of a parquet or CSV file.
    folder : Path, optional
        The data folder of named sets; default ``TABMTL_DATA`` of the environment. Flights and portal ship.
    full : bool
        All rows of flights.
    split_column : str, optional
        Column of a file that says "train", "val" or "test". Without it the rows are split by ``split_seed``.
    val_share, test_share : float
    split_seed : int
        Apart from the seed of the model, so that other seeds see the same rows.
    """

    data: Annotated[str, Help("a set by name, such as portal or flights, or a parquet or CSV file", "NAME|PATH")]
    folder: Annotated[Path | None, Help("of the named sets that do not ship; else $TABMTL_DATA", "FOLDER")] = None
    full: Annotated[bool, Help("all rows of flights in place of the sample that ships")] = False
    split_column: Annotated[str | None, Help("says train, val or test; else rows are drawn", "COLUMN")] = None
    val_share: Annotated[float, Help("of a file's rows, or of train sessions, to stop on", "SHARE")] = 0.2
    test_share: Annotated[float, Help("of a file's rows or sessions, to score once", "SHARE")] = 0.2
    split_seed: Annotated[int, Help("which rows of a file are drawn")] = 0


@dataclass(frozen=True, kw_only=True)
class DataSource(RowSource):
    """Data: a set by name, or a file; and what is to be learned from it.

    Parameters
    ----------
    target : list of str
        Columns of a file to learn, each with its kind or without; of a named set, those of its targets to learn.
    task_column : str, optional
        Long tables: the column that names every row's own task.
    categorical, drop : list of str
        Columns that hold categories whatever their type, and columns that are no features.
    """

    target: Annotated[
        list[str], Help("column to learn, =binary, multiclass or regression; repeated", "COLUMN[=KIND]")
    ] = field(default_factory=list)
    task_column: Annotated[str | None, Help("names the task of each row, in a long table", "COLUMN")] = None
    categorical: Annotated[list[str], Help("numbers that are categories; repeated", "COLUMN")] = field(
        default_factory=list
    )
    drop: Annotated[list[str], Help("no feature: an id, or known too late; repeated", "COLUMN")] = field(
        default_factory=list
    )


@dataclass(frozen=True, kw_only=True)
class ClickColumns:
    """Click logs: the item table, and columns where they have other names.

    Parameters
    ----------
    items : Path, optional
        Parquet or CSV file with one row an item.
    session_column, item_column : str
    time_column, order_column : str, optional
        Default "time", where the log has it.
    """

    items: Annotated[Path | None, Help("file of the item table")] = None
    session_column: Annotated[str, Help("names the session", "COLUMN")] = "session_id"
    item_column: Annotated[str, Help("names the item", "COLUMN")] = "item_id"
    time_column: Annotated[str | None, Help('when a click was; default "time" if there is one', "COLUMN")] = None
    order_column: Annotated[str | None, Help("orders the clicks of a session", "COLUMN")] = None


def same_rows(source: RowSource) -> str:
    """The options that give the same parts of the same rows, as one types them."""
    words = []
    for entry in fields(RowSource):
        value = getattr(source, entry.name)
        if value != entry.default:
            words += [f"--{entry.name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def read_file(path: Path) -> pl.DataFrame:
    """A table of a parquet or CSV file.

    Raises
    ------
    ValueError, OSError
        If it cannot be read.
    """
    kind = path.suffix.lower()
    if kind not in (".parquet", ".pq", ".csv"):
        raise ValueError(f"{path}: expected a file that ends in .parquet, .pq or .csv")
    with readable(path):
        if kind == ".csv":
            # types are those of all rows, not of the first; of dates too, which no model takes for categories
            return pl.read_csv(path, infer_schema_length=None, try_parse_dates=True)
        return pl.read_parquet(path)


def read_rows(path: Path) -> pl.DataFrame:
    """As `read_file`, of a file that has to have rows."""
    frame = read_file(path)
    if frame.is_empty():
        raise ValueError(f"{path} has no rows")
    return frame


@contextmanager
def readable(what: str | Path) -> Iterator[None]:
    """What polars cannot read inside becomes a ValueError that names it."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{what} cannot be read: {error}") from error


def known(frame: pl.DataFrame, names: Any, option: str) -> list[str]:
    """The names as a list.

    Raises
    ------
    ValueError
        If the frame lacks one; the message names the option that asked for it, and the columns that are near.
    """
    for name in names:
        if name not in frame.columns:
            raise ValueError(f"{option}: there is no column {name!r}: {near(name, frame.columns)}")
    return list(names)


def check_shares(source: RowSource) -> None:
    """Raise a ValueError unless the shares leave rows to train on."""
    shares = source.val_share, source.test_share
    if not (0 < shares[0] < 1 and 0 <= shares[1] < 1 and sum(shares) < 1):
        raise ValueError(
            f"--val-share must be above 0, --test-share at least 0, and both together below 1; got {shares[0]:g} and "
            f"{shares[1]:g}"
        )


def say(sizes: Mapping[Part, int], unit: str) -> str:
    """How much there is of every part, and what for."""
    (first, size), *others = sizes.items()
    return ", ".join([f"{size:,} {unit} {_USES[first]}", *(f"{size:,} {_USES[part]}" for part, size in others)])
