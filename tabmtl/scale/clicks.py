"""Click logs on a disk: dealt by session to parts that fit in memory, and kept as ragged arrays of item codes.

A session goes to a lane, one of 16, by a hash of its name, and a lane to a rank. So a rank has whole sessions, and
which ones depends neither on the files nor, up to 16, on the number of ranks. The sessions of a lane lie in chunks,
which windows of training mix.

Where a fit must look at sessions in memory, to stop early for one, it looks at a sample of whole sessions, those with
the least of random keys. It is the same for every number of ranks; with no more sessions than it may hold, it is all.
"""

from __future__ import annotations

import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import numpy as np
import polars as pl
import polars.selectors as cs
import torch

from tabmtl.base.ranks import Ranks
from tabmtl.columns.ragged import offsets_of, ranges
from tabmtl.encode.read import count_rows
from tabmtl.scale.blocks import Blocks, row_keys, share_of
from tabmtl.scale.cache import LANES, ArrayFiles, stored_arrays
from tabmtl.scale.paths import whole, written
from tabmtl.scale.windows import deal_windows
from tabmtl.sessions.catalogue import plain_names
from tabmtl.sessions.log import LogColumns, check_roles, code_items, group_log, read_log
from tabmtl.sessions.m2trec.events import warn_of_absent, weigh_events
from tabmtl.sessions.m2trec.training import SORTED_STEPS, Examples, Step
from tabmtl.sessions.ragged import Sessions
from tabmtl.training.checkpoint import checksum
from tabmtl.training.device import seed_of
from tabmtl.training.table_loop import step_rows

#: Sessions that are read together.
CHUNK_SESSIONS = 1_024
#: Sessions in the sample that stands for all.
SAMPLE_SESSIONS = 200_000

_PART_CLICKS = 500_000  # of a part, about
_ROW_GROUP = 8_192  # clicks of a part that are held in memory until they are written
_BLOCK_CHUNKS = 64
_WINDOW_CHUNKS = 16  # of every lane, so a window has about 260 000 sessions
_SHOWN_EVENTS = 10
_MOST_CLICKS = 2**32 - 1  # row numbers of polars
_LEFT_SECONDS = 86_400.0  # after which nobody writes to a folder any more
_ROW, _PART = "tabmtl:row", "tabmtl:part"
_ITEMS = "items_clicked"


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredLog:
    """Sessions of this rank's lanes.

    Attributes
    ----------
    arrays : dict of str to ndarray
        Memory maps. By click: ``items`` (n,), the place of its item in `clicked`, from 1, and ``weights`` (n,), if
        events have any. By session, lane after lane: ``offsets`` (S + 1,); ``first`` (S,), the number of its first row
        in the log, which names it; and ``ends`` (S,), the time of its last click, 0 without times.
    lane_sizes : ndarray of int64, shape (l,)
        Number of sessions in every lane.
    clicked : polars.DataFrame
        Column ``item``, the items that were clicked in these lanes, and ``count``.
    has_times : bool
    group : Ranks
    """

    arrays: dict[str, np.ndarray]
    lane_sizes: np.ndarray
    clicked: pl.DataFrame
    has_times: bool
    group: Ranks

    def count_clicks(self) -> pl.DataFrame:
        """Count the clicks of every clicked item, on all ranks: columns ``item`` and ``count``."""
        parts = self.group.gather(self.clicked)
        return pl.concat(parts).group_by("item").agg(pl.col("count").sum()).sort("item")

    def sessions(self, catalogue: pl.Series) -> StoredSessions:
        """Return all sessions, with the codes of a catalogue, which may lack some of their items."""
        code = np.append(0, code_items(self.clicked["item"], catalogue)).astype(np.int32)
        return StoredSessions(self, code, self._sample(code))

    def _sample(self, code: np.ndarray) -> Sessions:
        """Read the sessions of all ranks with the least keys."""
        first = self.arrays["first"]
        least = np.zeros(0, dtype=np.int64)
        for start in range(0, len(first), SAMPLE_SESSIONS):
            some = np.concatenate([least, np.arange(start, min(start + SAMPLE_SESSIONS, len(first)))])
            least = some[np.argsort(row_keys(first[some]))[:SAMPLE_SESSIONS]]
        own = row_keys(first[least])
        keys = np.sort(np.concatenate(self.group.gather(own)))[:SAMPLE_SESSIONS]  # each is of one session
        parts = self.group.gather(self._take(np.sort(least[np.isin(own, keys)]), code))
        names, ends, lengths, items = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.lexsort((names, ends))  # as `group_log` sorts them
        return self._made(names, ends, lengths, items).take(order)

    def _made(
        self, names: np.ndarray, ends: np.ndarray, lengths: np.ndarray, items: np.ndarray, weights: Any = None
    ) -> Sessions:
        """Make sessions, whose clicks have the time of their last one."""
        times = np.repeat(ends, lengths) if self.has_times else None
        ids = pl.Series("session", names)
        return Sessions(ids=ids, offsets=offsets_of(lengths), items=items, times=times, weights=weights)

    def _take(self, index: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, ...]:
        """Read names, ends and lengths of sessions, (m,) each, and the codes of their clicks."""
        offsets = self.arrays["offsets"]
        starts = offsets[index]
        lengths = offsets[index + 1] - starts
        items = code[self.arrays["items"][ranges(starts, lengths)]]
        return self.arrays["first"][index], self.arrays["ends"][index], lengths, items


