"""Tables that need not fit in memory: where their rows are, and their blocks in order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs

from tabmtl.base.params import check_known
from tabmtl.base.ranks import Ranks, check_same
from tabmtl.base.schema import warn_user
from tabmtl.columns.date_text import find_text_dates, with_dates
from tabmtl.encode.read import check_dropped, count_rows
from tabmtl.scale.paths import (
    Paths,
    Stamp,
    check_unchanged,
    find_files,
    is_csv,
    read_blocks,
    scan_file,
    stamp_of,
    whole,
)

#: Rows of a block. Blocks are counted over all files together, so they do not depend on how rows lie in files.
BLOCK_ROWS = 65_536


class Blocks:
    """The rows of files, or of a LazyFrame, which are read in blocks; see `tabmtl.scale.Shards` for the parameters.

    Attributes
    ----------
    files : tuple of str, or None
        None of a LazyFrame.
    cache : Path or None
    dates : bool
    schema : polars.Schema
    """

    def __init__(
        self,
        source: Paths | pl.LazyFrame,
        columns: Sequence[str] | None = None,
        cache: str | PathLike[str] | None = None,
        dates: bool = False,
    ) -> None:
        self.files = None if isinstance(source, pl.LazyFrame) else find_files(source)
        self.cache = None if cache is None else Path(cache)
        self._stamps = self._look()
        found: dict[str | None, pl.LazyFrame]
        found = {None: source} if isinstance(source, pl.LazyFrame) else _scan_alike(self.files or ())
        if columns is not None:
            _check_names("columns", columns, next(iter(found.values())).collect_schema().names())
            found = {file: frame.select(cs.by_name(*columns)) for file, frame in found.items()}
        self.dates = dates
        found = _with_dates(found) if dates else found
        self._frames = found
        self.schema = next(iter(found.values())).collect_schema()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'LazyFrame' if self.files is None else list(self.files)})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._stamps = self._look()  # on another machine, files have other times

    def _look(self) -> dict[str | None, Stamp]:
        return {file: stamp_of(file) for file in self.files or ()}

    def check_unchanged(self) -> None:
        """Raise a ValueError if a file has changed since it was first looked at."""
        for file, since in self._stamps.items():
            check_unchanged(file, since)

    @cached_property
    def n_rows(self) -> int:
        """Number of the rows; counting those of CSV files takes a pass over them."""
        return sum(self._heights)

    @cached_property
    def _heights(self) -> list[int]:
        heights = []
        for file, frame in self._frames.items():
            with whole(file, self._stamps.get(file)):
                heights.append(count_rows(frame))
        return heights

    def blocks(self, names: Sequence[str], rows: range | None = None) -> Iterator[tuple[int, pl.DataFrame]]:
        """Read some columns in blocks of `BLOCK_ROWS` rows, in order, each with the number of its first row.

        With a range of rows only these are read.
        """
        start = 0 if rows is None else rows.start
        kept = pl.DataFrame(schema={name: self.schema[name] for name in names})
        for part in self._parts(names, rows):
            frame = part if kept.is_empty() else pl.concat([kept, part])
            whole = frame.height // BLOCK_ROWS * BLOCK_ROWS
            for first in range(0, whole, BLOCK_ROWS):
                yield start + first, frame[first : first + BLOCK_ROWS]
            start, kept = start + whole, frame[whole:]
        if kept.height:
            yield start, kept

    def scan(self, names: Sequence[str]) -> pl.LazyFrame:
        """Scan some columns of all rows, in order."""
        return pl.concat([frame.select(cs.by_name(*names)) for frame in self._frames.values()])

    def _parts(self, names: Sequence[str], rows: range | None) -> Iterator[pl.DataFrame]:
        ends = accumulate(self._heights)
        for (file, frame), height, end in zip(self._frames.items(), self._heights, ends, strict=True):
            first, last = (end - height, end) if rows is None else (max(rows.start, end - height), min(rows.stop, end))
            if first < last:  # one by one: each takes memory
                own = frame if rows is None else frame.slice(first - (end - height), last - first)
                scan, since = own.select(cs.by_name(*names)), self._stamps.get(file)
                yield from read_blocks(scan, file, BLOCK_ROWS, promised=last - first, since=since)

    def place_of(self, row: int) -> tuple[int, str | None]:
        """Return the number of a row in its file, and the file; None of a LazyFrame."""
        ends = [*accumulate(self._heights)]
        place = bisect_right(ends, row)
        return row - ends[place] + self._heights[place], [*self._frames][place]

    def share_of_blocks(self, group: Ranks) -> range:
        """Return the rows of this rank's share of the blocks of a group."""
        blocks = share_of(group, -(-self.n_rows // BLOCK_ROWS))
        return range(blocks.start * BLOCK_ROWS, blocks.stop * BLOCK_ROWS)

    def check_same(self, group: Ranks) -> None:
        """Raise a ValueError if ranks of a group have different files; folders and times may differ."""
        files = None if self.files is None else [Path(file).name for file in self.files]
        types = [f"{name}: {dtype}" for name, dtype in self.schema.items()]
        facts = {"the list of files": files, "the number of rows of each file": self._heights}
        check_same(group, facts | {"the list of columns": types})

    def fingerprint(self) -> list[Any] | None:
        """Return names, sizes and times of the files and the columns read; None of a LazyFrame, which has none."""
        if self.files is None or any("://" in file for file in self.files):
            return None
        stats = [(str(Path(file).resolve()), Path(file).stat()) for file in self.files]
        types = [[name, str(dtype)] for name, dtype in self.schema.items()]
        return [types, *([name, stat.st_size, stat.st_mtime_ns] for name, stat in stats)]


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Names of the columns of `Shards` by what they are to a fit.

    Attributes
    ----------
    features : tuple of str
        Columns of X, the one of tasks among them.
    targets : tuple of str
    flat : bool
        Whether the one target was named alone, and not in a list.
    weight, groups, time : str or None
    """

    features: tuple[str, ...]
    targets: tuple[str, ...]
    flat: bool
    weight: str | None = None
    groups: str | None = None
    time: str | None = None

    @classmethod
    def of(
        cls, shards: Blocks, y: Any, sample_weight: Any = None, groups: Any = None, time: Any = None, what: str = "y"
    ) -> Roles:
        """Check the names that fit was given; ``what`` is the name of y in errors.

        Raises
        ------
        TypeError, ValueError
            If a value is no name, or there is no such column; the message names the cure.
        """
        targets = [y] if isinstance(y, str) else y
        if not (isinstance(targets, list | tuple) and targets and all(isinstance(name, str) for name in targets)):
            raise TypeError(
                f"with Shards as X, {what} is the name of a column, or a list of names; got {type(y).__name__}"
            )
        known = shards.schema.names()
        _check_names(what, targets, known)
        for name, value in (("sample_weight", sample_weight), ("groups", groups), ("time", time)):
            if value is not None and not isinstance(value, str):
                raise TypeError(f"with Shards as X, {name} is the name of a column; got {type(value).__name__}")
            _check_names(name, [] if value is None else [value], known)
        for name, value in (("sample_weight", sample_weight), ("time", time)):
            if value in targets:
                raise ValueError(f"{name} names {value!r}, which is a target; name another column")
        features = tuple(name for name in known if name not in targets and name != sample_weight)
        return cls(
            features=features,
            targets=tuple(targets),
            flat=isinstance(y, str),
            weight=sample_weight,
            groups=groups,
            time=time,
        )

    def without(self, dropped: Sequence[str]) -> Roles:
        """Return the roles without features that are dropped; groups and times may be some of them."""
        targets = [name for name in dropped if name in self.targets]
        if targets:
            raise ValueError(
                f"columns ignores targets: {targets}; targets are no features, so leave them out of columns"
            )
        check_dropped(dropped, self.features)
        return replace(self, features=tuple(name for name in self.features if name not in dropped))

    def like(self, others: Roles, shards: Blocks) -> Roles:
        """Return the roles of validation rows with the features of training rows, in spite of further columns."""
        if set(self.targets) != set(others.targets):
            raise ValueError(
                f"y_val names the targets {list(self.targets)}, y {list(others.targets)}; name the same ones"
            )
        lacking = [name for name in others.features if name not in shards.schema.names()]
        if lacking:
            raise ValueError(f"X_val lacks columns of X: {lacking[:10]}; give its files the same columns")
        return replace(others, weight=None, groups=self.groups, time=None)

    def names(self) -> list[str]:
        """Return the columns to read."""
        others = [name for name in (self.weight, self.groups, self.time) if name is not None]
        return list(dict.fromkeys([*self.features, *self.targets, *others]))


def share_of(group: Ranks, n: int) -> range:
    """Return this rank's share of the numbers below n: a range next to those of its neighbours."""
    return range(n * group.rank // group.size, n * (group.rank + 1) // group.size)


def row_keys(numbers: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return a random key, uint64, of every row number (n,): splitmix64, which makes distinct keys of distinct numbers.

    Examples
    --------
    >>> row_keys(np.arange(2)).tolist()
    [16294208416658607535, 7960286522194355700]
    """
    keys = numbers.astype(np.uint64) + np.uint64(seed % 2**32) * np.uint64(2**32)
    keys = (keys + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def _check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    check_known(f"{what} names columns", names, known, "the table")
    twice = [name for name in names if list(names).count(name) > 1]
    if twice:
        raise ValueError(f"{what} names {twice[0]!r} twice; name every column once")


def _with_dates(frames: Mapping[str | None, pl.LazyFrame]) -> dict[str | None, pl.LazyFrame]:
    """Return scans of files with text of CSV read as the dates that it says."""
    found = find_text_dates(*(frame for file, frame in frames.items() if file is not None and is_csv(file)))
    return {file: with_dates(frame, found) for file, frame in frames.items()}


def _scan_alike(files: Sequence[str]) -> dict[str | None, pl.LazyFrame]:
    """Scan the files that have rows; numbers of several types become those of the widest."""
    scans: dict[str | None, pl.LazyFrame] = {file: scan_file(file) for file in files}
    schemas = {}
    empty = set()
    for file, scan in scans.items():
        with whole(file):
            schemas[file] = scan.collect_schema()
            if scan.head(1).collect().is_empty():
                empty.add(file)
    first = schemas[files[0]]
    for file, schema in schemas.items():
        differ = sorted(set(first) ^ set(schema))
        if differ:
            raise ValueError(
                f"{file} and {files[0]} differ in the columns {differ[:10]}; write all files with the same columns"
            )
        for name, dtype in schema.items():
            is_number = dtype.is_numeric() and first[name].is_numeric()
            if dtype != first[name] and not is_number and pl.Null not in (dtype, first[name]):
                raise TypeError(
                    f"column {name!r} is {dtype} in {file} and {first[name]} in {files[0]}; write it with one type"
                )
    if empty and len(empty) < len(files):
        such = next(file for file in files if file in empty)
        warn_user(f"{len(empty)} of {len(files)} files hold no row, such as {such}; they are skipped")
        scans = {file: scan for file, scan in scans.items() if file not in empty}
    scans = {file: scan.select(cs.by_name(*first.names())) for file, scan in scans.items()}
    types = pl.concat(scans.values(), how="vertical_relaxed").collect_schema()
    return {file: scan.cast(types) if scan.collect_schema() != types else scan for file, scan in scans.items()}
