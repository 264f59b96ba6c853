"""Tags: lists of levels, several a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tabmtl.columns.category import Categories, code_of, is_feature
from tabmtl.columns.features import Bags
from tabmtl.columns.kind import Parts, Slices, Summary, column_of
from tabmtl.schema import FIRST_LEVEL


@dataclass(frozen=True, kw_only=True)
class Tags(Categories):
    """Columns of lists of text or whole numbers, each a bag of the codes of its levels, the tags."""

    name = "tags"
    held = "held lists of text"
    cast = "lists of text"

    @classmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether a type is a list of anything that names levels; numbers do where they are tags already."""
        inner = inner_of(dtype)
        return inner is not None and is_feature(inner) and (declared == "tags" or not inner.is_float())

    @classmethod
    def survey(cls, block: pl.DataFrame, names: Sequence[str], taken: np.ndarray) -> Summary:
        """Count the rows of every tag."""
        lists = {name: block[name].cast(pl.List(pl.String)).alias("level") for name in names}
        return {name: tags.explode().drop_nulls().value_counts(name="count") for name, tags in lists.items()}

    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return the numbers of codes."""
        return {"bag_sizes": tuple(FIRST_LEVEL + len(levels) for levels in self.levels)}

    def expressions(self, schema: pl.Schema) -> list[pl.Expr]:
        """Return the lists as they are."""
        return [column_of(name) for name in self.names]

    def encode(self, slices: Slices, n: int) -> Parts:
        """Encode lists to bags."""
        parts = [columns for _, columns in slices]
        bags = (
            Bags.join([encode_tags(columns[name], levels) for columns in parts])
            for name, levels in zip(self.names, self.levels, strict=True)
        )
        return {"bags": tuple(bags)}


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
