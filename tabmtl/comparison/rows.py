"""Rows of a comparison: those to fit, and those that judge every model alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl

from tabmtl.encode import TableCoder, take_rows
from tabmtl.encode.read import has_column, read_groups
from tabmtl.encode.shards import Shards
from tabmtl.estimators.base import draw_seed
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.model_selection import train_valid_split
from tabmtl.model_selection.repeats import group_equal_rows, number_groups, warn_of_shared_groups
from tabmtl.schema import Batch, warn_user

_TEST_SHARE = 0.25  # of the rows, where none are given to test on


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparedRows:
    """Rows to fit and to test, in the containers of the user.

    Parameters
    ----------
    coder : TableCoder
        Knows the tasks, and reads the labels.
    fit : dict
        Arguments of ``fit``, for every model.
    X, y : frames or arrays
        The rows to test.
    batch : Batch
        The same, encoded, with the groups that they were drawn in.
    n_fit : int
        Number of rows to fit.
    how : str
        Where the rows to test come from, in a sentence.
    n_groups : int or None
        Number of groups of the rows to test, if these are given.
    """

    coder: TableCoder
    fit: dict[str, Any]
    X: Any
    y: Any
    batch: Batch
    n_fit: int
    how: str
    n_groups: int | None

    @classmethod
    def read(cls, model: MultiTaskEstimator, fit: dict[str, Any], X_test: Any, y_test: Any) -> ComparedRows:
        """Check the rows as a model would read them, and hold some out where there are none to test.

        Parameters
        ----------
        model : MultiTaskEstimator
            Not fitted: its parameters tell the roles of the columns, and its random state draws the rows.
        fit : dict
            Arguments of ``fit`` for all rows.
        X_test, y_test : frames or arrays, or None
        """
        model.check_call(fit["X"], fit["X_val"], fit["y_val"])
        coder = model.learn_coder(fit["X"], fit["y"])
        batch = coder.read(fit["X"], fit["y"])
        if X_test is not None:
            return cls._given(coder, fit, X_test, y_test, len(batch))
        groups = fit["groups"]
        values = None if groups is None else read_groups(groups, fit["X"], len(batch))
        group = group_equal_rows(batch) if values is None else number_groups(values)
        rng = np.random.default_rng(draw_seed(model.random_state))
        train, test = train_valid_split(batch.y, coder.labels.tasks, _TEST_SHARE, rng, batch.task, group)
        how = f"a random {100 * _TEST_SHARE:g} % with labels of every task and class"
        how += "" if group is None else ", no group on both sides"
        split = ("X", "y") if groups is None or isinstance(groups, str) else ("X", "y", "groups")
        parts = {name: take_rows(fit[name], train) for name in split}
        X, y = (take_rows(fit[name], test) for name in ("X", "y"))
        tested = replace(batch, group=group).rows(test)
        n_groups = None if groups is None else len(np.unique(tested.group))
        return cls(coder=coder, fit=fit | parts, X=X, y=y, batch=tested, n_fit=len(train), how=how, n_groups=n_groups)

    @classmethod
    def _given(cls, coder: TableCoder, fit: dict[str, Any], X: Any, y: Any, n_fit: int) -> ComparedRows:
        """Take the rows to test from the caller, with their groups if these are known."""
        missing = [name for name in coder.names if coder.named and not has_column(X, name)]
        if missing:
            raise ValueError(f"X_test lacks the columns {missing} of X; give it all columns of X")
        columns = nw.from_native(X).columns if coder.named and nw.dependencies.is_into_dataframe(X) else ()
        further = [name for name in columns if str(name) not in (*coder.names, *coder.dropped)]
        if further:
            raise ValueError(f"X_test has the columns {further}, and X has not; give it the columns of X only")
        tested, groups = coder.read(X, y), fit["groups"]
        own, of_test = groups if isinstance(groups, tuple) and len(groups) == 2 else (groups, None)
        if isinstance(groups, str) and has_column(X, groups):
            of_test = groups
        known = [] if own is None else read_groups(own, fit["X"], n_fit)
        if of_test is None:
            group = group_equal_rows(tested)
        else:
            values = read_groups(of_test, X, len(tested), source="X_test")
            group = number_groups(values)
            name = f"the column {of_test!r}" if isinstance(of_test, str) else "the groups"
            warn_of_shared_groups(name, known, values, "test")
        if own is not None and of_test is None:
            warn_user(
                "groups are those of X, so the rows of X_test are judged as if each was drawn by itself, and intervals "
                "are too narrow where they were not: name a column that both have, or give the groups of both, as "
                "groups=(those of X, those of X_test)"
            )
        return cls(
            coder=coder,
            fit=fit | {"groups": own},
            X=X,
            y=y,
            batch=replace(tested, group=group),
            n_fit=n_fit,
            how="given by the caller",
            n_groups=None if of_test is None or group is None else len(np.unique(group)),
        )


def as_read(X: Any, name: str) -> Any:
    """Return features as every model can read them again; a lazy frame is collected once.

    Raises
    ------
    TypeError
        If they are Shards.
    """
    if isinstance(X, Shards):
        raise TypeError(
            f"{name} is Shards, and compare reads frames, since every model answers all rows to test at once: give a "
            "frame, or fit the models one by one and score each"
        )
    return X.collect() if isinstance(X, pl.LazyFrame) else X
