"""Tags: lists of levels, several a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl

from tabmtl.columns.category import add_levels, code_of, count_levels, frequent
from tabmtl.columns.features import Bags
from tabmtl.columns.kind import TEXT, Coding, ColumnKind, Slices, Summary
from tabmtl.schema import FIRST_LEVEL


@dataclass(frozen=True, kw_only=True)
class Tags(ColumnKind):
    """Columns of lists of text or whole numbers, each a bag of the codes of its levels.

    Attributes
    ----------
    levels : tuple of tuple of str
        Tags of every column; tag k has code ``k + 2``.
    """

    form = "bags"
    held = "held lists of text"
    cast = "lists of text"

    levels: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.names) or any(len(set(own)) < len(own) for own in self.levels):
            raise ValueError(f"the tags of {self.names[:5]} are not distinct levels for each column")

    @classmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether a type is a list of anything that names levels."""
        inner = inner_of(dtype)
        return inner is not None and (
            inner in (*TEXT, pl.Boolean, pl.Null) or (inner.is_numeric() and not inner.is_float())
        )

    @classmethod
    def survey(cls, block: pl.DataFrame, names: Sequence[str], taken: np.ndarray) -> Summary:
        """Count the rows of every tag."""
        found = {}
        for name in names:
            tags = block[name].cast(pl.List(pl.String)).alias("tag").explode().drop_nulls()
            found[name] = count_levels(tags.to_frame(), ["tag"])["tag"]
        return found

    @classmethod
    def merge(cls, summaries: Sequence[Summary], kept: np.ndarray) -> Summary:
        """Add the counts."""
        return {name: add_levels([one[name] for one in summaries], name) for name in summaries[0]}

    @classmethod
    def learn(cls, names: tuple[str, ...], summary: Summary, coding: Coding) -> Self:
        """Keep the tags that are frequent enough."""
        return cls(names=names, levels=tuple(frequent(summary[name], coding.min_frequency) for name in names))

    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return the numbers of codes."""
        return {"bag_sizes": tuple(FIRST_LEVEL + len(levels) for levels in self.levels)}

    def fits(self, dtype: pl.DataType) -> bool:
        """Return whether a type is a list, whose items need only have a text."""
        return isinstance(dtype, pl.List | pl.Array) or dtype == pl.Null

    def encode(self, slices: Slices, n: int) -> tuple[Bags, ...]:
        """Encode lists to bags."""
        parts = [columns for _, columns in slices]
        return tuple(
            Bags.join([encode_tags(columns[name], levels) for columns in parts])
            for name, levels in zip(self.names, self.levels, strict=True)
        )


def inner_of(dtype: pl.DataType) -> pl.DataType | None:
    """Return the type of the items of a list; None for no list."""
    return pl.List(dtype.inner).inner if isinstance(dtype, pl.List | pl.Array) else None  # type: ignore[return-value]


def encode_tags(tags: pl.Series, levels: tuple[str, ...]) -> Bags:
    """Encode tags: a row without any has the code of a missing value, an unknown tag that of an unseen one."""
    lists = tags.alias("tag").cast(pl.List(pl.String)).list.drop_nulls()
    lengths = np.maximum(lists.list.len().fill_null(0).to_numpy(), 1)  # in place of no tag, a missing one
    coded = lists.explode(empty_as_null=True).to_frame().select(code_of("tag", pl.String(), pl.Enum(levels)))
    codes = coded.to_series().to_numpy()
    codes = codes[np.lexsort((codes, np.repeat(np.arange(len(lengths)), lengths)))]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Bags(offsets=offsets, codes=codes, weights=np.repeat(1 / lengths, lengths).astype(np.float32))
