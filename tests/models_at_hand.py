"""Fitted models at hand: each is fitted once in a process, and every test gets a copy, which it may change.

A copy is a pickle: it has forgotten the rows of fit, and importances that nobody has asked for.
"""

from __future__ import annotations

import pickle
from typing import Any

import polars as pl
from conformance import targets_for, tiny

from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.testing import features, long_table

_pickled: dict[str, bytes] = {}


def fitted(
    cls: type[MultiTaskEstimator], table: str = "wide", **params: Any
) -> tuple[Any, pl.DataFrame, pl.DataFrame | pl.Series]:
    """A tiny fitted estimator, and the features and targets it was fitted on.

    The table is "wide", with columns of every type and targets of the kinds that the estimator takes, or "long", with
    a column that names the task of a row.
    """
    if table == "long":
        X, y = long_table()
        params["task_column"] = "school"
    else:
        X = features()
        y = targets_for(cls, X)
    key = f"{cls.__module__}.{cls.__qualname__} {table} {sorted(params.items())}"
    if not all(isinstance(value, str | int | float | tuple | None) for value in params.values()):  # of no plain text
        return tiny(cls, **params).fit(X, y), X, y
    if key not in _pickled:
        _pickled[key] = pickle.dumps(tiny(cls, **params).fit(X, y))
    return pickle.loads(_pickled[key]), X, y
