"""Base of columns that become several features, numbers and categories: the parts that their sample can tell."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl

from tabmtl.base.schema import FIRST_LEVEL, MISSING, UNSEEN
from tabmtl.columns.category import Categories
from tabmtl.columns.declared import Number
from tabmtl.columns.kind import Coding, ColumnKind, Form, Parts, Slices, Summary, column_of
from tabmtl.columns.number import Numbers

_LEVELS = {str(value) for value in range(100)}  # of all parts that are categories


@dataclass(frozen=True, kw_only=True)
class Parted(ColumnKind):
    """Columns of which parts are read, each as a column of numbers or of categories would be.

    A feature is called after its column and its part: ``"when: weekday"``.

    Attributes
    ----------
    parts : tuple of tuple of str
        Of every column, those that are features.
    numbers : Numbers
        Scales and bins of the parts that are numbers.
    categories : Categories
        Levels of the parts that are categories, whole numbers.
    """

    parts: tuple[tuple[str, ...], ...]
    numbers: Numbers
    categories: Categories

    def __post_init__(self) -> None:
        if len(self.parts) != len(self.names):
            raise ValueError(f"the columns {self.names[:5]} have the parts {self.parts[:5]}, expected some for each")
        known = [f"{name}: {part}" for name, part in self._features]
        if sorted(known) != sorted((*self.numbers.names, *self.categories.names)):
            raise ValueError(f"the parts are {known[:5]}, expected numbers and categories of these")
        if not _LEVELS.issuperset(level for levels in self.categories.levels for level in levels):
            raise ValueError(f"the levels of {self.categories.names[:5]} are no whole numbers below {len(_LEVELS)}")

    @classmethod
    @abstractmethod
    def all_parts(cls, column: pl.Expr, dtype: pl.DataType) -> dict[str, pl.Expr]:
        """Return whatever may be read of a column, by the name of the part: floats, null where it is missing."""

    @classmethod
    @abstractmethod
    def plain_parts(cls, value: Any) -> dict[str, float]:
        """Return all parts of a plain value that is there, to the bits of `all_parts`; see `reads_rows`."""

    @classmethod
    @abstractmethod
    def choose(cls, sample: Mapping[str, np.ndarray]) -> tuple[list[str], list[str]]:
        """Return the parts that become numbers, and those that become categories, given values (m,) of all of them."""

    @classmethod
    def survey(cls, block: pl.DataFrame, names: Sequence[str], taken: np.ndarray) -> Summary:
        """Count the missing values of the columns, and take all parts of some rows."""
        missing = [block[name].null_count() for name in names]
        rows = (block if len(taken) == block.height else block[taken]).select(
            part.cast(pl.Float64).fill_null(float("nan")).alias(f"{j} {name}")
            for j, column in enumerate(names)
            for name, part in cls.all_parts(column_of(column), block.schema[column]).items()
        )
        return {
            "missing": pl.DataFrame({"level": pl.Series(names, dtype=pl.String), "count": missing}),
            "sample": np.stack([part.to_numpy() for part in rows.iter_columns()]),
        }

    @classmethod
    def learn(cls, names: tuple[str, ...], summary: Summary, coding: Coding) -> Self:
        """Choose the parts of every column, and learn scales and levels from the sample."""
        kinds = [[*cls.all_parts(column_of(name), coding.schema[name])] for name in names]
        values = iter(summary["sample"])
        samples = [{part: next(values) for part in parts} for parts in kinds]
        further = cls.more(samples, [coding.schema[name] for name in names])
        chosen = [cls.choose(sample) for sample in samples]
        missing = dict(summary["missing"].iter_rows())
        numbers: dict[str, tuple[str, np.ndarray]] = {}
        levels: dict[str, tuple[str, ...]] = {}
        for name, sample, (of_numbers, of_categories) in zip(names, samples, chosen, strict=True):
            numbers |= {f"{name}: {part}": (name, sample[part]) for part in of_numbers}
            levels |= {f"{name}: {part}": _levels(sample[part], coding.min_frequency) for part in of_categories}
        counts = {"level": [*numbers], "count": [missing[name] for name, _ in numbers.values()]}
        sampled = {"missing": pl.DataFrame(counts), "sample": np.array([own for _, own in numbers.values()])}
        return cls(
            names=names,
            parts=tuple((*first, *second) for first, second in chosen),
            numbers=Numbers.learn((*numbers,), sampled, replace(coding, columns=dict.fromkeys(numbers, Number()))),
            categories=Categories(names=(*levels,), levels=(*levels.values(),)),
            **further,
        )

    @classmethod
    def more(cls, samples: Sequence[dict[str, Any]], dtypes: Sequence[pl.DataType]) -> dict[str, Any]:
        """Return further fields of the object, and change the samples, in place, as the fields say."""
        return {}

    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return what is told of numbers and of categories."""
        return self.numbers.facts() | self.categories.facts()

    def origins(self) -> dict[Form, tuple[str, ...]]:
        """Return the column behind every part."""
        found = {f"{name}: {part}": name for name, part in self._features}
        forms: dict[Form, ColumnKind] = {"numbers": self.numbers, "codes": self.categories}
        return {form: tuple(found[name] for name in kind.names) for form, kind in forms.items()}

    def read(self, name: str, dtype: pl.DataType) -> dict[str, pl.Expr]:
        """Return all parts of a column of a frame, which may have another type than in fit."""
        return self.all_parts(column_of(name), dtype)

    def expressions(self, schema: pl.Schema) -> list[pl.Expr]:
        """Return the parts as floats: first numbers, then categories, NaN = missing."""
        found: dict[str, pl.Expr] = {}
        for name, own in zip(self.names, self.parts, strict=True):
            parts = self.read(name, schema[name])
            found |= {f"{name}: {part}": parts[part] for part in own}
        names = (*self.numbers.names, *self.categories.names)
        return [found[name].cast(pl.Float64).fill_null(float("nan")).alias(name) for name in names]

    def encode(self, slices: Slices, n: int) -> Parts:
        """Encode the parts: numbers as `Numbers` does, categories by the codes of their levels."""
        first = len(self.numbers.names)
        numbers = np.empty((n, first), dtype=self.numbers.scaler.dtype)
        codes = np.empty((n, len(self.categories.names)), dtype=np.int32)
        for rows, columns in slices:
            block = columns[:, :first]
            numbers[rows] = self.numbers.encode([(slice(0, columns.height), block)], columns.height)["numbers"]
            for j, own in enumerate(self._codes):
                values = columns[:, first + j].to_numpy()
                known = own[np.clip(np.nan_to_num(values), 0, len(own) - 1).astype(np.intp)]
                codes[rows, j] = np.where(np.isnan(values), MISSING, known)
        return {"numbers": numbers, "codes": codes}

    def read_plain(self, name: str, value: Any) -> dict[str, float]:
        """Return all parts of a plain value of a column, which is there."""
        return self.plain_parts(value)

    def reads_rows(self, schema: pl.Schema) -> bool:
        """Return whether plain values have the same parts: they do."""
        return True

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> Parts:
        """Encode the parts of few rows."""
        found = [
            {
                f"{name}: {part}": value
                for name in self.names
                for part, value in ({} if row[name] is None else self.read_plain(name, row[name])).items()
            }
            for row in rows
        ]
        pairs = [*zip(self.categories.names, self._codes, strict=True)]
        codes = [
            [int(own[min(int(row[name]), len(own) - 1)]) if name in row else MISSING for name, own in pairs]
            for row in found
        ]
        numbers = self.numbers.encode_rows([{name: row.get(name) for name in self.numbers.names} for row in found])
        return {**numbers, "codes": np.array(codes, dtype=np.int32).reshape(len(rows), len(self._codes))}

    def scalers(self) -> dict[Form, tuple[Any, ...]]:
        """Return the map of the parts that are numbers."""
        return self.numbers.scalers()

    @cached_property
    def _features(self) -> list[tuple[str, str]]:
        """All features: the names of their column and of their part."""
        return [(name, part) for name, own in zip(self.names, self.parts, strict=True) for part in own]

    @cached_property
    def _codes(self) -> list[np.ndarray]:
        """Of every category, the codes of the whole numbers from 0 on; the last one is unseen."""
        found = []
        for levels in self.categories.levels:
            values = [int(level) for level in levels]
            codes = np.full(max(values, default=-1) + 2, UNSEEN, dtype=np.int32)
            codes[values] = np.arange(len(values)) + FIRST_LEVEL
            found.append(codes)
        return found


def _levels(values: np.ndarray, least: int) -> tuple[str, ...]:
    """Return the whole parts of numbers that at least so many rows have, in order."""
    found, counts = np.unique(np.floor(values[~np.isnan(values)]).astype(np.int64), return_counts=True)
    return tuple(str(value) for value, count in zip(found.tolist(), counts, strict=True) if count >= least)


def varies(values: np.ndarray) -> bool:
    """Return whether numbers differ, apart from missing ones."""
    present = values[~np.isnan(values)]
    return present.size > 0 and bool(present.min() < present.max())
