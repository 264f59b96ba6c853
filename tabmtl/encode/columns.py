"""Read a column of pandas, pyarrow or numpy as a polars series; columns of polars need no reading."""

from __future__ import annotations

import datetime
import math
import numbers
from collections.abc import Mapping, Sequence, Set
from decimal import Decimal
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl

from tabmtl.base.forks import has_pool
from tabmtl.columns.cures import by_cast
from tabmtl.columns.kind import series_by
from tabmtl.encode.dates import MOMENTS, SPANS, read_arrow_moments, read_moments, read_objects, read_zoned

_INT64 = range(-(2**63), 2**63)
_NESTED = (list, tuple, set, frozenset, np.ndarray)
_LISTS = (*_NESTED, Set)


def read_column(series: nw.Series, name: str) -> pl.Series:
    """Read a column of any library as polars would hold it.

    A category of pandas is read as the text of its category, and a dictionary of pyarrow whose values are no text as
    these values. Periods of pandas are read as the moment at which they begin.

    Raises
    ------
    TypeError
        If the values are neither numbers, booleans, text, dates nor lists of them, or a mixture.
    ValueError
        If a text is no valid Unicode, a number is a signalling NaN, or a date is out of range.
    """
    if series.implementation.is_polars():
        return series.to_native().alias(name)
    if series.implementation.is_pyarrow():
        return read_arrow(series.to_native(), name)
    return read_pandas(series.to_native(), name)


def read_pandas(native: Any, name: str) -> pl.Series:
    """Read a column of pandas; see `read_column`."""
    # the series get their name at the end, for polars takes one like "^a$" for a pattern
    if isinstance(native.dtype, np.dtype):
        return read_array(native.to_numpy(), name)
    kind = type(native.dtype).__name__
    if kind == "ArrowDtype":
        return read_arrow(native.array.__arrow_array__(), name)
    if kind == "StringDtype":
        return _read_objects(native.to_numpy(dtype=object), name)
    if kind == "PeriodDtype":
        return read_pandas(native.dt.to_timestamp(), name)
    if kind == "DatetimeTZDtype":
        utc = native.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        return read_zoned(utc, native.dtype.tz, name)
    dtype = nw.from_native(native, series_only=True).dtype
    if kind == "CategoricalDtype":
        levels = _texts(_names_of(native.cat.categories), name).alias("")
        texts = levels.gather(pl.Series(native.cat.codes.to_numpy()).cast(pl.UInt32, strict=False))  # -1 is null
        return texts.cast(pl.Categorical).alias(name)
    if dtype.is_numeric():
        return _read_extension(native.array, dtype.is_integer()).alias(name)
    return _read_objects(native.to_numpy(dtype=object), name)


