"""Training on rows of a disk: windows of mixed rows in memory, in an order that does not depend on who reads them.

The chunks of rows of a cache are dealt to 16 ranges, the lanes. In every epoch each lane has an order of its
chunks of its own, drawn by (seed, epoch, lane), and hands over its next chunks to every window, whose rows are shuffled
lane by lane; each step takes its share from every lane. So rows meet others from everywhere in the files, also where
these are sorted, and which rows a step takes depends on the number of rows, the lanes and the seed alone. Where all
rows fit in one window, the order of each lane is a whole permutation.

In a group, each rank has some of the lanes, and takes their rows of every step: together those of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tabmtl.base.ranks import Ranks
from tabmtl.base.schema import Batch
from tabmtl.columns.features import join_ragged
from tabmtl.columns.ragged import Ragged
from tabmtl.scale.cache import StoredRows
from tabmtl.training.rows import Step

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
        none = self.rows.none()
        memory = replace(none, x=none.x.without_ragged())
        memory = memory.map(lambda part: np.empty((largest, *part.shape[1:]), dtype=part.dtype))
        arrays = memory.arrays()
        for number, (lanes, n_steps) in enumerate(zip(self._windows, self._n_steps, strict=True)):
            place, steps = self._places(lanes[mine], n_steps, number)
            start, blocks = 0, [none.x.ragged()]
            for chunk in np.concatenate(lanes[mine]):
                batch = self.rows.chunk(int(chunk))
                own = place[start : start + len(batch)]
                blocks.append(batch.x.ragged())
                for name, part in replace(batch, x=batch.x.without_ragged()).arrays().items():
                    if part is not None:
                        arrays[name][own] = part
                start += len(batch)
            yield _with_ragged(memory.rows(slice(start)), join_ragged(blocks), place), steps

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


def _with_ragged(batch: Batch, ragged: Mapping[Any, tuple[Ragged, ...]], place: np.ndarray) -> Batch:
    """Give rows their ragged features, each of which belongs at a place among them."""
    order = np.empty_like(place)
    order[place] = np.arange(len(place))
    found: dict[str, Any] = {form: tuple(each.rows(order) for each in several) for form, several in ragged.items()}
    return replace(batch, x=replace(batch.x, **found))


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


@dataclass(frozen=True, eq=False)
class WindowRows:
    """Rows of a disk; see `tabmtl.training.rows.Rows`.

    Parameters
    ----------
    rows : StoredRows
    prepare : callable
        Makes tensors in training units of a batch.
    seed : int
        Of the order of the rows.
    """

    rows: StoredRows
    prepare: Callable[[Batch], Batch]
    seed: int

    @property
    def group(self) -> Ranks:
        """Processes that take the steps together."""
        return self.rows.group

    def sample(self) -> Batch:
        """Return some rows, spread over those of all ranks."""
        return self.prepare(self.rows.some(_SPREAD_ROWS))

    def labels(self) -> Sequence[Batch]:
        """Return this rank's rows without features, which are read again for each validation."""
        parts = [batch.without_features() for batch in chain([self.rows.none()], self.rows.batches())]
        return [self.prepare(Batch.join(parts))]

    def __len__(self) -> int:
        return len(self.rows)

    def steps(self, epoch: int, batch_size: int, *, joins_last: bool) -> tuple[int, Iterable[Step]]:
        """Deal the rows to steps, which are of about equally many, window by window."""
        order = Epoch(rows=self.rows, seed=(self.seed, epoch), batch_size=batch_size)
        return len(order), self._read(order)

    def _read(self, order: Epoch) -> Iterator[Step]:
        for window, steps in order.windows():
            data = self.prepare(window)
            for step in steps:
                yield data, torch.arange(step.start, step.stop, device=data.x.numbers.device)

    def parts(self, index: Tensor, n_rows: int) -> Sequence[Tensor]:
        """Split the rows of a step in parts, of which none is small."""
        # a step has some rows more or less, since lanes round; a pass of a few rows costs an eighth of a whole one
        whole, rest = divmod(len(index), n_rows)
        return index.tensor_split(whole) if whole and 4 * rest < n_rows else index.split(n_rows)

    def scores(self, predict: Callable[[Batch], list[Tensor]], some: Batch) -> Sequence[list[Tensor]]:
        """Return the scores of this rank's rows, which are read again."""
        parts = [predict(self.prepare(batch)) for batch in self.rows.batches()]
        if not parts:  # other ranks have them
            one = some.rows(torch.arange(1, device=some.x.numbers.device))
            return [[score[:0] for score in predict(one)]]
        return [[torch.cat(columns) for columns in zip(*parts, strict=True)]]

    def labelled_weight(self, count: Callable[[Batch], Tensor]) -> Tensor:
        """Return the sum over all ranks, which is known."""
        return torch.tensor(self.rows.labelled_weight, dtype=torch.float32)

    def facts(self) -> dict[str, Any]:
        """Return the number of lanes, by which rows are dealt to steps."""
        return {"the number of lanes": len(self.rows.lane_edges) - 1}
