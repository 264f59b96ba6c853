"""Means of levels as further columns of a frame, for candidates that learn targets together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl

from tabmtl.base.schema import Batch
from tabmtl.encode import TableCoder
from tabmtl.estimators.mixing.levels import LevelMeans, LevelParts, LevelRows
from tabmtl.model_selection.stratify import deal


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelColumns:
    """Columns of the means of levels.

    Attributes
    ----------
    names : tuple of str
    sources : tuple of str
        The column of levels behind each.
    means : LevelMeans
    """

    names: tuple[str, ...]
    sources: tuple[str, ...]
    means: LevelMeans

    @classmethod
    def of(cls, means: LevelMeans, coder: TableCoder) -> Self:
        """Return the columns of means, by the columns and tasks of a coder."""
        columns = coder.features.columns
        return cls(names=means.names(columns, coder.names), sources=tuple(means.sources(columns)), means=means)

    def joined(self, frame: pl.DataFrame, numbers: np.ndarray, dropped: Collection[str] = ()) -> pl.DataFrame:
        """Return a frame with numbers (n, E) as columns, but those that tell of dropped ones."""
        kept = [k for k, source in enumerate(self.sources) if source not in dropped]
        # both are eager, where a query would take longer than all else for one row
        return frame.hstack(pl.from_numpy(numbers[:, kept], schema=[self.names[k] for k in kept]))


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelFolds:
    """Means of levels for rows in folds, each of which reads those of the others."""

    columns: LevelColumns
    parts: LevelParts

    @classmethod
    def learn(cls, batch: Batch, coder: TableCoder, fold: np.ndarray) -> LevelFolds | None:
        """Learn the means of rows in folds (n,), from 0; rows below 0 are in every fit, as folds of their own."""
        rows = LevelRows.learn(batch, coder.features.columns, coder.labels.tasks)
        if rows is None:
            return None
        always = deal(batch.y, coder.labels.tasks, batch.task, batch.group, 5, 0) + fold.max() + 1
        part = np.where(fold < 0, always, fold) + 1
        return cls(columns=LevelColumns.of(rows.whole, coder), parts=rows.parted(part))

    def beside(
        self, frame: pl.DataFrame, rows: np.ndarray, held: int = -1, dropped: Collection[str] = ()
    ) -> pl.DataFrame:
        """Return some rows with means by rows of other folds, and by none of the fold that is held."""
        return self.columns.joined(frame, self.parts.numbers(rows, held + 1), dropped)
