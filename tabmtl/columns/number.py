"""Numbers: robust summaries of a sample, and the maps from raw values to network inputs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import numpy as np
import polars as pl
import polars.selectors as cs
from scipy.special import ndtri

from tabmtl.base.schema import IdColumnWarning, warn_about
from tabmtl.base.storage.stored import POSITIVE, Stored
from tabmtl.columns.cures import by_column
from tabmtl.columns.declared import Number
from tabmtl.columns.kind import (
    CHUNK_ROWS,
    WHOLE,
    Coding,
    ColumnKind,
    Form,
    LeanPickle,
    Parts,
    Slices,
    Summary,
    in_slices,
)

NumericTransform = Literal["standardize", "quantile", "none", "raw"]

_KNOTS = 255
_WIDTH = 256  # of the search table: a power of two above the knots
_BINS = 48
CLIP = 4.0  # in robust standard deviations
FAR = 1e12  # farther out than any clip, and its square is finite
_LARGEST = 8e307  # the difference of two such numbers is finite

# whole numbers are an id, if so many equal pairs are expected and none is found, or if the name says so
_EXPECTED_PAIRS = 10
NAME_OF_ID = re.compile(r"(?i:(^|[\W_\d])(id|uuid|guid|index|idx)([\W_\d]|$))|[a-z](Id|ID)$")
_HEAD_ROWS = 2_000  # which rule most columns out
MOST_IDS, LEAST_IDS = 0.95, 50  # a column names rows if so many values are distinct, of so many rows or more


def number_of(name: str, dtype: pl.DataType) -> pl.Expr:
    """Return a numeric column as floats, NaN = missing."""
    column = cs.by_name(name).as_expr()  # see `column_of`
    if dtype not in (pl.Float32, pl.Float64):
        column = column.cast(pl.Float64)
    return column.fill_null(float("nan"))


@dataclass(frozen=True, kw_only=True)
class NumericScaler(LeanPickle):
    """Fitted maps of the numeric columns.

    * ``"standardize"``: z = (x - median) / (IQR / 1.349), then z / sqrt(1 + (z / 4)²), a smooth clip to ±4: an
      outlier neither stretches the scale nor reaches the network as a large number. Where the IQR is 0, the
      scale is the median distance of the values that differ from the median;
    * ``"quantile"``: the empirical distribution function at 255 knots, then the normal quantile function: every
      continuous column becomes standard normal, with any tails; ties get the middle of their interval;
    * ``"none"``: the values unchanged (for trees), within the range of float32;
    * ``"raw"``: the values unchanged, as float64: an exported network scales them itself
      (`tabmtl.serving.onnx.export`). It has no arrays, and is for any number of columns.

    Attributes
    ----------
    transform : {"standardize", "quantile", "none", "raw"}
    center, scale : ndarray of shape (n_numeric,)
        Used by ``"standardize"``.
    knots : ndarray of shape (n_numeric, 255) or (n_numeric, 0)
        Quantiles of the raw values, used by ``"quantile"``.
    """

    transform: NumericTransform
    center: Annotated[np.ndarray, Stored("f8", "Fn")]
    scale: Annotated[np.ndarray, Stored("f8", "Fn", low=POSITIVE)]
    knots: Annotated[np.ndarray, Stored("f8", "Fn Q")]

    def __post_init__(self) -> None:
        n_knots = self.knots.shape[1]
        if not (0 < n_knots < _WIDTH if self.transform == "quantile" else n_knots == 0):
            raise ValueError(f"{self.transform!r} has {n_knots} knots, expected some below {_WIDTH} of 'quantile' only")

    @classmethod
    def fit(cls, sample: np.ndarray, transform: NumericTransform) -> NumericScaler:
        """Learn the maps from raw values (n_numeric, m), which are sorted in place, row by row, NaN at the end."""
        np.clip(sample, -_LARGEST, _LARGEST, out=sample)
        sample.sort(axis=1)
        center, scale = _robust_scale(sample)
        knots = quantiles(sample, _KNOTS if transform == "quantile" else 0)
        return cls(transform=transform, center=center, scale=scale, knots=knots)

    @classmethod
    def raw(cls) -> NumericScaler:
        """Return the map that changes nothing."""
        return cls(transform="raw", center=np.empty(0), scale=np.empty(0), knots=np.empty((0, 0)))

    def fits(self, n: int) -> bool:
        """Return whether it maps n columns."""
        return self.transform == "raw" or len(self.center) == n

    def part(self, places: Sequence[int]) -> NumericScaler:
        """Return the maps of some columns."""
        if self.transform == "raw":
            return self
        own = {name: getattr(self, name)[list(places)] for name in ("center", "scale", "knots")}
        return NumericScaler(transform=self.transform, **own)

    @classmethod
    def beside(cls, several: Sequence[NumericScaler]) -> NumericScaler:
        """Return the maps of the columns of several, of one transform, side by side."""
        if len(several) == 1:
            return several[0]
        joined = {
            name: np.concatenate([getattr(own, name) for own in several]) for name in ("center", "scale", "knots")
        }
        return cls(transform=several[0].transform, **joined)

    @property
    def dtype(self) -> type[np.floating]:
        """Type of the mapped values."""
        return np.float64 if self.transform == "raw" else np.float32

    def apply(self, block: np.ndarray) -> None:
        """Map raw values (n_numeric, rows), float64, in place; NaN stays NaN."""
        with np.errstate(over="ignore"):
            if self.transform == "standardize":
                self._standardize(block)
            elif self.transform == "quantile":
                self._interpolate(block)
            elif self.transform == "none":
                largest = np.finfo(np.float32).max
                np.clip(block, -largest, largest, out=block)

    def _standardize(self, block: np.ndarray) -> None:
        block -= self.center[:, None]
        block /= self.scale[:, None]
        np.clip(block, -FAR, FAR, out=block)
        root = block / CLIP
        np.square(root, out=root)
        root += 1
        np.sqrt(root, out=root)
        block /= root

    def _interpolate(self, block: np.ndarray) -> None:
        """Map values by the line between the two knots around each."""
        first, last, knots, positions, slopes = self.lines
        np.clip(block, first, last, out=block)
        # bisect all values at once, without a branch: some times faster than np.interp value by value
        index = np.empty(block.shape, dtype=np.intp)
        index[:] = np.arange(len(block))[:, None] * _WIDTH
        step = _WIDTH // 2
        while step:
            index += step * (knots.take(index + step) <= block)
            step //= 2
        block -= knots.take(index)
        block *= slopes.take(index)
        block += positions.take(index)

    @cached_property
    def lines(self) -> tuple[np.ndarray, ...]:
        """First and last knots (n_numeric, 1), and flat tables of 256 entries a column: knots, their normal scores,
        and the slopes to the next one."""
        knots = np.full((len(self.knots), _WIDTH), np.inf)
        positions, slopes = np.zeros_like(knots), np.zeros_like(knots)
        last = np.empty((len(knots), 1))
        for j, column in enumerate(self.knots):
            distinct, first, counts = np.unique(column, return_index=True, return_counts=True)
            n = len(distinct)
            middle = (first + (counts - 1) / 2) / (len(column) - 1)
            knots[j, :n], last[j] = distinct, distinct[-1]
            positions[j, :n] = ndtri(np.clip(middle, 1e-3, 1 - 1e-3))
            rise, run = np.diff(positions[j, :n]), np.diff(distinct)
            slopes[j, : n - 1] = rise / np.maximum(run, np.finfo(float).tiny)
        return knots[:, :1].copy(), last, knots.ravel(), positions.ravel(), slopes.ravel()


def quantiles(sample: np.ndarray, n: int) -> np.ndarray:
    """Compute n even quantiles (n_numeric, n) of sorted rows with NaN at their end; zeros where a row has no value."""
    result = np.zeros((len(sample), n))
    for row, column in zip(result, sample, strict=True):
        present = column[: _count(column)]
        if present.size:
            place = np.linspace(0, present.size - 1, n)
            low = place.astype(np.intp)
            below, above = present[low], present[np.minimum(low + 1, present.size - 1)]
            row[:] = below + (above - below) * (place - low)
    return result


def bin_edges(encoded: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """Compute increasing bin edges, at least two, of every sorted row of encoded values (n_numeric, m).

    A value that fills a bin by itself, such as the zero of most incomes, is an edge, and the other edges are evenly
    spaced quantiles of all other values.
    """
    bins = []
    for column in encoded:
        present = column[: _count(column)]
        values, inverse, counts = np.unique(present, return_inverse=True, return_counts=True)
        frequent = counts * _BINS > present.size
        rest = present[~frequent[inverse]]
        n_edges = _BINS + 1 - int(frequent.sum())
        edges = quantiles(rest[None], max(n_edges, 2))[0] if rest.size else rest
        distinct = np.unique(np.concatenate([values[frequent], edges]).astype(np.float32)).astype(np.float64)
        if len(distinct) == 1:
            distinct = distinct[0] + np.array([0.0, max(1.0, abs(distinct[0]) / 2)])
        bins.append(tuple(distinct.tolist()) if present.size else (0.0, 1.0))
    return tuple(bins)


def _count(column: np.ndarray) -> int:
    """Count the values of a sorted column before its NaN."""
    return int(column.size - np.isnan(column).sum())


def _robust_scale(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return median and IQR / 1.349 per row; for an IQR of 0, the median distance of the values off the median."""
    quartiles = quantiles(sample, 5)
    center, scale = quartiles[:, 2], (quartiles[:, 3] - quartiles[:, 1]) / 1.349
    for j in np.flatnonzero(scale == 0):
        distance = np.abs(sample[j, : _count(sample[j])] - center[j])
        differs = distance > 0
        scale[j] = np.median(distance[differs]) if differs.any() else 1.0
    return center, scale


