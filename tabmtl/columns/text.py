"""Free text: bags of hashed words and of 3-grams of letters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl

from tabmtl.columns.features import Bags
from tabmtl.columns.kind import TEXT, Coding, ColumnKind, Parts, Slices, Summary

#: Codes of a text column: half for words, half for 3-grams.
TEXT_BUCKETS = 2**15


@dataclass(frozen=True, kw_only=True)
class Texts(ColumnKind):
    """Columns that are hashed: lower-case words, and 3-grams of letters within words, to 32 768 buckets."""

    name = "texts"
    held = "held text"
    cast = "text"

    @classmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether text is declared to be free text."""
        return declared == "texts" and dtype in TEXT

    @classmethod
    def learn(cls, names: tuple[str, ...], summary: Summary, coding: Coding) -> Self:
        """Learn nothing but the names."""
        return cls(names=names)

    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return the numbers of codes."""
        return {"bag_sizes": (TEXT_BUCKETS,) * len(self.names)}

    def encode(self, slices: Slices, n: int) -> Parts:
        """Encode text to bags."""
        parts = [columns for _, columns in slices]
        return {"bags": tuple(Bags.join([encode_text(columns[name]) for columns in parts]) for name in self.names)}


def encode_text(texts: pl.Series) -> Bags:
    """Hash words and 3-grams of letters; each weighs as often as it occurs."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import HashingVectorizer

    half = TEXT_BUCKETS // 2
    options: dict[str, Any] = {"n_features": half, "norm": None, "alternate_sign": False}
    words = HashingVectorizer(token_pattern=r"(?u)\b\w+\b", **options)
    grams = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 3), **options)
    lines = [*texts.cast(pl.String).fill_null(""), ""]  # a vectorizer refuses to read no line at all
    bags = hstack([words.transform(lines), grams.transform(lines)], format="csr")[:-1]
    bags.sort_indices()
    total = np.repeat(np.asarray(bags.sum(axis=1)).ravel(), np.diff(bags.indptr))
    return Bags(
        offsets=bags.indptr.astype(np.int64),
        codes=bags.indices.astype(np.int32),
        weights=(bags.data / total).astype(np.float32),
    )
