"""Metadata of items to arrays: numbers, categories, bags of tags and of words, and vectors, once per distinct row.

Arrays are numpy until `ItemFeatures.map` makes them tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import polars.selectors as cs
import torch
from scipy.sparse import hstack
from sklearn.feature_extraction.text import HashingVectorizer
from torch import Tensor
from torch.nn import functional as F

from tabmtl.encode.features import TEXT, FeatureCoder, code_of
from tabmtl.schema import FIRST_LEVEL, UNSEEN, warn_user
from tabmtl.sessions.ragged import offsets_of
from tabmtl.storage.stored import Stored

#: Codes of a text column: half for words, half for 3-grams.
TEXT_BUCKETS = 2**15

_FEW_ITEMS = 50


@dataclass(frozen=True, kw_only=True, eq=False)
class Bags:
    """A bag of weighted codes per row.

    Attributes
    ----------
    offsets : (G + 1,) int64
    codes : (m,) int32
        Sorted inside a row.
    weights : (m,) float32
        They add up to 1 in every row that holds anything: the embedding of a bag is a mean.
    """

    offsets: Annotated[Any, Stored("i8", "G+1", offsets="m")]
    codes: Annotated[Any, Stored("i4", "m", low=0)]
    weights: Annotated[Any, Stored("f4", "m", low=0)]

    def map(self, function: Callable[[Any], Any]) -> Bags:
        """Apply a function to every array."""
        return Bags(**{name: function(part) for name, part in vars(self).items()})

    def take(self, rows: Tensor) -> Bags:
        """Take rows by number, of tensors."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        offsets = F.pad(lengths.cumsum(0), (1, 0))
        index = torch.arange(int(offsets[-1]), device=rows.device)
        index += (starts - offsets[:-1]).repeat_interleave(lengths)
        return Bags(offsets=offsets, codes=self.codes[index], weights=self.weights[index])

    def extended(self, more: Bags) -> Bags:
        """Append rows, of numpy arrays."""
        return Bags(
            offsets=np.concatenate([self.offsets, self.offsets[-1] + more.offsets[1:]]),
            codes=np.concatenate([self.codes, more.codes]),
            weights=np.concatenate([self.weights, more.weights]),
        )

    def keys(self) -> Iterator[bytes]:
        """Give the content of every row, of numpy arrays."""
        pairs = np.stack([self.codes, self.weights.view(np.int32)], axis=1).tobytes()
        ends = (8 * self.offsets).tolist()
        return (pairs[start:end] for start, end in pairwise(ends))


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemFeatures:
    """G rows of encoded metadata.

    Attributes
    ----------
    x_num : (G, Fn) float32
        NaN = missing.
    x_cat : (G, Fc) int32
        0 missing, 1 unseen, then the levels.
    bags : tuple of Bags
        One a multi-valued or text column.
    vectors : (G, V) float32
        All vector columns side by side; 0 where missing.
    """

    x_num: Annotated[Any, Stored("f4", "G Fn", missing=True)]
    x_cat: Annotated[Any, Stored("i4", "G Fc", low=0)]
    bags: tuple[Bags, ...]
    vectors: Annotated[Any, Stored("f4", "G V")]

    def __len__(self) -> int:
        return len(self.x_num)

    def map(self, function: Callable[[Any], Any]) -> ItemFeatures:
        """Apply a function to every array, such as one that makes a tensor of it."""
        bags = tuple(bags.map(function) for bags in self.bags)
        return ItemFeatures(
            x_num=function(self.x_num), x_cat=function(self.x_cat), bags=bags, vectors=function(self.vectors)
        )

    def take(self, rows: Tensor) -> ItemFeatures:
        """Take rows by number, of tensors."""
        bags = tuple(bags.take(rows) for bags in self.bags)
        return ItemFeatures(x_num=self.x_num[rows], x_cat=self.x_cat[rows], bags=bags, vectors=self.vectors[rows])

    def extended(self, more: ItemFeatures) -> ItemFeatures:
        """Append rows, of numpy arrays."""
        return ItemFeatures(
            x_num=np.concatenate([self.x_num, more.x_num]),
            x_cat=np.concatenate([self.x_cat, more.x_cat]),
            bags=tuple(a.extended(b) for a, b in zip(self.bags, more.bags, strict=True)),
            vectors=np.concatenate([self.vectors, more.vectors]),
        )

    def with_unknown(self) -> ItemFeatures:
        """Append a row for an unknown item: unseen levels, missing numbers and empty bags."""
        empty = Bags(offsets=np.zeros(2, np.int64), codes=np.zeros(0, np.int32), weights=np.zeros(0, np.float32))
        unknown = ItemFeatures(
            x_num=np.full((1, self.x_num.shape[1]), np.nan, dtype=np.float32),
            x_cat=np.full((1, self.x_cat.shape[1]), UNSEEN, dtype=np.int32),
            bags=(empty,) * len(self.bags),
            vectors=np.zeros((1, self.vectors.shape[1]), dtype=np.float32),
        )
        return self.extended(unknown)

    def distinct(self) -> tuple[ItemFeatures, np.ndarray]:
        """Keep the first of equal rows, in their order, and give the place of every row (G,) among them."""
        first: dict[tuple[bytes, ...], int] = {}
        place = np.array([first.setdefault(key, len(first)) for key in self.keys()], dtype=np.int64)
        kept = torch.from_numpy(np.unique(place, return_index=True)[1])
        return self.map(torch.from_numpy).take(kept).map(Tensor.numpy), place

    def keys(self) -> Iterator[tuple[bytes, ...]]:
        """Give the content of every row, of numpy arrays."""
        x_num = np.where(np.isnan(self.x_num), np.float32(np.nan), self.x_num)  # there are several NaN
        plain = np.concatenate([array.view(np.int32) for array in (x_num, self.x_cat, self.vectors)], axis=1)
        lines = (row.tobytes() for row in plain)
        return zip(lines, *(bags.keys() for bags in self.bags), strict=True)


