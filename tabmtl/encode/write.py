"""Container of the targets, and the way of predictions back into it: the same library, names and types."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl

from tabmtl.base.storage.stored import Stored

ORDERED = "category-ordered"
_BEHIND = "pyarrow:"  # before the type of an array of pyarrow behind a column of pandas
_TEXT_ARRAY = re.compile(r"<U\d+")
_DICTIONARY = re.compile(r"dictionary<values=(?P<values>\w+), indices=(?P<index>\w+), ordered=(?P<ordered>[01])>")


Container = Literal["polars", "pandas", "pyarrow", "numpy"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Container of the targets: library, shape, names and types, in which predictions go back.

    Attributes
    ----------
    container : {"polars", "pandas", "pyarrow", "numpy"}
        Library of the container.
    ndim : {1, 2}
        One for a series or a flat array.
    named : bool
        Whether the columns carry names of their own.
    dtypes : tuple of str
        Native dtype of every column; ``"category"`` and ``"category-ordered"`` for pandas' categories, and types of
        pyarrow behind a column of pandas as ``"pyarrow:TYPE"``.
    categories : tuple
        Per column the categories of a pandas category in their order, or None.
    """

    container: Container
    ndim: Literal[1, 2]
    named: bool
    dtypes: Annotated[tuple[str, ...], Stored(shape="C")]
    categories: Annotated[tuple[tuple | None, ...], Stored(shape="C")]

    def of(self, places: Sequence[int]) -> Origin:
        """Return the container of some of the columns."""
        dtypes, categories = tuple(self.dtypes[j] for j in places), tuple(self.categories[j] for j in places)
        return replace(self, dtypes=dtypes, categories=categories)

    def holding(self, classes: Sequence[tuple]) -> Origin:
        """Return the container whose arrays of text hold the longest of the classes of every column."""
        longest = [max((len(label) for label in own if isinstance(label, str)), default=0) for own in classes]
        pairs = zip(self.dtypes, longest, strict=True)
        return replace(self, dtypes=tuple(f"<U{n}" if _TEXT_ARRAY.fullmatch(own) else own for own, n in pairs))

    def beside(self, other: Origin) -> Origin:
        """Return the container of these columns and of others behind them."""
        return replace(self, ndim=2, dtypes=self.dtypes + other.dtypes, categories=self.categories + other.categories)


def origin_of(columns: Sequence[nw.Series], *, ndim: Literal[1, 2], named: bool) -> Origin:
    """Return the container of these columns."""
    return Origin(
        container=_container(columns[0]) if columns else "polars",
        ndim=ndim,
        named=named,
        dtypes=tuple(native_dtype(column) for column in columns),
        categories=tuple(_categories(column) for column in columns),
    )


def write_targets(frame: pl.DataFrame, origin: Origin, index: Any = None) -> Any:
    """Write predictions into the container of the targets.

    Parameters
    ----------
    frame : polars DataFrame of shape (n, T)
    origin : Origin
        Of the targets in fit.
    index : pandas Index, optional
        Row labels of the features, used where both are pandas.
    """
    if origin.container == "polars":
        return frame.to_series().alias(frame.columns[0] if origin.named else "") if origin.ndim == 1 else frame
    if origin.container == "pyarrow":
        return _write_pyarrow(frame, origin)
    if origin.container == "pandas":
        return _write_pandas(frame, origin, index)
    arrays = [_write_array(column, dtype) for column, dtype in zip(frame.iter_columns(), origin.dtypes, strict=True)]
    return arrays[0] if origin.ndim == 1 else np.column_stack(arrays)


def _write_array(column: pl.Series, dtype: str) -> np.ndarray:
    if dtype.startswith("StringDType"):  # a name that numpy itself cannot read
        return np.array(column.to_list(), dtype=np.dtypes.StringDType())
    if dtype == "object":
        return np.array(column.to_list(), dtype=object)
    if column.dtype.is_float() and np.dtype(dtype).kind != "f":
        return column.to_numpy()
    return column.to_numpy().astype(dtype)


def _write_pyarrow(frame: pl.DataFrame, origin: Origin) -> Any:
    import pyarrow as pa

    columns = [
        _to_arrow(column) if column.dtype.is_float() else _arrow_labels(column, dtype)
        for column, dtype in zip(frame.iter_columns(), origin.dtypes, strict=True)
    ]
    return columns[0] if origin.ndim == 1 else pa.Table.from_arrays(columns, names=frame.columns)


def _to_arrow(column: pl.Series) -> Any:
    """Return a column as a chunked array of pyarrow, without its name: polars panics at one with a zero byte."""
    import pyarrow as pa

    return pa.chunked_array([column.alias("").to_arrow()])


def _arrow_labels(column: pl.Series, dtype: str) -> Any:
    """Return class labels as a chunked array of a type of pyarrow, by its name."""
    import pyarrow as pa

    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
    labels = _to_arrow(column)
    found = _DICTIONARY.fullmatch(dtype)
    if found is None:
        return labels.cast(pa.type_for_alias(dtype))
    values, index = map(pa.type_for_alias, found.group("values", "index"))
    return labels.cast(values).dictionary_encode().cast(pa.dictionary(index, values, found["ordered"] == "1"))


def _write_pandas(frame: pl.DataFrame, origin: Origin, index: Any) -> Any:
    import pandas as pd

    columns = {}
    for j, (column, dtype) in enumerate(zip(frame.iter_columns(), origin.dtypes, strict=True)):
        if dtype.startswith(_BEHIND):
            kind = dtype.removeprefix(_BEHIND)
            if not column.dtype.is_float():
                labels = pd.arrays.ArrowExtensionArray(_arrow_labels(column, kind))
                columns[column.name] = pd.Series(labels, index=index)
                continue
            dtype = f"{kind}[pyarrow]" if kind in ("float", "double") else "float64"
        elif origin.categories[j] is not None:
            dtype = pd.CategoricalDtype(origin.categories[j], ordered=dtype == ORDERED)
        elif column.dtype.is_float() and not pd.api.types.is_float_dtype(dtype):
            dtype = "float64"
        values = column.to_numpy() if column.dtype.is_float() else column.to_list()
        columns[column.name] = pd.Series(values, index=index, dtype=dtype)
    if origin.ndim == 1:
        (series,) = columns.values()
        return series.rename(frame.columns[0] if origin.named else None)
    return pd.DataFrame(columns)


def _container(native: Any) -> Container:
    if native.implementation.is_polars():
        return "polars"
    return "pyarrow" if native.implementation.is_pyarrow() else "pandas"


def native_dtype(series: nw.Series) -> str:
    """Return the name of a column's type in its own library; see `Origin`."""
    if series.implementation.is_polars():
        return str(series.dtype)
    if series.implementation.is_pyarrow():
        return str(series.to_native().type)
    dtype = series.to_native().dtype
    if type(dtype).__name__ == "StringDtype" and str(dtype) == "string":
        return f"string[{dtype.storage}]"
    if type(dtype).__name__ == "ArrowDtype":
        return f"{_BEHIND}{dtype.pyarrow_dtype}"
    if str(dtype) == "category":
        return ORDERED if dtype.ordered else "category"
    return str(dtype)


def _categories(series: nw.Series) -> tuple | None:
    if not native_dtype(series).startswith("category"):
        return None
    return tuple(series.to_native().cat.categories.tolist())
