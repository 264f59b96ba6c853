"""One column of pandas, pyarrow or numpy as a polars series; polars' own columns need no reading."""

from __future__ import annotations

import datetime
import math
import numbers
from decimal import Decimal
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl

_INT64 = range(-(2**63), 2**63)


def read_column(series: nw.Series, name: str) -> pl.Series:
    """A column of any library, as polars has it.

    A category of pandas is read as the text of its category; dates are read as nulls of type Datetime, because what
    takes this column rejects them by their type.

    Raises
    ------
    TypeError
        If the values are neither numbers, booleans, text nor dates, or a mixture of them.
    """
    if series.implementation.is_polars():
        return series.to_native().alias(name)
    if series.implementation.is_pyarrow():
        return series.to_polars().alias(name)
    return read_pandas(series.to_native(), name)


def read_pandas(native: Any, name: str) -> pl.Series:
    """A column of pandas; see `read_column`."""
    if isinstance(native.dtype, np.dtype):
        return read_array(native.to_numpy(), name)
    if type(native.dtype).__name__ == "StringDtype":
        return _read_objects(native.to_numpy(dtype=object), name)
    dtype = nw.from_native(native, series_only=True).dtype
    if dtype.is_temporal():
        return _dates(len(native), name)
    if str(native.dtype) == "category":
        levels = pl.Series(name, _texts(native.cat.categories), dtype=pl.String)
        return levels.gather(pl.Series(native.cat.codes.to_numpy()).replace(-1, None))
    if dtype.is_numeric():
        return _read_extension(native.array, dtype.is_integer(), name)
    return _read_objects(native.to_numpy(dtype=object), name)


def read_array(array: np.ndarray, name: str) -> pl.Series:
    """A flat array as a series; see `read_column`."""
    kind = array.dtype.kind
    if kind == "O":
        return _read_objects(array, name)
    if kind in "Mm":
        return _dates(len(array), name)
    if kind in "UT":
        return pl.Series(name, array.tolist(), dtype=pl.String)
    if kind == "f" and array.dtype.itemsize not in (4, 8):
        array = array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    if kind not in "biuf":
        raise TypeError(
            f"column {name!r}: argument must be a string or a number, got an array of type {array.dtype}; cast it, "
            "or drop it"
        )
    return pl.Series(name, np.ascontiguousarray(array))


def _dates(n: int, name: str) -> pl.Series:
    return pl.Series(name, [None] * n, dtype=pl.Datetime)


def _texts(categories: Any) -> list[str]:
    """Categories as the text that plain values like them become: 3.0 is "3", True is "true"."""
    values = categories.to_numpy()
    if values.dtype.kind in "biuf":
        whole = values.dtype.kind == "f" and np.array_equal(values, np.round(values))
        return pl.Series(values).cast(pl.Int64 if whole else pl.Series(values).dtype).cast(pl.String).to_list()
    return [str(value) for value in values]


def _read_extension(array: Any, is_integer: bool, name: str) -> pl.Series:
    """Numbers of a nullable or pyarrow-backed type of pandas; integers with holes stay integers."""
    if not is_integer:
        return pl.Series(name, array.to_numpy(dtype=np.float64, na_value=np.nan))
    values = pl.Series(name, array.to_numpy(dtype=array.dtype.numpy_dtype, na_value=0))
    missing = pl.Series(np.asarray(array.isna()))
    return pl.select(pl.when(~missing).then(values).alias(name)).to_series()


def _is_missing(value: Any) -> bool:
    # pandas' NA cannot be compared, so its type is asked first
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating | Decimal) and bool(value != value)


def _read_objects(values: np.ndarray, name: str) -> pl.Series:
    """A column of Python objects, by what its values are: all booleans, all numbers, all text or all dates."""
    objects = values.tolist()
    kinds = {type(value) for value in objects}
    if not all(issubclass(kind, str | int) for kind in kinds):
        objects = [None if _is_missing(value) else value for value in objects]
        kinds = {type(value) for value in objects} - {type(None)}
    if not kinds:
        return pl.Series(name, objects, dtype=pl.Null)
    if _all(kinds, bool, np.bool_):
        return pl.Series(name, objects, dtype=pl.Boolean)
    if _all(kinds, numbers.Integral, np.bool_):
        integers = [None if value is None else int(value) for value in objects]
        fits = all(value is None or value in _INT64 for value in integers)
        return pl.Series(name, integers if fits else map(_float, integers), dtype=pl.Int64 if fits else pl.Float64)
    if _all(kinds, numbers.Real, np.bool_, Decimal):
        return pl.Series(name, [_float(value) for value in objects], dtype=pl.Float64)
    if _all(kinds, str):
        return pl.Series(name, objects, dtype=pl.String)
    if _all(kinds, datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64):
        return _dates(len(objects), name)
    found = sorted(kind.__name__ for kind in kinds)
    raise TypeError(
        f"column {name!r}: argument must be a string or a number throughout, got objects of type {found}; "
        "cast the column to one type, or drop it"
    )


def _float(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except OverflowError:  # an integer of hundreds of digits; the reader of numbers refuses it, and names the column
        return math.inf if value > 0 else -math.inf


def _all(kinds: set[type], *allowed: type) -> bool:
    return all(issubclass(kind, allowed) for kind in kinds)
