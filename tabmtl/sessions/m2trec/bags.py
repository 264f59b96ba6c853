"""Bags of weighted codes: what a multi-valued column or a text is of every item."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import hstack
from sklearn.feature_extraction.text import HashingVectorizer

from tabmtl.schema import FIRST_LEVEL, MISSING, UNSEEN
from tabmtl.sessions.ragged import offsets_of, ranges

#: Codes of a text column: half for words, half for 3-grams.
TEXT_BUCKETS = 2**15


@dataclass(frozen=True, kw_only=True, eq=False)
class Bags:
    """A bag of weighted codes per row.

    Attributes
    ----------
    offsets : ndarray of int64, shape (G + 1,)
    codes : ndarray of int32, shape (m,)
        Sorted inside a row.
    weights : ndarray of float32, shape (m,)
        They add up to 1 in every row that holds anything: the embedding of a bag is a mean.
    """

    offsets: np.ndarray
    codes: np.ndarray
    weights: np.ndarray

    def extended(self, more: Bags) -> Bags:
        """These rows, and then others."""
        return Bags(
            offsets=np.concatenate([self.offsets, self.offsets[-1] + more.offsets[1:]]),
            codes=np.concatenate([self.codes, more.codes]),
            weights=np.concatenate([self.weights, more.weights]),
        )

    def take(self, rows: np.ndarray) -> Bags:
        """Rows by number."""
        lengths = np.diff(self.offsets)[rows]
        index = ranges(self.offsets[rows], lengths)
        return Bags(offsets=offsets_of(lengths), codes=self.codes[index], weights=self.weights[index])

    def keys(self) -> Iterator[bytes]:
        """What every row holds."""
        pairs = np.stack([self.codes, self.weights.view(np.int32)], axis=1).tobytes()
        ends = (8 * self.offsets).tolist()
        return (pairs[start:end] for start, end in pairwise(ends))


def as_lists(tags: pl.Series) -> pl.Series:
    """Tags of any type as lists of text."""
    return tags.cast(pl.List(pl.String))


def levels_of(tags: pl.Series, min_frequency: int) -> tuple[str, ...]:
    """The tags that so many items have at least, sorted."""
    counts = as_lists(tags).alias("tag").explode().drop_nulls().value_counts(name="count")
    return tuple(counts.filter(pl.col("count") >= min_frequency)["tag"].sort().to_list())


def encode_tags(tags: pl.Series, levels: tuple[str, ...]) -> Bags:
    """Codes of tags: a row without any has the code of a missing value, an unknown tag that of an unseen one."""
    given = as_lists(tags).fill_null([]).list.drop_nulls()
    none = pl.lit([None], dtype=pl.List(pl.String))
    lists = pl.select(pl.when(given.list.len() == 0).then(none).otherwise(given)).to_series()
    lengths = lists.list.len().to_numpy()
    flat = lists.explode()
    known = flat.cast(pl.Enum(levels), strict=False).to_physical().cast(pl.Int32) + FIRST_LEVEL
    codes = known.fill_null(UNSEEN).to_numpy()
    codes = np.where(flat.is_null().to_numpy(), MISSING, codes).astype(np.int32)
    codes = codes[np.lexsort((codes, np.repeat(np.arange(len(lengths)), lengths)))]
    return Bags(offsets=offsets_of(lengths), codes=codes, weights=np.repeat(1 / lengths, lengths).astype(np.float32))


def encode_text(texts: pl.Series) -> Bags:
    """Hashed words and 3-grams of letters, each as often as it comes."""
    half = TEXT_BUCKETS // 2
    options: dict[str, Any] = {"n_features": half, "norm": None, "alternate_sign": False}
    words = HashingVectorizer(token_pattern=r"(?u)\b\w+\b", **options)
    grams = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 3), **options)
    lines = [*texts.cast(pl.String).fill_null(""), ""]  # of no line at all, a vectorizer makes nothing
    bags = hstack([words.transform(lines), grams.transform(lines)], format="csr")[:-1]
    bags.sort_indices()
    total = np.repeat(np.asarray(bags.sum(axis=1)).ravel(), np.diff(bags.indptr))
    return Bags(
        offsets=bags.indptr.astype(np.int64),
        codes=bags.indices.astype(np.int32),
        weights=(bags.data / total).astype(np.float32),
    )
