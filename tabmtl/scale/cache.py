"""Encoded rows on a disk: the arrays of a `Batch` as files, written block by block and read by memory maps."""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from io import BufferedWriter
from pathlib import Path
from shutil import rmtree
from typing import Any, Self

import numpy as np
import polars as pl
import polars.selectors as cs

from tabmtl.base.ranks import ALONE, Ranks
from tabmtl.base.schema import Batch, TabmtlWarning, warn_user
from tabmtl.base.storage.atomic import (
    is_real_folder,
    locked,
    read_file,
    remove_left,
    replaced,
    sync_file,
    sync_folder,
    write_file,
)
from tabmtl.base.storage.persist import json_checksum
from tabmtl.base.storage.stored import fingerprint
from tabmtl.columns import Features
from tabmtl.columns.kind import RowError
from tabmtl.columns.ragged import offsets_of
from tabmtl.encode.class_factors import NO_FACTORS, ClassFactors
from tabmtl.encode.table import TableCoder, weight_factors, weight_sums
from tabmtl.encode.times import as_numbers, check_time, describe_time
from tabmtl.metrics.scores import is_by_group
from tabmtl.scale.blocks import Blocks, Roles, share_of
from tabmtl.scale.paths import written

logger = logging.getLogger(__name__)

FORMAT = 7
MANIFEST = "shards.json"  # not that of a model, whose folder somebody may name by mistake
#: Rows that are read together; see `StoredRows`.
CHUNK_ROWS = 1_024
#: Ranges of chunks that rows are dealt to, the lanes; more ranks than these have one each.
LANES = 16

_SPLIT_ROWS = 262_144  # rows looked at together
_SUMMED_BYTES = 2**22  # read at a time
_MOST_MANIFEST = 2**24  # bytes
_TEMPORARY = "tabmtl-rows-"
_written = partial(written, "the encoded rows")
_LEFT_SECONDS = 60  # after which a temporary folder that nobody has locked belongs to no fit that begins


@dataclass(frozen=True, kw_only=True, eq=False)
class Cache:
    """Encoded rows of shards, as `TableCoder.read` would give them.

    Attributes
    ----------
    coder : TableCoder
    arrays : dict of str to ndarray
        Memory maps: those of features, see `tabmtl.columns.Features.of`; ``y``; ``weight`` (n,), not normalised;
        ``task`` (n,); ``group`` (n,), a hash, which rows have if metrics by group need it; ``time`` (n,).
    factors : ndarray of float64, shape (T,), or None
        Factors that normalise the weights.
    start : int
        Number of the first row. In a group, each rank has a range of the rows: those of its lanes.
    group : Ranks
    of_classes : ClassFactors
        Factors that the weights have of the classes.
    """

    coder: TableCoder
    arrays: dict[str, np.ndarray]
    factors: np.ndarray | None
    start: int = 0
    group: Ranks = ALONE
    of_classes: ClassFactors = NO_FACTORS

    def __len__(self) -> int:
        return len(self.arrays["y"])

    def labels(self) -> Iterator[Batch]:
        """Read labels, weights and tasks of all rows, block by block, and no features."""
        for start in range(0, len(self), _SPLIT_ROWS):
            yield self._labels(slice(start, start + _SPLIT_ROWS))

    def read(self, rows: slice | np.ndarray) -> Batch:
        """Read rows into memory."""
        batch = replace(self._labels(rows), x=self._features.rows(rows))
        return batch.map(np.copy) if isinstance(rows, slice) else batch  # a slice is a view of the disk

    def view(self) -> Batch:
        """Return all rows; features and labels stay on the disk."""
        return replace(self._labels(slice(None)), x=self._features)

    @cached_property
    def _features(self) -> Features:
        return Features.of(dict(self.arrays))

    def _labels(self, rows: slice | np.ndarray) -> Batch:
        """Return labels, weights and tasks of rows."""
        arrays = {name: self.arrays[name][rows] for name in ("y", "weight", "task") if name in self.arrays}
        task = arrays["task"].astype(np.int64) if "task" in arrays else None
        y, weight = arrays["y"], None
        if self.factors is not None:
            factors = self.factors if task is None else self.factors[task, None]
            weight = np.where(np.isnan(y), 0.0, arrays["weight"][:, None]) * factors
        group = self.arrays["group"][rows].astype(np.int64) if self._has_group else None
        return self.of_classes.weighed(Batch(x=None, y=y, weight=weight, task=task, group=group))

    @cached_property
    def _has_group(self) -> bool:
        return "group" in self.arrays and any(map(is_by_group, self.coder.labels.tasks))


