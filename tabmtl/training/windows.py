"""Training on rows of a disk: windows of mixed rows in memory, in an order that does not depend on who reads them.

The chunks of rows of a cache are dealt to 16 ranges, the lanes. In every epoch each lane has an order of its
chunks of its own, drawn by (seed, epoch, lane), and hands over its next chunks to every window, whose rows are shuffled
lane by lane; each step takes its share from every lane. So rows meet others from everywhere in the files, also where
these are sorted, and which rows a step takes depends on the number of rows, the lanes and the seed alone. Where all
rows fit in one window, the order of each lane is a whole permutation.

In a group, each rank has some of the lanes, and takes their rows of every step: together those of one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tabmtl.encode.cache import StoredRows
from tabmtl.processes.ranks import Ranks
from tabmtl.schema import Batch, DivergenceError
from tabmtl.training.hooks import Record
from tabmtl.training.predict import predict_scores
from tabmtl.training.table_loop import TableLoop

_WINDOW_CHUNKS = 64  # of every lane, so a window has a million rows
_SPREAD_ROWS = 10_240  # training rows for measurements: statistics of normalisation, use of experts


@dataclass(frozen=True, kw_only=True, eq=False)
class Epoch:
    """Order of the rows of an epoch.

    Parameters
    ----------
    rows : StoredRows
    seed : sequence of int
        Of the training and the epoch.
    batch_size : int
        Rows of a step, roughly: each lane rounds its share.
    """

    rows: StoredRows
    seed: tuple[int, int]
    batch_size: int

    @cached_property
    def _windows(self) -> list[list[np.ndarray]]:
        """Numbers of chunks, by window and lane."""
        windows = deal_windows(self.rows.lane_edges, self.seed, _WINDOW_CHUNKS)
        return [window for window in windows if self._n_rows(window)]

    @cached_property
    def _n_steps(self) -> list[int]:
        """Number of steps by window."""
        return [-(-self._n_rows(window) // self.batch_size) for window in self._windows]

    def _n_rows(self, lanes: list[np.ndarray]) -> int:
        return sum(int(self.rows.counts[chunks].sum()) for chunks in lanes)

    def __len__(self) -> int:
        return sum(self._n_steps)

    def windows(self) -> Iterator[tuple[Batch, list[slice]]]:
        """Yield this rank's rows of every window as numpy arrays, in the order of its steps, and the rows of these.

        The arrays are filled anew for the next window. A rank may have no row of a step.
        """
        mine = slice(self.rows.lanes.start, self.rows.lanes.stop)
        largest = max(self._n_rows(window[mine]) for window in self._windows)
        memory = self.rows.none().map(lambda part: np.empty((largest, *part.shape[1:]), dtype=part.dtype))
        arrays = memory.arrays()
        for number, (lanes, n_steps) in enumerate(zip(self._windows, self._n_steps, strict=True)):
            place, steps = self._places(lanes[mine], n_steps, number)
            start = 0
            for chunk in np.concatenate(lanes[mine]):
                batch = self.rows.chunk(int(chunk))
                own = place[start : start + len(batch)]
                for name, part in batch.arrays().items():
                    if part is not None:
                        arrays[name][own] = part
                start += len(batch)
            yield memory.rows(slice(start)), steps

    def _places(self, lanes: list[np.ndarray], n_steps: int, window: int) -> tuple[np.ndarray, list[slice]]:
        """Return the place in the order of steps of every row, lane by lane, and the places of every step."""
        sizes = [int(self.rows.counts[chunks].sum()) for chunks in lanes]
        step = np.empty(sum(sizes), dtype=np.min_scalar_type(n_steps))  # NumPy sorts up to 16 bits by radix
        start = 0
        for lane, size in enumerate(sizes, start=self.rows.lanes.start):
            order = np.random.default_rng([*self.seed, lane, window]).permutation(size)
            bounds = np.arange(1, n_steps + 1) * size // n_steps
            step[start + order] = np.searchsorted(bounds, np.arange(size), side="right")
            start += size
        place = np.empty(len(step), dtype=np.int64)
        place[np.argsort(step, kind="stable")] = np.arange(len(step))
        ends = np.cumsum(np.bincount(step, minlength=n_steps)).tolist()
        return place, [slice(first, last) for first, last in zip([0, *ends], ends, strict=False)]


def deal_windows(lane_edges: np.ndarray, seed: Sequence[int], n_chunks: int) -> list[list[np.ndarray]]:
    """Deal the chunks of all lanes to windows, in a random order: their numbers by window and lane.

    Parameters
    ----------
    lane_edges : ndarray of int64, shape (L + 1,)
        Lane v has the chunks from ``lane_edges[v]`` up to ``lane_edges[v + 1]``.
    seed : sequence of int
        Of the training and the epoch.
    n_chunks : int
        Of every lane in a window, at most.
    """
    n_windows = max(1, -(-int(np.diff(lane_edges).max()) // n_chunks))
    lanes = []
    for lane, (start, stop) in enumerate(pairwise(lane_edges)):
        order = np.random.default_rng([*seed, lane]).permutation(np.arange(start, stop))
        lanes.append(np.array_split(order, n_windows))
    return [list(window) for window in zip(*lanes, strict=True)]


def check_weights(network: torch.nn.Module, group: Ranks, epoch: int) -> None:
    """Raise a RuntimeError if the weights of a rank have parted from the others', a DivergenceError if none is left."""
    if group.size == 1:
        return
    sums = group.gather(sum(p.detach().double().abs().sum().item() for p in network.parameters()))
    if not any(map(math.isfinite, sums)):
        raise DivergenceError(f"training diverged in epoch {epoch}: a weight is not finite; lower learning_rate")
    for rank, found in enumerate(sums):
        if found != sums[0]:
            raise RuntimeError(
                f"after epoch {epoch} the weights of rank {rank} are not those of rank 0; run all ranks with one "
                "version of tabmtl and of torch on one kind of processor, and report it if you do"
            )


