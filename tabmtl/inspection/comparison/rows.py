"""Rows of a comparison: those to fit, and those that judge every model alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl

from tabmtl.base.schema import Batch, warn_user
from tabmtl.encode import TableCoder, join_rows, take_rows
from tabmtl.encode.read import has_column, read_groups
from tabmtl.estimators.base import draw_seed
from tabmtl.estimators.source import refuse_source
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.metrics.scores import is_by_group
from tabmtl.model_selection import train_valid_split
from tabmtl.model_selection.repeats import group_equal_rows, groups_of_rows, number_groups, warn_of_shared_groups
from tabmtl.model_selection.suspects import dates_of, warn_of_frequent_classes, warn_of_random_split
from tabmtl.model_selection.times import newest_split, times_beside, times_of_fit

_TEST_SHARE = 0.25  # of the rows, where none are given to test on


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparedRows:
    """Rows to fit and to test, in the containers of the user.

    Parameters
    ----------
    coder : TableCoder
        Knows the tasks, and reads the labels.
    fit : dict
        Arguments of ``fit``, for models that stop by rows.
    X, y : frames or arrays
        The rows to test.
    batch : Batch
        The same, encoded, with the groups that they were drawn in.
    learned : Batch
        Labels of the rows to fit, without features.
    n_fit, n_val : int
        Numbers of rows to fit, and of those to stop by.
    how : str
        Where the rows to test come from, in a sentence.
    n_groups : int or None
        Number of groups of the rows to test, if these are given.
    group_val : list or None
        Groups of the rows to stop by, if these are given.
    """

    coder: TableCoder
    fit: dict[str, Any]
    X: Any
    y: Any
    batch: Batch
    learned: Batch
    n_fit: int
    n_val: int
    how: str
    n_groups: int | None
    group_val: list[Any] | None

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
        model.__learner__().check(fit["X"], fit["X_val"], fit["y_val"])
        coder = model.__learner__().coder(fit["X"], fit["y"])
        batch = coder.read(fit["X"], fit["y"])
        batch = replace(batch, time=times_of_fit(fit.get("time"), fit["X"], len(batch)))
        warn_of_frequent_classes(coder.labels, model.tasks, coder.labels.tasks, batch.y)
        if batch.time is None and (X_test is None or fit["X_val"] is None):
            warn_of_random_split(dates_of(coder.features), len(batch))
        groups = GroupsByPart.of(fit["groups"], fit["X_val"], X_test)
        valid: dict[str, Any] = {"n_val": 0, "group_val": None}
        if fit["X_val"] is not None:
            _check_columns(coder, fit["X_val"], "X_val")
            valid["n_val"] = n = len(coder.read(fit["X_val"], fit["y_val"]))
            _check_times_of_val(fit)
            if groups.val is not None:
                valid["group_val"] = read_groups(groups.val, fit["X_val"], n, source="X_val")
        fit = fit | {"groups": groups.fit}
        if X_test is not None:
            times_beside(fit.get("time"), fit["X"], len(batch), X_test, len(y_test), part="test")
            return cls(**cls._given(coder, fit, X_test, y_test, batch, groups.test), **valid)
        return cls(**cls._drawn(coder, fit, batch, draw_seed(model.random_state)), **valid)

    @classmethod
    def _drawn(cls, coder: TableCoder, fit: dict[str, Any], batch: Batch, seed: int) -> dict[str, Any]:
        """Hold rows out to test."""
        groups = fit["groups"]
        group = groups_of_rows(groups, fit["X"], batch)
        tasks = coder.labels.tasks
        if batch.time is None:
            rng = np.random.default_rng(seed)
            train, test = train_valid_split(batch.y, tasks, _TEST_SHARE, rng, batch.task, group)
            how = f"a random {100 * _TEST_SHARE:g} % with labels of every task and class"
        else:
            train, test = newest_split(batch.y, tasks, _TEST_SHARE, batch.time, batch.task, group)
            how = f"the newest {100 * _TEST_SHARE:g} %"
        how += "" if group is None else ", no group on both sides"
        of_rows = [name for name in ("groups", "time") if not isinstance(fit.get(name), str | None)]
        split = ("X", "y", *of_rows)
        parts = {name: take_rows(fit[name], train) for name in split}
        X, y = (take_rows(fit[name], test) for name in ("X", "y"))
        tested = replace(batch, group=group).rows(test)
        return {
            "coder": coder,
            "fit": fit | parts,
            "X": X,
            "y": y,
            "batch": tested,
            "learned": batch.without_features().rows(train),
            "n_fit": len(train),
            "how": how,
            "n_groups": None if groups is None else len(np.unique(tested.group)),
        }

    @classmethod
    def _given(
        cls, coder: TableCoder, fit: dict[str, Any], X: Any, y: Any, learned: Batch, of_test: Any
    ) -> dict[str, Any]:
        """Take the rows to test from the caller, with their groups if these are known."""
        _check_columns(coder, X, "X_test")
        tested, own = coder.read(X, y), fit["groups"]
        known = [] if own is None else read_groups(own, fit["X"], len(learned))
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
        return {
            "coder": coder,
            "fit": fit,
            "X": X,
            "y": y,
            "batch": replace(tested, group=group),
            "learned": learned.without_features(),
            "n_fit": len(learned),
            "how": "given by the caller",
            "n_groups": None if of_test is None or group is None else len(np.unique(group)),
        }

    def fit_arguments(self, model: MultiTaskEstimator) -> dict[str, Any]:
        """Return the arguments of ``fit`` for a model, which has all labels: it learns X_val, or stops by it."""
        if self.n_val and model.__learns_all_rows__:
            return self._joined
        if self.group_val is None or not any(map(is_by_group, self.coder.labels.tasks)):
            return self.fit
        return self.fit | {"groups": (self.fit["groups"], self.group_val)}

    @cached_property
    def _joined(self) -> dict[str, Any]:
        """Arguments of ``fit`` with the rows of X_val among those to fit."""
        fit, groups = self.fit, None
        X, y = (join_rows(fit[name], fit[f"{name}_val"], (name, f"{name}_val")) for name in ("X", "y"))
        if fit["groups"] is not None:
            of_fit = read_groups(fit["groups"], fit["X"], self.n_fit)
            # no group is None, so rows without groups are one
            groups = number_groups([*of_fit, *(self.group_val or [None] * self.n_val)])
        return {"X": X, "y": y, "groups": groups} | {name: fit[name] for name in ("time",) if name in fit}


class GroupsByPart(NamedTuple):
    """Groups of the rows to fit, to stop by and to test, as `read_groups` takes them; None where there are none."""

    fit: Any
    val: Any
    test: Any

    @classmethod
    def of(cls, groups: Any, X_val: Any, X_test: Any) -> GroupsByPart:
        """Take the groups that a caller gave, as a name of a column, for X alone, or as a tuple by parts."""
        others = {"val": X_val, "test": X_test}
        if isinstance(groups, str):
            found = {part: groups for part, X in others.items() if X is not None and has_column(X, groups)}
            return cls(groups, found.get("val"), found.get("test"))
        if not isinstance(groups, tuple) or len(groups) not in (2, 3) or X_val is X_test is None:
            return cls(groups, None, None)
        if len(groups) == 3:
            return cls(*groups)
        first, second = groups
        return cls(first, second, None) if X_test is None else cls(first, None, second)


def _check_times_of_val(fit: Mapping[str, Any]) -> None:
    """Raise a ValueError if rows to stop by, which some models learn, lack the times that those to fit have."""
    time = fit.get("time")
    if time is not None and not (isinstance(time, str) and has_column(fit["X_val"], time)):
        raise ValueError(
            "with X_val, time must name a column that X and X_val both have, since models that choose by folds learn "
            "both; add the column, or leave X_val and y_val out"
        )


def _check_columns(coder: TableCoder, X: Any, name: str) -> None:
    """Raise a ValueError unless rows to judge by have the columns of the rows to fit."""
    missing = [column for column in coder.names if coder.named and not has_column(X, column)]
    if missing:
        raise ValueError(f"{name} lacks the columns {missing} of X; give it all columns of X")
    columns = nw.from_native(X).columns if coder.named and nw.dependencies.is_into_dataframe(X) else ()
    further = [column for column in columns if str(column) not in (*coder.names, *coder.dropped)]
    if further:
        raise ValueError(f"{name} has the columns {further}, and X has not; give it the columns of X only")


def as_read(X: Any) -> Any:
    """Return features as every model can read them again; a lazy frame is collected once.

    Raises
    ------
    TypeError
        If they are a source, such as Shards.
    """
    refuse_source(X, "compare")
    return X.collect() if isinstance(X, pl.LazyFrame) else X
