"""A real set under the split of a seed: frames, and the same rows encoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.datasets import Table, load
from benchmarks.peers.lightgbm import Coded, learn_coder
from tabmtl.base.schema import Batch

#: Share of the train units that `Split.thinned` keeps.
SHARE = 0.2
#: Rows of the official train file of census_kdd, and how many of them are validation rows.
CENSUS = (199_523, 19_952)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Set under one split: frames X and y by part, and the same rows encoded; ``coded`` has two parts.

    ``units`` are never split by a subsample: the group of every train row, or the row itself.
    """

    data: Table
    names: tuple[str, ...]
    frames: dict[str, tuple[Any, Any]]
    coded: Coded
    test: Batch
    units: np.ndarray

    def batch(self, part: str) -> Batch:
        """Return the encoded rows of a part."""
        return {"train": self.coded.train, "val": self.coded.val, "test": self.test}[part]

    def labels(self, part: str) -> np.ndarray:
        """Return labels (n, T) of a part, NaN for none; in a long set, a row has one for its own task."""
        return self.batch(part).wide_labels(len(self.names))

    def thinned(self, seed: int) -> Split:
        """Return the split with a seeded fifth of its train units."""
        units = np.unique(self.units)
        kept = np.random.default_rng([seed, 2]).permutation(units)[: round(SHARE * len(units))]
        rows = np.flatnonzero(np.isin(self.units, kept))
        train = tuple(part[rows] for part in self.frames["train"])
        coded = replace(self.coded, train=self.coded.train.rows(rows))
        return replace(self, frames={**self.frames, "train": train}, coded=coded, units=self.units[rows])


def split_rows(data: Table, seed: int) -> np.ndarray:
    """Assign "train", "val" or "test" to every row, by the recipe of the stored split, which is seed 0.

    60/20/20 of the rows, of the groups, or of the rows inside each task of a long set; census_kdd keeps its official
    test rows.
    """
    rng = np.random.default_rng(seed)
    table = data.table.collect()
    if data.name == "census_kdd":
        official, n_val = CENSUS
        parts = np.full(len(table), "test ")
        parts[:official] = "train"
        parts[rng.permutation(official)[:n_val]] = "val"
        return np.char.strip(parts)
    if data.task_column:
        tasks = table[data.task_column].to_numpy()
        parts = np.full(len(table), "train")
        for task in np.unique(tasks):
            rows = np.flatnonzero(tasks == task)
            parts[rows] = _deal(len(rows), rng)
        return parts
    unit = np.unique(units_of(data), return_inverse=True)[1]
    return _deal(unit.max() + 1, rng)[unit]


def units_of(data: Table) -> np.ndarray:
    """Return what a split keeps together: the group of every row, or the row itself."""
    table = data.table.collect()
    return table[data.groups].to_numpy() if data.groups else np.arange(len(table))


def _deal(n: int, rng: np.random.Generator) -> np.ndarray:
    order, parts = rng.permutation(n), np.full(n, "train")
    parts[order[round(0.6 * n) :]] = "val"
    parts[order[round(0.8 * n) :]] = "test"
    return parts


def time_blocks(n: int, n_blocks: int, gap: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return rows to fit and to test for each of the blocks of consecutive rows; rows within the gap are in neither."""
    rows = np.arange(n)
    blocks = np.array_split(rows, n_blocks)
    return [(rows[(rows < block[0] - gap) | (rows > block[-1] + gap)], block) for block in blocks]


def open_split(name: str, seed: int, folder: Path | None) -> Split:
    """Read a set, split it by the seed, and encode it; levels are those of the train rows."""
    data = load(name, folder, full=True)
    X, y = pl.collect_all([data.features, data.targets])
    parts = split_rows(data, seed)
    rows = {part: np.flatnonzero(parts == part) for part in ("train", "val", "test")}
    frames = {part: (X[own], y[own].to_series() if data.task_column else y[own]) for part, own in rows.items()}
    coder = learn_coder(*frames["train"], data.tasks, data.task_column)
    train, val, test = (coder.read(*frames[part]) for part in rows)
    kinds = tuple(task.kind.name for task in coder.labels.tasks)
    coded = Coded(train=train, val=val, kinds=kinds, n_numeric=len(data.numeric))
    names = tuple(task.name for task in coder.labels.tasks)
    units = units_of(data)[rows["train"]]
    return Split(data=data, names=names, frames=frames, coded=coded, test=test, units=units)
