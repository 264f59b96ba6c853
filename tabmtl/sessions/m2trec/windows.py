"""Steps of M2TRec from sessions on a disk, window by window, in an order that does not depend on who reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch

from tabmtl.processes.ranks import Ranks
from tabmtl.sessions.m2trec.stored import StoredSessions
from tabmtl.sessions.m2trec.training import SORTED_STEPS, Examples, Step
from tabmtl.training.checkpoint import checksum
from tabmtl.training.device import seed_of
from tabmtl.training.table_loop import step_rows
from tabmtl.training.windows import deal_windows

_WINDOW_CHUNKS = 16  # of every lane, so a window has about 260 000 sessions


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