def read_arrow(array: Any, name: str) -> pl.Series:
    """Read a chunked array of pyarrow, of a table or behind a column of pandas; see `read_column`."""
    import pyarrow as pa

    types, kind = pa.types, array.type
    if types.is_dictionary(kind) and not is_arrow_text(kind.value_type):
        # polars makes text of numbers in several chunks
        array = pa.chunked_array([chunk.dictionary_decode() for chunk in array.chunks], type=kind.value_type)
        kind = kind.value_type
    if types.is_decimal(kind):
        array = array.cast(pa.float64())
    elif types.is_temporal(kind) and not types.is_interval(kind):
        return read_arrow_moments(array, name)
    elif _is_list(kind):
        return _read_arrow_lists(array, name)
    elif not (
        types.is_dictionary(kind)
        or is_arrow_text(kind)
        or types.is_boolean(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_null(kind)
    ):
        raise TypeError(
            f"column {name!r} has type {kind}; expected numbers, text, booleans or categories: "
            f"{by_cast(_nested_type(kind))}, or drop it"
        )
    return pl.Series(array).alias(name)


def _is_list(kind: Any) -> bool:
    """Return whether a type of pyarrow holds lists."""
    from pyarrow import types

    views = types.is_list_view(kind) or types.is_large_list_view(kind)
    return views or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _read_arrow_lists(array: Any, name: str) -> pl.Series:
    """Read lists of pyarrow by the type of their items."""
    import pyarrow as pa

    items = array.type.value_type
    try:
        read_arrow(pa.chunked_array([], items), name)
    except TypeError:
        raise TypeError(
            f"column {name!r} has type {array.type}; expected lists of numbers, text or booleans: "
            f"{by_cast(pl.List)}, or drop it"
        ) from None
    if "list_view" in str(array.type):  # which polars does not know, and pyarrow casts to broken lists
        return _read_lists(array.to_pylist(), name)
    items = pa.float64() if pa.types.is_decimal(items) else items
    return pl.Series(array.cast(pa.large_list(items))).alias(name)


def _nested_type(kind: Any) -> type[pl.DataType]:
    """Return what polars would call a type of pyarrow that is refused."""
    from pyarrow import types

    if types.is_struct(kind) or types.is_map(kind):
        return pl.Struct
    return pl.List if types.is_nested(kind) else pl.Object


def is_arrow_text(kind: Any) -> bool:
    """Return whether a type of pyarrow is a text."""
    return str(kind) in ("string", "large_string", "string_view")


def read_array(array: np.ndarray, name: str) -> pl.Series:
    """Read a flat array as a series; see `read_column`."""
    kind = array.dtype.kind
    if kind == "O":
        return _read_objects(array, name)
    if kind in "Mm":
        return read_moments(array, name)
    if kind == "U":
        return _texts(array.tolist(), name)
    if kind == "T":
        return _read_objects(array.astype(object), name)
    if kind == "f" and array.dtype.itemsize not in (4, 8):
        array = array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    if kind not in "biuf":
        raise TypeError(
            f"column {name!r}: argument must be a string or a number, got an array of type {array.dtype}; "
            f"{by_cast(pl.Binary if kind == 'S' else pl.Object)}, or drop it"
        )
    return pl.Series(name, np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))


def _texts(values: Sequence[str | None], name: str) -> pl.Series:
    try:
        return pl.Series(name, values, dtype=pl.String)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"column {name!r} holds the text {error.object!r}, which is no valid Unicode: "
            "replace it by text.encode('utf-8', 'replace').decode('utf-8')"
        ) from None


def _names_of(categories: Any) -> list[str]:
    """Name categories as `text_of` would name their plain values: 3.0 is "3", True is "true"."""
    values = categories.to_numpy()
    if values.dtype.kind in "biuf":
        whole = values.dtype.kind == "f" and np.array_equal(values, np.round(values))
        return pl.Series(values).cast(pl.Int64 if whole else pl.Series(values).dtype).cast(pl.String).to_list()
    return [str(value) for value in values]


def _read_extension(array: Any, is_integer: bool) -> pl.Series:
    """Read numbers of a nullable type of pandas; integers with holes stay integers."""
    if not is_integer:
        return pl.Series(array.to_numpy(dtype=np.float64, na_value=np.nan))
    values = pl.Series(array.to_numpy(dtype=array.dtype.numpy_dtype, na_value=0))
    missing = pl.Series(np.asarray(array.isna()))
    return series_by(values, pl.when(~missing).then(pl.first()))


def is_missing(value: Any) -> bool:
    """Return whether a Python object stands for a missing value."""
    # pandas' NA cannot be compared, so its type is asked first
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, Decimal):
        return value.is_qnan()
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return isinstance(value, float | np.floating) and bool(value != value)


def _read_objects(values: np.ndarray, name: str) -> pl.Series:
    """Read a column of Python objects by their values: all booleans, all numbers, all text or all dates."""
    objects = values.tolist()
    kinds = {type(value) for value in objects}
    if not all(issubclass(kind, str | int) for kind in kinds):
        objects = [None if is_missing(value) else value for value in objects]
        kinds = {type(value) for value in objects} - {type(None)}
    if not kinds:
        return pl.Series(name, objects, dtype=pl.Null)
    if _all(kinds, bool, np.bool_):
        return pl.Series(name, objects, dtype=pl.Boolean)
    if _all(kinds, numbers.Integral, np.bool_):
        integers = [None if value is None else int(value) for value in objects]
        fits = all(value is None or value in _INT64 for value in integers)
        floats = (_float(value, name) for value in integers)
        return pl.Series(name, integers if fits else floats, dtype=pl.Int64 if fits else pl.Float64)
    if _all(kinds, numbers.Real, np.bool_, Decimal):
        return pl.Series(name, [_float(value, name) for value in objects], dtype=pl.Float64)
    if _all(kinds, str):
        return _texts(objects, name)
    if _all(kinds, *MOMENTS) or _all(kinds, *SPANS) or _all(kinds, datetime.time):
        return read_objects(objects, name)
    if _all(kinds, *_LISTS):
        return _read_lists(objects, name)
    if any(issubclass(kind, _LISTS) for kind in kinds):
        raise TypeError(_describe_others(objects, name))
    held: dict[Any, tuple[type, ...]] = {pl.Struct: (Mapping,), pl.Binary: (bytes,)}
    dtype = next((dtype for dtype, allowed in held.items() if _all(kinds, *allowed)), pl.Object)
    found = sorted(kind.__name__ for kind in kinds)
    raise TypeError(
        f"column {name!r}: argument must be a string or a number throughout, got objects of type {found}; "
        f"{by_cast(dtype)}, or drop it"
    )


