"""Promises for tables with one task a row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import r2_score

from tabmtl.testing.comparisons import answers, answers_by_parts, largest_gap, same
from tabmtl.testing.promises import raises
from tabmtl.testing.rows import ALONE
from tabmtl.testing.storage import reload
from tabmtl.testing.subject import Subject
from tabmtl.testing.tables import SCHOOLS, long_table

#: Enough to learn three slopes, for networks and for trees; experts of a few units would die on the way.
_LONGER = {"epochs": 15, "learning_rate": 0.02, "expert_hidden": (32, 16)}
_MORE_TREES = {"n_estimators": 100, "n_estimators_outlier": 50, "n_estimators_task": 50, "learning_rate": 0.1}
LABELS: dict[str, Callable[[pl.Series], pl.Series]] = {
    "regression": lambda y: y,
    "binary": lambda y: (y > 50).alias("passed"),
    "multiclass": lambda y: pl.Series("mark", ["C", "B", "A"]).gather((y > 45).cast(int) + (y > 55).cast(int)),
}


class Long(Subject):
    """Promises for tables with one task a row."""

    def fresh(self, **params: Any) -> Any:
        """Return an unfitted copy for `long_table`."""
        return super().fresh(**{"task_column": "school"} | params)

    def table(self) -> tuple[pl.DataFrame, Any]:
        """Make a long table."""
        return long_table()

    def check_a_failed_fit_of_a_long_table_leaves_the_estimator_as_it_was(self) -> None:
        estimator, X, y = self.fitted()
        said = answers(estimator, X)
        with raises(ValueError, "school"):
            estimator.fit(X.drop("school"), y)
        assert same(said, answers(estimator, X))

    def check_every_row_is_answered_for_its_own_task(self) -> None:
        X, numbers = long_table()
        order = np.random.default_rng(0).permutation(len(X))
        for kind, labels_of in LABELS.items():
            y = labels_of(numbers)
            estimator = self.fresh().fit(X, y)
            assert [(task.name, task.kind.name) for task in estimator.tasks_] == [(name, kind) for name in SCHOOLS]
            predicted = estimator.predict(X)
            assert (predicted.name, predicted.dtype, len(predicted)) == (y.name, y.dtype, len(X))
            whole = answers(estimator, X)
            alone = answers_by_parts(estimator, X[:ALONE], 1)
            with raises(ValueError, "long.* give the rows of the tasks"):
                estimator.predict(X, tasks=SCHOOLS[:1])
            assert largest_gap([a[:ALONE] for a in whole], alone) <= 1e-6, kind
            assert largest_gap([a[order] for a in whole], answers(estimator, X[order])) <= 1e-6, kind
            assert same(whole, self.said(X, y)), kind
            with TemporaryDirectory() as folder:
                assert same(whole, answers(reload(estimator, Path(folder)), X)), kind

    def check_tasks_are_told_apart_and_scored_on_their_own_rows(self) -> None:
        X, y = long_table(600)
        X = X.select("plain", "school")  # all that the labels depend on
        estimator = self.fresh(**_LONGER if hasattr(self.model, "epochs") else _MORE_TREES).fit(X, y)
        scores = estimator.score_tasks(X, y)
        predicted = estimator.predict(X)
        for school, score in scores.items():
            own = (X["school"] == school) & y.is_not_null()
            assert_allclose(score, r2_score(y.filter(own), predicted.filter(own)), rtol=1e-6)
            assert score > 0.5, "one slope for all schools reaches less: they differ in sign"
        assert_allclose(estimator.score(X, y), np.mean(list(scores.values())), rtol=1e-6)
        elsewhere = estimator.predict(X.with_columns(school=pl.lit("north")))
        assert (elsewhere != predicted).sum() > len(X) / 2

    def check_the_task_column_may_have_any_form(self) -> None:
        self.means_the_same_in_every_container()

    def check_tasks_may_be_numbered(self) -> None:
        X, y = long_table()
        X = X.with_columns(school=pl.col("school").replace_strict({"east": 10, "north": 2, "west": 7}))
        estimator = self.fresh().fit(X, y)
        assert sorted(task.name for task in estimator.tasks_) == ["10", "2", "7"]
        assert len(estimator.predict(X)) == len(X)

    def check_weight_zero_equals_an_absent_label_in_a_long_table(self) -> None:
        X, y = long_table()
        hidden = np.random.default_rng(1).random(len(X)) >= 0.7
        absent = y.set(pl.Series(hidden), None)
        assert same(self.said(X, absent, np.ones(len(X))), self.said(X, y, (~hidden).astype(float)))

    def check_validation_rows_name_their_task(self) -> None:
        X, y = long_table()
        X_val, y_val = long_table(seed=1)
        estimator = self.fresh().fit(X, y, X_val=X_val, y_val=y_val)
        assert list(estimator.score_tasks(X_val, y_val)) == list(SCHOOLS)

    def check_what_a_long_table_lacks_is_named(self) -> None:
        X, y = long_table()
        self.refuse(X, y, r"names columns that X does not have: \['class'\]", task_column="class")
        self.refuse(X.with_columns(school=pl.lit(None, dtype=pl.String)), y, r"school.*missing")
        self.refuse(X, pl.DataFrame({"a": y, "b": y}), "one target")
        estimator = self.fresh(unknown_task="error").fit(X, y)
        with raises(ValueError, r"school.*'south'"):
            estimator.predict(X.with_columns(school=pl.lit("south")))
        with raises(ValueError, "school"):
            estimator.predict(X.drop("school"))

    def check_a_task_of_a_long_table_without_labels_is_named(self) -> None:
        X, y = long_table()
        self.refuse(X, y.set(X["school"] == "west", None), r"task 'west' .* no observed label")

    def check_probabilities_of_a_long_frame_are_under_its_column(self) -> None:
        X, grades = long_table()
        y = LABELS["binary"](grades)
        flat = self.fresh().fit(X, y).predict_proba(X)
        framed = self.fresh().fit(X, y.to_frame()).predict_proba(X)
        assert list(framed) == ["passed"]
        assert_array_equal(framed["passed"], flat)
