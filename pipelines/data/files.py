"""Sources of rows, a data set by name or a file, and the reading and checking of tables."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from tabmtl.base.params import check_count
from tabmtl.pipelines.terminal import near

#: The use of every part.
_USES = {"train": "to train on", "val": "to stop on", "test": "to score", "all": "to score"}


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """A data set by name, or a file, and the split of its rows.

    Parameters
    ----------
    data : str
        Such as portal, or a parquet or CSV file.
    folder : Path, optional
        Folder of all rows; default with --full: ``$TABMTL_DATA``.
    full : bool
        All rows of flights instead of the shipped sample.
    split_column : str, optional
        Column of train, val or test; default a random split.
    group_column : str, optional
        Column of groups that the split keeps whole; a feature too, unless --column NAME=ignore.
    time_column : str, optional
        Column of times, in place of chance: the newest rows judge. Of a click log, default "time" if it is there.
    val_share : float
        Share of rows or sessions to stop by.
    test_share : float
        Share of rows or sessions to score.
    split_seed : int
        Seed of the random split.
    """

    data: str
    folder: Path | None = None
    full: bool = False
    split_column: str | None = None
    group_column: str | None = None
    time_column: str | None = None
    val_share: float = 0.2
    test_share: float = 0.2
    split_seed: int = 0

    def __post_init__(self) -> None:
        val, test = self.val_share, self.test_share
        if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
            raise ValueError(
                f"--val-share must be above 0, --test-share at least 0, and both together below 1; got {val:g} and "
                f"{test:g}"
            )
        check_count("--split-seed", self.split_seed, low=0)

    @property
    def as_typed(self) -> str:
        """Options that select the same parts of the same rows, as typed on the command line."""
        words = []
        for entry in fields(RowSource):
            value = getattr(self, entry.name)
            if value != entry.default:
                words += [f"--{entry.name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return shlex.join(words)


@dataclass(frozen=True, kw_only=True, eq=False)
class PartedRows:
    """Base of the rows of a fit, in parts.

    Parameters
    ----------
    name : str
    parts : dict of str to rows
        By the names "train", "val" and "test", as far as there are such rows; or "all".
    facts : dict
        Parameters of estimators that follow from the rows.
    """

    name: str
    parts: dict[str, Any]
    facts: dict[str, Any]

    unit: ClassVar[str] = "rows"

    def example(self) -> pl.DataFrame:
        """Return some rows to fit, as an input example."""
        return self.parts["train"].head(5)

    @property
    def facts_as_json(self) -> dict[str, Any]:
        """The facts, with what is declared of columns as text."""
        columns = {name: repr(own) for name, own in self.facts.get("columns", {}).items()}
        return self.facts | ({"columns": columns} if columns else {})

    @property
    def judged(self) -> str | None:
        """The part that is scored when the fit is over."""
        return next((part for part in ("test", "val") if part in self.parts), None)


def asked(options: Any) -> list[str]:
    """Return the names of the options that have another value than by default."""
    defaults = {
        each.name: each.default if each.default_factory is MISSING else each.default_factory()
        for each in fields(options)
    }
    return [name for name, default in defaults.items() if getattr(options, name) != default]


def read_file(path: Path, *, dates: bool = True) -> pl.DataFrame:
    """Read a table from a parquet or CSV file; the dates of a CSV file as such, if they are asked for.

    Raises
    ------
    ValueError, OSError
        If it cannot be read, or has no rows.
    """
    from tabmtl.scale.paths import check_csv

    kind = path.suffix.lower()
    if kind not in (".parquet", ".pq", ".csv"):
        raise ValueError(f"{path}: expected a file that ends in .parquet, .pq or .csv")
    with readable(path):
        if kind == ".csv":
            check_csv(str(path))
            # types are those of all rows, not of the first
            frame = pl.read_csv(path, infer_schema_length=None, try_parse_dates=dates)
        else:
            frame = pl.read_parquet(path)
    if frame.is_empty():
        raise ValueError(f"{path} has no rows")
    return frame


@contextmanager
def readable(name: str | Path) -> Iterator[None]:
    """Turn errors of polars into a ValueError that names the table."""
    from tabmtl.scale.paths import reason_of

    try:
        yield
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{name} cannot be read: {reason_of(error)}") from error


def known(frame: pl.DataFrame, names: Iterable[str | None], option: str) -> list[str]:
    """Return the names that are not None.

    Raises
    ------
    ValueError
        If the frame lacks one; the message names the option that asked for it, and the columns that are near.
    """
    asked = [name for name in names if name is not None]
    for name in asked:
        if name not in frame.columns:
            raise ValueError(f"{option}: there is no column {name!r}: {near(name, frame.columns)}")
    return asked


def describe_sizes(sizes: Mapping[str, int], unit: str) -> str:
    """Describe the size of every part, and its use."""
    (first, size), *others = sizes.items()
    return ", ".join([f"{size:,} {unit} {_USES[first]}", *(f"{size:,} {_USES[part]}" for part, size in others)])
