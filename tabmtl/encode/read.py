"""Read frames, arrays, targets, weights and groups of any library, as polars frames and arrays of numpy."""

from __future__ import annotations

import hashlib
import json
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
import polars.selectors as cs
from narwhals.exceptions import DuplicateError
from scipy.sparse import issparse

from tabmtl.base.forks import check_pool
from tabmtl.base.params import check_known, near
from tabmtl.base.schema import is_unicode
from tabmtl.encode.columns import is_missing, read_array, read_column, read_pandas
from tabmtl.encode.write import Origin, native_dtype, origin_of

_SLICE = 50_000  # rows that are text at a time


def read_features(X: Any, *, may_be_empty: bool = False) -> tuple[pl.DataFrame | pl.LazyFrame, bool]:
    """Read features from any supported container.

    Parameters
    ----------
    X : polars DataFrame or LazyFrame, pandas DataFrame, pyarrow Table, or array-like of shape (n, p)
        The features. An array's columns are called ``x0``, ``x1``, ...
    may_be_empty : bool, default=False
        Whether X may have no row.

    Returns
    -------
    frame : polars DataFrame or LazyFrame
    named : bool
        Whether X brought column names.

    Raises
    ------
    TypeError
        If X is a sparse matrix, or a column mixes text and numbers.
    ValueError
        If X is a series, has no column, has no row and may not, is not two-dimensional, or has two columns of one name.
    """
    if isinstance(X, pl.LazyFrame):
        check_pool()
        return X, True
    X = _as_table(X)
    if isinstance(X, pl.DataFrame):
        _check_not_empty(X, may_be_empty)
        return X, True
    if nw.dependencies.is_into_dataframe(X):
        frame, names = (_read_pandas if nw.dependencies.is_pandas_dataframe(X) else _read_frame)(X)
        _check_not_empty(frame, may_be_empty)
        return frame, all(isinstance(name, str) for name in names)
    if isinstance(X, pl.Series) or nw.dependencies.is_into_series(X):
        raise ValueError(f"X: Expected 2D array or a frame, got a series of type {type(X).__name__} instead")
    check_container(X)
    array = as_array(X, "X", ensure_2d=True, may_be_empty=may_be_empty)
    return _join(array.T, [f"x{i}" for i in range(array.shape[1])], read_array), False


def read_values(X: Any) -> pl.DataFrame:
    """Read columns of any container as `read_features` does, but collect a lazy frame."""
    frame = read_features(X)[0]
    return frame if isinstance(frame, pl.DataFrame) else frame.collect()


def to_array(frame: pl.DataFrame) -> np.ndarray:
    """Return a frame as an array, of objects where a column is not of numbers."""
    if all(dtype.is_numeric() for dtype in frame.dtypes):
        return frame.to_numpy()
    return np.column_stack([np.fromiter(own, dtype=object, count=len(own)) for own in map(pl.Series.to_list, frame)])


def check_container(X: Any) -> None:
    """Raise a TypeError for sparse matrices, and for records: mappings of values, or a list of such."""
    if issparse(X):
        # scikit-learn's words, and where such a matrix comes from
        raise TypeError(
            "Sparse data was passed for X, but dense data is required. Use '.toarray()' to convert to a dense numpy "
            "array; if a step in front of the estimator made it, give the steps as preprocessor=, which makes them "
            "dense, or have the step make it dense, such as by OneHotEncoder(sparse_output=False)"
        )
    if isinstance(X, Mapping) or (isinstance(X, list) and X and isinstance(X[0], Mapping)):
        raise TypeError(
            f"X must be a frame or an array of shape (n, p), got records in a {type(X).__name__}; make it a frame by "
            "polars.DataFrame(X)"
        )


def library_of(frame: Any) -> str:
    """Return the library of a frame or series; "numpy" of an array and anything that becomes one."""
    root = type(frame).__module__.partition(".")[0]
    return root if root in ("polars", "pandas", "pyarrow") else "numpy"


def names_of(frame: pl.DataFrame | pl.LazyFrame) -> list[str]:
    """Return the names of the columns, of a DataFrame without its schema, which takes longer than reading a row."""
    return frame.columns if isinstance(frame, pl.DataFrame) else frame.collect_schema().names()