def _describe_others(objects: Sequence[Any], name: str) -> str:
    """Describe lists beside values that are none."""
    a_list = next(row for row, value in enumerate(objects) if isinstance(value, _LISTS))
    other = next(row for row, value in enumerate(objects) if value is not None and not isinstance(value, _LISTS))
    return (
        f"column {name!r} holds a list in row {a_list}, and {type(objects[other]).__name__} in row {other} (counted "
        f"from 0); expected lists throughout: make a list of each other value, or drop it"
    )


def _float(value: Any, name: str) -> float | None:
    if isinstance(value, Decimal) and value.is_snan():
        raise ValueError(f"column {name!r} holds the signalling NaN of decimals; replace Decimal('sNaN') by None")
    try:
        return None if value is None else float(value)
    except OverflowError:  # an integer of hundreds of digits; the reader of numbers refuses it, and names the column
        return math.inf if value > 0 else -math.inf


def _all(kinds: set[type], *allowed: type) -> bool:
    return all(issubclass(kind, allowed) for kind in kinds)


def _read_lists(lists: Sequence[Any], name: str) -> pl.Series:
    """Read lists of Python by the values of all their items: all booleans, all numbers, all text or all dates."""
    # the order of a set of text differs from process to process
    lists = [sorted(own, key=str) if isinstance(own, Set) else own for own in lists]
    is_given = np.array([own is not None for own in lists])
    given = [own for own in lists if own is not None]
    lengths = np.array([len(own) for own in given])
    if all(isinstance(own, np.ndarray) and own.ndim == 1 for own in given) and len({own.dtype for own in given}) == 1:
        array = np.concatenate(given)
    else:
        array = np.fromiter((item for own in given for item in own), dtype=object, count=int(lengths.sum()))
    try:
        items = read_array(array, name).alias("items")
    except TypeError:
        raise TypeError(_describe_mixture(lists, name)) from None
    if not has_pool():
        return pl.Series(name, [None if own is None else [*own] for own in lists], dtype=pl.List(items.dtype))
    # grouped, because polars makes lists of lists of Python value by value
    rows = pl.DataFrame({"row": np.arange(len(lists)), "is_given": is_given})
    several = pl.DataFrame({"row": np.repeat(np.flatnonzero(is_given), lengths), "items": items})
    found = rows.join(several.group_by("row").agg("items"), on="row", how="left", maintain_order="left")
    empty = pl.lit([], dtype=pl.List(items.dtype))
    return found.select(pl.when("is_given").then(pl.coalesce("items", empty)).alias(name)).to_series()


def _describe_mixture(lists: Sequence[Any], name: str) -> str:
    """Describe lists whose items are no numbers, text or dates throughout."""
    found: dict[str, int] = {}
    for row, own in enumerate(lists):
        for item in [] if own is None else [item for item in own if not is_missing(item)]:
            is_number = isinstance(item, numbers.Real | np.bool_ | Decimal)
            found.setdefault("numbers" if is_number else type(item).__name__, row)
            if len(found) > 1:
                break
    rows = ", ".join(f"{kind} in row {row}" for kind, row in found.items())
    is_nested = not found.keys().isdisjoint(kind.__name__ for kind in _NESTED)
    cure = "put the items of inner lists in their place" if is_nested else "make text of all items"
    return (
        f"column {name!r} holds lists of {rows} (counted from 0); expected numbers throughout, or text: {cure}, or "
        "drop it"
    )
