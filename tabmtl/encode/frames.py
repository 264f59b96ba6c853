"""Containers: what a user hands in becomes a polars frame, and predictions go back in the container of y."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
from sklearn.utils import check_array

Container = Literal["polars", "pandas", "pyarrow", "numpy"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where targets came from, so that predictions can go back the same way.

    Attributes
    ----------
    container : {"polars", "pandas", "pyarrow", "numpy"}
        Library of the container.
    ndim : {1, 2}
        One for a series or a flat array.
    named : bool
        Whether the columns carry names of their own.
    dtypes : tuple of str
        Native dtype of every column; ``"category"`` and ``"category-ordered"`` for pandas' categories.
    """

    container: Container
    ndim: int
    named: bool
    dtypes: tuple[str, ...]


def read_features(X: Any) -> tuple[pl.DataFrame | pl.LazyFrame, bool]:
    """Read features from any supported container.

    Parameters
    ----------
    X : polars DataFrame or LazyFrame, pandas DataFrame, pyarrow Table, or array-like of shape (n, p)
        The features. An array's columns are called ``x0``, ``x1``, ...

    Returns
    -------
    frame : polars DataFrame or LazyFrame
    named : bool
        Whether X brought column names.

    Raises
    ------
    TypeError
        If X is a series, a sparse matrix, or a column mixes text and numbers.
    ValueError
        If X has no row or no column, or is not two-dimensional.
    """
    if isinstance(X, pl.LazyFrame):
        return X, True
    if isinstance(X, pl.Series) or nw.dependencies.is_into_series(X):
        raise ValueError(f"Expected 2D array or a frame, got a series of type {type(X).__name__} instead")
    if nw.dependencies.is_into_dataframe(X):
        native = nw.from_native(X, eager_only=True)
        frame = _read_frame(native)
        _check_not_empty(frame)
        return frame, all(isinstance(name, str) for name in native.columns)
    array = check_array(X, dtype=None, ensure_all_finite=False)
    return _read_array(array, [f"x{i}" for i in range(array.shape[1])]), False


def _check_not_empty(frame: pl.DataFrame) -> None:
    if frame.height == 0:
        raise ValueError(
            f"Found array with 0 sample(s) (shape={frame.shape}) while a minimum of 1 is required."
        )
    if frame.width == 0:
        raise ValueError(
            f"Found array with 0 feature(s) (shape={frame.shape}) while a minimum of 1 is required."
        )


def read_targets(y: Any) -> tuple[pl.DataFrame, Origin]:
    """Read targets from any supported container.

    Parameters
    ----------
    y : frame (n, T), series (n,) or array-like of shape (n,) or (n, T)
        The targets. Array columns are called ``y0``, ``y1``, ...; one flat unnamed target is called ``y``.

    Returns
    -------
    frame : polars DataFrame of shape (n, T)
    origin : Origin
    """
    if y is None:
        raise ValueError("y is required: requires y to be passed, but the target y is None")
    if isinstance(y, pl.LazyFrame):
        y = y.collect()
    if nw.dependencies.is_into_series(y):
        series = nw.from_native(y, series_only=True)
        named = isinstance(series.name, str) and series.name != ""
        origin = Origin(container=_container(series), ndim=1, named=named, dtypes=(_native_dtype(series),))
        return _read_series(series, series.name if named else "y").to_frame(), origin
    if nw.dependencies.is_into_dataframe(y):
        native = nw.from_native(y, eager_only=True)
        dtypes = tuple(_native_dtype(series) for series in native.iter_columns())
        return _read_frame(native), Origin(container=_container(native), ndim=2, named=True, dtypes=dtypes)
    array = check_array(y, dtype=None, ensure_2d=False, ensure_all_finite=False)
    names = ["y"] if array.ndim == 1 else [f"y{i}" for i in range(array.shape[1])]
    origin = Origin(container="numpy", ndim=array.ndim, named=False, dtypes=(str(array.dtype),) * len(names))
    return _read_array(array.reshape(len(array), -1), names), origin


