"""Where rows come from, as options: a data set by name, or a file; and how files are read."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import polars as pl

from tabmtl.pipelines.terminal import near

Part = str  # "train", "val", "test", or "all"
PARTS = ("train", "val", "test")

#: What the parts are for.
_USES = {"train": "to train on", "val": "to stop on", "test": "to score", "all": "to score"}


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """A data set by name, or a file, and how its rows are split.

    Parameters
    ----------
    data : str
        Data set by name, such as portal, or a parquet or CSV file.
    folder : Path, optional
        Folder of sets that do not ship; default ``$TABMTL_DATA``.
    full : bool
        All rows of flights instead of the sample that ships.
    split_column : str, optional
        Column that says train, val or test; else rows are drawn.
    val_share : float
        Share of a file's rows, or train sessions, to stop on.
    test_share : float
        Share of a file's rows or sessions, to score once.
    split_seed : int
        Seed of the rows that are drawn.
    """

    data: str
    folder: Path | None = None
    full: bool = False
    split_column: str | None = None
    val_share: float = 0.2
    test_share: float = 0.2
    split_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DataSource(RowSource):
    """A data set by name, or a file, and what is learned from it.

    Parameters
    ----------
    target : list of str
        Column to learn, COLUMN or COLUMN=KIND with the kind binary, multiclass or regression; may be repeated.
    task_column : str, optional
        Column that names the task of each row, in a long table.
    categorical : list of str
        Column of numbers that are categories; may be repeated.
    drop : list of str
        Column to leave out, such as an id; may be repeated.
    """

    target: list[str] = field(default_factory=list)
    task_column: str | None = None
    categorical: list[str] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ClickColumns:
    """The item table of a click log, and the names of its columns.

    Parameters
    ----------
    items : Path, optional
        Parquet or CSV file of the item table, one row an item.
    session_column : str
        Column that names the session.
    item_column : str
        Column that names the item.
    time_column : str, optional
        Column with the time of a click; default "time" if the log has it.
    order_column : str, optional
        Column that orders the clicks of a session.
    """

    items: Path | None = None
    session_column: str = "session_id"
    item_column: str = "item_id"
    time_column: str | None = None
    order_column: str | None = None


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
