"""Free text: bags of hashed words and of 3-grams of letters, or their most telling directions as numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Annotated, Any, Self

import numpy as np
import polars as pl
import polars.selectors as cs

from tabmtl.base.schema import FIRST_LEVEL, MISSING, warn_about
from tabmtl.base.storage.stored import Stored
from tabmtl.columns.cures import by_column
from tabmtl.columns.declared import Text
from tabmtl.columns.flat import Flat
from tabmtl.columns.kind import MOST_ROWS, TEXT, Coding, ColumnKind, LeanPickle, Parts, Slices, Summary, series_by
from tabmtl.columns.ragged import Bags

#: Codes of a text column: half for words, half for 3-grams.
TEXT_BUCKETS = 2**15
#: Text is free text if its values have so many letters and words on average, and such a share of them is distinct.
_LEAST_LETTERS, _LEAST_WORDS, _LEAST_DISTINCT = 20, 3, 0.1
_LOOKED_AT, _LEAST_VALUES = 10_000, 50
#: Numbers of a flat column, besides the count of its words.
DIRECTIONS = 32
#: Distinct texts from which directions are learned, at most, and the texts that a bucket must come in.
_MOST_LEARNED, _LEAST_TEXTS = 20_000, 2
_WORDS = pl.col("text").str.count_matches(r"\w+")


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection(LeanPickle):
    """Map of a text to numbers, learned without labels: latent semantic analysis of hashed words and 3-grams.

    Words and 3-grams weigh (1 + log of their count) times (1 + log of the inverse share of the texts that hold them),
    and those of a text have length 1 each. The numbers are the text's coordinates along the directions that explain
    most of all texts (Deerwester et al. 1990, JASIS): a truncated singular value decomposition.

    Attributes
    ----------
    buckets : (m,) int32
        The buckets that are read, rising.
    weights : (m,) float32
        Their inverse frequencies.
    directions : (m, d) float32
    """

    buckets: Annotated[np.ndarray, Stored("i4", "M", low=0)]
    weights: Annotated[np.ndarray, Stored("f4", "M", low=0)]
    directions: Annotated[np.ndarray, Stored("f4", "M D")]

    @classmethod
    def learn(cls, counts: pl.DataFrame) -> Projection:
        """Learn the directions of texts, given each ``level`` with its ``count``."""
        from sklearn.utils.extmath import randomized_svd

        if counts.height > _MOST_LEARNED:
            chosen = np.random.default_rng(0).choice(counts.height, _MOST_LEARNED, replace=False)
            counts = counts[np.sort(chosen)]
        bags, rows = count_hashed(counts["level"].to_list()), counts["count"].to_numpy()
        texts = np.bincount(bags.indices, rows[np.repeat(np.arange(len(rows)), np.diff(bags.indptr))], TEXT_BUCKETS)
        buckets = np.flatnonzero(texts >= _LEAST_TEXTS).astype(np.int32)
        weights = (1 + np.log((1 + rows.sum()) / (1 + texts[buckets]))).astype(np.float32)
        found = cls(buckets=buckets, weights=weights, directions=np.zeros((len(buckets), 0), dtype=np.float32))
        n = min(DIRECTIONS, len(buckets) - 1, counts.height - 1)
        if n < 1:
            return found
        weighed = found.weigh(bags)
        weighed.data *= np.sqrt(np.repeat(rows, np.diff(weighed.indptr)))
        directions = randomized_svd(weighed, n, n_iter=5, random_state=0)[2]
        return cls(buckets=buckets, weights=weights, directions=directions.T.astype(np.float32))

    def apply(self, texts: Sequence[str]) -> np.ndarray:
        """Return the coordinates of texts, (n, d) float32."""
        return (self.weigh(count_hashed(texts)) @ self._directions).astype(np.float32)

    @cached_property
    def _directions(self) -> np.ndarray:
        return self.directions.astype(np.float64)

    def weigh(self, bags: Any) -> Any:
        """Return the weighed buckets of texts, a sparse matrix (n, m)."""
        known = bags[:, self.buckets]
        known.data = (1 + np.log(known.data)) * self.weights[known.indices].astype(np.float64)
        # of each text the words, and the 3-grams
        part = 2 * np.repeat(np.arange(known.shape[0]), np.diff(known.indptr))
        part += self.buckets[known.indices] >= TEXT_BUCKETS // 2
        known.data /= np.sqrt(np.bincount(part, np.square(known.data)))[part]
        return known


@dataclass(frozen=True, kw_only=True)
class Texts(ColumnKind):
    """Columns that are hashed: lower-case words, and 3-grams of letters within words, to 32 768 buckets."""

    name = "texts"
    held = "held text"
    cast = "text"
    declaration = Text()

    @classmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether text is declared to be free text."""
        return declared in ("texts", cls.name) and dtype in TEXT

    @classmethod
    def flat(cls) -> type[ColumnKind]:
        """Return the kind that projects text to numbers."""
        return FlatTexts

    @classmethod
    def learn(cls, names: tuple[str, ...], summary: Summary, coding: Coding) -> Self:
        """Learn the names."""
        return cls(names=names)

    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return the numbers of codes."""
        return {"bag_sizes": (FIRST_LEVEL + TEXT_BUCKETS,) * len(self.names)}

    def values_of(self, name: str) -> str:
        """Say that it was free text."""
        return "free text"

    def encode(self, slices: Slices, n: int) -> Parts:
        """Encode text to bags."""
        parts = [columns for _, columns in slices]
        several = ([encode_texts(_texts_of(columns[name])) for columns in parts] for name in self.names)
        return {"bags": tuple(Bags.join([Bags.empty(0), *own]) for own in several)}

    def reads_rows(self, schema: pl.Schema) -> bool:
        """Return whether plain text is the same: it is."""
        return True

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> Parts:
        """Encode text of few rows to bags."""
        return {"bags": tuple(encode_texts([row[name] for row in rows]) for name in self.names)}


@dataclass(frozen=True, kw_only=True)
class FlatTexts(Flat, Texts):
    """Text as numbers: how many words it has, and its coordinates in a `Projection`.

    Attributes
    ----------
    projections : tuple of Projection
        One a column.
    """

    name = "flat texts"

    projections: tuple[Projection, ...] = field(compare=False)

    def __post_init__(self) -> None:
        if len(self.projections) != len(self.names):
            raise ValueError(f"{len(self.names)} columns of text have {len(self.projections)} projections")

    @classmethod
    def survey(cls, block: pl.DataFrame, names: Sequence[str], taken: np.ndarray) -> Summary:
        """Take the texts of some rows."""
        return {name: block[name].alias("text").gather(taken).cast(pl.String) for name in names}

    @classmethod
    def learn(cls, names: tuple[str, ...], summary: Summary, coding: Coding) -> Self:
        """Learn the directions that explain most of the texts of the sample."""
        texts = [summary[name].alias("level") for name in names]
        counts = [own.drop_nulls().value_counts(name="count").sort("level") for own in texts]
        return cls(
            names=names,
            has_missing=tuple(own.null_count() > 0 for own in texts),
            projections=tuple(map(Projection.learn, counts)),
        )

    def parts(self) -> list[tuple[Any, ...]]:
        """Return the count of words, and the numbers of the directions."""
        return [("words", *range(own.directions.shape[1])) for own in self.projections]

    def read(self, place: int, column: pl.Series, start: int) -> np.ndarray:
        """Count words and project text."""
        return _flat_text(column, self.projections[place])

    def read_plain(self, place: int, value: Any, row: int) -> np.ndarray:
        """Count words and project a text."""
        words = series_by(pl.Series("text", [value], dtype=pl.String), _WORDS).item()
        return np.append(np.float32(words), self.projections[place].apply([value]))


def find_texts(frame: pl.DataFrame | pl.LazyFrame, known: Container[str] = ()) -> tuple[str, ...]:
    """Find the columns of free text among those of text that are not known to be else, and warn that they are read so.

    They are those whose values, in up to 10 000 rows that are spread over all, have at least 20 letters and 3 words on
    average, and at least a tenth of them is distinct. Fewer than 50 values tell nothing.
    """
    names = [name for name, dtype in frame.collect_schema().items() if dtype == pl.String and name not in known]
    if not names:
        return ()
    some = _spread(frame.select(cs.by_name(*names)))
    found = tuple(name for name in names if is_free_text(some[name]))
    if found:
        warn_about(
            found,
            f"the columns {[*found]} are read as free text: their values have {_LEAST_LETTERS} letters and "
            f"{_LEAST_WORDS} words or more on average, and many are distinct; say "
            f"{by_column(found, 'text')} to confirm it, or {by_column(found, 'category')} "
            "to make each value a category",
        )
    return found


def spread_rows(n: int) -> np.ndarray:
    """Return the numbers of the rows by which free text is found, of n, rising; they are the same in every call."""
    if n <= _LOOKED_AT:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, _LOOKED_AT, replace=False, shuffle=False))


def _spread(frame: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    if isinstance(frame, pl.DataFrame):
        return frame[spread_rows(frame.height)]
    row = f"row of {frame.collect_schema().names()}"  # longer than the name of any column
    chosen = pl.Series(spread_rows(frame.select(pl.len()).collect().item()))
    return frame.with_row_index(row).filter(pl.col(row).is_in(chosen.implode())).collect(engine="streaming")


def is_free_text(texts: pl.Series) -> bool:
    """Return whether values are free text by the rule of `find_texts`."""
    texts = texts.alias("text").drop_nulls()  # its own name may look like a pattern to polars
    if len(texts) < _LEAST_VALUES or texts.str.len_chars().mean() < _LEAST_LETTERS:  # type: ignore[operator]
        return False
    words: Any = texts.str.count_matches(r"\S+").mean()
    return words >= _LEAST_WORDS and texts.n_unique() >= _LEAST_DISTINCT * len(texts)


def _flat_text(texts: pl.Series, projection: Projection) -> np.ndarray:
    """Return the number of words of texts and their coordinates, (n, 1 + d); each distinct text is read once."""
    given = [text for text in _texts_of(texts) if text is not None]
    place = {text: k for k, text in enumerate(dict.fromkeys(given))}
    words = series_by(pl.Series("text", [*place], dtype=pl.String), _WORDS).to_numpy()
    table = np.column_stack([words, projection.apply([*place])])
    found = np.full((len(texts), table.shape[1]), np.nan, dtype=np.float32)
    found[texts.alias("text").is_not_null().to_numpy()] = table[[place[text] for text in given]]
    return found


def _texts_of(column: pl.Series) -> list[str | None]:
    return column.alias("text").cast(pl.String).to_list()


def encode_texts(texts: Sequence[str | None]) -> Bags:
    """Hash words and 3-grams of letters; each weighs as often as it occurs. A missing text has the code of one."""
    bags = count_hashed([text or "" for text in texts])
    total = np.repeat(np.asarray(bags.sum(axis=1)).ravel(), np.diff(bags.indptr))
    offsets, is_missing = bags.indptr.astype(np.int64), np.array([text is None for text in texts], dtype=bool)
    places = offsets[:-1][is_missing]
    offsets[1:] += np.cumsum(is_missing)
    return Bags(
        offsets=offsets,
        codes=np.insert(bags.indices.astype(np.int32) + FIRST_LEVEL, places, MISSING),
        weights=np.insert((bags.data / total).astype(np.float32), places, 1.0),
    )


def count_hashed(texts: Sequence[str]) -> Any:
    """Count the hashed words of texts, then their 3-grams, in a sparse matrix (n, `TEXT_BUCKETS`)."""
    from scipy.sparse import hstack

    if len(texts) <= MOST_ROWS:
        return _count_few(texts)
    words, grams = _vectorizers()
    lines = [*texts, ""]  # a vectorizer refuses to read no line at all
    bags = hstack([words.transform(lines), grams.transform(lines)], format="csr")[:-1]
    bags.sort_indices()
    return bags


def _count_few(texts: Sequence[str]) -> Any:
    """Count as `count_hashed` does, without its matrices, which take longer than a text."""
    from scipy.sparse import csr_matrix
    from sklearn.utils import murmurhash3_32

    parts = [*zip(_analyzers(), (0, TEXT_BUCKETS // 2), strict=True)]
    counts = [
        sorted(
            Counter(
                first + abs(murmurhash3_32(token)) % (TEXT_BUCKETS // 2)
                for analyze, first in parts
                for token in analyze(text)
            ).items()
        )
        for text in texts
    ]
    found = np.array([pair for own in counts for pair in own], dtype=np.int32).reshape(-1, 2)
    starts = np.cumsum([0, *map(len, counts)], dtype=np.int32)
    return csr_matrix((found[:, 1].astype(np.float64), found[:, 0].copy(), starts), (len(texts), TEXT_BUCKETS))


@cache
def _analyzers() -> list[Any]:
    """Return what takes words, and 3-grams of letters, from a text."""
    return [vectorizer.build_analyzer() for vectorizer in _vectorizers()]


@cache
def _vectorizers() -> tuple[Any, Any]:
    """Return what hashes words, and 3-grams of letters."""
    from sklearn.feature_extraction.text import HashingVectorizer

    options: dict[str, Any] = {"n_features": TEXT_BUCKETS // 2, "norm": None, "alternate_sign": False}
    words = HashingVectorizer(token_pattern=r"(?u)\b\w+\b", **options)
    return words, HashingVectorizer(analyzer="char_wb", ngram_range=(3, 3), **options)