@dataclass(frozen=True, kw_only=True)
class ItemCoder:
    """Fitted encoding of the item table.

    Attributes
    ----------
    table : FeatureCoder or None
        Numbers and categories.
    tags : dict of str to tuple of str
        Levels of every multi-valued column.
    texts : tuple of str
        Columns that are hashed: lower-case words, and 3-grams of letters within words, to 32 768 buckets.
    vectors : dict of str to int
        Widths of the vector columns.
    """

    table: FeatureCoder | None
    tags: dict[str, Annotated[tuple[str, ...], Stored(distinct=True)]]
    texts: tuple[str, ...]
    vectors: dict[str, int]

    @classmethod
    def fit(
        cls,
        metadata: pl.DataFrame,
        *,
        categories: Sequence[str] = (),
        categorical: Literal["from_dtype"] | Sequence[str] = "from_dtype",
        texts: Sequence[str] = (),
        min_frequency: int = 1,
    ) -> ItemCoder:
        """Learn the encoding of an item table without its names; ``categories`` are categorical whatever their type.

        Raises
        ------
        TypeError, ValueError
            If a column has another type than these, or a named column does not exist or does not fit its role.
        """
        if isinstance(categorical, str):
            text_like = [name for name, dtype in metadata.schema.items() if dtype in (*TEXT, pl.Boolean)]
            categorical = [name for name in text_like if name not in texts]
        _check_named(metadata, {"categories": categories, "categorical_features": categorical, "text_features": texts})
        chosen = list(dict.fromkeys([*categorical, *categories]))
        holds = {name: _list_holds(name, dtype) for name, dtype in metadata.schema.items()}
        tags = {name: levels_of(metadata[name], min_frequency) for name in holds if holds[name] == "tags"}
        vectors = {name: _width(metadata[name]) for name in holds if holds[name] == "vectors"}
        # selectors, because select takes a name like "^a$" for a pattern
        plain = metadata.select(cs.by_name(*(name for name in holds if holds[name] is None and name not in texts)))
        coder = None
        if plain.width:
            coder = FeatureCoder.fit(plain, categorical=chosen, min_frequency=min_frequency)
            _warn_of_names(coder, plain)
        return cls(table=coder, tags=tags, texts=tuple(texts), vectors=vectors)

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        return [*(self.table.names if self.table else ()), *self.tags, *self.texts, *self.vectors]

    @property
    def category_names(self) -> list[str]:
        """The columns of categories and of tags."""
        return [*(self.table.columns.categorical if self.table else ()), *self.tags]

    @property
    def bag_sizes(self) -> list[int]:
        """Number of codes of every bag column: multi-valued columns, then texts."""
        return [FIRST_LEVEL + len(levels) for levels in self.tags.values()] + [TEXT_BUCKETS] * len(self.texts)

    def check(self, features: ItemFeatures) -> None:
        """Raise a ValueError for features that this encoding does not give."""
        columns = None if self.table is None else self.table.columns
        found = [features.x_num.shape[1], features.vectors.shape[1], features.x_cat.shape[1], len(features.bags)]
        cardinalities = () if columns is None else columns.cardinalities
        n_numeric = 0 if columns is None else len(columns.numeric)
        expected = [n_numeric, sum(self.vectors.values()), len(cardinalities), len(self.bag_sizes)]
        if found != expected or min(self.vectors.values(), default=0) < 0:
            raise ValueError(f"items have numbers, vectors, categories and bags {found}, expected {expected}")
        codes = [*features.x_cat.T, *(bag.codes for bag in features.bags)]
        sizes = [*cardinalities, *self.bag_sizes]
        if any(own.max(initial=0) >= size for own, size in zip(codes, sizes, strict=True)):
            raise ValueError("an item has a code beyond the levels of its column")

    def encode(self, metadata: pl.DataFrame) -> tuple[ItemFeatures, np.ndarray]:
        """Encode metadata: its distinct rows, and the place of every item (N,) among them.

        Raises
        ------
        ValueError, TypeError
            If a column is missing or now holds another kind of value.
        """
        missing = [name for name in self.names if name not in metadata.columns]
        if missing:
            raise ValueError(
                f"the item table lacks the column {missing[0]!r}, which it had in fit: give it, with nulls if need be"
            )
        self._check_types(metadata.schema)
        nothing = np.empty((len(metadata), 0), np.float32)
        x_num, x_cat = nothing, nothing.astype(np.int32)
        if self.table is not None:
            x = self.table.encode(metadata.select(cs.by_name(*self.table.names)))
            x_num, x_cat = x.numbers, x.codes
        bags = [encode_tags(metadata[name], levels) for name, levels in self.tags.items()]
        bags += [encode_text(metadata[name]) for name in self.texts]
        parts = [_encode_vectors(metadata[name], width) for name, width in self.vectors.items()]
        vectors = np.concatenate([nothing, *parts], axis=1)
        return ItemFeatures(x_num=x_num, x_cat=x_cat, bags=tuple(bags), vectors=vectors).distinct()

    def _check_types(self, schema: pl.Schema) -> None:
        """Check columns of lists and of text; the table checks the others."""
        for kind, names in (("lists of text", self.tags), ("text", self.texts), ("vectors", self.vectors)):
            for name in names:
                dtype = schema[name]
                fits = dtype in TEXT if kind == "text" else isinstance(dtype, pl.List | pl.Array)
                if not fits and dtype != pl.Null:
                    raise TypeError(f"column {name!r} held {kind} in fit and is now {dtype}: cast it, or fit again")


