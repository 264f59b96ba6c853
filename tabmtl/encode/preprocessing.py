"""Preprocessors: transformers of scikit-learn in front of a coder, which see every row in the form of those of fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
import polars.selectors as cs
from scipy.sparse import issparse

from tabmtl.base.storage.transformers import Transformer
from tabmtl.columns.values import as_fit, values_of
from tabmtl.encode.read import as_array, read_values, to_array


def check_preprocessor(name: str, value: Any) -> None:
    """Raise a TypeError unless a value is None or a transformer of scikit-learn."""
    if value is None:
        return
    cure = ""
    if isinstance(value, type):
        cure = f"; that is the class, write {value.__name__}()"
    elif all(hasattr(value, method) for method in ("fit", "transform", "get_params")):
        return
    elif hasattr(value, "predict"):
        cure = "; it predicts, and a preprocessor makes columns: give the steps in front of it, as in pipeline[:-1]"
    raise TypeError(
        f"{name} must be a transformer of scikit-learn, such as make_column_transformer(...), or None, "
        f"got {value!r:.200}{cure}"
    )


def by_preprocessor(model: Any) -> str:
    """Say how a Pipeline that ends with an estimator of this package is written; nothing of any other object."""
    steps = getattr(model, "steps", None)
    if not isinstance(steps, list) or not steps or not hasattr(steps[-1][-1], "preprocessor"):
        return ""
    return (
        f"; give {type(steps[-1][-1]).__name__} the steps in front of it, and fit that: "
        "pipeline[-1].set_params(preprocessor=pipeline[:-1])"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Preprocessing:
    """A fitted preprocessor, and what its rows look like before and after it.

    Attributes
    ----------
    transformer : Transformer
    library : {"polars", "pandas", "numpy"}
        Library of the rows of fit, in which it gets all rows.
    values : tuple of str
        What each column of X held in fit, without the task column.
    names : tuple of str
        Columns that it gives, and the task column as the last.
    named : bool
        Whether it named them.
    """

    transformer: Transformer
    library: Literal["polars", "pandas", "numpy"]
    values: tuple[str, ...]
    names: tuple[str, ...]
    named: bool

    @classmethod
    def fit(
        cls, transformer: Any, X: Any, task_column: str | None, seed: int
    ) -> tuple[Preprocessing, tuple[str, ...], Any]:
        """Fit a copy of a transformer on rows; return it with the names of their columns, and what it makes of them.

        It sees neither labels nor weights, so that rows that are set aside later stay unseen in this respect.

        Raises
        ------
        TypeError, ValueError
            If it cannot be fitted on these rows, or makes no table of them.
        """
        from sklearn.base import clone

        fitted = clone(transformer)
        unset = [name for name, value in fitted.get_params().items() if value is None and name.endswith("random_state")]
        fitted.set_params(**dict.fromkeys(unset, seed))
        frame, library = read_values(X), _library_of(X)
        known = [name for name in frame.columns if name != task_column]
        given = _as_given(X, library, task_column)
        given = _in_library(frame.select(cs.by_name(*known)), library) if given is None else given
        with _explained(fitted, "be fitted"):
            fitted.fit(given)
        made = _transformed(fitted, given)
        columns, named = _columns_of(fitted, made)
        if task_column in columns:
            raise ValueError(f"the preprocessor gives a column {task_column!r}, which is the task_column; rename it")
        found = cls(
            transformer=Transformer(fitted),
            library=library,
            values=tuple(values_of(frame[name].dtype) for name in known),
            names=columns if task_column is None else (*columns, task_column),
            named=named or task_column is not None,
        )
        return found, tuple(frame.columns), found._table(made, frame, task_column)

    def transform(self, X: Any, names: Sequence[str], task_column: str | None) -> Any:
        """Return what the preprocessor makes of rows, which have the columns of fit in order, by these names.

        Raises
        ------
        TypeError, ValueError
            If a column holds other values than in fit, or the transformer fails.
        """
        given = _as_given(X, self.library, task_column) if self.library == _library_of(X) else None
        if given is not None and task_column is None:
            return self._table(_transformed(self.transformer.fitted, given), None, None)
        frame = read_values(X)
        if frame.width != len(names):
            raise ValueError(f"X has {frame.width} columns, expected those of fit: {[*names]}")
        if frame.columns != [*names]:
            frame = frame.rename(dict(zip(frame.columns, names, strict=True)))
        if given is None:
            pairs = zip([name for name in names if name != task_column], self.values, strict=True)
            given = _in_library(pl.DataFrame([as_fit(frame[name], values) for name, values in pairs]), self.library)
        return self._table(_transformed(self.transformer.fitted, given), frame, task_column)

    def _table(self, made: Any, frame: pl.DataFrame | None, task_column: str | None) -> Any:
        """Return what the transformer made as rows of a table, with the tasks of a frame."""
        columns = [name for name in self.names if name != task_column]
        is_frame = not isinstance(made, np.ndarray) and nw.dependencies.is_into_dataframe(made)
        width = len(nw.from_native(made).columns) if is_frame else made.shape[1]
        if width != len(columns):
            raise ValueError(f"the preprocessor gives {width} columns, and gave {len(columns)} in fit: {columns[:5]}")
        if task_column is None and (is_frame or not self.named):
            return made
        table = read_values(made)
        table = pl.DataFrame([own.alias(name) for own, name in zip(table.iter_columns(), columns, strict=True)])
        return table if task_column is None or frame is None else table.with_columns(frame[task_column])


def _transformed(transformer: Any, given: Any) -> Any:
    """Return rows of a transformer, dense, one for each of the given."""
    with _explained(transformer, "transform"):
        made = transformer.transform(given)
    made = made.toarray() if issparse(made) else made
    made = made.lazy().collect() if isinstance(made, pl.LazyFrame) else made
    shape: Any = getattr(made, "shape", ())
    if len(shape) != 2 or shape[0] != len(given):
        raise ValueError(
            f"the preprocessor {type(transformer).__name__} makes {type(made).__name__} of shape {shape} of "
            f"{len(given)} rows, expected a table with a row for each"
        )
    return made


def _columns_of(transformer: Any, made: Any) -> tuple[tuple[str, ...], bool]:
    """Return the names of the columns that a transformer gives, and whether it names them."""
    if nw.dependencies.is_into_dataframe(made):
        return tuple(str(name) for name in nw.from_native(made).columns), True
    try:
        names = tuple(str(name) for name in transformer.get_feature_names_out())
    except Exception:  # any error of foreign code that is asked for names it does not have
        names = ()
    if len(names) == made.shape[1] == len(set(names)):
        return names, True
    return tuple(f"x{j}" for j in range(made.shape[1])), False


def _library_of(X: Any) -> Literal["polars", "pandas", "numpy"]:
    """Return the library in which a transformer gets rows like these; those of pyarrow come as polars."""
    if nw.dependencies.is_pandas_dataframe(X):  # by position, where columns have no names
        return "pandas" if all(isinstance(name, str) for name in X.columns) else "numpy"
    return "polars" if isinstance(X, pl.LazyFrame) or nw.dependencies.is_into_dataframe(X) else "numpy"


def _as_given(X: Any, library: str, task_column: str | None) -> Any | None:
    """Return rows for a transformer as they were given; None if they have to be read first."""
    if library == "pandas":
        return _with_nan(X if task_column is None else X.drop(columns=task_column))
    if library == "numpy" and task_column is None and not nw.dependencies.is_into_dataframe(X):
        return _array_with_nan(as_array(X, "X", ensure_2d=True))
    return None


def _with_nan(X: Any) -> Any:
    """Return a frame of pandas whose missing objects are NaN, which scikit-learn tells from None, NA and each other."""
    objects = [name for name, dtype in X.dtypes.items() if str(dtype) in ("object", "string", "boolean")]
    X = X.copy(deep=False) if objects else X
    for name in objects:
        X[name] = X[name].astype(object).where(X[name].notna(), np.nan)
    return X


def _array_with_nan(array: np.ndarray) -> np.ndarray:
    if array.dtype != object:
        return array
    is_none = np.frompyfunc(lambda cell: cell is None, 1, 1)(array)  # cells may be arrays, which == compares by item
    return np.where(is_none.astype(bool), np.nan, array)


def _in_library(frame: pl.DataFrame, library: str) -> Any:
    if library == "pandas":
        return frame.to_pandas()
    return frame if library == "polars" else _array_with_nan(to_array(frame))


@contextmanager
def _explained(transformer: Any, does: str) -> Iterator[None]:
    """Name the preprocessor and a cure in errors of a transformer."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError | OSError):
            raise
        name, said = type(transformer).__name__, str(error)
        needs_labels = any(word in said for word in ("'y'", "requires y", "y is None", "target y"))
        cure = "; a preprocessor learns from X alone: leave steps out that learn from labels" if needs_labels else ""
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"the preprocessor {name} cannot {does}: {said}{cure}") from error
