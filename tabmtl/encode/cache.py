"""Encoded rows on a disk: the arrays of a `Batch` as files, written block by block and read by memory maps."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs

from tabmtl.encode.shards import Roles, Shards
from tabmtl.encode.table import TableCoder, weight_factors, weight_sums
from tabmtl.schema import Batch, TabmtlWarning, warn_user
from tabmtl.storage.atomic import locked, read_file, replaced, write_file
from tabmtl.storage.stored import take_apart

FORMAT = 1
MANIFEST = "shards.json"  # not that of a model, whose folder somebody may name by mistake
#: Rows that are read together; see `StoredRows`.
CHUNK_ROWS = 1_024

_HEADER_BYTES = 128  # of every array, however many rows it turns out to have
_SPLIT_ROWS = 262_144  # rows looked at together
_MOST_MANIFEST = 2**24  # bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Cache:
    """Encoded rows of shards, as `TableCoder.read` would give them.

    Attributes
    ----------
    coder : TableCoder
    arrays : dict of str to ndarray
        Memory maps: ``x_num``, ``x_cat``, ``y``; ``weight`` (n,), not normalised; ``task`` (n,);
        ``group`` (n,), a hash.
    factors : ndarray of float64, shape (T,), or None
        Factors that normalise the weights.
    """

    coder: TableCoder
    arrays: dict[str, np.ndarray]
    factors: np.ndarray | None

    def __len__(self) -> int:
        return len(self.arrays["y"])

    def read(self, rows: slice | np.ndarray) -> Batch:
        """Read rows into memory."""
        found = {name: array[rows] for name, array in self.arrays.items()}
        if isinstance(rows, slice):  # which is a view of the disk
            found = {name: array.copy() for name, array in found.items()}
        return self._batch(found)

    def view(self) -> Batch:
        """Return all rows; features and labels stay on the disk."""
        return self._batch(self.arrays)

    def _batch(self, arrays: Mapping[str, np.ndarray]) -> Batch:
        task = arrays["task"].astype(np.int64) if "task" in arrays else None
        y, weight = arrays["y"], None
        if self.factors is not None:
            factors = self.factors if task is None else self.factors[task, None]
            weight = np.where(np.isnan(y), 0.0, arrays["weight"][:, None]) * factors
        return Batch(x_num=arrays["x_num"], x_cat=arrays["x_cat"], y=y, weight=weight, task=task)


class StoredRows:
    """Rows of a cache that a fit learns from, or that it sets aside: their batches, in memory when they are asked for.

    Rows lie in chunks of `CHUNK_ROWS` rows of the cache, of which some may belong to others.

    Parameters
    ----------
    cache : Cache
    chosen : ndarray of bool, shape (n,), optional
        Rows of the cache that belong to these; None for all.
    """

    def __init__(self, cache: Cache, chosen: np.ndarray | None = None) -> None:
        self.cache = cache
        self._chosen = np.ones(len(cache), dtype=bool) if chosen is None else chosen
        starts = np.arange(0, len(cache), CHUNK_ROWS)
        self.counts = np.add.reduceat(self._chosen, starts, dtype=np.int64) if len(cache) else starts
        self._ends = np.cumsum(self.counts)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def chunk(self, number: int) -> Batch:
        """Read the rows of a chunk, counted from 0."""
        return self._read(number * CHUNK_ROWS, (number + 1) * CHUNK_ROWS)

    def batches(self, n_rows: int = 64 * CHUNK_ROWS) -> Iterator[Batch]:
        """Read all rows in order, those of so many rows of the cache at a time."""
        for start in range(0, len(self.cache), n_rows):
            batch = self._read(start, start + n_rows)
            if len(batch):
                yield batch

    def mapped(self) -> Batch:
        """Return all rows as a batch, whose features and labels stay on the disk if all rows of the cache are meant."""
        arrays = self.cache.arrays
        if not self._chosen.all():
            return self.cache.read(np.flatnonzero(self._chosen))
        group = arrays["group"].astype(np.int64) if "group" in arrays else None
        return replace(self.cache.view(), group=group)

    def spread(self, n: int) -> Batch:
        """Read n rows, or all if there are fewer, spread evenly over all."""
        n = min(n, len(self))
        places = np.arange(n) * len(self) // n
        chunks = np.searchsorted(self._ends, places, side="right")
        rows = np.empty(n, dtype=np.int64)
        for number in np.unique(chunks):
            own = chunks == number
            start = number * CHUNK_ROWS
            present = np.flatnonzero(self._chosen[start : start + CHUNK_ROWS])
            rows[own] = start + present[places[own] - (self._ends[number] - self.counts[number])]
        return self.cache.read(rows)

    def choose(self, chosen: np.ndarray) -> StoredRows:
        """Return some of the rows, given which ones, bool (n,) in their order."""
        own = self._chosen.copy()
        own[own] = chosen
        return StoredRows(self.cache, own)

    @cached_property
    def n_labels(self) -> np.ndarray:
        """Number of labels per task, (T,)."""
        return self._sums[0]

    @cached_property
    def labelled_weight(self) -> np.ndarray:
        """Sum of the weights of labels per task, (T,)."""
        return self._sums[1]

    @cached_property
    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        n_tasks = len(self.cache.coder.labels.tasks)
        counts, weights = np.zeros(n_tasks, dtype=np.int64), np.zeros(n_tasks)
        for start in range(0, len(self.cache), _SPLIT_ROWS):
            y, task, weight = self._labels(start, start + _SPLIT_ROWS)
            batch = Batch(x_num=y, x_cat=None, y=y, task=task, weight=(~np.isnan(y)).astype(float))
            counts += weight_sums(batch, n_tasks)[0].astype(np.int64)
            if weight is not None:
                batch = replace(batch, weight=np.where(np.isnan(y), 0.0, weight[:, None]))
            weights += weight_sums(batch, n_tasks)[1]
        factors = self.cache.factors
        return counts, weights if factors is None else weights * factors

    def _labels(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        chosen, arrays = self._chosen[start:stop], self.cache.arrays
        y, task, weight = (
            arrays[name][start:stop][chosen] if name in arrays else None for name in ("y", "task", "weight")
        )
        return np.asarray(y), task, weight

    def _read(self, start: int, stop: int) -> Batch:
        chosen = self._chosen[start:stop]
        if chosen.all():
            return self.cache.read(slice(start, stop))
        return self.cache.read(start + np.flatnonzero(chosen))


@contextmanager
def encoded(shards: Shards, roles: Roles, coder: TableCoder) -> Iterator[Cache]:
    """Encode shards, or find them encoded in their folder; a temporary folder ends with the context."""
    with ExitStack() as stack:
        if shards.cache is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tabmtl-")))
        else:
            folder = shards.cache
            folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(folder))
        wanted = _describe(shards, roles, coder)
        manifest = _read_manifest(folder, wanted)
        if manifest is None:
            with suppress(FileNotFoundError):
                (folder / MANIFEST).unlink()
            manifest = wanted | _write(folder, shards, roles, coder)
            write_file(folder / MANIFEST, json.dumps(manifest).encode())
        cache = _open(folder, manifest, coder)
        if shards.cache is not None:
            stack.pop_all().close()  # the lock; files that are replaced live on where they are open
        yield cache


def _describe(shards: Shards, roles: Roles, coder: TableCoder) -> dict[str, Any]:
    """Describe what an encoding depends on, as JSON reads it again."""
    saved = take_apart(coder)
    digest = hashlib.sha256(json.dumps(saved.facts, sort_keys=True).encode())
    for name, array in sorted(saved.arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    own = {"features": roles.features, "targets": roles.targets, "weight": roles.weight, "groups": roles.groups}
    facts = {"format": FORMAT, "coder": digest.hexdigest(), "source": shards.fingerprint(), "roles": own}
    return json.loads(json.dumps(facts))


def _read_manifest(folder: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of a whole cache of the same rows and encoding; None if there is none."""
    if wanted["source"] is None:
        return None
    try:
        manifest = json.loads(read_file(folder / MANIFEST, most=_MOST_MANIFEST))
        if {name: manifest[name] for name in wanted} != wanted:
            return None
        sizes = {name: (folder / f"{name}.npy").lstat().st_size for name in manifest["arrays"]}
        return manifest if sizes == manifest["arrays"] else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _open(folder: Path, manifest: dict[str, Any], coder: TableCoder) -> Cache:
    arrays = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in manifest["arrays"]}
    factors = manifest["factors"]
    return Cache(coder=coder, arrays=arrays, factors=None if factors is None else np.array(factors))