def _check_named(metadata: pl.DataFrame, named: Mapping[str, Sequence[str]]) -> None:
    texts = named["text_features"]
    for parameter, names in named.items():
        unknown = [name for name in names if name not in metadata.columns]
        if unknown:
            raise ValueError(f"{parameter} names {unknown}, which the item table lacks; it has {metadata.columns}")
        if len(set(names)) < len(names):
            raise ValueError(f"{parameter} names a column twice: {list(names)}")
        for name in names:
            dtype = metadata.schema[name]
            if parameter != "text_features" and name in texts:
                raise ValueError(f"both {parameter} and text_features name {name!r}: choose one")
            if isinstance(dtype, pl.List | pl.Array) or (name in texts and dtype not in TEXT):
                expected = "text" if name in texts else "one value an item"
                raise TypeError(f"{parameter} names {name!r}, which holds {dtype}, not {expected}")


def _warn_of_names(coder: FeatureCoder, items: pl.DataFrame) -> None:
    for name, levels in zip(coder.columns.categorical, coder.columns.levels, strict=True):
        if len(items) >= _FEW_ITEMS and len(levels) > 0.9 * len(items):
            cure = "list it in text_features if it is text"
            if items.schema[name].is_numeric():
                cure = "leave it out of categories and categorical_features if it is a quantity"
            warn_user(
                f"the column {name!r} of the item table has {len(levels)} levels for {len(items)} items, so it names "
                f"items and tells new ones nothing: {cure}, or drop it"
            )


