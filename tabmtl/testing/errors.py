"""Promises about what an estimator refuses, and how it says so."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import date
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from sklearn.exceptions import NotFittedError

from tabmtl.testing.comparisons import answers, same
from tabmtl.testing.promises import raises
from tabmtl.testing.subject import Subject
from tabmtl.testing.tables import features, mixed_targets

#: A change of the features, and the error that names it.
_BAD_FEATURES: tuple[tuple[Callable[[Any], Any], type[Exception], str], ...] = (
    (lambda X: X.with_columns(place=pl.struct(x=1, y=2)), TypeError, r"'place'.*(field|drop)"),
    (lambda X: X.with_columns(plain=pl.lit(np.inf)), ValueError, r"'plain'.*infinite"),
    (lambda X: X.with_columns(bag=pl.Series([[0.5], [1.5, 2.0]] * 60)), ValueError, "'bag'.*one length"),
    (lambda X: X.to_pandas().assign(odd=["a", 1] * 60), TypeError, r"'odd'.*\['int', 'str'\]"),
    (lambda X: X[:0], ValueError, "0 sample"),
    (lambda X: X.select(), ValueError, "0 (sample|feature)"),
    (lambda X: X["plain"], ValueError, "2D"),
    (lambda X: X[:-1], ValueError, "119.*120"),
)
_BAD_LABELS: tuple[tuple[Callable[[pl.Series], pl.Series], type[Exception], str], ...] = (
    (lambda y: y.clear(len(y)), ValueError, r"'{name}'.*no observed label.*drop"),
    (lambda y: pl.Series(y.name, [date(2024, 1, 1)] * len(y)), TypeError, "'{name}'.*cast"),
    (lambda y: pl.Series(y.name, [np.inf, 1.5] * (len(y) // 2)), ValueError, "'{name}'.*infinite"),
)
#: Arguments that make a second fit fail, from the first check of the input to the last.
_FAILURES: dict[str, Callable[[pl.DataFrame, pl.DataFrame], dict[str, Any]]] = {
    "parameter": lambda X, y: {"params": {"random_state": -1}},
    "validation rows alone": lambda X, y: {"X_val": X},
    "features": lambda X, y: {"X": X.with_columns(plain=pl.lit(np.inf))},
    "labels": lambda X, y: {"y": y.clear(len(y))},
    "length": lambda X, y: {"y": y[1:]},
    "weights": lambda X, y: {"sample_weight": [-1.0] * len(X)},
    "groups": lambda X, y: {"groups": [0] * (len(X) - 1)},
    "dropped column": lambda X, y: {"params": {"columns": {"coumt": "ignore"}}},
    "columns of validation rows": lambda X, y: {"X_val": X.drop("plain"), "y_val": y},
    "labels of validation rows": lambda X, y: {"X_val": X, "y_val": pl.DataFrame({"z": y[:, 0]})},
}


class Errors(Subject):
    """Promises about errors of every estimator."""

    def check_an_unfitted_estimator_says_so(self) -> None:
        estimator = self.fresh()
        X, y = self.table()
        with TemporaryDirectory() as folder:
            for method, arguments in (("predict", (X,)), ("score", (X, y)), ("save", (folder,))):
                with raises(NotFittedError, type(self.model).__name__):
                    getattr(estimator, method)(*arguments)

    def check_bad_features_are_named(self) -> None:
        X = features()
        for change, error, message in _BAD_FEATURES:
            self.refuse(change(X), self.targets(X), message, error)

    def check_bad_labels_are_named(self) -> None:
        X, y = self.table()
        name = y.columns[1]
        for change, error, message in _BAD_LABELS:
            self.refuse(X, y.with_columns(change(y[name])), message.format(name=name), error)

    def check_a_face_refuses_labels_of_the_other_kind(self) -> None:
        if not self.takes_numbers:
            self.refuse(features(), mixed_targets(features()), r"'delay'.*continuous")
        if not self.takes_classes:
            self.refuse(features(), mixed_targets(features()), r"'late'.*text")

    def check_bad_weights_are_refused(self) -> None:
        X, y = self.table()
        n, t = y.shape
        bad = [-np.ones(n), np.full(n, np.nan), np.full((n, t), np.inf), np.zeros(n)]
        misshapen = [np.ones(n - 1), np.ones((n, t + 1)), pl.DataFrame({"somebody": np.ones(n)})]
        for weight in bad + misshapen:
            self.refuse(X, y, "weight", weight=weight)

    def check_bad_groups_are_named(self) -> None:
        X, y = self.table()
        for groups, message in (("owner", "'owner'.*lacks"), ([0], "groups.*120"), ([None] * 120, "groups.*missing")):
            with raises(ValueError, message):
                self.fresh().fit(X, y, groups=groups)

    def check_bad_times_are_named(self) -> None:
        X, y = self.table()
        for time, error, message in (
            ("day", ValueError, "time.*'day'.*lacks"),
            ([0.0], ValueError, "time.*120"),
            ([None, *range(119)], ValueError, "time.*missing"),
            ([1.0] * 120, ValueError, "same time"),
            (["1 May"] * 120, TypeError, "time.*dates, datetimes or numbers.*String"),
        ):
            with raises(error, message):
                self.fresh().fit(X, y, time=time)

    def check_features_that_changed_since_fit_are_named(self) -> None:
        estimator, X, y = self.fitted()
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            for error, message, other in (
                (TypeError, r"'plain'.*numeric.*fit", X.with_columns(plain=pl.col("plain").cast(pl.String))),
                (ValueError, r"'plain'.*infinite", X.with_columns(plain=pl.lit(-np.inf))),
                (TypeError, "'text'", X.with_columns(text=pl.lit(date(2024, 1, 1)))),
                (ValueError, "feature names", X.drop("plain")),
                (ValueError, "feature names", X.rename({"plain": "simple"})),
                (ValueError, r"X has 2 features, but \w+ is expecting 7", X.select("plain", "holes").to_numpy()),
            ):
                with raises(error, message):
                    estimator.predict(other)
        with raises(ValueError, y.columns[0]):
            estimator.score(X, y.drop(y.columns[0]))
        with raises(ValueError, "119"):
            estimator.score(X, y[:-1])

    def check_a_failed_fit_leaves_the_estimator_as_it_was(self) -> None:
        estimator, X, y = self.fitted()
        said, before = answers(estimator, X), dict(vars(estimator))
        for why, arguments_for in _FAILURES.items():
            # columns that the first fit did not have
            other = X.rename({"count": "number"})
            arguments = {"X": other, "y": y} | arguments_for(other, y)
            params = arguments.pop("params", {})
            with raises((ValueError, TypeError), ""):
                estimator.set_params(**params).fit(**arguments)
            estimator.set_params(**{name: before[name] for name in params})
            assert vars(estimator) == before, why
            assert same(said, answers(estimator, X)), why
