"""Vectors: lists of floats of one length, such as embeddings of a picture."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl

from tabmtl.columns.cures import by_column
from tabmtl.columns.declared import Vector
from tabmtl.columns.flat import Flat
from tabmtl.columns.kind import CHUNK_ROWS, Coding, ColumnKind, Form, Parts, RowError, Slices, Summary
from tabmtl.columns.number import NumericScaler
from tabmtl.columns.tags import inner_of

#: Rows of the sample from which scales are learned: sorting all takes seconds where vectors are long.
SCALED_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class OfOneLength(ColumnKind):
    """Base of columns of vectors: each has one length.

    Attributes
    ----------
    widths : tuple of int
        Length of the vectors of every column.
    """

    held = "held vectors"
    cast = "lists of numbers"
    declaration = Vector()

    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.names) or min(self.widths, default=0) < 0:
            raise ValueError(f"the vectors of {self.names[:5]} have the widths {self.widths}, expected one for each")

    @classmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether a type is a list of floats, or of any numbers where they are vectors already."""
        inner = inner_of(dtype)
        if inner is None or declared not in (None, "vectors", cls.name):
            return False
        is_number = declared is not None and (inner.is_numeric() or inner == pl.Null)
        return is_number or inner.is_float() or inner.is_decimal()

    @classmethod
    def survey(cls, block: pl.DataFrame, names: Sequence[str], taken: np.ndarray) -> Summary:
        """Count the lengths, that of a missing vector as null."""
        lengths = {name: _lists_of(block[name]).list.len().alias("level") for name in names}
        return {f"length {name}": own.value_counts(name="count") for name, own in lengths.items()}

    @classmethod
    def learn(cls, names: tuple[str, ...], summary: Summary, coding: Coding) -> Self:
        """Learn the one length of every column."""
        widths = []
        for name in names:
            lengths = summary[f"length {name}"].drop_nulls("level").sort("count", "level", descending=True)["level"]
            if len(lengths) != 1 or lengths[0] == 0:
                raise ValueError(_describe_lengths(name, lengths.to_list()))
            widths.append(lengths[0])
        return cls(names=names, widths=tuple(widths), **cls.more(summary, names, widths))

    @classmethod
    @abstractmethod
    def more(cls, summary: Summary, names: tuple[str, ...], widths: Sequence[int]) -> dict[str, Any]:
        """Return further fields of the object."""

    def values_of(self, name: str) -> str:
        """Say that it was lists of numbers."""
        return "lists of numbers"

    def reads_rows(self, schema: pl.Schema) -> bool:
        """Return whether Python rounds plain numbers to the same floats: those of floats."""
        inner = [inner_of(schema[name]) or pl.Null() for name in self.names]
        return all(own.is_float() or own == pl.Null for own in inner)