class StoredSessions:
    """Sessions that a fit learns from, or some of them, in chunks of a `StoredLog`; beside `Sessions`, on a disk.

    Numbers are those of all ranks, which make such an object together.

    Parameters
    ----------
    log : StoredLog
    code : ndarray of int32, shape (V + 1,)
        Codes in the catalogue of the places of `StoredLog.clicked`.
    sample : Sessions
        Those of the sample that belong to these.
    before : tuple of float and int, optional
        End and first row of the session before which, in order of time, sessions belong to these; None for all.
    least : int, default=1
        Clicks of a session, at least.

    Attributes
    ----------
    group : Ranks
    has_times : bool
    lane_edges : ndarray of int64, shape (L + 1,)
        Lane v has the chunks from ``lane_edges[v]`` up to ``lane_edges[v + 1]``.
    lanes : range
        Lanes of this rank.
    n_sessions, n_targets : ndarray of int64
        Number of sessions in every chunk, and of their clicks that are predicted, all but the first.
    mean_weight : float
        Mean weight of these clicks.
    """

    def __init__(
        self,
        log: StoredLog,
        code: np.ndarray,
        sample: Sessions,
        before: tuple[float, int] | None = None,
        least: int = 1,
    ) -> None:
        self.group, self.has_times, self.sample = log.group, log.has_times, sample
        self._log, self._code, self._before, self._least = log, code, before, least
        ends = np.cumsum(log.lane_sizes)
        starts = [np.arange(end - size, end, CHUNK_SESSIONS) for end, size in zip(ends, log.lane_sizes, strict=True)]
        self._starts = np.concatenate(starts)
        self._stops = np.concatenate(
            [np.minimum(of_lane + CHUNK_SESSIONS, end) for end, of_lane in zip(ends, starts, strict=True)]
        )
        chunks = self.group.gather(np.array([len(of_lane) for of_lane in starts]))
        self.lane_edges = offsets_of(np.concatenate(chunks))
        self.lanes = share_of(self.group, len(self.lane_edges) - 1)
        self._first_chunk = int(self.lane_edges[self.lanes.start])
        counts = [self._count(number) for number in range(len(self._starts))]
        own = np.array(counts, dtype=np.float64).reshape(-1, 3).T
        n_sessions, n_targets, weights = np.concatenate(self.group.gather(own), axis=1)
        self.n_sessions, self.n_targets = n_sessions.astype(np.int64), n_targets.astype(np.int64)
        self.mean_weight = float(weights.sum() / max(n_targets.sum(), 1))

    def __len__(self) -> int:
        return int(self.n_sessions.sum())

    @property
    def n_clicks(self) -> int:
        """Number of the clicks."""
        return len(self) + int(self.n_targets.sum())

    def set_newest_aside(self, share: float) -> tuple[StoredSessions, Sessions | None]:
        """Part the newest share of the sessions from the older ones; see `Sessions.set_newest_aside`.

        The cut is a time, that of the sample; of the newer sessions, those of the sample are given.
        """
        older, newest = self.sample.set_newest_aside(share)
        if newest is None:
            return self, None
        before = float(newest.ends()[0]), int(newest.ids[0])
        return StoredSessions(self._log, self._code, older, before, self._least), newest

    def at_least(self, n: int) -> StoredSessions:
        """Take the sessions of at least n clicks."""
        return StoredSessions(self._log, self._code, self.sample.at_least(n), self._before, max(n, self._least))

    def count_items(self, n_items: int) -> np.ndarray:
        """Count the clicks of every item of a catalogue, (N,)."""
        counts = np.zeros(n_items, dtype=np.int64)
        for block in self.blocks():
            counts += block.count_items(n_items)
        return np.sum(self.group.gather(counts), axis=0)

    def feed(self, read: Callable[..., Examples], seed: int) -> WindowExamples:
        """Return what the steps of a training take, which reads the examples of some sessions; the seed is of these."""
        return WindowExamples(sessions=self, read=read, seed=seed)

    def blocks(self) -> Iterator[Sessions]:
        """Read the sessions of this rank, some chunks at a time."""
        numbers = np.arange(len(self._starts)) + self._first_chunk
        for start in range(0, len(numbers), _BLOCK_CHUNKS):
            yield self.read(numbers[start : start + _BLOCK_CHUNKS])

    def placed(self) -> Iterator[tuple[Sessions, np.ndarray]]:
        """Read them with the place of each in the order of time, (S,), from 0 to 1; between those of the sample."""
        sample = self.sample
        moments, moment = np.unique(sample.ends(), return_inverse=True)
        names = sample.ids.to_numpy()
        span = int(names.max(initial=0)) + 2
        keys = moment * span + names
        for block in self.blocks():
            ends = block.ends()
            at = np.searchsorted(moments, ends)
            known = np.append(moments, np.nan)[at] == ends
            rank = np.searchsorted(keys, at * span + np.where(known, np.minimum(block.ids.to_numpy(), span - 1), 0))
            yield block, np.minimum(rank + 0.5, len(sample)) / len(sample)

    def read(self, chunks: np.ndarray) -> Sessions:
        """Read the sessions of chunks of this rank, which are counted from 0 through all ranks."""
        log, parts = self._log, [self._numbers(number - self._first_chunk) for number in chunks]
        numbers = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        names, ends, lengths, items = log._take(numbers, self._code)
        weights = None
        if "weights" in log.arrays:
            weights = log.arrays["weights"][ranges(log.arrays["offsets"][numbers], lengths)]
        return log._made(names, ends, lengths, items, weights)

    def _numbers(self, number: int) -> np.ndarray:
        """Return the numbers on this rank of the sessions of a chunk."""
        start, stop = self._starts[number], self._stops[number]
        arrays = self._log.arrays
        kept = np.diff(arrays["offsets"][start : stop + 1]) >= self._least
        if self._before is not None:
            end, first = self._before
            ends = arrays["ends"][start:stop]
            kept &= (ends < end) | ((ends == end) & (arrays["first"][start:stop] < first))
        return start + np.flatnonzero(kept)

    def _count(self, number: int) -> tuple[int, int, float]:
        """Count the sessions of a chunk on this rank and their targets, and sum the weights of these."""
        numbers, arrays = self._numbers(number), self._log.arrays
        starts, stops = arrays["offsets"][numbers], arrays["offsets"][numbers + 1]
        n_targets = int((stops - starts).sum()) - len(numbers)
        if "weights" not in arrays:
            return len(numbers), n_targets, n_targets
        weights = arrays["weights"][ranges(starts + 1, stops - starts - 1)]
        return len(numbers), n_targets, float(weights.sum(dtype=np.float64))


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowExamples:
    """Examples of sessions on a disk, of which those of one window are in memory.

    A window has as many chunks of each lane, of which each step takes its share, of sessions of about one length. In a
    group, each rank takes those of its lanes. The steps of a window have about equally many targets.

    Attributes
    ----------
    sessions : StoredSessions
        Of at least two clicks.
    read : callable
        Makes the examples of sessions, given their mean weight; see `Examples.of`.
    seed : int
        Of the order, and of the candidates that are drawn.
    """

    sessions: StoredSessions
    read: Callable[..., Examples]
    seed: int

    @property
    def group(self) -> Ranks:
        """Processes that take the steps together."""
        return self.sessions.group

    def steps(self, epoch: int, batch_size: int | Literal["auto"]) -> tuple[int, Iterable[Step]]:
        """Return the number of the steps of an epoch, and this rank's part of each."""
        n_targets = self.sessions.n_targets
        batch_size = step_rows(batch_size, int(n_targets.sum()), low=256, high=2048)
        windows = deal_windows(self.sessions.lane_edges, (self.seed, epoch), _WINDOW_CHUNKS)
        n_steps = [-(-sum(int(n_targets[chunks].sum()) for chunks in lanes) // batch_size) for lanes in windows]
        return sum(n_steps), self._read(epoch, windows, n_steps)

    def facts(self) -> dict[str, Any]:
        """Return what tells the sessions and the steps from others; the checksum is that of the sample."""
        sessions = self.sessions
        return {
            "the number of training clicks": sessions.n_clicks,
            "the checksum of the sessions": checksum([sessions.sample.items, sessions.sample.offsets]),
            "the number of lanes": len(sessions.lane_edges) - 1,
        }

    def _read(self, epoch: int, windows: Sequence[Sequence[np.ndarray]], n_steps: Sequence[int]) -> Iterator[Step]:
        number = 0
        for window, (lanes, n) in enumerate(zip(windows, n_steps, strict=True)):
            if n:
                mine = lanes[self.sessions.lanes.start : self.sessions.lanes.stop]
                examples, lane = self._load(mine)
                order, ends = self._deal(examples, lane, n, (self.seed, epoch), window)
                for step in np.random.default_rng([self.seed, epoch, window]).permutation(n):
                    generator = torch.Generator(examples.units.device).manual_seed(seed_of(self.seed, epoch, number))
                    number += 1
                    yield Step(examples, order[ends[step] : ends[step + 1]], generator)

    def _load(self, lanes: Sequence[np.ndarray]) -> tuple[Examples, np.ndarray]:
        """Read the chunks of lanes; return their examples, and the lane of each by its place among these, (E,)."""
        sessions = self.sessions.read(np.concatenate(lanes))
        counts = [int(self.sessions.n_sessions[chunks].sum()) for chunks in lanes]
        examples = self.read(sessions, mean_weight=self.sessions.mean_weight)
        owner = np.searchsorted(sessions.offsets, examples.starts, side="right") - 1
        return examples, np.repeat(np.arange(len(lanes)), counts)[owner]

    def _deal(
        self, examples: Examples, lane: np.ndarray, n_steps: int, seed: tuple[int, int], window: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Deal examples, whose lanes are (E,), to steps; return their numbers step by step, and the edges of these."""
        step = np.empty(len(lane), dtype=np.int64)
        n_sorted = -(-n_steps // SORTED_STEPS)
        edges = np.arange(n_sorted + 1) * n_steps // n_sorted
        for place, number in enumerate(self.sessions.lanes):
            own = np.flatnonzero(lane == place)
            own = own[np.random.default_rng([*seed, number, window]).permutation(len(own))]
            part = np.searchsorted(edges, n_steps * _middles(examples.targets[own]), side="right") - 1
            for of_part, (first, last) in enumerate(pairwise(edges)):
                some = own[part == of_part]
                some = some[np.argsort(examples.lengths[some], kind="stable")]
                step[some] = first + (_middles(examples.targets[some]) * (last - first)).astype(np.int64)
        order = np.argsort(step, kind="stable")
        return order, np.searchsorted(step[order], np.arange(n_steps + 1))


def _middles(sizes: np.ndarray) -> np.ndarray:
    """Give the middles of intervals of these sizes (n,), one behind the other, which fill 0 to 1."""
    ends = np.cumsum(sizes)
    return (ends - sizes / 2) / max(int(ends[-1]), 1) if len(ends) else ends / 1


@contextmanager
def stored_log(
    shards: Blocks, columns: LogColumns, weights: Mapping[str, float] | None, group: Ranks
) -> Iterator[StoredLog]:
    """Deal a click log to the disk, or find it there; a temporary folder ends with the context.

    Raises
    ------
    TypeError, ValueError
        If the log does not fit; see `read_log`.
    """
    check_roles(shards.schema.names(), columns, "the click log")
    if shards.schema[columns.session] == pl.Binary:
        raise TypeError(f"the session column {columns.session!r} of Shards is binary: cast it to text")
    n_lanes = max(LANES, group.size)
    wanted = {
        "sessions": asdict(columns),
        "event weights": None if weights is None else {str(event): float(weight) for event, weight in weights.items()},
        "lanes": [n_lanes, *share_of(group, n_lanes)],
    }
    dealing = _Dealing(shards, columns, weights, n_lanes, share_of(group, n_lanes))
    with stored_arrays(shards, wanted, dealing.write, group) as (arrays, frames, facts):
        if weights is not None and columns.event is not None:
            events = set().union(*group.gather(facts["events"]))
            if group.rank == 0:
                warn_of_absent(weights, sorted(events), columns.event)
        yield StoredLog(
            arrays=arrays,
            lane_sizes=np.array(facts["lane_sizes"], dtype=np.int64),
            clicked=frames[_ITEMS],
            has_times=columns.time is not None,
            group=group,
        )


@dataclass(frozen=True, eq=False)
class _Dealing:
    """One pass over a log, which deals the clicks of some lanes to files of parts, and another one over these."""

    shards: Blocks
    columns: LogColumns
    weights: Mapping[str, float] | None
    n_lanes: int
    lanes: range

    def write(self, files: ArrayFiles) -> dict[str, Any]:
        """Write the files of a `StoredLog`; return the sizes of the lanes."""
        if not self.shards.n_rows:
            raise ValueError("the click log has no row")
        if self.shards.n_rows > _MOST_CLICKS:
            raise ValueError(
                f"the click log has {self.shards.n_rows} clicks, and {_MOST_CLICKS} are the most: leave out the oldest"
            )
        for left in files.folder.glob(".dealt-*"):  # of a process that was killed
            if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".dealt-", dir=files.folder) as name:
            return self._encode(files, Path(name), self._deal(Path(name)))

    def _deal(self, folder: Path) -> int:
        """Write the clicks of every part to a file; return the number of parts of a lane."""
        n_parts = -(-self.shards.n_rows // (self.n_lanes * _PART_CLICKS))
        names = list(dict.fromkeys(self.columns.roles.values()))
        session = cs.by_name(self.columns.session).as_expr()
        part = session.map_batches(
            partial(_part_of, n_lanes=self.n_lanes, n_parts=n_parts), return_dtype=pl.UInt32, is_elementwise=True
        )
        clicks = self.shards.scan(names).with_row_index(_ROW).with_columns(part.alias(_PART))
        first, last = self.lanes.start * n_parts, self.lanes.stop * n_parts
        parts = pl.PartitionBy(
            folder,
            key=_PART,
            include_key=False,
            file_path_provider=lambda part: f"{part.partition_keys.item()}.parquet",
            approximate_bytes_per_file=None,
        )
        files = ", ".join(self.shards.files or ())
        with whole(files or None), written("the click log", folder):
            clicks.filter((pl.col(_PART) >= first) & (pl.col(_PART) < last)).sink_parquet(
                parts, compression="lz4", row_group_size=_ROW_GROUP, engine="streaming"
            )
        if len(self.lanes) == self.n_lanes:  # alone, with all rows
            dealt = [count_rows(pl.scan_parquet(file, glob=False)) for file in folder.iterdir()]
            if sum(dealt) != self.shards.n_rows:
                raise ValueError(f"{files} gave {sum(dealt)} of {self.shards.n_rows} rows: write the files again")
        return n_parts

    def _encode(self, files: ArrayFiles, folder: Path, n_parts: int) -> dict[str, Any]:
        clicked = self._count_items(folder)
        files.add_frame(_ITEMS, clicked)
        files.add("offsets", np.zeros(1, dtype=np.int64))
        types = {"items": "i4", "first": "i8", "ends": "f8"} | ({} if self.weights is None else {"weights": "f4"})
        for name, dtype in types.items():
            files.add(name, np.zeros(0, dtype))
        lane_sizes, n_clicks, events = [0] * len(self.lanes), 0, set[str]()
        for lane, part in product(self.lanes, range(n_parts)):
            file = folder / f"{lane * n_parts + part}.parquet"
            if file.exists():
                log = self._read(file)
                events |= set() if self.weights is None else set(log["event"].drop_nulls().unique())
                sessions = group_log(log, clicked["item"])
                files.add("offsets", n_clicks + sessions.offsets[1:])
                kept = {"items": sessions.items, "first": sessions.ids.to_numpy(), "ends": sessions.ends()}
                for name, array in (kept | {"weights": sessions.weights}).items():
                    if array is not None:
                        files.add(name, array.astype(types[name], copy=False))
                lane_sizes[lane - self.lanes.start] += len(sessions)
                n_clicks += sessions.n_clicks
                file.unlink()
        if n_clicks != clicked["count"].sum():
            raise OSError(
                f"{clicked['count'].sum()} clicks were dealt to {folder}, and {n_clicks} are left: another process has "
                "removed files there; fit again, with a cache that no other fit uses"
            )
        weighed = events & set(self.weights or ())
        return {"lane_sizes": lane_sizes, "events": sorted({*sorted(events)[:_SHOWN_EVENTS], *weighed})}

    def _count_items(self, folder: Path) -> pl.DataFrame:
        """Count the clicks of every item of the parts."""
        item = self.columns.item
        schema = {item: self.shards.schema[item]}
        counted = pl.DataFrame(schema=schema | {"count": pl.UInt32})
        if any(folder.iterdir()):
            names = pl.scan_parquet(sorted(folder.iterdir()), glob=False).select(cs.by_name(item)).drop_nulls()
            counted = names.group_by(cs.by_name(item)).agg(pl.len().alias("count")).collect(engine="streaming")
        items = plain_names(counted[item]).alias("item")
        counted = counted.select(items, pl.col("count").cast(pl.Int64))
        return counted.group_by("item").agg(pl.col("count").sum()).sort("item")

    def _read(self, file: Path) -> pl.DataFrame:
        """Read the clicks of a part as `read_log` does, with weights if events have any; first rows name sessions."""
        clicks = pl.read_parquet(file, glob=False).sort(_ROW)
        log = read_log(clicks, self.columns, "a part of the click log")
        if self.weights is not None and self.columns.event is not None:
            log = weigh_events(log, self.weights, self.columns.event)
        rows = log.select("session", clicks[_ROW].cast(pl.Int64).alias("row"))
        return log.with_columns(rows.select(pl.col("row").min().over("session").alias("session")).to_series())


def _part_of(ids: pl.Series, n_lanes: int, n_parts: int) -> pl.Series:
    """Deal sessions (n,) to the parts of lanes, by the hash of a whole number, or of the checksum of a text."""
    if ids.dtype.is_integer() and ids.dtype not in (pl.Int128, pl.UInt128):
        keys = row_keys(ids.fill_null(0).to_numpy())
    else:
        texts = ids.cast(pl.String).fill_null("")
        if ids.dtype.is_float():
            texts = texts.replace("-0.0", "0.0")
        names = texts.unique()
        numbers = np.fromiter((zlib.crc32(name.encode()) for name in names), dtype=np.uint64, count=len(names))
        keys = texts.replace_strict(names, pl.Series(row_keys(numbers)), return_dtype=pl.UInt64).to_numpy()
    parts = keys % np.uint64(n_lanes) * np.uint64(n_parts) + keys // np.uint64(n_lanes) % np.uint64(n_parts)
    return pl.Series(ids.name, parts.astype(np.uint32))