def _as_table(values: Any) -> Any:
    """Return a batch or an array of pyarrow as a table or chunked array, and all else as it is."""
    if type(values).__module__.partition(".")[0] != "pyarrow":
        return values
    import pyarrow as pa

    if isinstance(values, pa.RecordBatch):
        return pa.Table.from_batches([values])
    return pa.chunked_array([values]) if isinstance(values, pa.Array) else values


def as_array(values: Any, name: str, *, ensure_2d: bool, dtype: Any = None, may_be_empty: bool = False) -> np.ndarray:
    """Return what is no frame as an array, of objects where a list mixes text and numbers; errors name it."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        cure = f"say numpy.where({name}.mask, None, {name}.data)"
        raise TypeError(f"{name} is a masked array, whose masked values would be read: {cure}")
    from sklearn.utils import check_array

    allowed: dict[str, Any] = {"ensure_all_finite": False, "ensure_min_samples": 0 if may_be_empty else 1}
    try:
        array = check_array(values, dtype=dtype, ensure_2d=ensure_2d, **allowed)
    except (TypeError, ValueError) as error:
        raise (TypeError if isinstance(error, TypeError) else ValueError)(f"{name}: {error}") from error
    if array.dtype.kind == "U" and not isinstance(values, np.ndarray):
        # numpy made text of the numbers in a list that holds both
        array = np.array(values, dtype=object).reshape(array.shape)
    return array


def _check_not_empty(frame: pl.DataFrame, may_be_empty: bool) -> None:
    # scikit-learn's words, which its checks look for
    for size, what in ((frame.width, "feature"), (frame.height or may_be_empty, "sample")):
        if size == 0:
            raise ValueError(f"Found array with 0 {what}(s) (shape={frame.shape}) while a minimum of 1 is required.")


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
    check_pool()
    if y is None:
        raise ValueError("y is required: requires y to be passed, but the target y is None")
    y = _as_table(y.collect() if isinstance(y, pl.LazyFrame) else y)
    # narwhals looks for plugins in all installed packages before it says no: 0.1 s
    if not isinstance(y, pl.DataFrame) and nw.dependencies.is_into_series(y):
        series = nw.from_native(y, series_only=True)
        named = isinstance(series.name, str) and series.name != ""
        _check_unicode([series.name] if named else [])
        return _read_target(series, series.name if named else "y").to_frame(), origin_of([series], ndim=1, named=named)
    if nw.dependencies.is_into_dataframe(y):
        frame, _ = _read_frame(y, read=_read_target)
        _check_targets_exist(frame.columns)
        return frame, origin_of(list(nw.from_native(y, eager_only=True).iter_columns()), ndim=2, named=True)
    array = as_array(y, "y", ensure_2d=False)
    ndim: Literal[1, 2] = 1 if array.ndim == 1 else 2
    columns = array.reshape(len(array), -1).T
    names = ["y"] if ndim == 1 else [f"y{i}" for i in range(len(columns))]
    _check_targets_exist(names)
    dtypes = (str(array.dtype),) * len(names)
    origin = Origin(container="numpy", ndim=ndim, named=False, dtypes=dtypes, categories=(None,) * len(names))
    return _join(columns, names, read_array), origin


def _check_targets_exist(names: Sequence[str]) -> None:
    if not names:
        raise ValueError("y has no column; give a column for each target")


def check_targets(y: Any, X: Any) -> None:
    """Raise a TypeError for targets that are records, or the names of columns of X."""
    if isinstance(y, Mapping):
        raise TypeError(
            f"y must be a frame, a series or an array, got a {type(y).__name__}; make it a frame of the library of X, "
            "such as polars.DataFrame(y)"
        )
    names = [y] if isinstance(y, str) else y
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return
    columns = _labels_of(X) or {}
    found = [name for name in names if name in columns]
    if isinstance(y, str) or (found and (isinstance(X, pl.LazyFrame) or len(y) != len(X))):
        raise TypeError(
            f"y must hold the labels, got the names {names}; give X without these columns, and the frame of them as y"
        )
    if columns and not isinstance(X, pl.LazyFrame) and len(y) != len(X):
        raise ValueError(
            f"y must hold a label for each of the {len(X)} rows, inconsistent with the {len(y)} texts {[*names[:3]]}, "
            "which are no columns of X either; give a frame of the targets"
        )


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
        native = _wrap(sample_weight, eager_only=True)
        columns = {str(name): column for name, column in zip(native.columns, native.iter_columns(), strict=True)}
        if set(columns) != set(names):
            raise ValueError(f"sample_weight has columns {list(columns)}, expected one per task: {list(names)}")
        sample_weight = np.column_stack([columns[name].to_numpy() for name in names])
    if isinstance(sample_weight, numbers.Real):
        weight = np.full(n, sample_weight, dtype=np.float64)
    else:
        weight = as_array(sample_weight, "sample_weight", ensure_2d=False, dtype=np.float64)
    if weight.shape not in {(n,), (n, len(names))}:
        raise ValueError(
            f"sample_weight.shape == {weight.shape}, expected {(n,)!r} or {(n, len(names))!r} (rows, tasks)"
        )
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError("sample_weight holds a negative, missing or infinite value; weights must be finite and >= 0")
    return weight


def read_groups(groups: Any, X: Any, n: int, *, source: str = "X") -> list[Any]:
    """Read the groups of rows.

    Parameters
    ----------
    groups : str, series or array-like of shape (n,)
        Group of every row, by any hashable value; or the name of a column of X.
    X : frame or array of shape (n, p)
    n : int
        Number of rows.
    source : str, default="X"
        Name of X in errors.

    Returns
    -------
    values : list of n values

    Raises
    ------
    ValueError
        If X has no such column, the shape does not fit, or a value is missing.
    TypeError
        If a value is not hashable.
    """
    name = "groups"
    if isinstance(groups, str):
        name, groups = f"the column {groups!r} of groups", column_of(X, groups, source, "groups")
    if nw.dependencies.is_into_series(groups):
        values, shape = nw.from_native(groups, series_only=True).to_list(), (len(groups),)
    else:
        array = np.asarray(groups)
        values, shape = array.tolist(), array.shape
    if shape != (n,):
        is_name = shape == (1,) and isinstance(values[0], str)
        cure = f"; to name a column of X, give its name alone: groups={values[0]!r}" if is_name else ""
        raise ValueError(f"{name} must hold one value per row, shape {(n,)!r}, got shape {shape!r}{cure}")
    try:
        distinct = set(values)
    except TypeError as error:
        raise TypeError(
            f"{name} must hold hashable values such as numbers or text, got an {error}; join what names a group to one "
            "text or tuple"
        ) from None
    if any(is_missing(value) for value in distinct):
        raise ValueError(f"{name} has missing values; give every row a group, an unknown one a group of its own")
    return values


def column_of(X: Any, name: str, source: str, argument: str) -> Any:
    """Return a column of X that an argument names; those of an array are called ``x0``, ``x1``, ..."""
    labels = _labels_of(X)
    if labels is None:
        array = np.asarray(X)
        places = {f"x{j}": j for j in range(array.shape[1])} if array.ndim == 2 else {}
        if name in places:
            return array[:, places[name]]
        found = list(places)
    else:
        if name in labels:
            column = nw.from_native(X).select(nw.col(labels[name]))
            return (column.collect() if isinstance(column, nw.LazyFrame) else column)[labels[name]].to_native()
        found = list(labels)
    raise ValueError(f"{argument} names the column {name!r}, which {source} lacks; it has {found}{near(name, found)}")


def groups_of_parts(groups: Any, X_val: Any) -> tuple[Any, Any]:
    """Return the groups of X and of X_val as `read_groups` takes them, None where there are none.

    Parameters
    ----------
    groups : str, array, tuple of both parts, or None
        As `fit` takes them.
    X_val : frame or array, or None
    """
    if X_val is not None and isinstance(groups, tuple) and len(groups) == 2:
        return groups
    return groups, groups if isinstance(groups, str) and X_val is not None and has_column(X_val, groups) else None


def has_column(X: Any, name: str) -> bool:
    """Return whether X has a column of this name; an array is taken to have it."""
    labels = _labels_of(X)
    return labels is None or name in labels


def without_columns(X: Any, names: Sequence[str], *, strict: bool = False) -> Any:
    """Return a frame without some columns, in its own library, before any of their values is read.

    Parameters
    ----------
    X : frame or array
        An array comes back as it is, because its columns have no names.
    names : sequence of str
    strict : bool, default=False
        Raise a ValueError unless X is a frame with all these columns.
    """
    if not len(names):
        return X
    labels = _labels_of(X)
    if strict:
        if labels is None:
            check_container(X)
            cure = "give Shards(path)" if isinstance(X, str | PathLike) else "take the columns out of it"
            raise ValueError(f"only a frame has columns to ignore, got a {type(X).__name__}: {cure}")
        check_dropped(names, [*labels])
    present = [labels[name] for name in names if name in labels] if labels else []
    return nw.from_native(X).drop(present).to_native() if present else X


def check_dropped(names: Sequence[str], features: Sequence[str]) -> None:
    """Raise a ValueError for names of columns to ignore that are no features, or all of them."""
    check_known("columns ignores columns", names, features, "X")
    if set(features) <= set(names):
        raise ValueError(f"columns ignores all columns of X, {[*features]}; leave at least one feature")


def in_order(X: Any, names: Sequence[str]) -> Any | None:
    """Return a frame with its columns in the order of some names, in its own library.

    Returns
    -------
    frame : of the library of X, or None
        None if X is no frame, or does not have exactly these names.
    """
    if isinstance(X, pl.DataFrame) and tuple(X.columns) == names:
        return X
    labels = _labels_of(X)
    if labels is None or labels.keys() != set(names) or not all(isinstance(label, str) for label in labels.values()):
        return None
    if isinstance(X, pl.DataFrame | pl.LazyFrame):
        return X.select(cs.by_name(*names))  # a plain name like "^a$" would be a pattern
    return nw.from_native(X).select(*names).to_native()


def _labels_of(X: Any) -> dict[str, Any] | None:
    """Return the labels of a frame's columns by their text; None for an array."""
    if not nw.dependencies.is_into_dataframe(X) and not isinstance(X, pl.LazyFrame):
        return None
    return {str(label): label for label in _wrap(X).collect_schema().names()}


