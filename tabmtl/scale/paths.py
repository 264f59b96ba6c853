"""Files of rows: which files a path means, and polars' lazy reading of one."""

from __future__ import annotations

import csv
import os
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import EDQUOT, ENOENT, ENOSPC
from functools import lru_cache
from glob import glob, has_magic
from os import PathLike
from pathlib import Path

import polars as pl

from tabmtl.encode.read import count_rows, read_lazy

Paths = str | PathLike[str] | Sequence[str | PathLike[str]]

#: Inode, size and time of change of a file; None of what has none, such as a file in a store of objects.
Stamp = tuple[int, int, int] | None

_PARQUET, _CSV = (".parquet", ".pq"), (".csv",)

_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_LONGEST_HEADER = 1_000_000
_BLOCKS_AT_ONCE = 2  # of a row group of more rows, all is decoded for every part
_MOST_SHOWN = 200  # characters of a file in an error; a quote that is not closed makes one value of all that follows
_CURES = {ENOSPC: "make room there", EDQUOT: "make room there", ENOENT: "make its folder"}
_LITERAL = re.compile(rb'[^,"]"')  # a quote in a cell that begins with something else
_OF_SYSTEM = re.compile(r"\(os error (\d+)\)")
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
    twice = [file for file, count in Counter(files).items() if count > 1]
    if twice:
        raise ValueError(f"paths name the file {twice[0]} twice; name every file once")
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
        check_csv(file)
        return pl.scan_csv(file, infer_schema_length=None, schema_overrides=types)
    return pl.scan_parquet(file, glob=False)


def read_blocks(
    scan: pl.LazyFrame, file: str | None, rows: int, *, promised: int | None = None, since: Stamp = None
) -> Iterator[pl.DataFrame]:
    """Read a scan, of a file or of anything else, in blocks of some rows, in order; the last one may have fewer.

    Of a Parquet file on a disk, only a few blocks are asked for at once. Asked for all, polars decodes many row groups
    before they are taken (its issue 28569), and more of them with more threads. CSV files are read in one go, since a
    part of them costs a pass over all lines before it; and so are files in a store of objects, which would be fetched
    again for each part.

    Parameters
    ----------
    scan : LazyFrame
    file : str or None
        Its file, if it has one.
    rows : int
    promised : int, optional
        Number of rows that the scan has; by default it is asked.
    since : tuple, optional
        What `stamp_of` said of the file when it was first looked at; by default it is asked.

    Raises
    ------
    ValueError
        If the file is damaged or changes, or there are other rows than promised.
    """
    if file is None:
        yield from read_lazy(scan, rows, count_rows(scan) if promised is None else promised)
        return
    n_rows = 0
    with whole(file, since):
        if promised is None:
            promised = count_rows(scan)
        parts = [scan]
        if not is_csv(file) and "://" not in file:
            at_once = _BLOCKS_AT_ONCE * rows
            parts = [scan.slice(first, at_once) for first in range(0, promised, at_once)]
        for part in parts:
            for block in part.collect_batches(chunk_size=rows, maintain_order=True):
                n_rows += block.height
                if block.height:
                    yield block
    if n_rows != promised:
        raise ValueError(f"{file} gave {n_rows} of {promised} rows: write it again")


def stamp_of(file: str | None) -> Stamp:
    """Return a value that changes when a file on a disk is written or replaced."""
    if file is None or "://" in file:
        return None
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def check_unchanged(file: str | None, since: Stamp) -> None:
    """Raise a ValueError if a file has been written, replaced or removed since it had a stamp."""
    if since is not None and stamp_of(file) != since:
        raise ValueError(
            f"{file} was changed while it was read: wait until it is written, and start again with the whole file"
        )


@contextmanager
def whole(file: str | None, since: Stamp = None) -> Iterator[None]:
    """Turn what polars raises inside, where a file is read, into a ValueError that names the file; and see no change.

    Parameters
    ----------
    file : str or None
        None for what is no file, whose errors stay as they are.
    since : tuple, optional
        What `stamp_of` said of the file when it was first looked at; by default it is asked.

    Raises
    ------
    ValueError
        If the file cannot be read, or was changed.
    """
    since = since or stamp_of(file)
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        if file is None:
            raise
        check_unchanged(file, since)
        raise ValueError(f"{file} cannot be read: {reason_of(error)}") from error
    check_unchanged(file, since)


@contextmanager
def written(what: str, place: Path, of_reading: Collection[BaseException] = ()) -> Iterator[None]:
    """Turn errors of the system inside, where something is written, into an OSError that names the place.

    Parameters
    ----------
    what : str
        What is written, for the error.
    place : Path
        Its file or folder.
    of_reading : collection of errors
        Errors inside that are not of writing, and stay as they are. So does that of a missing file if the folder of the
        place is there.
    """
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        found = _OF_SYSTEM.search(str(error))  # polars keeps no number of an error
        number = error.errno if isinstance(error, OSError) and error.errno else int(found[1]) if found else None
        folder = place if place.is_dir() else place.parent
        if number is None or error in of_reading or (number == ENOENT and folder.is_dir()):
            raise
        cure = _CURES.get(number, "give permission to write there")
        reason = f"{what} could not be written: {os.strerror(number)}; {cure}, or name another folder"
        raise OSError(number, reason, str(place)) from error


