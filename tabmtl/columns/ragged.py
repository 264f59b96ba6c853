"""Ragged rows: several entries a row, such as tags, as flat arrays of all entries and the start of every row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Self

import numpy as np
import polars as pl

from tabmtl.base.forks import check_pool
from tabmtl.base.schema import MISSING
from tabmtl.base.storage.stored import Stored


def offsets_of(lengths: Any) -> Any:
    """Compute the starts of ranges of these lengths and the end of the last one: (G + 1,) of int64."""
    if isinstance(lengths, np.ndarray):
        return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    import torch

    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0))


def lengths_of(lists: pl.Series) -> np.ndarray:
    """Return the number of entries of every list, (n,) of int64; 0 of a missing one."""
    return np.nan_to_num(lists.list.len().to_numpy()).astype(np.int64)


def ranges(starts: Any, lengths: Any) -> Any:
    """Join ranges of whole numbers with these starts, one for all or one each, and lengths."""
    return _ranges(starts, lengths, offsets_of(lengths))


def _ranges(starts: Any, lengths: Any, offsets: Any) -> Any:
    if isinstance(lengths, np.ndarray):
        return np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    import torch

    n = int(offsets[-1])
    shifts = (starts - offsets[:-1]).repeat_interleave(lengths, output_size=n)
    return shifts.add_(torch.arange(n, device=lengths.device))


@dataclass(frozen=True, kw_only=True, eq=False)
class Ragged:
    """G rows of any number of entries each: numpy arrays at the border, torch tensors in training.

    A subclass has a field for each flat array, whose first axis is that of the entries; None for one that is not there.

    Attributes
    ----------
    offsets : (G + 1,) int64
        Entries of row i are those from ``offsets[i]`` up to ``offsets[i + 1]``.
    """

    offsets: Annotated[Any, Stored("i8", "G+1", offsets="m")]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Any:
        """Number of the entries of every row, (G,)."""
        return np.diff(self.offsets) if isinstance(self.offsets, np.ndarray) else self.offsets.diff()

    def flat(self) -> dict[str, Any]:
        """Return the flat arrays by name, those that are there."""
        return {name: part for name, part in vars(self).items() if name != "offsets" and part is not None}

    def map(self, function: Callable[[Any], Any]) -> Self:
        """Apply a function to every array."""
        return type(self)(offsets=function(self.offsets), **self._mapped(function))

    def rows(self, index: Any) -> Self:
        """Take rows by a slice, whose arrays are views, or by number or mask."""
        offsets = self.offsets
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            own = offsets[start : max(start, stop) + 1]
            entries = slice(int(own[0]), int(own[-1]))
            return type(self)(offsets=own - own[0], **self._mapped(lambda part: part[entries]))
        if index.dtype == bool:
            index = np.flatnonzero(index)
        starts = offsets[index]
        lengths = offsets[index + 1] - starts
        offsets = offsets_of(lengths)
        entries = _ranges(starts, lengths, offsets)
        return type(self)(offsets=offsets, **self._mapped(lambda part: part[entries]))

    def _mapped(self, function: Callable[[Any], Any]) -> dict[str, Any]:
        return {name: function(part) for name, part in self.flat().items()}

    def arrays(self) -> dict[str, Any]:
        """Return the lengths and the flat arrays by name, which add up to those of several blocks of rows."""
        return {"lengths": self.lengths, **self.flat()}

    @classmethod
    def of(cls, arrays: dict[str, Any]) -> Self:
        """Make rows of the arrays that `arrays` gives, or of offsets in place of lengths."""
        others = dict(arrays)
        lengths = others.pop("lengths", None)
        return cls(**others) if lengths is None else cls(offsets=offsets_of(lengths), **others)

    @classmethod
    def join(cls, several: Sequence[Self]) -> Self:
        """Return the rows of one or several blocks as one, of numpy arrays."""
        parts = [each.arrays() for each in several]
        return cls.of({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def keys(self) -> Iterator[bytes]:
        """Give the content of every row, of numpy arrays."""
        entries = np.column_stack([part.view(np.int32) for part in self.flat().values()])
        ends = (entries.itemsize * entries.shape[1] * self.offsets).tolist()
        content = entries.tobytes()
        return (content[start:end] for start, end in pairwise(ends))


@dataclass(frozen=True, kw_only=True, eq=False)
class Bags(Ragged):
    """A bag of weighted codes per row, such as tags.

    A missing bag holds `tabmtl.base.schema.MISSING` alone, and an empty one nothing. Other codes are UNSEEN, and from
    FIRST_LEVEL on those of the column.

    Attributes
    ----------
    codes : (m,) int32
        Sorted inside a row.
    weights : (m,) float32
        They add up to 1 in every row that holds anything: the embedding of a bag is a mean.
    """

    codes: Annotated[Any, Stored("i4", "m", low=0)]
    weights: Annotated[Any, Stored("f4", "m", low=0)]

    @classmethod
    def empty(cls, n: int) -> Self:
        """Return n empty bags, of numpy arrays."""
        return cls(offsets=np.zeros(n + 1, np.int64), codes=np.zeros(0, np.int32), weights=np.zeros(0, np.float32))


@dataclass(frozen=True, kw_only=True, eq=False)
class Entries(Ragged):
    """A sequence of coded entries per row, such as a history, the newest last.

    A missing sequence holds `tabmtl.base.schema.MISSING` alone, and an empty one nothing. Other codes are
    UNSEEN, and from FIRST_LEVEL on those of the levels.

    Attributes
    ----------
    codes : (m,) int32
    numbers : (m, s) float32, or None
        Of lists of numbers beside the sequence, scaled.
    labels : (m, t) int32, or None
        Codes of lists of text beside the sequence.
    """

    codes: Annotated[Any, Stored("i4", "m", low=0)]
    numbers: Annotated[Any, Stored("f4", "m s", missing=True)] | None = None
    labels: Annotated[Any, Stored("i4", "m t", low=0)] | None = None

    @classmethod
    def empty(cls, n: int, n_numbers: int = 0, n_labels: int = 0) -> Self:
        """Return n empty sequences with some lists beside them, of numpy arrays."""
        return cls(
            offsets=np.zeros(n + 1, np.int64),
            codes=np.zeros(0, np.int32),
            numbers=np.zeros((0, n_numbers), np.float32) if n_numbers else None,
            labels=np.zeros((0, n_labels), np.int32) if n_labels else None,
        )


def lists_of(name: str, entries: Entries, values: np.ndarray) -> pl.Series:
    """Return a value (m,) of every entry as lists; null where a sequence is missing."""
    check_pool()
    lengths = entries.lengths
    row = np.repeat(np.arange(len(entries)), lengths)
    lists = pl.DataFrame({"row": row, "value": values}).group_by("row", maintain_order=True).agg("value")
    found = (
        pl.Series("row", np.arange(len(entries))).to_frame().join(lists, on="row", how="left", maintain_order="left")
    )
    is_missing = np.zeros(len(entries), dtype=bool)
    is_missing[row[entries.codes == MISSING]] = True
    kept = pl.when(pl.Series(~is_missing)).then(pl.col("value").fill_null([]))
    return found.select(kept.alias(name)).to_series()
