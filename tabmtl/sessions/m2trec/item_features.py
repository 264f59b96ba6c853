"""Metadata of items to arrays, by the kinds of columns of tables and of their own, once per distinct row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import polars as pl
import polars.selectors as cs

from tabmtl.base.params import check_known
from tabmtl.base.schema import Columns, warn_user
from tabmtl.columns import KINDS, Features
from tabmtl.columns.declared import Category, Declared, Number, encoder_of, ignored
from tabmtl.columns.declared import Sequence as ListInOrder
from tabmtl.columns.kind import TEXT
from tabmtl.encode.features import NONE, FeatureCoder
from tabmtl.encode.text_encoder import TextVectors, learn_vectors

_FEW_ITEMS = 50


@dataclass(frozen=True, kw_only=True)
class ItemCoder:
    """Fitted encoding of the item table.

    Attributes
    ----------
    features : FeatureCoder
        Of numbers, categories, tags, text and vectors.
    text_vectors : TextVectors or None
        What makes vectors of the columns of free text.
    """

    features: FeatureCoder
    text_vectors: TextVectors | None = None

    later_fields: ClassVar[tuple[str, ...]] = ("text_vectors",)

    def __post_init__(self) -> None:
        self.features.check_kinds(KINDS)

    @classmethod
    def fit(
        cls,
        metadata: pl.DataFrame,
        *,
        categories: Sequence[str] = (),
        columns: Mapping[str, Declared] = NONE,
        min_frequency: int = 1,
    ) -> ItemCoder:
        """Learn the encoding of an item table without its names; ``categories`` are categorical whatever their type.

        Raises
        ------
        TypeError, ValueError
            If a column has another type than these, or a named column does not exist or does not fit its role.
        """
        check_known("categories names columns", categories, metadata.columns, "the item table")
        check_known("columns declares columns", columns, metadata.columns, "the item table")
        both = [name for name in categories if columns.get(name, Category()) != Category()]
        if len(set(categories)) < len(categories) or both:
            raise ValueError(
                f"categories must name columns of categories once each, got {[*categories]}, of which columns declares "
                f"{both} something else"
            )
        others = [name for name, own in columns.items() if isinstance(own, ListInOrder)]
        if others:
            raise ValueError(f"an item table has no sequences, and columns declares {others} some: declare them 'tags'")
        metadata = metadata.drop(cs.by_name(*ignored(columns)))
        said = _inferred(metadata.schema) | dict.fromkeys(categories, Category()) | dict(columns)
        said = {name: own for name, own in said.items() if name in metadata.columns}
        vectors, read, said = learn_vectors(metadata, said)
        features = FeatureCoder.fit(read, columns=said, min_frequency=min_frequency)
        _warn_of_names(features.columns, metadata)
        return cls(features=features, text_vectors=vectors)

    @property
    def category_names(self) -> list[str]:
        """The columns of categories and of tags."""
        coders = self.features.coders
        return [name for kind in ("categories", "tags") if kind in coders for name in coders[kind].names]

    def check(self, features: Features) -> None:
        """Raise a ValueError for features that this encoding does not give."""
        columns, sizes = self.features.columns, self.features.columns.bag_sizes
        n_vector = 0 if features.vectors is None else features.vectors.shape[1]
        found = [features.numbers.shape[1], n_vector, features.codes.shape[1], len(features.bags)]
        expected = [len(columns.numeric), sum(columns.vector_widths), len(columns.categorical), len(sizes)]
        if found != expected:
            raise ValueError(f"items have numbers, vectors, categories and bags {found}, expected {expected}")
        codes = [*features.codes.T, *(bags.codes for bags in features.bags)]
        sizes = (*columns.cardinalities, *sizes)
        if any(own.max(initial=0) >= size for own, size in zip(codes, sizes, strict=True)):
            raise ValueError("an item has a code beyond the levels of its column")

    def extended(self, metadata: pl.DataFrame, columns: Mapping[str, Any] | None, min_frequency: int) -> ItemCoder:
        """Return the encoding that knows the levels of new items too; see `FeatureCoder.extended` and `encode`."""
        known = self._read(metadata, columns)
        return replace(self, features=self.features.extended(known, min_frequency=min_frequency))

    def encode(self, metadata: pl.DataFrame, columns: Mapping[str, Any] | None = None) -> tuple[Features, np.ndarray]:
        """Encode metadata: its distinct rows, and the place of every item (N,) among them.

        An encoder of text in ``columns`` takes the place of that of fit, if there was one.

        Raises
        ------
        ValueError, TypeError
            If a column is missing or now holds another kind of value.
        """
        return self.features.encode(self._read(metadata, columns)).distinct()

    def _read(self, metadata: pl.DataFrame, columns: Mapping[str, Any] | None) -> pl.DataFrame:
        """Take the columns of fit, texts as vectors where they are read so."""
        names = self.features.names
        missing = [name for name in names if name not in metadata.columns]
        if missing:
            raise ValueError(
                f"the item table lacks the column {missing[0]!r}, which it had in fit: give it, with nulls if need be"
            )
        # a selector, because select takes a name like "^a$" for a pattern
        known = metadata.select(cs.by_name(*names))
        return known if self.text_vectors is None else self.text_vectors.apply(known, encoder_of(columns))


def _inferred(schema: Mapping[str, pl.DataType]) -> dict[str, Declared]:
    """Return the kinds of the columns of numbers and of text, which nobody has to be warned of."""
    numbers = {name: Number() for name, dtype in schema.items() if dtype.is_numeric()}
    return {**numbers, **{name: Category() for name, dtype in schema.items() if dtype in (*TEXT, pl.Boolean)}}


def _warn_of_names(columns: Columns, items: pl.DataFrame) -> None:
    for name, levels in zip(columns.categorical, columns.levels, strict=True):
        if name in items.columns and len(items) >= _FEW_ITEMS and len(levels) > 0.9 * len(items):
            cure = "declare it 'text' if it is text"
            if items.schema[name].is_numeric():
                cure = "leave it out of categories and columns if it is a quantity"
            warn_user(
                f"the column {name!r} of the item table has {len(levels)} levels for {len(items)} items, so it names "
                f"items and tells new ones nothing: {cure}, or declare it 'ignore'"
            )