def _write(folder: Path, shards: Shards, roles: Roles, coder: TableCoder) -> dict[str, Any]:
    """Write the arrays beside those of an older cache; return their sizes, and the factors of weights."""
    writers: dict[str, _Writer] = {}
    sums: list[tuple[np.ndarray, np.ndarray]] = []
    with ExitStack() as stack, _one_warning():
        for _, block in shards.blocks(roles.names()):
            batch = _encode(block, roles, coder)
            if roles.weight is not None:
                sums.append(weight_sums(batch, len(coder.labels.tasks)))
            for name, array in _arrays(batch, block, roles).items():
                if name not in writers:
                    stream = stack.enter_context(_opened(stack.enter_context(replaced(folder / f"{name}.npy"))))
                    writers[name] = _Writer(stream, array)
                writers[name].add(array)
        for writer in writers.values():
            writer.finish()
    factors = None
    if roles.weight is not None:
        counts = np.sum([count for count, _ in sums], axis=0)
        totals = [math.fsum(column) for column in np.array([total for _, total in sums]).T]
        factors = weight_factors(counts, np.array(totals)).tolist()
    return {"arrays": {name: writer.n_bytes for name, writer in writers.items()}, "factors": factors}


def _encode(block: pl.DataFrame, roles: Roles, coder: TableCoder) -> Batch:
    X = block.select(cs.by_name(*coder.names))
    weight = None if roles.weight is None else block[roles.weight].to_numpy()
    return coder.read_block(X, block.select(cs.by_name(*roles.targets)), weight)


