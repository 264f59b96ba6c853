"""Vectors: lists of floats of one length, such as embeddings of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl

from tabmtl.columns.kind import Coding, ColumnKind, Parts, Slices, Summary
from tabmtl.columns.tags import inner_of


@dataclass(frozen=True, kw_only=True)
class Vectors(ColumnKind):
    """Columns of vectors, side by side; 0 where missing.

    Attributes
    ----------
    widths : tuple of int
        Length of the vectors of every column.
    """

    name = "vectors"
    held = "held vectors"
    cast = "lists of numbers"

    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.names) or min(self.widths, default=0) < 0:
            raise ValueError(f"the vectors of {self.names[:5]} have the widths {self.widths}, expected one for each")

    @classmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether a type is a list of floats, or of any numbers where they are vectors already."""
        inner = inner_of(dtype)
        is_number = declared == "vectors" and inner is not None and (inner.is_numeric() or inner == pl.Null)
        return is_number or (inner is not None and inner.is_float())

    @classmethod
    def survey(cls, block: pl.DataFrame, names: Sequence[str], taken: np.ndarray) -> Summary:
        """Count the lengths."""
        lengths = {name: _lists_of(block[name]).list.len().drop_nulls().alias("level") for name in names}
        return {name: own.value_counts(name="count") for name, own in lengths.items()}

    @classmethod
    def learn(cls, names: tuple[str, ...], summary: Summary, coding: Coding) -> Self:
        """Learn the one length of every column."""
        lengths = {name: summary[name]["level"].sort().to_list() for name in names}
        for name, own in lengths.items():
            if len(own) != 1:
                raise ValueError(f"the vectors of column {name!r} must have one length, got {own}")
        return cls(names=names, widths=tuple(own[0] for own in lengths.values()))

    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return the lengths."""
        return {"vector_widths": self.widths}

    def encode(self, slices: Slices, n: int) -> Parts:
        """Encode vectors to float32."""
        found, ends = np.zeros((n, sum(self.widths)), dtype=np.float32), np.cumsum(self.widths)
        for rows, columns in slices:
            for name, end, width in zip(self.names, ends, self.widths, strict=True):
                found[rows, end - width : end] = _encode(columns[name], width)
        return {"vectors": found}


def _lists_of(vectors: pl.Series) -> pl.Series:
    return vectors.cast(pl.List(pl.Float32))


def _encode(vectors: pl.Series, width: int) -> np.ndarray:
    lists = _lists_of(vectors)
    wrong = lists.list.len().drop_nulls() != width
    if wrong.any():
        raise ValueError(f"the vectors of column {vectors.name!r} must have the length of fit, {width}")
    table = np.zeros((len(lists), width), dtype=np.float32)
    given = lists.is_not_null().to_numpy()
    table[given] = lists.drop_nulls().explode().to_numpy().reshape(-1, width)
    if not np.isfinite(table).all():
        raise ValueError(
            f"the column {vectors.name!r} holds a vector with a number that is missing or not finite: drop or mend it"
        )
    return table