def _wrap(frame: Any, **options: Any) -> Any:
    """Return a frame in the hands of narwhals."""
    try:
        return nw.from_native(frame, **options)
    except DuplicateError as error:
        raise ValueError(f"every column needs a name of its own; rename or drop columns: {error}") from None


def take_rows(X: Any, index: np.ndarray) -> Any:
    """Take rows of any supported eager container, a series among them, in that container."""
    X = _without_views(_as_table(X))
    if nw.dependencies.is_into_dataframe(X):
        return _wrap(X, eager_only=True)[index.tolist(), :].to_native()
    if nw.dependencies.is_into_series(X):
        return nw.from_native(X, series_only=True)[index.tolist()].to_native()
    return np.asarray(X)[index]


def join_rows(first: Any, second: Any, names: tuple[str, str]) -> Any:
    """Put the rows of two eager containers below each other, in their own library.

    Parameters
    ----------
    first, second : frames, series or arrays
        A column that one lacks is missing in its rows.
    names : tuple of str
        Names of the two in errors.

    Raises
    ------
    TypeError
        If they are of two libraries.
    """
    first, second = (rows.collect() if isinstance(rows, pl.LazyFrame) else rows for rows in (first, second))
    first, second = (_without_views(_as_table(rows)) for rows in (first, second))
    libraries = [library_of(rows) for rows in (first, second)]
    if libraries[0] != libraries[1]:
        raise TypeError(
            f"{names[1]} is of {libraries[1]} and {names[0]} of {libraries[0]}, and their rows are learned together: "
            "give both in one library"
        )
    if nw.dependencies.is_into_series(first):
        own, other = (nw.from_native(rows, series_only=True) for rows in (first, second))
        above, below = (rows.alias("y").to_frame().to_native() for rows in (own, other))
        joined = join_rows(above, below, names)
        return nw.from_native(joined)["y"].alias(own.name).to_native()
    if not nw.dependencies.is_into_dataframe(first):
        return np.concatenate([np.asarray(first), np.asarray(second)])
    if isinstance(first, pl.DataFrame):  # whole numbers may stand below fractions
        return pl.concat([first, second], how="diagonal_relaxed")
    return nw.concat([_wrap(first), _wrap(second)], how="diagonal").to_native()


