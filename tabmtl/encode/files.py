"""Files of rows: which files a path means, and polars' lazy reading of one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import glob, has_magic
from os import PathLike
from pathlib import Path

import polars as pl

Paths = str | PathLike[str] | Sequence[str | PathLike[str]]

_PARQUET, _CSV = (".parquet", ".pq"), (".csv",)

_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_LONGEST_HEADER = 1_000_000
_BLOCKS_AT_ONCE = 2  # of a row group of more rows, all is decoded for every part
_UNREAD = re.compile(
    r"could not parse `(?P<value>.*?)` as dtype `(?P<dtype>\w+)` at column '(?P<column>.*?)' ", re.DOTALL
)


def find_files(paths: Paths) -> tuple[str, ...]:
    """Find the files that paths and globs name, in their order; those of a glob by name.

    Raises
    ------
    FileNotFoundError
        If a path or glob names no file.
    ValueError
        If a file is named twice, is a folder, or is neither Parquet nor CSV by its name.
    """
    given = [paths] if isinstance(paths, str | PathLike) else list(paths)
    files = [file for path in given for file in _expand(str(path))]
    if not files:
        raise ValueError("paths is an empty list; name at least one file")
    twice = next((file for file in files if files.count(file) > 1), None)
    if twice is not None:
        raise ValueError(f"paths name the file {twice} twice; name every file once")
    for file in files:
        if not is_table(file):
            raise ValueError(f"{file} is neither .parquet nor .csv by its name; write it in one of the two formats")
    return tuple(files)


def _expand(path: str) -> Iterator[str]:
    if "://" in path:  # which polars reads from a store of objects
        if has_magic(path):
            raise ValueError(f"{path} is a glob in a store of objects; list its files one by one")
        yield path
        return
    found = sorted(glob(path, recursive=True)) if has_magic(path) and not Path(path).exists() else [path]
    if not found or not Path(found[0]).exists():
        raise FileNotFoundError(f"no file is called {path}, seen from the folder {Path.cwd()}")
    for file in found:
        if Path(file).is_dir():
            raise ValueError(f"{file} is a folder; name the files in it, such as {file.rstrip('/')}/*.parquet")
        yield file


def is_table(file: str) -> bool:
    """Return whether a file is Parquet or CSV by its name."""
    return file.lower().endswith((*_PARQUET, *_CSV))


def is_csv(file: str) -> bool:
    """Return whether a file is CSV by its name."""
    return file.lower().endswith(_CSV)


def scan_file(file: str, types: Mapping[str, pl.DataType] | None = None) -> pl.LazyFrame:
    """Scan a file lazily; the types of a CSV file are those of all its rows, except the given ones."""
    if is_csv(file):
        check_commas(file)
        return pl.scan_csv(file, infer_schema_length=None, schema_overrides=types)
    return pl.scan_parquet(file, glob=False)


def read_blocks(scan: pl.LazyFrame, file: str | None, rows: int) -> Iterator[pl.DataFrame]:
    """Read a scan, of a file or of anything else, in blocks of some rows, in order; the last one may have fewer.

    Of a Parquet file on a disk, only a few blocks are asked for at once. Asked for all, polars decodes many row groups
    before they are taken (its issue 28569), and more of them with more threads. CSV files are read in one go, since a
    part of them costs a pass over all lines before it; and so are files in a store of objects, which would be fetched
    again for each part.
    """
    parts = [scan]
    if file is not None and not is_csv(file) and "://" not in file:
        at_once = _BLOCKS_AT_ONCE * rows
        parts = [scan.slice(first, at_once) for first in range(0, scan.select(pl.len()).collect().item(), at_once)]
    for part in parts:
        yield from (block for block in part.collect_batches(chunk_size=rows, maintain_order=True) if block.height)


def check_commas(file: str) -> None:
    """Raise a ValueError if the names of a CSV file are separated by something else than commas."""
    if "://" in file:
        return
    with open(file, "rb") as opened:
        header = opened.readline(_LONGEST_HEADER).decode(errors="replace")
    found = next((name for mark, name in _OTHER_SEPARATORS.items() if mark in header and "," not in header), None)
    if found is not None:
        raise ValueError(
            f"the columns of {file} are separated by {found}, expected commas: write it again with commas, and numbers "
            "as 1.5"
        )


@contextmanager
def words_of_csv() -> Iterator[None]:
    """Turn errors of polars inside, whose cures are arguments of its functions, into a ValueError on the file."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        raise ValueError(reason_of(error)) from error


def reason_of(error: pl.exceptions.PolarsError) -> str:
    """Say what is wrong with a file that polars cannot read."""
    message = str(error)
    unread = _UNREAD.search(message)
    if unread is not None:
        kind = "number" if unread["dtype"][0] in "iuf" else unread["dtype"]
        return (
            f"column {unread['column']!r} holds {unread['value']!r}, which is no {kind}: mend the cell, or leave it "
            "empty if the value is missing"
        )
    if "found more fields" in message:
        return "a line has more cells than the first, which has the names: put quotes around text with commas"
    if "utf-8" in message.lower():
        return "it is not in UTF-8: write it again in this encoding"
    return message.partition("\n")[0]