@dataclass(eq=False)
class WindowLoop(TableLoop):
    """Training on the rows of a disk; see `TableLoop`, whose data and validation rows it makes itself.

    Parameters
    ----------
    rows : StoredRows
        Training rows.
    valid_rows : StoredRows or None
    prepare : callable
        Makes tensors in training units of a batch.
    seed : int
        Of the order of the rows.
    """

    data: Batch = field(init=False)
    valid: Batch | None = field(init=False)
    _: KW_ONLY
    rows: StoredRows
    valid_rows: StoredRows | None
    prepare: Callable[[Batch], Batch]
    seed: int

    def __post_init__(self) -> None:
        self.group = self.rows.group
        self.data = self.prepare(self.rows.spread(_SPREAD_ROWS))
        self.valid = None if self.valid_rows is None else self._labels(self.valid_rows)
        super().__post_init__()

    @property
    def n_rows(self) -> int:
        """Number of the training rows, of all ranks."""
        return len(self.rows)

    def run_epoch(self, epoch: int) -> Record:
        """Run one pass over the rows, each rank over its own; see `TableLoop.run_epoch`.

        Raises
        ------
        RuntimeError
            If the weights of a rank have parted from the others'.
        """
        record = super().run_epoch(epoch)
        check_weights(self.network, self.group, epoch)
        return record

    def facts(self) -> dict[str, Any]:
        """Return what tells the rows and the steps from others; the rows of the checksum are spread over all."""
        return super().facts() | {"the number of lanes": len(self.rows.lane_edges) - 1}

    @property
    def _n_valid(self) -> int:
        return 0 if self.valid_rows is None else len(self.valid_rows)

    def _labels(self, rows: StoredRows) -> Batch:
        """Return this rank's rows without features, which are read again for each validation."""
        parts = [batch.without_features() for batch in chain([rows.none()], rows.batches())]
        return self.prepare(Batch.join(parts))

    def _steps(self, epoch: int) -> tuple[int, Iterable[tuple[Batch, Tensor]]]:
        order = Epoch(rows=self.rows, seed=(self.seed, epoch), batch_size=self.batch_size)
        return len(order), self._read(order)

    def _read(self, order: Epoch) -> Iterator[tuple[Batch, Tensor]]:
        for window, steps in order.windows():
            data = self.prepare(window)
            for step in steps:
                yield data, torch.arange(step.start, step.stop, device=data.x.numbers.device)

    def _micro_batches(self, index: Tensor) -> Sequence[Tensor]:
        # a step has some rows more or less, since lanes round; a pass of a few rows costs an eighth of a whole one
        whole, rest = divmod(len(index), self._micro)
        return index.tensor_split(whole) if whole and 4 * rest < self._micro else super()._micro_batches(index)

    def _valid_scores(self, valid: Batch) -> list[Tensor]:
        assert self.valid_rows is not None
        parts = [
            predict_scores(self.network, self.prepare(batch), self.options.precision, batch_size=self.batch_size)
            for batch in self.valid_rows.batches()
        ]
        if not parts:  # other ranks have them
            one = self.data.rows(torch.arange(1, device=self.data.x.numbers.device))
            return [score[:0] for score in predict_scores(self.network, one, self.options.precision)]
        return [torch.cat(columns) for columns in zip(*parts, strict=True)]

    def _train_weight(self) -> Tensor:
        return torch.tensor(self.rows.labelled_weight, dtype=torch.float32, device=self.data.x.numbers.device)
