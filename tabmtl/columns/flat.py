"""Base of columns that become several numbers each, which trees read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from tabmtl.columns.kind import ColumnKind, Form, Parts, Slices, Summary


@dataclass(frozen=True, kw_only=True)
class Flat(ColumnKind):
    """Columns that become several numbers each; all are NaN where a value is missing.

    A subclass derives from this class, and then from the kind that networks read of the same columns. A number is
    called after its column and its part: ``"remark: words"``.

    Attributes
    ----------
    has_missing : tuple of bool
        Whether a value of the column was missing in fit.
    """

    bins: ClassVar[tuple[float, ...]] = (-1.0, 0.0, 1.0)

    has_missing: tuple[bool, ...]

    @abstractmethod
    def parts(self) -> list[tuple[Any, ...]]:
        """Return the names of the numbers of every column."""

    @abstractmethod
    def read(self, place: int, column: pl.Series, start: int) -> np.ndarray:
        """Return the numbers of a column, by its place among `names`; its rows are counted from `start` in errors."""

    def extended(self, summary: Summary, min_frequency: int) -> Self:
        """Leave the numbers as they are."""
        return self

    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return the numbers."""
        columns = [*zip(self.names, self.parts(), self.has_missing, strict=True)]
        numeric = tuple(f"{name}: {part}" for name, parts, _ in columns for part in parts)
        has_missing = tuple(flag for _, parts, flag in columns for _ in parts)
        return {"numeric": numeric, "has_missing": has_missing, "bins": (self.bins,) * len(numeric)}

    def origins(self) -> dict[Form, tuple[str, ...]]:
        """Return the column behind every number."""
        pairs = zip(self.names, self.parts(), strict=True)
        return {"numbers": tuple(name for name, parts in pairs for _ in parts)}

    def encode(self, slices: Slices, n: int) -> Parts:
        """Encode columns to their numbers, side by side."""
        found = np.empty((n, self._ends[-1]), dtype=np.float32)
        for rows, columns in slices:
            for place, (name, (start, end)) in enumerate(zip(self.names, pairwise(self._ends), strict=True)):
                found[rows, start:end] = self.read(place, columns[name], rows.start)
        return {"numbers": found}

    def read_plain(self, place: int, value: Any, row: int) -> Sequence[float] | np.ndarray:
        """Return the numbers of a plain value that is there, where `reads_rows` allows it; see `read`."""
        raise NotImplementedError

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> Parts:
        """Encode columns of few rows."""
        found = np.full((len(rows), self._ends[-1]), np.nan, dtype=np.float32)
        for i, row in enumerate(rows):
            for place, (name, (start, end)) in enumerate(zip(self.names, pairwise(self._ends), strict=True)):
                if row[name] is not None:
                    found[i, start:end] = self.read_plain(place, row[name], i)
        return {"numbers": found}

    @cached_property
    def _ends(self) -> list[int]:
        """Where the numbers of every column begin, and where those of the last one end."""
        return np.cumsum([0, *map(len, self.parts())]).tolist()