def reject_infinite(block: np.ndarray, names: Sequence[str]) -> None:
    """Raise a ValueError that names a column (n_numeric, rows) with an infinite value."""
    infinite = np.isinf(block)
    if infinite.any():
        name = names[int(infinite.any(axis=1).argmax())]
        raise ValueError(f"column {name!r} holds an infinite value; replace it by null or a finite number")


def _warn_of_ids(numbers: Mapping[str, np.ndarray]) -> None:
    """Warn of columns of whole numbers that name or count the rows, given the values of some rows."""
    for name, values in numbers.items():
        head = values[:_HEAD_ROWS]
        if not (_names_rows(name, head[~np.isnan(head)]) and _names_rows(name, values[~np.isnan(values)])):
            continue
        warn_about(
            [name],
            f"column {name!r} holds whole numbers, hardly one of them twice, so it is a name or a count of the rows, "
            f"from which nothing can be learned for others; say {by_column([name], 'ignore')}, or "
            f"{by_column([name], 'number')} if it is a time",
            IdColumnWarning,
        )


def _names_rows(name: str, values: np.ndarray) -> bool:
    """Return whether values are whole, and hardly one comes twice, where chance or the name lets expect otherwise.

    n numbers from a range of r make n² / 2r equal pairs by chance, or more: fewest if all are equally probable.
    """
    n = len(values)
    if n < LEAST_IDS or not (values == np.round(values)).all():
        return False
    n_distinct = len(np.unique(values))
    is_dense = n_distinct == n and n**2 >= 2 * _EXPECTED_PAIRS * (np.ptp(values) + 1)
    return is_dense or (n_distinct > MOST_IDS * n and NAME_OF_ID.search(name) is not None)


