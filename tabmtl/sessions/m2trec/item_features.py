"""Metadata of items to arrays: numbers, categories, bags of tags and of words, and vectors, once per distinct row."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from tabmtl.encode.features import FeatureCoder
from tabmtl.schema import FIRST_LEVEL, TabmtlWarning
from tabmtl.sessions.m2trec.bags import TEXT_BUCKETS, Bags, as_lists, encode_tags, encode_text, levels_of

_TEXT = (pl.String, pl.Categorical, pl.Enum)
_FEW_ITEMS = 50


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemFeatures:
    """Encoded metadata of G distinct rows, and which of them every item has.

    Attributes
    ----------
    x_num : ndarray of float32, shape (G, Fn)
        NaN = missing.
    x_cat : ndarray of int32, shape (G, Fc)
        0 missing, 1 unseen, then the levels.
    bags : tuple of Bags
        One a multi-valued or text column.
    vectors : ndarray of float32, shape (G, V)
        All vector columns side by side; 0 where missing.
    row : ndarray of int64, shape (N,)
        The row of every item.
    """

    x_num: np.ndarray
    x_cat: np.ndarray
    bags: tuple[Bags, ...]
    vectors: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.x_num)

    def extended(self, more: ItemFeatures, *, join: bool) -> ItemFeatures:
        """These items, and then others; with ``join``, those of known metadata get its row."""
        both = ItemFeatures(
            x_num=np.concatenate([self.x_num, more.x_num]),
            x_cat=np.concatenate([self.x_cat, more.x_cat]),
            bags=tuple(a.extended(b) for a, b in zip(self.bags, more.bags, strict=True)),
            vectors=np.concatenate([self.vectors, more.vectors]),
            row=np.concatenate([self.row, len(self) + more.row]),
        )
        return both.joined() if join else both

    def joined(self) -> ItemFeatures:
        """The same items with equal rows made one; the first of these stays, and rows stay in order."""
        first: dict[tuple[bytes, ...], int] = {}
        place = np.array([first.setdefault(key, len(first)) for key in self._keys()], dtype=np.int64)
        kept = np.unique(place, return_index=True)[1]
        return ItemFeatures(
            x_num=self.x_num[kept],
            x_cat=self.x_cat[kept],
            bags=tuple(bag.take(kept) for bag in self.bags),
            vectors=self.vectors[kept],
            row=place[self.row],
        )

    def _keys(self) -> Iterator[tuple[bytes, ...]]:
        """All that is known of every row."""
        x_num = np.where(np.isnan(self.x_num), np.float32(np.nan), self.x_num)  # there are several NaN
        plain = np.concatenate([array.view(np.int32) for array in (x_num, self.x_cat, self.vectors)], axis=1)
        lines = (row.tobytes() for row in plain)
        return zip(lines, *(bag.keys() for bag in self.bags), strict=True)


@dataclass(frozen=True, kw_only=True)
class ItemCoder:
    """Fitted encoding of the item table.

    Attributes
    ----------
    table : FeatureCoder or None
        Numbers and categories.
    tags : mapping of str to tuple of str
        Levels of every multi-valued column.
    texts : tuple of str
        Columns that are hashed: lower-case words, and 3-grams of letters within words, to 32 768 buckets.
    vectors : mapping of str to int
        Widths of the vector columns.
    """

    table: FeatureCoder | None
    tags: Mapping[str, tuple[str, ...]]
    texts: tuple[str, ...]
    vectors: Mapping[str, int]

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
            If a column has a type that is none of these, or a named one does not exist or is of another type.
        """
        if categorical == "from_dtype":
            text_like = [name for name, dtype in metadata.schema.items() if dtype in (*_TEXT, pl.Boolean)]
            categorical = [name for name in text_like if name not in texts]
        _check_named(metadata, {"categories": categories, "categorical_features": categorical, "text_features": texts})
        chosen = list(dict.fromkeys([*categorical, *categories]))
        kinds = {name: dtype for name, dtype in metadata.schema.items() if name not in texts}
        tags = {
            name: levels_of(metadata[name], min_frequency) for name, dtype in kinds.items() if _is_tags(name, dtype)
        }
        vectors = {name: _width(metadata[name]) for name, dtype in kinds.items() if _is_vector(name, dtype)}
        plain = metadata.select(name for name in kinds if name not in tags and name not in vectors)
        coder = None
        if plain.width:
            coder = FeatureCoder.fit(plain, categorical=chosen, min_frequency=min_frequency)
            _warn_of_names(coder, plain)
        return cls(table=coder, tags=tags, texts=tuple(texts), vectors=vectors)

    @property
    def names(self) -> list[str]:
        """All columns that are read."""
        return [*(self.table.names if self.table else ()), *self.tags, *self.texts, *self.vectors]

    @property
    def bag_sizes(self) -> list[int]:
        """Number of codes of every bag column: multi-valued columns, then texts."""
        return [FIRST_LEVEL + len(levels) for levels in self.tags.values()] + [TEXT_BUCKETS] * len(self.texts)

    def encode(self, metadata: pl.DataFrame) -> ItemFeatures:
        """Encode items; equal rows of metadata become one.

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
        distinct, row = _distinct(metadata.select(self.names), joined=not self.vectors)
        x_num, x_cat = np.empty((len(distinct), 0), np.float32), np.empty((len(distinct), 0), np.int32)
        if self.table is not None:
            x_num, x_cat = self.table.encode(distinct.select(self.table.names))
        bags = [encode_tags(distinct[name], levels) for name, levels in self.tags.items()]
        bags += [encode_text(distinct[name]) for name in self.texts]
        vectors = [_encode_vectors(distinct[name], width) for name, width in self.vectors.items()]
        joined = np.concatenate(vectors, axis=1) if vectors else np.empty((len(distinct), 0), np.float32)
        return ItemFeatures(x_num=x_num, x_cat=x_cat, bags=tuple(bags), vectors=joined, row=row).joined()

    def _check_types(self, schema: pl.Schema) -> None:
        """Columns of lists and of text; the others are the table's."""
        for kind, names in (("lists of text", self.tags), ("text", self.texts), ("vectors", self.vectors)):
            for name in names:
                dtype = schema[name]
                fits = dtype in _TEXT if kind == "text" else isinstance(dtype, pl.List | pl.Array)
                if not fits and dtype != pl.Null:
                    raise TypeError(f"column {name!r} held {kind} in fit and is now {dtype}: cast it, or fit again")

    def to_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """JSON-able facts and arrays."""
        facts: dict[str, Any] = {
            "tags": {name: list(levels) for name, levels in self.tags.items()},
            "texts": list(self.texts),
            "vectors": dict(self.vectors),
            "table": None,
        }
        arrays: dict[str, np.ndarray] = {}
        if self.table is not None:
            facts["table"], arrays = self.table.to_state()
        return facts, arrays

    @classmethod
    def from_state(cls, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> ItemCoder:
        """The coder that `to_state` described."""
        return cls(
            table=None if facts["table"] is None else FeatureCoder.from_state(facts["table"], arrays),
            tags={name: tuple(levels) for name, levels in facts["tags"].items()},
            texts=tuple(facts["texts"]),
            vectors=facts["vectors"],
        )


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
            if isinstance(dtype, pl.List | pl.Array) or (name in texts and dtype not in _TEXT):
                expected = "text" if name in texts else "one value an item"
                raise TypeError(f"{parameter} names {name!r}, which holds {dtype}, not {expected}")


def _warn_of_names(coder: FeatureCoder, items: pl.DataFrame) -> None:
    for name, levels in zip(coder.columns.categorical, coder.columns.levels, strict=True):
        if len(items) >= _FEW_ITEMS and len(levels) > 0.9 * len(items):
            cure = "list it in text_features if it is text"
            if items.schema[name].is_numeric():
                cure = "leave it out of categories and categorical_features if it is a quantity"
            warnings.warn(
                f"the column {name!r} of the item table has {len(levels)} levels for {len(items)} items, so it names "
                f"items and tells new ones nothing: {cure}, or drop it",
                TabmtlWarning,
                stacklevel=6,
            )


def _is_vector(name: str, dtype: pl.DataType) -> bool:
    """Whether a column of lists holds vectors or tags; False for all other columns."""
    if not isinstance(dtype, pl.List | pl.Array):
        return False
    inner = pl.List(dtype.inner).inner
    if not isinstance(inner, pl.DataType) or not (inner in (*_TEXT, pl.Boolean, pl.Null) or inner.is_numeric()):
        raise TypeError(f"the column {name!r} of the item table holds {dtype}: expected lists of text or numbers")
    return inner.is_float()


def _is_tags(name: str, dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.List | pl.Array) and not _is_vector(name, dtype)


def _width(vectors: pl.Series) -> int:
    widths = vectors.drop_nulls().cast(pl.List(pl.Float32)).list.len().unique().to_list()
    if len(widths) != 1:
        raise ValueError(f"the vectors of column {vectors.name!r} must have one length, got {sorted(widths)}")
    return widths[0]


def _distinct(metadata: pl.DataFrame, *, joined: bool) -> tuple[pl.DataFrame, np.ndarray]:
    """Distinct rows, and of every row which it is; rows with vectors are taken as they are."""
    if not joined or not metadata.width:
        return (metadata, np.arange(len(metadata))) if metadata.width else (metadata, np.zeros(len(metadata), np.int64))
    keys = metadata.with_columns(
        as_lists(metadata[name]).list.drop_nulls().list.sort().list.eval(pl.element() + "\x1f").list.join("")
        for name, dtype in metadata.schema.items()
        if _is_tags(name, dtype)
    )
    places = pl.Series("place of the row", np.arange(len(keys)))
    groups = keys.with_columns(places).group_by(metadata.columns, maintain_order=True).agg(places.name)[places.name]
    row = np.empty(len(keys), dtype=np.int64)
    row[groups.explode().to_numpy()] = np.repeat(np.arange(len(groups)), groups.list.len().to_numpy())
    return metadata[groups.list.first().to_numpy()], row


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