class StoredRows:
    """Rows of a cache that a fit learns from, or that it sets aside: their batches, in memory when they are asked for.

    Rows lie in chunks of `CHUNK_ROWS` rows of the cache, of which some may belong to others. In a group, each rank has
    the chunks of its lanes, and numbers are those of all ranks together, unless they are said to be of this one.

    Parameters
    ----------
    cache : Cache
    chosen : ndarray of bool, shape (n,), optional
        Rows of the cache that belong to these; None for all.

    Attributes
    ----------
    counts : ndarray of int64
        Number of rows in every chunk.
    lane_edges : ndarray of int64, shape (L + 1,)
        Lane v has the chunks from ``lane_edges[v]`` up to ``lane_edges[v + 1]``.
    lanes : range
        Lanes of this rank.
    n_labels : ndarray of shape (T,)
        Number of labels per task.
    labelled_weight : ndarray of shape (T,)
        Sum of the weights of labels per task.
    """

    def __init__(self, cache: Cache, chosen: np.ndarray | None = None) -> None:
        self.cache, self.group = cache, cache.group
        self._chosen = np.ones(len(cache), dtype=bool) if chosen is None else chosen
        starts = np.arange(0, len(self._chosen), CHUNK_ROWS)
        own = np.add.reduceat(self._chosen, starts, dtype=np.int64) if len(starts) else starts
        self.counts = np.concatenate(self.group.gather(own))
        self.lane_edges, self.lanes = deal_lanes(len(self.counts), self.group)
        self._ends = np.cumsum(self.counts)
        self.n_labels, self.labelled_weight = self._sum_labels()

    def __len__(self) -> int:
        return int(self.counts.sum())

    def check_dealt(self) -> None:
        """Raise a ValueError if a rank has no row."""
        ends = np.concatenate([[0], self._ends])[self.lane_edges]
        n_lanes, size = len(ends) - 1, self.group.size
        own = [int(ends[n_lanes * (r + 1) // size] - ends[n_lanes * r // size]) for r in range(size)]
        if not all(own):
            raise ValueError(
                f"{len(self)} rows are too few for {size} processes, which take whole blocks of {CHUNK_ROWS} rows: "
                f"rank {own.index(0)} has none; start fewer processes"
            )

    def chunk(self, number: int) -> Batch:
        """Read the rows of a chunk of this rank, counted from 0 through all ranks."""
        start = number * CHUNK_ROWS - self.cache.start
        return self._read(start, start + CHUNK_ROWS)

    def batches(self, n_rows: int = 64 * CHUNK_ROWS) -> Iterator[Batch]:
        """Read the rows of this rank in order, those of so many rows of the cache at a time."""
        for start in range(0, len(self.cache), n_rows):
            batch = self._read(start, start + n_rows)
            if len(batch):
                yield batch

    def none(self) -> Batch:
        """Return a batch without rows."""
        return self.cache.read(slice(0))

    def read(self) -> Batch:
        """Return the rows of this rank as a batch; if they are all of its cache, they stay on the disk."""
        arrays = self.cache.arrays
        if not self._chosen.all():
            return self.cache.read(np.flatnonzero(self._chosen))
        group = arrays["group"].astype(np.int64) if "group" in arrays else None
        return replace(self.cache.view(), group=group, time=arrays.get("time"))

    def some(self, n: int) -> Batch:
        """Read n rows, or all if there are fewer, spread evenly over all."""
        n = min(n, len(self))
        return self.at(np.arange(n) * len(self) // n)

    def at(self, places: np.ndarray) -> Batch:
        """Read rows by their places (n,) among all, in order; all ranks get them."""
        chunks = np.searchsorted(self._ends, places, side="right")
        mine = np.isin(chunks, np.arange(self.lane_edges[self.lanes.start], self.lane_edges[self.lanes.stop]))
        places, chunks = places[mine], chunks[mine]
        rows = np.empty(len(chunks), dtype=np.int64)
        for number in np.unique(chunks):
            own = chunks == number
            start = number * CHUNK_ROWS - self.cache.start
            present = np.flatnonzero(self._chosen[start : start + CHUNK_ROWS])
            rows[own] = start + present[places[own] - (self._ends[number] - self.counts[number])]
        own = self.cache.read(rows)
        return Batch.join([own.like(part) for part in self.group.gather(own.arrays())])

    def choose(self, chosen: np.ndarray) -> Self:
        """Return some of the rows, given which ones of this rank, bool (n,) in their order."""
        own = self._chosen.copy()
        own[own] = chosen
        return type(self)(self.cache, own)

    def _sum_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of labels of every task, and the sum of their weights: (T,) each."""
        n_tasks = len(self.cache.coder.labels.tasks)
        counts, weights = np.zeros(n_tasks, dtype=np.int64), np.zeros(n_tasks)
        names = {"y", "task", "weight"} & self.cache.arrays.keys()
        for start in range(0, len(self.cache), _SPLIT_ROWS):
            chosen = self._chosen[start : start + _SPLIT_ROWS]
            own = {name: self.cache.arrays[name][start : start + _SPLIT_ROWS][chosen] for name in names}
            labelled, task = (~np.isnan(own["y"])).astype(float), own.get("task")
            counts += weight_sums(labelled, task, n_tasks)[0].astype(np.int64)
            labelled *= self.cache.of_classes.of(own["y"], task)
            weights += weight_sums(labelled * own["weight"][:, None] if "weight" in own else labelled, task, n_tasks)[1]
        counts, weights = (np.sum(self.group.gather(part), axis=0) for part in (counts, weights))
        factors = self.cache.factors
        return counts, weights if factors is None else weights * factors

    def _read(self, start: int, stop: int) -> Batch:
        chosen = self._chosen[start:stop]
        if chosen.all():
            return self.cache.read(slice(start, stop))
        return self.cache.read(start + np.flatnonzero(chosen))


def deal_lanes(n_chunks: int, group: Ranks) -> tuple[np.ndarray, range]:
    """Deal chunks to lanes, and lanes to ranks; return the edges of the lanes (L + 1,), and the lanes of this rank.

    The lanes are the same for every number of ranks up to `LANES`, and so is the order of the rows in training.
    """
    n_lanes = max(LANES, group.size)
    return np.arange(n_lanes + 1) * n_chunks // n_lanes, share_of(group, n_lanes)


@contextmanager
def encoded(shards: Blocks, roles: Roles, coder: TableCoder, group: Ranks = ALONE) -> Iterator[Cache]:
    """Encode shards, or find them encoded in their folder; see `stored_arrays`.

    Each rank of a group encodes the rows of its lanes.
    """
    rows = None if group.size == 1 else _rows_of_lanes(shards, group)
    wanted = _describe(roles, coder, rows)

    def write(files: ArrayFiles) -> dict[str, Any]:
        return _write(files, shards, roles, coder, rows)

    with stored_arrays(shards, wanted, write, group) as (arrays, _, facts):
        sums, factors, start = facts["weight_sums"], None, 0 if rows is None else rows.start
        if sums is not None:
            counts, totals = np.sum(group.gather(np.array(sums, dtype=np.float64)), axis=0)
            factors = weight_factors(counts, totals, coder.labels.tasks)
        yield Cache(coder=coder, arrays=arrays, factors=factors, start=start, group=group)


@contextmanager
def stored_arrays(
    shards: Blocks, wanted: Mapping[str, Any], write: Callable[[ArrayFiles], Mapping[str, Any]], group: Ranks
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, pl.DataFrame], dict[str, Any]]]:
    """Write arrays to the folder of shards, or find them there; a temporary folder ends with the context.

    Each rank of a group has a folder of its own below that of the cache.

    Parameters
    ----------
    shards : Blocks
    wanted : mapping
        Facts that the arrays depend on, as JSON.
    write : callable
        Writes the files, and returns more facts.
    group : Ranks

    Yields
    ------
    arrays : dict of str to ndarray
        Memory maps of the arrays, by name.
    frames : dict of str to DataFrame
        The small frames among the files.
    facts : dict
        The wanted facts, and those that were returned when the arrays were written.
    """
    wanted = json.loads(json.dumps({"format": FORMAT, "source": shards.fingerprint(), **wanted}))
    with ExitStack() as stack:
        if shards.cache is None:
            _remove_left_rows()
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=_TEMPORARY)))
        else:
            folder = shards.cache if group.size == 1 else shards.cache / f"part-{group.rank + 1}-of-{group.size}"
            folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(folder))
        manifest = _read_manifest(folder, wanted)
        if manifest is None:
            manifest = _replace(folder, shards, wanted, write)
        files = [folder / name for name in manifest["files"]]
        arrays = {file.stem: np.asarray(np.load(file, mmap_mode="r")) for file in files if file.suffix == ".npy"}
        frames = {file.stem: pl.read_parquet(file, glob=False) for file in files if file.suffix == ".parquet"}
        if shards.cache is not None:
            stack.pop_all().close()  # the lock; files that are replaced live on where they are open
        yield arrays, frames, manifest


def _replace(
    folder: Path, shards: Blocks, wanted: Mapping[str, Any], write: Callable[[ArrayFiles], Mapping[str, Any]]
) -> dict[str, Any]:
    """Write the files of a locked folder, and its manifest when they are whole and on the disk; return the manifest."""
    with _written(folder):
        _remove_old(folder)
    with ExitStack() as stack:
        files = ArrayFiles(folder, stack)
        facts = write(files)
        shards.check_unchanged()
        with _written(folder):  # those of before make place when all are written
            files.finish()
            stack.close()
    manifest = {**wanted, **json.loads(json.dumps(facts)), "files": dict.fromkeys(files.names)}
    if shards.cache is not None:
        with _written(folder):
            remove_left(folder, {MANIFEST, *files.names})
            for name in files.names:
                sync_file(folder / name)
            sync_folder(folder)
            manifest["files"] = {name: _checksum(folder / name) for name in files.names}
            write_file(folder / MANIFEST, json.dumps({**manifest, "checksum": json_checksum(manifest)}).encode())
    return manifest


def _remove_old(folder: Path) -> None:
    """Remove a manifest, and the files of its arrays: those of other columns or of another release have other names."""
    names: list[str] = []
    with suppress(OSError, ValueError, LookupError, TypeError):
        names += json.loads(read_file(folder / MANIFEST, most=_MOST_MANIFEST))["files"]
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in map(str, names):
        if name.endswith(".npy") and Path(name).name == name:  # else it was edited
            (folder / name).unlink(missing_ok=True)


def _checksum(file: Path) -> str:
    """Return a checksum of a file, which costs half a second for each GB."""
    found = 0
    with file.open("rb") as stream:
        while content := stream.read(_SUMMED_BYTES):
            found = zlib.crc32(content, found)
    return f"{found:08x}"


def _remove_left_rows() -> None:
    """Remove temporary folders of fits that were killed: those of living ones are locked."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
        with suppress(OSError):  # of other users, or gone
            if time.time() - folder.lstat().st_mtime < _LEFT_SECONDS or not is_real_folder(folder):
                continue
            with locked(folder, wait=False) as is_free:
                if is_free:
                    rmtree(folder)
                    logger.warning("removed the encoded rows that a killed fit has left in %s", folder)


def _rows_of_lanes(shards: Blocks, group: Ranks) -> range:
    """Return the rows of this rank's lanes."""
    edges, lanes = deal_lanes(-(-shards.n_rows // CHUNK_ROWS), group)
    return range(int(edges[lanes.start]) * CHUNK_ROWS, int(edges[lanes.stop]) * CHUNK_ROWS)


def _describe(roles: Roles, coder: TableCoder, rows: range | None) -> dict[str, Any]:
    """Describe what an encoding depends on, besides the files."""
    own = {name: part for name, part in vars(roles).items() if name != "flat"}
    span = None if rows is None else [rows.start, rows.stop]
    return {"coder": fingerprint(coder), "roles": own, "rows": span}


def _read_manifest(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of a whole cache of the same rows and encoding; None if there is none."""
    if wanted["source"] is None:
        return None
    try:
        manifest = json.loads(read_file(folder / MANIFEST, most=_MOST_MANIFEST))
        if {name: manifest[name] for name in wanted} != wanted:
            return None
        is_edited = manifest.pop("checksum") != json_checksum(manifest)
        if not is_edited and {name: _checksum(folder / name) for name in manifest["files"]} == manifest["files"]:
            return manifest
        logger.warning("the files in %s were edited or damaged, and are written again", folder)
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _write(files: ArrayFiles, shards: Blocks, roles: Roles, coder: TableCoder, rows: range | None) -> dict[str, Any]:
    """Write the arrays of a `Cache`; return numbers and sums of the weights."""
    sums: list[tuple[np.ndarray, np.ndarray]] = []
    with _one_warning():
        is_empty = rows is not None and not len(rows)
        for start, block in shards.blocks(roles.names(), range(1) if is_empty else rows):
            try:
                batch = _encode(block, roles, coder)
            except RowError as error:
                raise error.at(*shards.place_of(start + error.row)) from error
            if is_empty:  # a rank without rows of few validation rows
                block, batch = block.clear(), batch.rows(slice(0))
            if roles.weight is not None:
                sums.append(weight_sums(batch.weight, batch.task, len(coder.labels.tasks)))
            for name, array in _arrays(batch, block, roles).items():
                if name.endswith("-lengths"):
                    files.add_ranges(f"{name.removesuffix('lengths')}offsets", array)
                else:
                    files.add(name, array)
    of_weights = None
    if roles.weight is not None:
        counts = np.sum([count for count, _ in sums], axis=0)
        of_weights = counts.tolist(), [math.fsum(column) for column in np.array([total for _, total in sums]).T]
    return {"weight_sums": of_weights}


def _encode(block: pl.DataFrame, roles: Roles, coder: TableCoder) -> Batch:
    X = block.select(cs.by_name(*coder.names))
    weight = None if roles.weight is None else block[roles.weight].to_numpy()
    return coder.read_block(X, block.select(cs.by_name(*roles.targets)), weight)


def _arrays(batch: Batch, block: pl.DataFrame, roles: Roles) -> dict[str, np.ndarray]:
    arrays = {**batch.x.arrays(), "y": batch.y}
    if batch.task is not None:
        arrays["task"] = batch.task.astype(np.int32)
    if roles.weight is not None:
        arrays["weight"] = block[roles.weight].cast(pl.Float64).to_numpy()
    if roles.groups is not None:
        arrays["group"] = group_hashes(block[roles.groups], roles.groups)
    if roles.time is not None:
        check_time(block[roles.time], describe_time(roles.time))
        arrays["time"] = as_numbers(block[roles.time])
    return arrays


def group_hashes(series: pl.Series, name: str) -> np.ndarray:
    """Return a hash, uint32, of every row's group.

    Groups of one hash are set aside together, and scored as one, which does no harm: of 100 000 two may be.
    """
    texts = series.to_frame("group").select(pl.col("group").cast(pl.String)).to_series()
    if texts.null_count():
        raise ValueError(
            f"the column {name!r} of groups has missing values; give every row a group, an unknown one a group of its "
            "own"
        )
    return np.fromiter((zlib.crc32(text.encode()) for text in texts), dtype=np.uint32, count=len(texts))


class ArrayFiles:
    """Files that are written to a folder, beside those of before.

    Parameters
    ----------
    folder : Path
    stack : ExitStack
        Puts them in their places.

    Attributes
    ----------
    names : list of str
        Names of all files.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.names: list[str] = []
        self._stack = stack
        self._arrays: dict[str, _Writer] = {}
        self._ends: dict[str, int] = {}

    def finish(self) -> None:
        """Write the headers of all arrays."""
        for writer in self._arrays.values():
            writer.finish()

    def add(self, name: str, array: np.ndarray) -> None:
        """Append rows to an array."""
        with _written(self.folder):
            if name not in self._arrays:
                beside = self._beside(f"{name}.npy")
                self._arrays[name] = _Writer(self._stack.enter_context(beside.open("xb")), array)
            self._arrays[name].add(array)

    def add_ranges(self, name: str, lengths: np.ndarray) -> None:
        """Append the ends of ranges, by their lengths, to an array that begins with 0."""
        offsets = self._ends.get(name, 0) + offsets_of(lengths)
        self.add(name, offsets[1:] if name in self._ends else offsets)
        self._ends[name] = int(offsets[-1])

    def add_frame(self, name: str, frame: pl.DataFrame) -> None:
        """Write a small frame."""
        with _written(self.folder):
            frame.write_parquet(self._beside(f"{name}.parquet"))

    def _beside(self, name: str) -> Path:
        self.names.append(name)
        return self._stack.enter_context(replaced(self.folder / name))


class _Writer:
    """Writer of an array of unknown length in numpy's format."""

    def __init__(self, stream: BufferedWriter, like: np.ndarray) -> None:
        self._stream, self._like, self._rows = stream, like, 0
        self.finish()

    def add(self, array: np.ndarray) -> None:
        self._stream.write(array.tobytes())
        self._rows += len(array)

    def finish(self) -> None:
        """Write the header, in which numpy leaves room for any number of rows."""
        shape = (self._rows, *self._like.shape[1:])
        facts = {"descr": np.lib.format.dtype_to_descr(self._like.dtype), "fortran_order": False, "shape": shape}
        self._stream.seek(0)
        np.lib.format.write_array_header_1_0(self._stream, facts)


@contextmanager
def _one_warning() -> Iterator[None]:
    """Give the first of the package's warnings inside, which every block would repeat with its own counts."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    own: Sequence[Any] = [one for one in caught if issubclass(one.category, TabmtlWarning)]
    for one in caught:
        if one not in own:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if own:
        more = f" (in a block of rows; {len(own) - 1} more blocks have such rows)" if len(own) > 1 else ""
        warn_user(f"{own[0].message}{more}")