def _list_holds(name: str, dtype: pl.DataType) -> Literal["tags", "vectors"] | None:
    """Tell what a column of lists holds; None for all other columns."""
    if not isinstance(dtype, pl.List | pl.Array):
        return None
    inner = pl.List(dtype.inner).inner
    if not isinstance(inner, pl.DataType) or not (inner in (*TEXT, pl.Boolean, pl.Null) or inner.is_numeric()):
        raise TypeError(f"the column {name!r} of the item table holds {dtype}: expected lists of text or numbers")
    return "vectors" if inner.is_float() else "tags"


def _width(vectors: pl.Series) -> int:
    widths = vectors.drop_nulls().cast(pl.List(pl.Float32)).list.len().unique().to_list()
    if len(widths) != 1:
        raise ValueError(f"the vectors of column {vectors.name!r} must have one length, got {sorted(widths)}")
    return widths[0]


def _encode_vectors(vectors: pl.Series, width: int) -> np.ndarray:
    lists = vectors.cast(pl.List(pl.Float32))
    wrong = lists.list.len().drop_nulls() != width
    if wrong.any():
        raise ValueError(f"the vectors of column {vectors.name!r} must have the length of fit, {width}")
    table = np.zeros((len(lists), width), dtype=np.float32)
    given = lists.is_not_null().to_numpy()
    table[given] = lists.drop_nulls().explode().to_numpy().reshape(-1, width)
    if not np.isfinite(table).all():
        raise ValueError(
            f"the column {vectors.name!r} holds a vector with a number that is missing or not finite: drop or mend it"
        )
    return table


def levels_of(tags: pl.Series, min_frequency: int) -> tuple[str, ...]:
    """Find the tags of at least ``min_frequency`` items, sorted."""
    counts = tags.cast(pl.List(pl.String)).alias("tag").explode().drop_nulls().value_counts(name="count")
    return tuple(counts.filter(pl.col("count") >= min_frequency)["tag"].sort().to_list())


def encode_tags(tags: pl.Series, levels: tuple[str, ...]) -> Bags:
    """Encode tags: a row without any has the code of a missing value, an unknown tag that of an unseen one."""
    lists = tags.alias("tag").cast(pl.List(pl.String)).list.drop_nulls()
    lengths = np.maximum(lists.list.len().fill_null(0).to_numpy(), 1)  # in place of no tag, a missing one
    coded = lists.explode(empty_as_null=True).to_frame().select(code_of("tag", pl.String(), pl.Enum(levels)))
    codes = coded.to_series().to_numpy()
    codes = codes[np.lexsort((codes, np.repeat(np.arange(len(lengths)), lengths)))]
    return Bags(offsets=offsets_of(lengths), codes=codes, weights=np.repeat(1 / lengths, lengths).astype(np.float32))


def encode_text(texts: pl.Series) -> Bags:
    """Hash words and 3-grams of letters; each weighs as often as it occurs."""
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
