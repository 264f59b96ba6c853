"""Tags: lists of levels, several a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from tabmtl.base.schema import FIRST_LEVEL, MISSING
from tabmtl.columns.category import Categories, code_of_value, has_plain_text, is_feature, text_of
from tabmtl.columns.declared import Tags as TagsDeclared
from tabmtl.columns.flat import Flat
from tabmtl.columns.kind import Coding, ColumnKind, Parts, Slices, Summary, column_of, series_by
from tabmtl.columns.ragged import Bags, lengths_of, offsets_of

#: Tags that are numbers where features are flat: at most so many of a column, each in at least so many rows.
MOST_FLAT_TAGS, LEAST_FLAT_ROWS = 32, 5

_DECIMAL = r"\.|\d[eE]"  # in a number that is not written as a whole one
_WHOLE = r"^(0|-?[1-9]\d{0,17})$"


@dataclass(frozen=True, kw_only=True)
class Tags(Categories):
    """Columns of lists of text or whole numbers, each a bag of the codes of its levels, the tags."""

    name = "tags"
    held = "held lists of text"
    cast = "lists of text"
    declaration = TagsDeclared()

    @classmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether a type is a list of anything that names levels; numbers do where they are tags already."""
        inner = inner_of(dtype)
        if inner is None or not is_feature(inner) or declared not in (None, "tags", cls.name):
            return False
        return declared is not None or not (inner.is_float() or inner.is_decimal())

    @classmethod
    def flat(cls) -> type[ColumnKind]:
        """Return the kind that counts tags."""
        return FlatTags

    @classmethod
    def survey(cls, block: pl.DataFrame, names: Sequence[str], taken: np.ndarray) -> Summary:
        """Count the rows of every tag, and the missing lists as a level that is null."""
        return {name: _count(block[name]) for name in names}

    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return the numbers of codes."""
        return {"bag_sizes": tuple(FIRST_LEVEL + len(levels) for levels in self.levels)}

    def values_of(self, name: str) -> str:
        """Say that it was lists of text, or of whole numbers."""
        return lists_by_levels(self.levels[self.names.index(name)])

    def expressions(self, schema: pl.Schema) -> list[pl.Expr]:
        """Return the lists as they are."""
        for name, levels in zip(self.names, self.levels, strict=True):
            check_items(name, schema[name], levels)
        return [column_of(name) for name in self.names]

    def encode(self, slices: Slices, n: int) -> Parts:
        """Encode lists to bags."""
        parts = [columns for _, columns in slices]
        bags = (
            Bags.join([Bags.empty(0), *(encode_tags(columns[name], code) for columns in parts)])
            for name, code in self.codes_of_texts.items()
        )
        return {"bags": tuple(bags)}

    def reads_rows(self, schema: pl.Schema) -> bool:
        """Return whether Python makes the same text of plain items."""
        return all(has_plain_text(inner_of(schema[name]) or pl.Null()) for name in self.names)

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> Parts:
        """Encode the lists of few rows to bags."""
        codes = ([self._codes_of(row[name], known) for row in rows] for name, known in self.codes_of_levels.items())
        return {"bags": tuple(map(_bags, codes))}

    @staticmethod
    def _codes_of(tags: Sequence[Any] | None, known: Mapping[str, int]) -> list[int]:
        """Return the codes of plain items, in order."""
        if tags is None:
            return [MISSING]
        return sorted(code_of_value(item, known) for item in tags if item is not None)


@dataclass(frozen=True, kw_only=True)
class FlatTags(Flat, Tags):
    """Tags as numbers: how many a row has, and for each of the most frequent ones 1 where a row has it, or else 0.

    A missing list is NaN in all of them, an empty one 0. The levels are the most frequent tags.
    """

    name = "flat tags"
    bins: ClassVar[tuple[float, ...]] = (0.0, 1.0)

    @classmethod
    def learn(cls, names: tuple[str, ...], summary: Summary, coding: Coding) -> Self:
        """Keep the most frequent tags."""
        least = max(coding.min_frequency, LEAST_FLAT_ROWS)
        return cls(
            names=names,
            levels=tuple(most_frequent(summary[name], least) for name in names),
            has_missing=tuple(summary[name]["level"].null_count() > 0 for name in names),
        )

    def parts(self) -> list[tuple[Any, ...]]:
        """Return the count and the tags."""
        return [("count", *levels) for levels in self.levels]

    def read(self, place: int, column: pl.Series, start: int) -> np.ndarray:
        """Count and find tags."""
        return flat_tags(column, self.codes_of_texts[self.names[place]], len(self.levels[place]))

    def read_plain(self, place: int, value: Any, row: int) -> Sequence[float]:
        """Count and find plain tags."""
        codes = self._codes_of(value, self.codes_of_levels[self.names[place]])
        found = [0.0] * (1 + len(self.levels[place]))
        found[0] = len(codes)
        for code in codes:
            if code >= FIRST_LEVEL:
                found[1 + code - FIRST_LEVEL] = 1.0
        return found


def inner_of(dtype: pl.DataType) -> pl.DataType | None:
    """Return the type of the items of a list; None for no list."""
    return pl.List(dtype.inner).inner if isinstance(dtype, pl.List | pl.Array) else None  # type: ignore[return-value]


def split_texts(texts: pl.Series, separator: str, values: str | None = None) -> pl.Series:
    """Return the lists that texts say by a sign between their items; blank items are none.

    ``values`` says what the lists held in fit, in a word of `ColumnKind.values_of`. By default they are of numbers if
    all items are, and some are written with a decimal point or an exponent; of whole numbers if all items are, and none
    is written with a sign "+" or with zeros in front; and else of text.
    """
    items = pl.element().str.strip_chars()
    lists = (
        texts.alias("text")
        .str.split(separator)
        .to_frame()
        .select(pl.col("text").list.eval(items.filter(items != "")))
        .to_series()
        .alias(texts.name)
    )
    if values == "lists of numbers":
        return lists.cast(pl.List(pl.Float64), strict=False)
    text = lists.alias("text").explode().drop_nulls()
    if values is not None or text.is_empty():
        return lists
    if text.str.contains(_WHOLE).all():
        return lists.cast(pl.List(pl.Int64))
    is_number = text.str.contains(_DECIMAL).any() and not text.cast(pl.Float64, strict=False).null_count()
    return lists.cast(pl.List(pl.Float64)) if is_number else lists


def lists_by_levels(levels: Sequence[str]) -> str:
    """Say that lists with these levels were of text, or of whole numbers; see `ColumnKind.values_of`."""
    return "lists of integers" if levels and all(map(_is_whole, levels)) else "lists of text"


def check_items(name: str, dtype: pl.DataType, levels: Sequence[str]) -> None:
    """Raise a TypeError for lists of numbers where no level of fit is one, so that all items would be unseen."""
    inner = inner_of(dtype)
    if (
        inner is not None
        and inner.is_numeric()
        and levels
        and not any(_is_whole(level.replace(".", "", 1)) for level in levels)
    ):
        raise TypeError(
            f"column {name!r} held lists of text in fit, such as {levels[0]!r}, and is now {dtype}; cast it to lists "
            "of text, or fit again"
        )


def _is_whole(level: str) -> bool:
    return level.removeprefix("-").isdecimal()


def items_of(tags: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """Return the items of lists as text, without missing ones, and their number in every list (n,); 0 of none."""
    inner = inner_of(tags.dtype) or pl.Null()
    lists = tags.alias("text").cast(pl.List(inner)).list.drop_nulls()
    items = series_by(lists.explode(empty_as_null=False, keep_nulls=False), text_of("text", inner))
    return items, lengths_of(lists)


def _count(tags: pl.Series) -> pl.DataFrame:
    found = items_of(tags)[0].alias("level").value_counts(name="count")
    n_missing = tags.null_count()
    missing = pl.DataFrame({"level": [None], "count": [n_missing]}, schema=found.schema)
    return pl.concat([found, missing]) if n_missing else found


def most_frequent(counts: pl.DataFrame, least: int) -> tuple[str, ...]:
    """Return the most frequent levels of at least so many rows, sorted."""
    found = counts.drop_nulls("level").filter(pl.col("count") >= least)
    return tuple(found.sort("count", "level", descending=[True, False])["level"].head(MOST_FLAT_TAGS).sort())


def flat_tags(tags: pl.Series, code: pl.Expr, n_levels: int) -> np.ndarray:
    """Encode tags to their number, and whether a row has each of L levels, (n, 1 + L) float32."""
    items, lengths = items_of(tags)
    found = np.zeros((len(tags), 1 + n_levels), dtype=np.float32)
    found[:, 0] = lengths
    codes = series_by(items, code).to_numpy()
    rows, is_known = np.repeat(np.arange(len(tags)), lengths), codes >= FIRST_LEVEL
    found[rows[is_known], 1 + codes[is_known] - FIRST_LEVEL] = 1
    found[tags.alias("text").is_null().to_numpy()] = np.nan
    return found


def encode_tags(tags: pl.Series, code: pl.Expr) -> Bags:
    """Encode tags: a missing list has the code of a missing value alone, an unknown tag that of an unseen one."""
    items, lengths = items_of(tags)
    known = series_by(items, code).to_numpy()
    is_missing = tags.alias("text").is_null().to_numpy()
    lengths += is_missing
    codes = np.full(int(lengths.sum()), MISSING, dtype=np.int32)
    codes[np.repeat(~is_missing, lengths)] = known
    keys = np.repeat(np.arange(len(lengths), dtype=np.int64) << 32, lengths)  # sorted as one number with the code
    keys |= codes
    keys.sort()
    return Bags(offsets=offsets_of(lengths), codes=(keys & 0xFFFFFFFF).astype(np.int32), weights=_weights(lengths))


def _bags(codes: Sequence[Sequence[int]]) -> Bags:
    """Return bags of given codes, sorted inside a row."""
    lengths = np.array([len(own) for own in codes], dtype=np.int64)
    flat = np.array([code for own in codes for code in own], dtype=np.int32)
    return Bags(offsets=offsets_of(lengths), codes=flat, weights=_weights(lengths))


def _weights(lengths: np.ndarray) -> np.ndarray:
    return np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
