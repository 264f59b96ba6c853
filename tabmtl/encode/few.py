"""Few rows, read value by value: for one row, a query of polars takes ten times as long as all the rest of encoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from tabmtl.schema import FIRST_LEVEL, MISSING, UNSEEN, Columns

MOST_ROWS = 4

_TEXT = (pl.String, pl.Categorical, pl.Enum)


class FewRows:
    """The values of some rows as `FeatureCoder` reads them, bit for bit.

    Parameters
    ----------
    columns : Columns
    schema : polars Schema
        Of the rows; `of` says whether it is one that is read here.
    """

    def __init__(self, columns: Columns, schema: pl.Schema) -> None:
        self._numeric = columns.numeric
        self._codes: list[tuple[str, Callable[[Any], str] | None, dict[str, int]]] = []
        for name, levels in zip(columns.categorical, columns.levels, strict=True):
            known = {level: code for code, level in enumerate(levels, start=FIRST_LEVEL)}
            self._codes.append((name, _text_of(schema[name]), known))

    @classmethod
    def of(cls, columns: Columns, schema: pl.Schema) -> FewRows | None:
        """A reader of rows with a schema; None where only polars itself makes numbers or text of some type."""
        numbers = all(_is_plain(schema[name]) for name in columns.numeric)
        levels = all(schema[name] in _TEXT or _is_whole(schema[name]) for name in columns.categorical)
        return cls(columns, schema) if numbers and levels else None

    def read(self, frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (n, Fn) of float64, NaN for missing, and codes (n, Fc) of int32."""
        rows = frame.rows(named=True)
        numbers = np.array([[row[name] for name in self._numeric] for row in rows], dtype=np.float64)  # None is NaN
        codes = [[_code(row[name], text, known) for name, text, known in self._codes] for row in rows]
        return (
            numbers.reshape(len(rows), len(self._numeric)),
            np.array(codes, dtype=np.int32).reshape(len(rows), len(self._codes)),
        )


def _code(value: Any, text: Callable[[Any], str] | None, known: dict[str, int]) -> int:
    if value is None:
        return MISSING
    return known.get(value if text is None else text(value), UNSEEN)


def _text_of(dtype: pl.DataType) -> Callable[[Any], str] | None:
    """How a value becomes the name of its level; None where it is one."""
    if dtype in _TEXT:
        return None
    return (lambda value: "true" if value else "false") if dtype == pl.Boolean else str


def _is_whole(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or dtype in (pl.Boolean, pl.Null)


def _is_plain(dtype: pl.DataType) -> bool:
    return dtype.is_float() or _is_whole(dtype)