def _arrays(batch: Batch, block: pl.DataFrame, roles: Roles) -> dict[str, np.ndarray]:
    arrays = {"x_num": batch.x_num, "x_cat": batch.x_cat, "y": batch.y}
    if batch.task is not None:
        arrays["task"] = batch.task.astype(np.int32)
    if roles.weight is not None:
        arrays["weight"] = block[roles.weight].cast(pl.Float64).to_numpy()
    if roles.groups is not None:
        arrays["group"] = _group_hashes(block[roles.groups], roles.groups)
    return arrays


def _group_hashes(series: pl.Series, name: str) -> np.ndarray:
    """Return a hash, uint32, of every row's group; groups of one hash are set aside together, which does no harm."""
    texts = series.to_frame("group").select(pl.col("group").cast(pl.String)).to_series()
    if texts.null_count():
        raise ValueError(
            f"the column {name!r} of groups has missing values; give every row a group, an unknown one a group of its "
            "own"
        )
    return np.fromiter((zlib.crc32(text.encode()) for text in texts), dtype=np.uint32, count=len(texts))


@contextmanager
def _opened(file: Path) -> Iterator[BufferedWriter]:
    with file.open("xb") as stream:
        yield stream


class _Writer:
    """Writer of an array of unknown length in numpy's format."""

    def __init__(self, stream: BufferedWriter, like: np.ndarray) -> None:
        self._stream, self._like, self._rows = stream, like, 0
        stream.write(b" " * _HEADER_BYTES)

    def add(self, array: np.ndarray) -> None:
        self._stream.write(array.tobytes())
        self._rows += len(array)

    def finish(self) -> None:
        shape = (self._rows, *self._like.shape[1:])
        facts = {"descr": np.lib.format.dtype_to_descr(self._like.dtype), "fortran_order": False, "shape": shape}
        text = repr(facts).encode().ljust(_HEADER_BYTES - 11) + b"\n"
        self._stream.seek(0)
        self._stream.write(np.lib.format.magic(1, 0) + len(text).to_bytes(2, "little") + text)
        self._stream.flush()
        self.n_bytes = _HEADER_BYTES + math.prod(shape) * self._like.dtype.itemsize


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
