"""Free text: bags of hashed words and of 3-grams of letters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl

from tabmtl.columns.kind import TEXT, Coding, ColumnKind, Parts, Slices, Summary
from tabmtl.columns.ragged import Bags
from tabmtl.schema import FIRST_LEVEL, MISSING

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
        return {"bag_sizes": (FIRST_LEVEL + TEXT_BUCKETS,) * len(self.names)}

    def encode(self, slices: Slices, n: int) -> Parts:
        """Encode text to bags."""
        parts = [columns for _, columns in slices]
        several = ([encode_text(columns[name]) for columns in parts] for name in self.names)
        return {"bags": tuple(Bags.join([Bags.empty(0), *own]) for own in several)}


def encode_text(texts: pl.Series) -> Bags:
    """Hash words and 3-grams of letters; each weighs as often as it occurs. A missing text has the code of one."""
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
    offsets, is_missing = bags.indptr.astype(np.int64), texts.is_null().to_numpy()
    places = offsets[:-1][is_missing]
    offsets[1:] += np.cumsum(is_missing)
    return Bags(
        offsets=offsets,
        codes=np.insert(bags.indices.astype(np.int32) + FIRST_LEVEL, places, MISSING),
        weights=np.insert((bags.data / total).astype(np.float32), places, 1.0),
    )