def write_targets(frame: pl.DataFrame, origin: Origin, index: Any = None) -> Any:
    """Give predictions the container of the targets they answer.

    Parameters
    ----------
    frame : polars DataFrame of shape (n, T)
    origin : Origin
        Of the targets in fit.
    index : pandas Index, optional
        Row labels of the features, used where both are pandas.
    """
    if origin.container == "polars":
        return (
            frame.to_series().alias(frame.columns[0] if origin.named else "") if origin.ndim == 1 else frame
        )
    if origin.container == "pyarrow":
        table = frame.to_arrow()
        return table.column(0) if origin.ndim == 1 else table
    if origin.container == "pandas":
        return _write_pandas(frame, origin, index)
    arrays = [
        _write_array(column, dtype) for column, dtype in zip(frame.iter_columns(), origin.dtypes, strict=True)
    ]
    return arrays[0] if origin.ndim == 1 else np.column_stack(arrays)


def _write_array(column: pl.Series, dtype: str) -> np.ndarray:
    if column.dtype.is_float() and np.dtype(dtype).kind != "f" and dtype != "object":
        return column.to_numpy()
    if dtype == "object":
        return np.array(column.to_list(), dtype=object)
    return column.to_numpy().astype(dtype)


def _write_pandas(frame: pl.DataFrame, origin: Origin, index: Any) -> Any:
    import pandas as pd

    columns = {}
    for column, dtype in zip(frame.iter_columns(), origin.dtypes, strict=True):
        if isinstance(column.dtype, pl.Enum):
            values: Any = pd.Categorical(
                column.to_list(),
                categories=column.dtype.categories.to_list(),
                ordered=dtype == "category-ordered",
            )
        elif column.dtype.is_float():
            values = column.to_numpy()
        else:
            values = pd.array(column.to_list(), dtype=dtype)
        columns[column.name] = pd.Series(values, index=index)
    if origin.ndim == 1:
        (series,) = columns.values()
        return series.rename(frame.columns[0] if origin.named else None)
    return pd.DataFrame(columns)


def read_weights(sample_weight: Any, n: int, names: Sequence[str]) -> np.ndarray | None:
    """Read sample weights: None, (n,), (n, T), or a frame whose columns are the task names.

    Returns
    -------
    weight : ndarray of float64, shape (n,) or (n, T), or None

    Raises
    ------
    ValueError
        If the shape or the names do not fit, or a weight is negative or not finite.
    """
    if sample_weight is None:
        return None
    if nw.dependencies.is_into_dataframe(sample_weight):
        native = nw.from_native(sample_weight, eager_only=True)
        if set(native.columns) != set(names):
            raise ValueError(
                f"sample_weight has columns {native.columns}, expected one per task: {list(names)}"
            )
        weight = np.column_stack([native[name].to_numpy() for name in names]).astype(np.float64)
    elif nw.dependencies.is_into_series(sample_weight):
        weight = nw.from_native(sample_weight, series_only=True).to_numpy().astype(np.float64)
    elif isinstance(sample_weight, numbers.Number):
        weight = np.full(n, sample_weight, dtype=np.float64)
    else:
        weight = check_array(
            sample_weight,
            dtype=np.float64,
            ensure_2d=False,
            ensure_all_finite=False,
            input_name="sample_weight",
        )
    if weight.shape not in {(n,), (n, len(names))}:
        raise ValueError(
            f"sample_weight.shape == {weight.shape}, expected {(n,)!r} or {(n, len(names))!r} (rows, tasks)"
        )
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError(
            "sample_weight holds a negative, missing or infinite value; weights must be finite and >= 0"
        )
    return weight


def row_count(X: Any) -> int:
    """Number of rows of any supported container."""
    if isinstance(X, pl.LazyFrame):
        return int(X.select(pl.len()).collect().item())
    return int(np.shape(X)[0]) if hasattr(X, "shape") else len(X)