def _without_views(X: Any) -> Any:
    """Return a frame with text in place of the views of text of pyarrow, which gives no chosen rows of them."""
    if nw.dependencies.is_pyarrow_table(X):
        for j in [j for j, field in enumerate(X.schema) if str(field.type) == "string_view"]:
            X = X.set_column(j, X.column_names[j], X.column(j).cast("large_string"))
    if nw.dependencies.is_pandas_dataframe(X):
        views = [name for name, own in X.dtypes.items() if str(getattr(own, "pyarrow_dtype", "")) == "string_view"]
        X = X.copy(deep=False) if views else X
        for name in views:
            array = X[name].array
            X[name] = type(array)(array.__arrow_array__().cast("large_string"))
    return X


def _read_target(series: nw.Series, name: str) -> pl.Series:
    if native_dtype(series).startswith("category"):
        # a class label goes back as it came: its value is read, not its text
        series = nw.from_native(series.to_native().astype(object), series_only=True)
    return read_column(series, name)


def _read_frame(
    frame: Any, read: Callable[[nw.Series, str], pl.Series] = read_column
) -> tuple[pl.DataFrame, list[Any]]:
    """Read a frame of any library, and return it with its original names."""
    native = _wrap(frame, eager_only=True)
    if native.implementation.is_polars():
        return native.to_native(), native.columns
    return _join(native.iter_columns(), native.columns, read), native.columns


