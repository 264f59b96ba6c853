"""Features of a frame to numbers: a float matrix with NaN for missing, and an integer matrix of codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from scipy.stats import norm

from tabmtl.schema import FIRST_LEVEL, MISSING, UNSEEN, Columns

NumericTransform = Literal["standardize", "quantile", "none"]

_SAMPLE_ROWS = 200_000  # quantiles are taken from at most so many rows
_SLICE_ROWS = 65_536  # rows encoded at a time: bounds the memory beside the result
_CHUNK_ROWS = 2_048  # rows scaled at a time: the block stays in the processor's cache
_KNOTS = 257
_BINS = 48
_CLIP = 4.0  # in robust standard deviations
_FAR = 1e12  # farther out than any clip, and its square is finite


@dataclass(frozen=True, kw_only=True)
class FeatureCoder:
    """Fitted encoding of the features, as plain arrays and lists.

    Numeric columns are mapped by one of

    * ``"standardize"``: z = (x - median) / (IQR / 1.349), then z / sqrt(1 + (z / 4)²), a smooth clip to ±4: an
      outlier neither stretches the scale nor reaches the network as a large number. A column whose IQR is 0 is
      scaled by its standard deviation instead;
    * ``"quantile"``: the empirical distribution function at 257 knots, then the normal quantile function: every
      continuous column becomes standard normal whatever its tails; ties get the middle of their interval;
    * ``"none"``: the values as they are (for trees).

    Quantiles come from at most 200 000 rows drawn with a fixed seed. A missing value is NaN in the result.
    Categorical columns are coded by their level: 0 missing, 1 unseen or rarer than ``min_frequency``, then the
    levels in sorted order. Whole numbers are levels under their decimal text, so 3, 3.0 and "3" are one level.

    Attributes
    ----------
    names : tuple of str
        All features in the order of the frame.
    columns : Columns
        Which are numeric and categorical, their levels, and the bins of the encoded values.
    transform : {"standardize", "quantile", "none"}
    center, scale : ndarray of shape (n_numeric,)
        Used by ``"standardize"``.
    knots : ndarray of shape (n_numeric, 257) or (0, 0)
        Quantiles of the raw values, used by ``"quantile"``.
    """

    names: tuple[str, ...]
    columns: Columns
    transform: NumericTransform
    center: np.ndarray
    scale: np.ndarray
    knots: np.ndarray

    @classmethod
    def fit(
        cls,
        frame: pl.DataFrame | pl.LazyFrame,
        *,
        categorical: Literal["from_dtype"] | Sequence[str] = "from_dtype",
        transform: NumericTransform = "standardize",
        min_frequency: int = 1,
    ) -> FeatureCoder:
        """Learn the encoding of a frame.

        Parameters
        ----------
        frame : polars DataFrame or LazyFrame
        categorical : "from_dtype" or sequence of str
            Names of the categorical columns; by default those that hold text, categories or booleans.
        transform : {"standardize", "quantile", "none"}
        min_frequency : int, default=1
            Levels seen less often share code 1 with the unseen ones.

        Raises
        ------
        TypeError
            If a column has a type that is neither numeric nor categorical, such as a date; the cure is named.
        ValueError
            If a named column does not exist, or a numeric column holds an infinite value.
        """
        lazy = frame.lazy()
        schema = lazy.collect_schema()
        numeric, categories = _roles(schema, categorical)
        stats = _statistics(lazy, schema, numeric, categories)
        _reject_infinite(stats, numeric)
        levels = tuple(_levels(stats[f"levels:{name}"], min_frequency) for name in categories)
        sample = _sample(lazy, numeric, stats["rows"])
        center, scale = _robust_scale(sample)
        coder = cls(
            names=tuple(schema.names()),
            columns=Columns(
                numeric=numeric,
                categorical=categories,
                levels=levels,
                has_missing=tuple(bool(stats[f"missing:{name}"]) for name in numeric),
                bins=(),
            ),
            transform=transform,
            center=center,
            scale=scale,
            knots=_quantiles(sample, _KNOTS) if transform == "quantile" else np.empty((0, 0)),
        )
        coder._scale(sample)
        bins = tuple(tuple(edges.tolist()) for edges in map(_bin_edges, sample.T))
        object.__setattr__(coder.columns, "bins", bins)
        return coder

    def encode(self, frame: pl.DataFrame | pl.LazyFrame) -> tuple[np.ndarray, np.ndarray]:
        """Encode a frame with the columns of fit.

        Returns
        -------
        x_num : ndarray of float32, shape (n, n_numeric)
            NaN = missing.
        x_cat : ndarray of int32, shape (n, n_categorical)

        Raises
        ------
        TypeError, ValueError
            If a numeric column now holds text, or an infinite value.
        """
        numeric, categorical = self.columns.numeric, self.columns.categorical
        schema = frame.collect_schema()
        self._check_types(schema)
        n = frame.height if isinstance(frame, pl.DataFrame) else int(frame.select(pl.len()).collect().item())
        x_num = np.empty((n, len(numeric)), dtype=np.float32)
        x_cat = np.empty((n, len(categorical)), dtype=np.int32)
        codes = [
            _code(name, schema[name], levels)
            for name, levels in zip(categorical, self.columns.levels, strict=True)
        ]
        start = 0
        for part in _slices(frame):
            stop = start + part.height
            if numeric:
                raw = part.select(pl.col(numeric).cast(pl.Float64)).to_numpy(order="c")
                for row in range(0, part.height, _CHUNK_ROWS):
                    block = np.array(raw[row : row + _CHUNK_ROWS])
                    self._scale(block)
                    x_num[start + row : start + row + len(block)] = block
            if categorical:
                x_cat[start:stop] = part.select(codes).to_numpy(order="c")
            start = stop
        return x_num, x_cat

    def _check_types(self, schema: pl.Schema) -> None:
        for name in self.columns.numeric:
            dtype = schema[name]
            if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
                raise TypeError(
                    f"column {name!r} was numeric in fit and is now {dtype}; cast it to numbers, or fit again"
                )

    def _scale(self, block: np.ndarray) -> None:
        """Map raw numeric values (rows, n_numeric) in place."""
        if np.isinf(block).any():
            where = [
                name
                for name, bad in zip(self.columns.numeric, np.isinf(block).any(axis=0), strict=True)
                if bad
            ]
            raise ValueError(
                f"column {where[0]!r} holds an infinite value; replace it by null or a finite number"
            )
        if self.transform == "standardize":
            block -= self.center
            block /= self.scale
            np.clip(block, -_FAR, _FAR, out=block)
            block /= np.sqrt(1 + np.square(block / _CLIP))
        elif self.transform == "quantile":
            for j, knots in enumerate(self.knots):
                values, positions = _distribution(knots)
                block[:, j] = np.interp(block[:, j], values, positions)
        else:
            largest = np.finfo(np.float32).max
            np.clip(block, -largest, largest, out=block)

    def to_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The coder as JSON-able facts and arrays."""
        facts = {
            "names": self.names,
            "transform": self.transform,
            "numeric": self.columns.numeric,
            "categorical": self.columns.categorical,
            "levels": self.columns.levels,
            "has_missing": self.columns.has_missing,
            "bins": self.columns.bins,
        }
        return facts, {"center": self.center, "scale": self.scale, "knots": self.knots}

    @classmethod
    def from_state(cls, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> FeatureCoder:
        """The coder that `to_state` described."""
        columns = Columns(
            numeric=tuple(facts["numeric"]),
            categorical=tuple(facts["categorical"]),
            levels=tuple(tuple(levels) for levels in facts["levels"]),
            has_missing=tuple(facts["has_missing"]),
            bins=tuple(tuple(edges) for edges in facts["bins"]),
        )
        return cls(names=tuple(facts["names"]), columns=columns, transform=facts["transform"], **arrays)


def _roles(
    schema: pl.Schema, categorical: Literal["from_dtype"] | Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which columns are numeric and which categorical."""
    if categorical != "from_dtype":
        unknown = [name for name in categorical if name not in schema]
        if unknown:
            raise ValueError(
                f"categorical_features names columns that X does not have: {unknown}; X has {schema.names()}"
            )
    numeric, categories = [], []
    for name, dtype in schema.items():
        if dtype.is_temporal():
            raise TypeError(
                f"column {name!r} holds dates or times ({dtype}); derive numbers from it, such as "
                f"pl.col({name!r}).dt.weekday() or .dt.epoch('d'), or drop it"
            )
        is_text = dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean)
        if not (is_text or dtype.is_numeric() or dtype == pl.Null):
            raise TypeError(
                f"column {name!r} has type {dtype}; expected numbers, text, booleans or categories: "
                "cast it, or drop it"
            )
        chosen = is_text if categorical == "from_dtype" else name in categorical
        if is_text and not chosen and dtype != pl.Boolean:
            raise TypeError(
                f"column {name!r} holds {dtype} and is not in categorical_features; name it there, or cast it to numbers"
            )
        (categories if chosen else numeric).append(name)
    return tuple(numeric), tuple(categories)


def _statistics(
    lazy: pl.LazyFrame, schema: pl.Schema, numeric: Sequence[str], categorical: Sequence[str]
) -> dict[str, Any]:
    """Exact facts over all rows, in one pass: rows, missing and infinite values, and the levels' counts."""
    expressions = [pl.len().alias("rows")]
    for name in numeric:
        column, missing = pl.col(name), pl.col(name).null_count()
        if schema[name].is_float():
            missing = missing + column.is_nan().sum()
            expressions.append(column.is_infinite().any().alias(f"infinite:{name}"))
        expressions.append(missing.alias(f"missing:{name}"))
    for name in categorical:
        counts = _text(name, schema[name]).drop_nulls().value_counts(name="count").implode()
        expressions.append(counts.alias(f"levels:{name}"))
    return lazy.select(expressions).collect().row(0, named=True)


def _reject_infinite(stats: dict[str, Any], numeric: Sequence[str]) -> None:
    for name in numeric:
        if stats.get(f"infinite:{name}"):
            raise ValueError(
                f"column {name!r} holds an infinite value; replace it by null or a finite number"
            )


def _levels(counts: list[dict[str, Any]], min_frequency: int) -> tuple[str, ...]:
    kept = []
    for entry in counts:
        count = entry.pop("count")
        (level,) = entry.values()
        if count >= min_frequency:
            kept.append(level)
    return tuple(sorted(kept))


def _text(name: str, dtype: pl.DataType) -> pl.Expr:
    """A categorical column as text; whole numbers without decimals, NaN as null."""
    column = pl.col(name)
    if dtype.is_float():
        whole = (column == column.round()) & column.is_finite() & (column.abs() < 2**53)
        text = (
            pl.when(whole)
            .then(column.cast(pl.Int64, strict=False).cast(pl.String))
            .otherwise(column.cast(pl.String))
        )
        return pl.when(column.is_nan()).then(None).otherwise(text).alias(name)
    return column.cast(pl.String)


def _code(name: str, dtype: pl.DataType, levels: Sequence[str]) -> pl.Expr:
    text = _text(name, dtype)
    code = text.cast(pl.Enum(levels), strict=False).to_physical().cast(pl.Int32) + FIRST_LEVEL
    missing = pl.lit(MISSING, dtype=pl.Int32)
    return pl.when(text.is_null()).then(missing).otherwise(code.fill_null(UNSEEN)).alias(name)


def _slices(frame: pl.DataFrame | pl.LazyFrame) -> Iterator[pl.DataFrame]:
    if isinstance(frame, pl.DataFrame):
        return frame.iter_slices(_SLICE_ROWS)
    return frame.collect_batches(chunk_size=_SLICE_ROWS, maintain_order=True)


def _sample(lazy: pl.LazyFrame, numeric: Sequence[str], rows: int) -> np.ndarray:
    """At most `_SAMPLE_ROWS` rows of the numeric columns, as float64 (rows, n_numeric)."""
    values = lazy.select(pl.col(numeric).cast(pl.Float64)) if numeric else lazy.select()
    if rows > _SAMPLE_ROWS and numeric:
        chosen = np.sort(np.random.default_rng(0).choice(rows, _SAMPLE_ROWS, replace=False))
        index = pl.Series(chosen, dtype=pl.UInt32)
        values = values.with_row_index("\0row").filter(pl.col("\0row").is_in(index.implode())).drop("\0row")
    return values.collect().to_numpy(order="c", writable=True) if numeric else np.empty((0, 0))


def _quantiles(sample: np.ndarray, n: int) -> np.ndarray:
    """Quantiles of every column, (n_numeric, n); zeros where a column has no value."""
    result = np.zeros((sample.shape[1], n))
    for j, column in enumerate(sample.T):
        present = column[~np.isnan(column)]
        if present.size:
            result[j] = np.quantile(present, np.linspace(0, 1, n))
    return result


def _robust_scale(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and IQR / 1.349 per column; the standard deviation where the IQR is 0, and 1 where that is too."""
    quartiles = _quantiles(sample, 5)
    scale = (quartiles[:, 3] - quartiles[:, 1]) / 1.349
    for j in np.flatnonzero(scale <= 0):
        present = sample[:, j][~np.isnan(sample[:, j])]
        scale[j] = present.std() if present.size else 0.0
    scale[~(scale > 0) | ~np.isfinite(scale)] = 1.0
    return quartiles[:, 2], scale


def _distribution(knots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct knots and their normal scores; tied knots get the middle of their positions."""
    values, first, counts = np.unique(knots, return_index=True, return_counts=True)
    middle = (first + (counts - 1) / 2) / (len(knots) - 1)
    return values, norm.ppf(np.clip(middle, 1e-3, 1 - 1e-3))


def _bin_edges(column: np.ndarray) -> np.ndarray:
    present = column[~np.isnan(column)]
    if not present.size:
        return np.array([0.0, 1.0])
    edges = np.unique(np.quantile(present, np.linspace(0, 1, _BINS + 1)).astype(np.float32))
    return edges if len(edges) > 1 else np.array([edges[0], edges[0] + 1])
