"""Numeric columns: robust summaries of a sample, and the maps from raw values to network inputs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import polars.selectors as cs
from scipy.special import ndtri

from tabmtl.storage.stored import POSITIVE, Stored

NumericTransform = Literal["standardize", "quantile", "none", "raw"]

# text with more levels, at most this share of them no numbers, is taken for numbers that were read as text
_MOST_PLAIN_LEVELS, _MOST_OTHERS = 20, 0.1

_KNOTS = 255
_WIDTH = 256  # of the search table: a power of two above the knots
_BINS = 48
CLIP = 4.0  # in robust standard deviations
FAR = 1e12  # farther out than any clip, and its square is finite
_LARGEST = 8e307  # the difference of two such numbers is finite


def number_of(name: str, dtype: pl.DataType) -> pl.Expr:
    """Return a numeric column as floats, NaN = missing."""
    # a selector, because pl.col takes a name like "*" or "^a$" for a pattern
    column = cs.by_name(name).as_expr()
    if dtype not in (pl.Float32, pl.Float64):
        column = column.cast(pl.Float64)
    return column.fill_null(float("nan"))


def describe_numbers(levels: pl.Series) -> str | None:
    """Describe distinct texts that are nearly all numbers; None where they are few, or text."""
    others = levels.filter(levels.cast(pl.Float64, strict=False).is_null())
    if len(levels) <= _MOST_PLAIN_LEVELS or len(others) > _MOST_OTHERS * len(levels):
        return None
    return f"numbers, except {others[0]!r} and the like" if len(others) else "numbers"


class LeanPickle:
    """Base of dataclasses whose pickles leave out the values that are computed on first use."""

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class NumericScaler(LeanPickle):
    """Fitted maps of the numeric columns.

    * ``"standardize"``: z = (x - median) / (IQR / 1.349), then z / sqrt(1 + (z / 4)²), a smooth clip to ±4: an
      outlier neither stretches the scale nor reaches the network as a large number. Where the IQR is 0, the
      scale is the median distance of the values that differ from the median;
    * ``"quantile"``: the empirical distribution function at 255 knots, then the normal quantile function: every
      continuous column becomes standard normal, with any tails; ties get the middle of their interval;
    * ``"none"``: the values unchanged (for trees), within the range of float32;
    * ``"raw"``: the values unchanged, as float64: an exported network scales them itself (`tabmtl.onnx.export`).

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