def _read_pandas(frame: Any) -> tuple[pl.DataFrame, list[Any]]:
    """Read a pandas frame like `_read_frame`, without narwhals, whose wrappers take longer than a row."""
    labels = frame.columns.tolist()
    return _join((column for _, column in frame.items()), labels, read_pandas), labels


def _join(columns: Iterable[Any], labels: Sequence[Any], read: Callable[[Any, str], pl.Series]) -> pl.DataFrame:
    """Read columns one by one, under their labels as text."""
    names = [str(label) for label in labels]
    _check_unicode(names)
    if len(set(names)) < len(names):
        raise ValueError(f"every column needs a name of its own, as text too; got {labels}: rename columns")
    return pl.DataFrame({name: read(column, name) for name, column in zip(names, columns, strict=True)})


def count_rows(frame: pl.LazyFrame) -> int:
    """Count the rows of a query: those of a Parquet file by its footer, those of a CSV file by a pass over it."""
    return int(frame.select(pl.len()).collect().item())


def read_lazy(frame: pl.LazyFrame, rows: int, promised: int) -> Iterator[pl.DataFrame]:
    """Read a query in blocks of some rows, in order; the last one may have fewer.

    Rows are counted, because the blocks of polars end without an error where one of its threads panics.

    Raises
    ------
    ValueError
        If there are other rows than promised.
    """
    n_rows = 0
    for block in frame.collect_batches(chunk_size=rows, maintain_order=True):
        n_rows += block.height
        if block.height:
            yield block
    if n_rows != promised:
        raise ValueError(
            f"the LazyFrame gave {n_rows} of {promised} rows: its rows must be the same each time, and its files must "
            "not change"
        )


def checksum(frame: pl.DataFrame | pl.LazyFrame) -> str:
    """Compute a checksum of the names, types and values of a frame, some rows at a time.

    It is that of their text, which is the same in every process and, unlike `polars.DataFrame.hash_rows`, for every
    release of polars. Categories have the type of text. Python objects have no checksum.
    """
    plain = frame.lazy().select(~cs.object())
    schema = plain.collect_schema()
    types = {name: str(pl.String() if dtype in (pl.Categorical, pl.Enum) else dtype) for name, dtype in schema.items()}
    nested = [name for name, dtype in schema.items() if dtype.is_nested()]
    as_text = [pl.struct(cs.by_name(name)).struct.json_encode().alias(name) for name in nested]
    plain = plain.with_columns(*as_text, cs.binary().bin.encode("hex"), cs.duration().to_physical())
    digest = hashlib.sha256(json.dumps(types).encode())
    for rows in read_lazy(plain, _SLICE, count_rows(plain)):
        digest.update(rows.write_csv(include_header=False).encode())
    return digest.hexdigest()[:16]


def _check_unicode(names: Sequence[str]) -> None:
    for name in names:
        if not (name.isascii() or is_unicode(name)):
            raise ValueError(f"the name of the column {name!r} is no valid Unicode; rename it")