def take_rows(X: Any, index: np.ndarray) -> Any:
    """Rows of any supported eager container, in that container."""
    if nw.dependencies.is_into_dataframe(X):
        return nw.from_native(X, eager_only=True)[index.tolist(), :].to_native()
    return np.asarray(X)[index]


def _container(native: Any) -> Container:
    if native.implementation.is_polars():
        return "polars"
    return "pyarrow" if native.implementation.is_pyarrow() else "pandas"


def _native_dtype(series: Any) -> str:
    if not series.implementation.is_pandas_like():
        return str(series.dtype)
    dtype = series.to_native().dtype
    if str(dtype) == "category":
        return "category-ordered" if dtype.ordered else "category"
    return str(dtype)


def _read_frame(native: Any) -> pl.DataFrame:
    if native.implementation.is_polars():
        return native.to_native()
    if native.implementation.is_pyarrow():
        return native.to_polars()
    return pl.DataFrame([_read_series(native[:, i], str(name)) for i, name in enumerate(native.columns)])


def _read_series(series: Any, name: str) -> pl.Series:
    if series.implementation.is_polars():
        return series.to_native().alias(name)
    if series.implementation.is_pyarrow():
        return series.to_polars().alias(name)
    dtype = series.dtype
    if dtype.is_numeric():
        values = series.to_native().array
        if hasattr(values, "isna") and values.isna().any():
            return pl.Series(name, values.to_numpy(dtype=np.float64, na_value=np.nan))
        return pl.Series(name, series.to_numpy())
    if dtype.is_temporal():
        # dates are rejected by what reads this: only the type matters
        return pl.Series(name, [None] * len(series), dtype=pl.Datetime)
    if isinstance(dtype, nw.Categorical | nw.Enum):
        accessor = series.to_native().cat
        levels = pl.Series(name, [str(level) for level in accessor.categories], dtype=pl.String)
        codes = pl.Series(accessor.codes.to_numpy())
        return levels.cast(pl.Enum(levels)).gather(codes.replace(-1, None))
    return _read_objects(series.to_native().to_numpy(dtype=object), name)


def _read_array(array: np.ndarray, names: list[str]) -> pl.DataFrame:
    if array.dtype.kind == "O":
        return pl.DataFrame([_read_objects(array[:, i], name) for i, name in enumerate(names)])
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        array = array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    return pl.DataFrame({name: np.ascontiguousarray(array[:, i]) for i, name in enumerate(names)})


def _missing_to_none(value: Any) -> Any:
    # pandas' NA cannot be compared, so its type is asked first
    return None if type(value).__name__ in ("NAType", "NaTType") or (value != value) is True else value


def _read_objects(values: np.ndarray, name: str) -> pl.Series:
    """A column of Python objects, by what its values are: all booleans, all numbers or all text."""
    kinds = {type(value) for value in values}
    if not all(issubclass(kind, str | bool | np.bool_ | int) for kind in kinds):
        values = np.array([_missing_to_none(value) for value in values], dtype=object)
        kinds = {type(value) for value in values}
    kinds.discard(type(None))
    if all(issubclass(kind, bool | np.bool_) for kind in kinds):
        return pl.Series(name, values.tolist(), dtype=pl.Boolean if kinds else pl.Null)
    if all(issubclass(kind, numbers.Integral) for kind in kinds):
        return pl.Series(name, values.tolist(), dtype=pl.Int64)
    if all(issubclass(kind, numbers.Number) or kind.__name__ == "Decimal" for kind in kinds):
        return pl.Series(name, values.astype(np.float64))
    if all(issubclass(kind, str) for kind in kinds):
        return pl.Series(name, values.tolist(), dtype=pl.String)
    found = sorted(kind.__name__ for kind in kinds)
    raise TypeError(
        f"column {name!r}: argument must be a string or a number throughout, got objects of type {found}; "
        "cast the column to one type, or drop it"
    )
