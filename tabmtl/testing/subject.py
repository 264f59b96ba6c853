"""An estimator under check, and tables that it can fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
from sklearn.base import clone, is_classifier, is_regressor

from tabmtl.targets import Task
from tabmtl.testing.comparisons import answers, same
from tabmtl.testing.promises import raises
from tabmtl.testing.tables import COLOURS, SCHOOLS, features, mixed_targets

#: Set where an estimator has the parameter; on the CPU, the bits of two runs can be compared.
_SETTINGS: dict[str, Any] = {
    "tasks": None,
    "task_column": None,
    "columns": None,
    "min_frequency": 2,
    "device": "cpu",
    "n_jobs": 1,
    "random_state": 0,
}
STEPS = ("late", "very early")
FUNNEL: dict[str, Any] = {
    "task_chain": STEPS,
    "tasks": {name: Task(name=name, kind="binary", classes=("late", "on time")) for name in STEPS},
}

#: The same features in other containers and dtypes.
_CONTAINERS: dict[str, Callable[[pl.DataFrame], Any]] = {
    "lazy": lambda X: X.lazy(),
    "pyarrow": lambda X: X.to_arrow(),
    "pandas": lambda X: X.to_pandas(),
    "pandas-arrow": lambda X: X.to_pandas(use_pyarrow_extension_array=True),
    "pandas-object": lambda X: X.to_pandas().astype({"text": object, "flag": object}),
    "pandas-nullable": lambda X: X.to_pandas().convert_dtypes(),
    "pandas-category": lambda X: X.to_pandas().astype({"text": "category"}),
    "polars-categorical": lambda X: X.cast({cs.string(): pl.Categorical}),
    "polars-enum": lambda X: X.cast({cs.string(): pl.Enum(["unused", *COLOURS[::-1], *SCHOOLS[::-1]])}),
    "polars-nan": lambda X: X.with_columns(pl.col("holes").fill_null(float("nan"))),
}


class Subject:
    """An estimator under check, and tables that it can fit; a check is a method of a subclass."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.takes_classes = not is_regressor(model)
        self.takes_numbers = not is_classifier(model)
        self.is_funnel = getattr(model, "task_chain", None) is not None

    @property
    def is_mixed(self) -> bool:
        """Whether the estimator takes targets of any kind."""
        return self.takes_classes and self.takes_numbers and not self.is_funnel

    def fresh(self, **params: Any) -> Any:
        """Return an unfitted copy with the settings of the checks; it ignores those that it does not have."""
        known = self.model.get_params(deep=False)
        wanted = _SETTINGS | (FUNNEL if self.is_funnel else {}) | params
        return clone(self.model).set_params(**{name: value for name, value in wanted.items() if name in known})

    def targets(self, X: pl.DataFrame) -> pl.DataFrame:
        """Make at least two targets, of the kinds that the estimator takes."""
        y = mixed_targets(X)
        if not self.takes_numbers:
            return y.drop("delay")
        if not self.takes_classes:
            return y.select("delay", (pl.col("delay") ** 2).alias("square"))
        if self.is_funnel:
            # "on time", the second class, is the step taken; without it, the second label is missing
            late = pl.when(pl.col("late") == "late").then(None).when(X["plain"] > -0.5).then(pl.lit("late"))
            return y.with_columns(late.otherwise("late").alias("very early"))
        return y

    def fitted(self) -> tuple[Any, pl.DataFrame, pl.DataFrame]:
        """Return a copy of a model that is fitted once for all checks, and the features and targets of its fit."""
        X, y = self.table()
        return copy.deepcopy(self._fitted), X, y

    @cached_property
    def _fitted(self) -> Any:
        return self.fresh().fit(*self.table())

    def table(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Make features and targets that the estimator takes."""
        X = features()
        return X, self.targets(X)

    def said(self, X: Any, y: Any, weight: Any = None, **params: Any) -> list[np.ndarray]:
        """Return the answers of a copy for the rows that it was fitted on."""
        return answers(self.fresh(**params).fit(X, y, sample_weight=weight), X)

    def means_the_same_in_every_container(self) -> None:
        """Check that fit, answers and scores are those of the frame for its features in other containers."""
        estimator, X, y = self.fitted()
        said, scores = answers(estimator, X), estimator.score_tasks(X, y)
        for container, convert in _CONTAINERS.items():
            other = convert(X)
            assert same(said, answers(estimator, other)), container
            assert same(said, self.said(other, y)), container
            assert estimator.score_tasks(other, y) == scores, container

    def refuse(
        self, X: Any, y: Any, message: str, error: type[Exception] = ValueError, *, weight: Any = None, **params: Any
    ) -> None:
        """Check that the fit of a copy raises an error with a message."""
        with raises(error, message):
            self.fresh(**params).fit(X, y, sample_weight=weight)