@dataclass(frozen=True, kw_only=True)
class Vectors(OfOneLength):
    """Columns of vectors, side by side, NaN where missing.

    Networks read each number standardised as that of a `tabmtl.columns.number.NumericScaler`, so that neither an
    encoder's unit nor its offset decides how loud a vector is, and mixed measurements of one list count alike.

    Attributes
    ----------
    scales : NumericScaler
        Of the numbers of all vectors.
    """

    name = "vectors"

    scales: NumericScaler

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales.fits(sum(self.widths)):
            n_scales = len(self.scales.center)
            raise ValueError(f"the numbers of vectors of the widths {self.widths} have {n_scales} scales")

    @classmethod
    def flat(cls) -> type[ColumnKind]:
        """Return the kind of numbers."""
        return FlatVectors

    @classmethod
    def survey(cls, block: pl.DataFrame, names: Sequence[str], taken: np.ndarray) -> Summary:
        """Count the lengths, and take the numbers of some vectors."""
        samples = {f"sample {name}": _sample(_lists_of(block[name]).gather(taken)) for name in names}
        return super().survey(block, names, taken) | samples

    @classmethod
    def more(cls, summary: Summary, names: tuple[str, ...], widths: Sequence[int]) -> dict[str, Any]:
        """Return the scales."""
        return {"scales": _scales([summary[f"sample {name}"] for name in names], widths)}

    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return the lengths."""
        return {"vector_widths": self.widths}

    def origins(self) -> dict[Form, tuple[str, ...]]:
        """Return the column behind every number of the vectors."""
        pairs = zip(self.names, self.widths, strict=True)
        return {"vectors": tuple(name for name, width in pairs for _ in range(width))}

    def encode(self, slices: Slices, n: int) -> Parts:
        """Encode vectors to float32."""
        found, ends = np.full((n, sum(self.widths)), np.nan, dtype=np.float32), np.cumsum(self.widths)
        for rows, columns in slices:
            for name, end, width in zip(self.names, ends, self.widths, strict=True):
                found[rows, end - width : end] = _encode(columns[name], width, rows.start)
        return {"vectors": self._scaled(found)}

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> Parts:
        """Encode vectors of few rows."""
        found, ends = np.full((len(rows), sum(self.widths)), np.nan, dtype=np.float32), np.cumsum(self.widths)
        for i, row in enumerate(rows):
            for name, end, width in zip(self.names, ends, self.widths, strict=True):
                if row[name] is not None:
                    found[i, end - width : end] = _vector(name, row[name], width, i)
        return {"vectors": self._scaled(found)}

    def _scaled(self, found: np.ndarray) -> np.ndarray:
        """Scale vectors (n, V) in place, in blocks."""
        for block in np.split(found, range(CHUNK_ROWS, len(found), CHUNK_ROWS)):
            numbers = block.T.astype(np.float64)
            self.scales.apply(numbers)
            block[:] = numbers.T
        return found

    def scalers(self) -> dict[Form, tuple[Any, ...]]:
        """Return the map of the numbers of all vectors."""
        return {"vectors": (self.scales,)}


@dataclass(frozen=True, kw_only=True)
class FlatVectors(Flat, OfOneLength):
    """Vectors as numbers, which are left as they are."""

    name = "flat vectors"

    @classmethod
    def more(cls, summary: Summary, names: tuple[str, ...], widths: Sequence[int]) -> dict[str, Any]:
        """Return whether vectors were missing."""
        return {"has_missing": tuple(summary[f"length {name}"]["level"].null_count() > 0 for name in names)}

    def parts(self) -> list[tuple[Any, ...]]:
        """Return the places of the numbers."""
        return [tuple(range(width)) for width in self.widths]

    def read(self, place: int, column: pl.Series, start: int) -> np.ndarray:
        """Read vectors."""
        return _encode(column, self.widths[place], start)

    def read_plain(self, place: int, value: Any, row: int) -> np.ndarray:
        """Read a vector."""
        return _vector(self.names[place], value, self.widths[place], row)


def _sample(lists: pl.Series) -> np.ndarray:
    """Return the numbers of vectors (W, m), NaN where missing; of none where lengths differ, which is refused later."""
    widths = lists.list.len().drop_nulls().unique().to_list()
    found = np.full((len(lists), widths[0] if len(widths) == 1 else 0), np.nan, dtype=np.float32)
    if found.shape[1]:
        found[lists.is_not_null().to_numpy()] = lists.drop_nulls().explode().to_numpy().reshape(-1, found.shape[1])
    return np.ascontiguousarray(found.T)


def _scales(samples: Sequence[np.ndarray], widths: Sequence[int]) -> NumericScaler:
    """Learn the scales of the numbers of all vectors from some vectors (W, m) of each column."""
    center, scale = np.zeros(sum(widths)), np.ones(sum(widths))
    for sample, end, width in zip(samples, np.cumsum(widths), widths, strict=True):
        if len(sample):  # else there is no vector in it
            some = sample[:, :: -(-sample.shape[1] // SCALED_ROWS)].astype(np.float64)
            some[~np.isfinite(some)] = np.nan  # which are refused when they are encoded
            scaler = NumericScaler.fit(some, "standardize")
            center[end - width : end], scale[end - width : end] = scaler.center, scaler.scale
    return NumericScaler(transform="standardize", center=center, scale=scale, knots=np.empty((len(center), 0)))


def _lists_of(vectors: pl.Series) -> pl.Series:
    return vectors.alias("vector").cast(pl.List(pl.Float32))  # its own name may look like a pattern to polars


def _describe_lengths(name: str, lengths: Sequence[int]) -> str:
    """Describe the lengths of a column of vectors, the most frequent first, of which there must be one."""
    if lengths in ([], [0]):
        return f"column {name!r} holds lists of numbers, but no number: say {by_column([name], 'ignore')}"
    others = ", ".join(map(str, lengths[1:4])) + (", ..." if len(lengths) > 4 else "")
    return (
        f"the vectors of column {name!r} must have one length; most have {lengths[0]}, others {others}: "
        f"mend the others, or make them missing; or, beside a history, say "
        f"{by_column([name], 'sequence:NAME OF THE HISTORY')}"
    )


def _encode(vectors: pl.Series, width: int, start: int) -> np.ndarray:
    """Encode vectors of some length, of rows that are counted from `start`."""
    lists = _lists_of(vectors)
    is_given, name = lists.is_not_null().to_numpy(), vectors.name
    given = np.flatnonzero(is_given)
    wrong = np.flatnonzero(lists.drop_nulls().list.len().to_numpy() != width)
    if len(wrong):
        row = int(given[wrong[0]])
        raise _of_other_length(name, width, start + row, len(lists[row]))
    table = np.full((len(lists), width), np.nan, dtype=np.float32)
    table[given] = lists.drop_nulls().explode().to_numpy().reshape(-1, width)
    wrong = np.flatnonzero(~np.isfinite(table[given]).all(axis=1))
    if len(wrong):
        raise _not_finite(name, start + int(given[wrong[0]]))
    return table


def _vector(name: str, numbers: Sequence[float | None], width: int, row: int) -> np.ndarray:
    """Encode a plain vector of some length."""
    with np.errstate(over="ignore"):
        vector = np.array(numbers, dtype=np.float32)  # None is NaN
    if len(vector) != width:
        raise _of_other_length(name, width, row, len(vector))
    if not np.isfinite(vector).all():
        raise _not_finite(name, row)
    return vector


def _of_other_length(name: str, width: int, row: int, length: int) -> RowError:
    before = f"the vectors of column {name!r} must have the length of fit, {width}; that of "
    return RowError(before, row, f", has {length}: mend it, or leave it missing")


def _not_finite(name: str, row: int) -> RowError:
    before = f"the column {name!r} holds a vector with a number that is missing or not finite, in "
    return RowError(before, row, ": mend it, or leave out the whole vector")
