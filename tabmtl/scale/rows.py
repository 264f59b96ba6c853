"""Rows of shards, on a disk, of which some are set aside, and the others are trained on window by window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Self

import numpy as np

from tabmtl.base.schema import Batch
from tabmtl.encode.times import check_times_differ
from tabmtl.estimators.rows import TO_SET_ASIDE, FrameRows, draw
from tabmtl.model_selection.repeats import (
    belong_together,
    feature_keys,
    group_equal_rows,
    number_groups,
    warn_of_shared_rows,
)
from tabmtl.model_selection.suspects import dates_of, warn_of_random_split
from tabmtl.model_selection.times import borders, warn_of_known_groups
from tabmtl.scale.blocks import row_keys
from tabmtl.scale.cache import StoredRows
from tabmtl.scale.windows import WindowRows

MOST_VALID_ROWS = 1_000_000  # more would take memory and time, and judge no better
_JUDGED_ROWS = 200_000
_BLOCK_ROWS = 262_144


class ShardRows(StoredRows):
    """Rows of shards, encoded on a disk, of all ranks; see `tabmtl.estimators.rows.FitRows`."""

    frame: ClassVar[None] = None

    @property
    def dates(self) -> Sequence[str]:
        """Names of the features by which rows could be split in place of chance."""
        return dates_of(self.cache.coder.features)

    def drawn(self, n: int) -> Batch:
        """Read n random rows of all ranks, always the same ones."""
        return self.at(draw(len(self), n))

    def in_memory(self, valid: ShardRows | None) -> tuple[FrameRows, FrameRows | None]:
        """Return the rows and validation rows of the only process as memory maps; warn if they share rows."""
        tasks, batch = self.cache.coder.labels.tasks, self.read()
        group = group_equal_rows(batch) if batch.group is None else number_groups(batch.group.tolist())
        if batch.time is not None:
            check_times_differ(batch.time, "the column of times")
        rows = FrameRows(replace(batch, group=group), tasks, dates=self.dates)
        if valid is None:
            return rows, None
        held_out = valid.read()
        warn_of_shared_rows(batch, held_out)
        return rows, FrameRows(held_out, tasks)

    def to_train(self, prepare: Callable[[Batch], Batch], seed: int) -> WindowRows:
        """Return the rows as those of a training, in its units; the seed gives the order."""
        return WindowRows(self, prepare, seed)

    def split(self, share: float, seed: int) -> tuple[Self, Self]:
        """Split the rows in those to train and those to validate on.

        Given times, the newest are set aside. Else groups stay together, and so do equal rows of a long table if they
        are one thing under several tasks (see `tabmtl.model_selection.repeats`). They are chosen by random keys, so
        that files may hold them in any order. Unlike `train_valid_split`, this does not look at labels: with few rows
        of a class, one part may have none.

        Parameters
        ----------
        share : float
            Share of the rows, or groups, to validate on; of many rows fewer, about `MOST_VALID_ROWS`.
        seed : int

        Raises
        ------
        ValueError
            If a task has no label to train on, or there is none to validate on.
        """
        share = min(share, MOST_VALID_ROWS / len(self))
        if "time" in self.cache.arrays:
            valid = self._newest(share)
            train, held = self.choose(~valid), self.choose(self._without_known_groups(valid))
        else:
            if self.group.rank == 0:
                warn_of_random_split(self.dates, len(self))
            valid = _lowest(_units(self), share, seed)
            train, held = self.choose(~valid), self.choose(valid)
        lost = np.flatnonzero((train.n_labels == 0) & (self.n_labels > 0))
        if len(lost):
            name = self.cache.coder.labels.tasks[lost[0]].name
            raise ValueError(
                f"task {name!r} has {self.n_labels[lost[0]]} labels, all of them in rows that were set aside; "
                f"{TO_SET_ASIDE}"
            )
        if not held.n_labels.any():
            raise ValueError(f"none of the {len(held)} rows that were set aside has a label; {TO_SET_ASIDE}")
        return train, held

    def _newest(self, share: float) -> np.ndarray:
        """Return which rows of this rank are among about a share of the labelled rows, the newest, (n,) bool.

        The border is that of some rows, the same on all ranks.
        """
        time, y = self.cache.arrays["time"], self.cache.arrays["y"]
        some = np.flatnonzero(_lowest(_numbers(self), min(1.0, _JUDGED_ROWS / len(self)), 0))
        some = some[~np.isnan(y[some]).all(axis=1)]
        times = np.concatenate(self.group.gather(time[some]))
        found = borders(times, [(1 - share) * len(times)])
        if not found:
            raise ValueError(
                "the column of times holds one time in all rows, so none are the newest; leave time out, or name "
                "another column"
            )
        return np.asarray(time >= found[0])

    def _without_known_groups(self, valid: np.ndarray) -> np.ndarray:
        """Return which rows, of the newest ones, are of groups without older rows, (n,) bool; warn of the others."""
        if "group" not in self.cache.arrays:
            return valid
        own = self.cache.arrays["group"]
        asked = np.unique(np.concatenate(self.group.gather(np.unique(own[valid]))))
        known = np.unique(np.concatenate(self.group.gather(np.intersect1d(own[~valid], asked))))
        fresh = valid & ~np.isin(own, known)
        n_left = sum(self.group.gather(int(valid.sum() - fresh.sum())))
        if self.group.rank == 0:
            warn_of_known_groups(n_left, "are set aside but judge nothing")
        return fresh

    def at_most(self) -> Self:
        """Return all rows, of many about `MOST_VALID_ROWS` random ones."""
        if len(self) <= MOST_VALID_ROWS:
            return self
        return self.choose(_lowest(_numbers(self), MOST_VALID_ROWS / len(self), 0))


def _lowest(units: Sequence[int] | np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return which of n units have a key in the lowest share, (n,) bool."""
    bound = np.uint64(min(int(share * 2**64), 2**64 - 1))
    chosen = np.empty(len(units), dtype=bool)
    for start in range(0, len(units), _BLOCK_ROWS):
        some = np.asarray(units[start : start + _BLOCK_ROWS])
        chosen[start : start + len(some)] = row_keys(some, seed) <= bound
    return chosen


def _numbers(rows: ShardRows) -> range:
    """Return the numbers of this rank's rows."""
    return range(rows.cache.start, rows.cache.start + len(rows.cache))


def _units(rows: ShardRows) -> Sequence[int] | np.ndarray:
    """Return a number of the unit of every row of this rank, (n,): rows of one unit are set aside together."""
    arrays = rows.cache.arrays
    if "group" in arrays:
        return arrays["group"]
    if "task" not in arrays:
        return _numbers(rows)
    keys = np.concatenate([feature_keys(batch) for batch in rows.batches()])
    # whole groups of equal rows, though not all of them
    judged = np.flatnonzero(_lowest(keys, min(1.0, _JUDGED_ROWS / len(rows)), 0))
    judged = judged[~np.isnan(arrays["y"][judged, 0])]
    found = rows.group.gather((keys[judged], arrays["task"][judged].astype(np.int64)))
    judged_keys, task = (np.concatenate(part) for part in zip(*found, strict=True))
    if not len(judged_keys):
        return _numbers(rows)
    group = np.unique(judged_keys, return_inverse=True)[1]
    return keys if belong_together(group, task) else _numbers(rows)
