"""Rows that are drawn to trace a network and to check its file, with whatever rows may hold."""

from __future__ import annotations

import numpy as np

from tabmtl.base.schema import MISSING, UNSEEN, Batch, SequenceColumn
from tabmtl.columns import Features
from tabmtl.columns.number import NumericScaler
from tabmtl.columns.ragged import Bags, Entries, offsets_of
from tabmtl.encode import TableCoder

_LONGEST = 5  # of the lists
_MISSING = 0.1  # share of numbers


def draw_rows(coder: TableCoder, n: int) -> Batch:
    """Draw three rows or more with raw values around those of fit, and with missing and unseen ones.

    All lists of the first row are empty, those of the second are missing, and those of the last are long.
    """
    rng, columns, scalers = np.random.default_rng(0), coder.features.columns, coder.features.scalers
    levels = np.array(columns.cardinalities, dtype=np.int64)
    sizes = dict(zip(columns.categorical, columns.cardinalities, strict=True))
    sequences = zip(columns.sequences, scalers["sequences"], strict=True)
    x = Features(
        numbers=_draw_numbers(rng, scalers["numbers"][0], n),
        codes=rng.integers(levels, size=(n, len(levels)), dtype=np.int32),
        bags=tuple(_draw_bags(rng, n, size) for size in columns.bag_sizes),
        sequences=tuple(
            _draw_entries(rng, n, own.size if own.item is None else sizes[own.item], own, scaler)
            for own, scaler in sequences
        ),
        vectors=_draw_numbers(rng, scalers["vectors"][0], n).astype(np.float32) if "vectors" in scalers else None,
    )
    return Batch(x=x, task=None if coder.task_column is None else rng.integers(len(coder.labels.tasks), size=n))


def _draw_numbers(rng: np.random.Generator, scaler: NumericScaler, n: int) -> np.ndarray:
    numbers = rng.normal(scaler.center, 2 * scaler.scale, size=(n, len(scaler.center)))
    return np.where(rng.random(numbers.shape) < _MISSING, np.nan, numbers)


def _draw_codes(rng: np.random.Generator, n: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw lists of codes below a size; return these (m,), their rows (m,) and the lengths (n,)."""
    lengths = rng.integers(_LONGEST + 1, size=n)
    lengths[[0, 1, -1]] = 0, 1, _LONGEST
    row = np.repeat(np.arange(n), lengths)
    codes = rng.integers(UNSEEN, size, size=len(row), dtype=np.int32)
    return np.where(row == 1, np.int32(MISSING), codes), row, lengths


def _draw_bags(rng: np.random.Generator, n: int, size: int) -> Bags:
    codes, row, lengths = _draw_codes(rng, n, size)
    return Bags(offsets=offsets_of(lengths), codes=codes, weights=(1 / lengths[row]).astype(np.float32))


def _draw_entries(
    rng: np.random.Generator, n: int, size: int, column: SequenceColumn, scaler: NumericScaler
) -> Entries:
    codes, row, lengths = _draw_codes(rng, n, size)
    numbers = _draw_numbers(rng, scaler, len(row)) if column.n_numbers else None
    labels = rng.integers(column.label_sizes, size=(len(row), len(column.label_sizes)), dtype=np.int32)
    return Entries(
        offsets=offsets_of(lengths), codes=codes, numbers=numbers, labels=labels if column.label_sizes else None
    )