@dataclass(frozen=True, kw_only=True)
class Numbers(ColumnKind):
    """Columns of numbers, which a `NumericScaler` maps; NaN = missing.

    Attributes
    ----------
    has_missing : tuple of bool
        Whether a column lacked a value in fit.
    bins : tuple of tuple of float
        Increasing quantile edges of the encoded values of each column, at least two.
    scaler : NumericScaler
    """

    name = "numbers"
    held = "was numeric"
    cast = "numbers"
    declaration = Number()

    has_missing: tuple[bool, ...]
    bins: tuple[tuple[float, ...], ...]
    scaler: NumericScaler

    def __post_init__(self) -> None:
        n = len(self.names)
        if not (len(self.has_missing) == len(self.bins) == n and self.scaler.fits(n)):
            raise ValueError("a numeric column lacks a flag, bins or a scale")
        for name, edges in zip(self.names, self.bins, strict=True):
            if len(edges) < 2 or not all(a < b < math.inf for a, b in pairwise(edges)):
                raise ValueError(f"the bins of {name!r} do not rise")

    @classmethod
    def reads(cls, dtype: pl.DataType, declared: str | None) -> bool:
        """Return whether a type holds numbers; booleans are some where they are declared."""
        is_number = dtype.is_numeric() or dtype == pl.Null or (dtype == pl.Boolean and declared is not None)
        return is_number and declared in (None, "numbers")

    @classmethod
    def survey(cls, block: pl.DataFrame, names: Sequence[str], taken: np.ndarray) -> Summary:
        """Count the missing values of the columns, and take the numbers of some rows."""
        schema = block.schema
        sample, missing = np.empty((len(names), len(taken))), np.zeros(len(names), dtype=np.int64)
        numbers = [number_of(name, schema[name]) for name in names]
        for rows, columns in in_slices(block, numbers):
            first, last = np.searchsorted(taken, [rows.start, rows.stop])
            for j, column in enumerate(columns.iter_columns()):
                values = column.to_numpy()
                reject_infinite(values[None], names[j : j + 1])
                missing[j] += np.isnan(values).sum()
                sample[j, first:last] = values[taken[first:last] - rows.start]
        return {
            "missing": pl.DataFrame({"level": pl.Series(names, dtype=pl.String), "count": missing}),
            "sample": sample,
        }

    @classmethod
    def learn(cls, names: tuple[str, ...], summary: Summary, coding: Coding) -> Self:
        """Learn scales and bins from the sample."""
        sample = summary["sample"]
        pairs = zip(names, sample, strict=True)
        _warn_of_ids({name: own for name, own in pairs if name not in coding.columns})
        scaler = NumericScaler.fit(sample, coding.transform)
        for start in range(0, sample.shape[1], CHUNK_ROWS):  # whose steps take the memory of their rows once more
            scaler.apply(sample[:, start : start + CHUNK_ROWS])
        missing = dict(summary["missing"].iter_rows())
        has_missing = tuple(missing[name] > 0 for name in names)
        return cls(names=names, has_missing=has_missing, bins=bin_edges(sample), scaler=scaler)

    def facts(self) -> dict[str, tuple[Any, ...]]:
        """Return names, flags and bins."""
        return {"numeric": self.names, "has_missing": self.has_missing, "bins": self.bins}

    def expressions(self, schema: pl.Schema) -> list[pl.Expr]:
        """Return the numbers as floats."""
        return [number_of(name, schema[name]) for name in self.names]

    def encode(self, slices: Slices, n: int) -> Parts:
        """Encode numbers to float32, or to float64 where the scaler leaves raw values."""
        found = np.empty((n, len(self.names)), dtype=self.scaler.dtype)
        for rows, columns in slices:
            self._scale([column.to_numpy() for column in columns.iter_columns()], found[rows])
        return {"numbers": found}

    def raw(self) -> Self:
        """Return what encodes numbers as they are; bins, which the network has, are left out."""
        return replace(self, bins=((0.0, 1.0),) * len(self.names), scaler=NumericScaler.raw())

    def scalers(self) -> dict[Form, tuple[Any, ...]]:
        """Return the map of the numbers."""
        return {"numbers": (self.scaler,)}

    def reads_rows(self, schema: pl.Schema) -> bool:
        """Return whether Python makes the same floats of plain values: all but decimals."""
        dtypes = [schema[name] for name in self.names]
        return all(dtype.is_float() or dtype.is_integer() or dtype in WHOLE for dtype in dtypes)

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> Parts:
        """Encode the numbers of few rows."""
        values = np.array([[row[name] for name in self.names] for row in rows], dtype=np.float64)  # None is NaN
        found = np.empty((len(rows), len(self.names)), dtype=self.scaler.dtype)
        self._scale_block(values.reshape(found.shape).T, found)
        return {"numbers": found}

    def _scale(self, columns: Sequence[np.ndarray], out: np.ndarray) -> None:
        """Map raw columns (rows,) into out (rows, n_numeric), in blocks."""
        buffer = np.empty((len(columns), min(len(out), CHUNK_ROWS)))
        for start in range(0, len(out), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            block = buffer[:, : len(out[rows])]
            for j, column in enumerate(columns):
                block[j] = column[rows]
            self._scale_block(block, out[rows])

    def _scale_block(self, block: np.ndarray, out: np.ndarray) -> None:
        """Map raw values (n_numeric, rows), which are overwritten, into out (rows, n_numeric)."""
        reject_infinite(block, self.names)
        self.scaler.apply(block)
        out[:] = block.T