def check_csv(file: str) -> None:
    """Raise a ValueError if polars would misread a CSV file; nothing is checked in a store of objects.

    Its names may be separated by something else than commas, or two of them be equal. A line may have more or fewer
    cells than there are names, or none, which polars fills up with nulls; a column alone may have empty lines.
    """
    if "://" not in file:
        _check_header(file)
        _check_cells(file, stamp_of(file))


def _check_header(file: str) -> None:
    with open(file, "rb") as opened:
        header = opened.readline(_LONGEST_HEADER).decode(encoding="utf-8-sig", errors="replace")
    found = next((name for mark, name in _OTHER_SEPARATORS.items() if mark in header and "," not in header), None)
    if found is not None:
        raise ValueError(
            f"the columns of {file} are separated by {found}, expected commas: write it again with commas, and numbers "
            "as 1.5"
        )
    names: list[str] = []
    with suppress(csv.Error):  # a quote that is not closed, which polars tells
        names = next(csv.reader([header.rstrip("\r\n")]), [])
    twice = [name for name, count in Counter(filter(None, names)).items() if count > 1]
    if twice:
        raise ValueError(f"{file} has several columns of the names {twice[:10]}: rename them, or leave all but one out")


@lru_cache(maxsize=1_024)  # a file is scanned again for each of its uses
def _check_cells(file: str, stamp: Stamp) -> None:
    """Raise a ValueError that names the first line of a CSV file with another number of cells than its header."""
    n_names = 0
    for number, line, n_cells in _count_cells(file):
        is_empty = not line.strip(b"\r\n")
        if not n_names:  # polars passes over empty lines before the header
            n_names = 0 if is_empty else n_cells
        elif n_cells != n_names:  # of one column, an empty line is a missing value
            found = "is empty" if is_empty else f"has {_number(n_cells)}"
            less = "leave cells empty where values are missing, but keep their commas"
            more = "put quotes around text with commas, or give the further cells a name"
            cure = "remove it, or write its commas" if is_empty else more if n_cells > n_names else less
            raise ValueError(
                f"{file}: line {number} {found}, expected {_number(n_names)}, as many as the header has: {cure}"
            )


def _number(n_cells: int) -> str:
    return f"{n_cells} cell{'s' if n_cells > 1 else ''}"


def _count_cells(file: str) -> Iterator[tuple[int, bytes, int]]:
    """Yield first line, text of the last line, and number of cells of every row of a CSV file, line by line.

    As in polars, a row goes on in the next line where a quote is open, and a comma is text in a cell that begins with
    a quote. A quote that is never closed is left to polars.
    """
    first, n_commas, is_open, is_literal = 1, 0, False, False
    with open(file, "rb") as opened:
        opened.seek(len(BOM_UTF8) if opened.read(len(BOM_UTF8)) == BOM_UTF8 else 0)
        for number, line in enumerate(opened, 1):
            if not is_open and b'"' not in line:
                n_commas += line.count(b",")
            else:
                parts = line.split(b'"')
                outside = b'"'.join(parts[::2])
                if not is_open and len(parts) % 2 and not _LITERAL.search(outside):  # which is fast, and nearly all
                    yield first, line, outside.count(b",") + 1
                    first = number + 1
                    continue
                for place, part in enumerate(parts, is_open):
                    is_inside = place % 2
                    if not is_inside and (part or not place):  # nothing stands between two quotes that are one
                        is_literal = bool(part) and not part.endswith(b",")
                    n_commas += part.count(b",") if is_literal or not is_inside else 0
                is_open ^= len(parts) % 2 == 0
            if not is_open:
                yield first, line, n_commas + 1
                first, n_commas = number + 1, 0


def reason_of(error: BaseException) -> str:
    """Say what is wrong with a file that polars cannot read."""
    message = str(error)
    unread = _UNREAD.search(message)
    if unread is not None:
        found = f"column {unread['column'][:_MOST_SHOWN]!r} holds {unread['value'][:_MOST_SHOWN]!r}"
        if unread["dtype"] == "str" or len(unread["value"]) > _MOST_SHOWN:
            return f"{found}, a quote that is not closed: close it, or leave it out"
        kind = "number" if unread["dtype"][0] in "iuf" else unread["dtype"]
        return f"{found}, which is no {kind}: mend the cell, or leave it empty if the value is missing"
    if "found more fields" in message:
        return "a line has more cells than the first, which has the names: put quotes around text with commas"
    if "utf-8" in message.lower():
        return "it is not in UTF-8: write it again in this encoding"
    if isinstance(error, pl.exceptions.PanicException):
        return "its parts do not fit together; it is damaged or cut off: write it again"
    return message.partition("\n")[0][:_MOST_SHOWN] + "; write it again, or leave it out"
