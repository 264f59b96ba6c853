"""Vectors: lists of floats of one length, such as embeddings of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl

from tabmtl.columns.cures import Library, by_drop, by_length
from tabmtl.columns.kind import Coding, ColumnKind, Form, Parts, Slices, Summary
from tabmtl.columns.tags import inner_of


@dataclass(frozen=True, kw_only=True)
class Vectors(ColumnKind):
    """Columns of vectors, side by side, NaN where missing; flat, as numbers.

    Attributes
    ----------
    widths : tuple of int
        Length of the vectors of every column.
    flat : bool
        Whether the columns become numbers.
    has_missing : tuple of bool
        Whether a vector was missing in fit.
    """

    name = "vectors"
    held = "held vectors"
    cast = "lists of numbers"

    widths: tuple[int, ...]
    flat: bool = False
    has_missing: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.names) or min(self.widths, default=0) < 0:
            raise ValueError(f"the vectors of {self.names[:5]} have the widths {self.widths}, expected one for each")

    @classmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether a type is a list of floats, or of any numbers where they are vectors already."""
        inner = inner_of(dtype)
        if inner is None or declared == "categories":
            return False
        is_number = declared == "vectors" and (inner.is_numeric() or inner == pl.Null)
        return is_number or inner.is_float() or inner.is_decimal()

    @classmethod
    def survey(cls, block: pl.DataFrame, names: Sequence[str], taken: np.ndarray) -> Summary:
        """Count the lengths; that of a missing vector is null."""
        lengths = {name: _lists_of(block[name]).list.len().alias("level") for name in names}
        return {name: own.value_counts(name="count") for name, own in lengths.items()}

    @classmethod
    def learn(cls, names: tuple[str, ...], summary: Summary, coding: Coding) -> Self:
        """Learn the one length of every column."""
        for name in names:
            counts = summary[name].drop_nulls("level").sort("count", "level", descending=True)
            lengths = counts["level"].to_list()
            if len(lengths) != 1 or lengths == [0]:
                raise ValueError(_describe_lengths(name, lengths, coding.library))
        present = [summary[name].drop_nulls("level") for name in names]
        return cls(
            names=names,
            widths=tuple(own["level"].item() for own in present),
            flat=coding.flat,
            has_missing=tuple(summary[name]["level"].null_count() > 0 for name in names) if coding.flat else (),
        )

    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return the lengths; flat, the numbers."""
        if not self.flat:
            return {"vector_widths": self.widths}
        numbers = [(name, k) for name, width in zip(self.names, self.widths, strict=True) for k in range(width)]
        has_missing = dict(zip(self.names, self.has_missing, strict=True))
        return {
            "numeric": tuple(f"{name}: {k}" for name, k in numbers),
            "has_missing": tuple(has_missing[name] for name, _ in numbers),
            "bins": ((-1.0, 0.0, 1.0),) * len(numbers),
        }

    def origins(self) -> dict[Form, tuple[str, ...]]:
        """Return the column behind every number of the vectors."""
        pairs = zip(self.names, self.widths, strict=True)
        return {"numbers" if self.flat else "vectors": tuple(name for name, width in pairs for _ in range(width))}

    def encode(self, slices: Slices, n: int) -> Parts:
        """Encode vectors to float32."""
        found, ends = np.full((n, sum(self.widths)), np.nan, dtype=np.float32), np.cumsum(self.widths)
        for rows, columns in slices:
            for name, end, width in zip(self.names, ends, self.widths, strict=True):
                found[rows, end - width : end] = _encode(columns[name], width, rows.start)
        return {"numbers" if self.flat else "vectors": found}


def _lists_of(vectors: pl.Series) -> pl.Series:
    return vectors.cast(pl.List(pl.Float32))


def _describe_lengths(name: str, lengths: Sequence[int], library: Library) -> str:
    """Describe the lengths of a column of vectors, the most frequent first, of which there must be one."""
    if lengths in ([], [0]):
        return f"column {name!r} holds lists of numbers, but no number: say {by_drop([name])}"
    others = ", ".join(map(str, lengths[1:4])) + (", ..." if len(lengths) > 4 else "")
    return (
        f"the vectors of column {name!r} must have one length; most have {lengths[0]}, others {others}: "
        f"{by_length(library, name, lengths[0])}"
    )


def _encode(vectors: pl.Series, width: int, start: int) -> np.ndarray:
    """Encode vectors of some length, of rows that are counted from `start`."""
    lists = _lists_of(vectors)
    is_given, name = lists.is_not_null().to_numpy(), vectors.name
    given = np.flatnonzero(is_given)
    wrong = np.flatnonzero(lists.drop_nulls().list.len().to_numpy() != width)
    if len(wrong):
        row = given[wrong[0]]
        raise ValueError(
            f"the vectors of column {name!r} must have the length of fit, {width}; that of row {start + row}, counted "
            f"from 0, has {len(lists[int(row)])}: mend it, or leave it missing"
        )
    table = np.full((len(lists), width), np.nan, dtype=np.float32)
    table[given] = lists.drop_nulls().explode().to_numpy().reshape(-1, width)
    wrong = np.flatnonzero(~np.isfinite(table[given]).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"the column {name!r} holds a vector with a number that is missing or not finite, in row "
            f"{start + given[wrong[0]]}, counted from 0: mend it, or leave out the whole vector"
        )
    return table
