"""Every estimator refuses what it cannot learn, names the column or task, and stays as it was."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest
from conformance import (
    ESTIMATORS,
    FREE,
    MIXED,
    answers,
    features,
    fitted,
    long_table,
    mixed_targets,
    same,
    targets_for,
    tiny,
)

from tabmtl import Task

every_estimator = pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
every_mixed = pytest.mark.parametrize("cls", MIXED, ids=lambda cls: cls.__name__)

#: What is done to the features in fit, and what the error says.
BAD_FEATURES = {
    "dates": (lambda X: X.with_columns(when=pl.lit(date(2024, 1, 1))), TypeError, r"'when'.*(cast|drop)"),
    "infinite": (lambda X: X.with_columns(plain=pl.lit(np.inf)), ValueError, r"'plain'.*infinite"),
    "lists": (lambda X: X.with_columns(bag=pl.lit([1, 2])), TypeError, "'bag'"),
    "mixed": (lambda X: X.to_pandas().assign(odd=["a", 1] * 60), TypeError, r"'odd'.*\['int', 'str'\]"),
    "no rows": (lambda X: X[:0], ValueError, "0 sample"),
    "no columns": (lambda X: X.select(), ValueError, "0 (sample|feature)"),
    "flat": (lambda X: X["plain"], ValueError, "2D"),
    "short": (lambda X: X[:-1], ValueError, "119.*120"),
}

#: The same for the first target, whose kind the face decides.
BAD_LABELS = {
    "all null": (lambda y: y.clear(len(y)), ValueError, r"'{name}'.*no observed label.*drop"),
    "dates": (lambda y: pl.Series(y.name, [date(2024, 1, 1)] * len(y)), TypeError, "'{name}'.*cast"),
    "infinite": (lambda y: pl.Series(y.name, [np.inf, 1.5] * (len(y) // 2)), ValueError, "'{name}'.*infinite"),
}


@pytest.mark.parametrize("what", BAD_FEATURES)
@every_estimator
def test_bad_features_are_named(cls, what):
    change, error, message = BAD_FEATURES[what]
    X = features()
    with pytest.raises(error, match=message):
        tiny(cls).fit(change(X), targets_for(cls, X))


@pytest.mark.parametrize("what", BAD_LABELS)
@every_estimator
def test_bad_labels_are_named(cls, what):
    change, error, message = BAD_LABELS[what]
    X = features()
    y = targets_for(cls, X)
    name = y.columns[1]
    with pytest.raises(error, match=message.format(name=name)):
        tiny(cls).fit(X, y.with_columns(change(y[name])))


@pytest.mark.parametrize("cls", [cls for cls in FREE if cls._target_kind != "regression"])
def test_one_single_class_is_named(cls):
    X = features()
    with pytest.raises(ValueError, match=r"'late'.*class.*at least two"):
        tiny(cls).fit(X, pl.DataFrame({"late": ["yes"] * len(X)}))


@every_estimator
def test_a_face_refuses_labels_of_the_other_kind(cls):
    X, y = features(), mixed_targets(features())
    if cls._target_kind == "classification":
        with pytest.raises(ValueError, match=r"'delay'.*continuous"):
            tiny(cls).fit(X, y)
    if cls._target_kind == "regression":
        with pytest.raises(ValueError, match=r"'late'.*text"):
            tiny(cls).fit(X, y)


@every_mixed
def test_declarations_that_do_not_fit_are_named(cls):
    X, y = features(), mixed_targets(features())
    wrong = {
        "unknown": ({"speed": "regression"}, "speed"),
        "classes": ({"late": Task(name="late", kind="binary", classes=("a", "b"))}, r"'late'.*classes"),
        "kind": ({"size": "binary"}, r"'size'.*binary.*3 classes"),
        "text": ({"size": "regression"}, r"'size'.*regression"),
        "metric": ({"late": Task(name="late", kind="binary", metric="r2")}, r"'late'.*'r2'.*roc_auc"),
        "typo": ({"late": "binry"}, r"'late'.*binry"),
    }
    for tasks, message in wrong.values():
        with pytest.raises(ValueError, match=message):
            tiny(cls, tasks=tasks).fit(X, y)


@every_estimator
def test_bad_weights_are_refused(cls):
    X = features()
    y = targets_for(cls, X)
    n, t = y.shape
    wrong = {
        "negative": -np.ones(n),
        "missing": np.full(n, np.nan),
        "infinite": np.full((n, t), np.inf),
        "short": np.ones(n - 1),
        "wide": np.ones((n, t + 1)),
        "foreign": pl.DataFrame({"somebody": np.ones(n)}),
        "zero": np.zeros(n),
    }
    for weight in wrong.values():
        with pytest.raises(ValueError, match="weight"):
            tiny(cls).fit(X, y, sample_weight=weight)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@every_estimator
def test_features_that_changed_since_fit_are_named(cls):
    estimator, X, y = fitted(cls)
    text = X.with_columns(plain=pl.col("plain").cast(pl.String))
    with pytest.raises(TypeError, match=r"'plain'.*numeric.*fit"):
        estimator.predict(text)
    with pytest.raises(ValueError, match=r"'plain'.*infinite"):
        estimator.predict(X.with_columns(plain=pl.lit(-np.inf)))
    with pytest.raises(TypeError, match="'text'"):
        estimator.predict(X.with_columns(text=pl.lit(date(2024, 1, 1))))
    for columns in (X.drop("plain"), X.rename({"plain": "simple"}), X.select(reversed(X.columns))):
        with pytest.raises(ValueError, match="feature names"):
            estimator.predict(columns)
    with pytest.raises(ValueError, match=r"X has 2 features, but \w+ is expecting 7"):
        estimator.predict(X.select("plain", "holes").to_numpy())
    with pytest.raises(ValueError, match="0 sample"):
        estimator.predict(X[:0])
    with pytest.raises(ValueError, match=y.columns[0]):
        estimator.score(X, y.drop(y.columns[0]))
    with pytest.raises(ValueError, match="119"):
        estimator.score(X, y[:-1])


@every_mixed
def test_labels_that_fit_did_not_see_are_named(cls):
    estimator, X, y = fitted(cls)
    with pytest.raises(ValueError, match=r"'late'.*'never'.*'on time'"):
        estimator.score(X, y.with_columns(late=pl.lit("never")))
    with pytest.raises(ValueError, match="'late'"):
        estimator.score(X, y.with_columns(late=pl.lit(1.5)))
    with pytest.raises(ValueError, match="'delay'"):
        estimator.score(X, y.with_columns(delay=pl.lit("long")))


#: What makes a second fit fail, from the first check of the input to the last.
FAILURES = {
    "parameter": lambda X, y: {"X": X, "y": y, "params": {"validation_fraction": 2.0}},
    "validation rows alone": lambda X, y: {"X": X, "y": y, "X_val": X},
    "features": lambda X, y: {"X": X.with_columns(plain=pl.lit(np.inf)), "y": y},
    "labels": lambda X, y: {"X": X, "y": y.clear(len(y))},
    "length": lambda X, y: {"X": X, "y": y[1:]},
    "weights": lambda X, y: {"X": X, "y": y, "sample_weight": [-1.0] * len(X)},
    "columns of validation rows": lambda X, y: {"X": X, "y": y, "X_val": X.drop("plain"), "y_val": y},
    "labels of validation rows": lambda X, y: {"X": X, "y": y, "X_val": X, "y_val": pl.DataFrame({"z": y[:, 0]})},
}


@pytest.mark.parametrize("what", FAILURES)
@every_estimator
def test_a_failed_fit_leaves_the_estimator_as_it_was(cls, what):
    estimator, X, y = fitted(cls)
    said, before = answers(estimator, X), dict(vars(estimator))
    # columns that the first fit did not have
    arguments = FAILURES[what](X.rename({"count": "number"}), y)
    params = arguments.pop("params", {})
    kept = {name: before[name] for name in params}
    with pytest.raises((ValueError, TypeError)):
        estimator.set_params(**params).fit(arguments.pop("X"), arguments.pop("y"), **arguments)
    estimator.set_params(**kept)
    assert vars(estimator) == before
    assert same(said, answers(estimator, X))


@every_mixed
def test_a_failed_fit_of_a_long_table_leaves_the_estimator_as_it_was(cls):
    X, y = long_table()
    estimator = tiny(cls, task_column="school").fit(X, y)
    said = answers(estimator, X)
    with pytest.raises(ValueError, match="school"):
        estimator.fit(X.drop("school"), y)
    assert same(said, answers(estimator, X))
