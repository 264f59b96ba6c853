"""Every mixed estimator learns tables with one task per row by the same rules."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from conformance import MIXED, answers, largest_gap, long_table, same, tiny
from sklearn.metrics import r2_score

import tabmtl

every_mixed = pytest.mark.parametrize("cls", MIXED, ids=lambda cls: cls.__name__)

#: Enough to learn three slopes.
LONGER = {"epochs": 30, "n_estimators_outlier": 200, "n_estimators_task": 200, "learning_rate": 0.02}

KINDS = {
    "regression": lambda y: y,
    "binary": lambda y: (y > 50).alias("passed"),
    "multiclass": lambda y: pl.Series("mark", ["C", "B", "A"]).gather((y > 45).cast(int) + (y > 55).cast(int)),
}


@pytest.mark.parametrize("kind", KINDS)
@every_mixed
def test_every_row_is_answered_for_its_own_task(cls, kind, tmp_path):
    X, y = long_table()
    y = KINDS[kind](y)
    estimator = tiny(cls, task_column="school").fit(X, y)
    assert [(task.name, task.kind) for task in estimator.tasks_] == [(name, kind) for name in ("east", "north", "west")]
    predicted = estimator.predict(X)
    assert (predicted.name, predicted.dtype, len(predicted)) == (y.name, y.dtype, len(X))
    whole = answers(estimator, X)
    alone = [answers(estimator, X[row]) for row in range(len(X))]
    assert largest_gap(whole, [np.concatenate(parts) for parts in zip(*alone, strict=True)]) <= 1e-6
    order = np.random.default_rng(0).permutation(len(X))
    assert largest_gap([a[order] for a in whole], answers(estimator, X[order])) <= 1e-6
    assert same(whole, answers(tiny(cls, task_column="school").fit(X, y), X))
    estimator.save(tmp_path / "model")
    assert same(whole, answers(tabmtl.load(tmp_path / "model"), X))


@every_mixed
def test_tasks_are_told_apart_and_scored_on_their_own_rows(cls):
    X, y = long_table(600)
    estimator = tiny(cls, task_column="school", **LONGER).fit(X, y)
    scores = estimator.score_tasks(X, y)
    predicted = estimator.predict(X)
    for school, score in scores.items():
        own = (X["school"] == school) & y.is_not_null()
        assert score == pytest.approx(r2_score(y.filter(own), predicted.filter(own)))
        assert score > 0.5  # one slope for all schools reaches less: they differ in sign
    assert estimator.score(X, y) == pytest.approx(np.mean(list(scores.values())))
    elsewhere = estimator.predict(X.with_columns(school=pl.lit("north")))
    assert (elsewhere != predicted).sum() > len(X) / 2


@pytest.mark.parametrize("form", ["pandas", "pyarrow", "categorical", "enum", "lazy"])
@every_mixed
def test_the_task_column_may_have_any_form(cls, form):
    X, y = long_table()
    other = {
        "pandas": lambda: X.to_pandas(),
        "pyarrow": lambda: X.to_arrow(),
        "categorical": lambda: X.cast({"school": pl.Categorical}),
        "enum": lambda: X.cast({"school": pl.Enum(["unused", "west", "north", "east"])}),
        "lazy": lambda: X.lazy(),
    }[form]()
    said = answers(tiny(cls, task_column="school").fit(X, y), X)
    assert same(said, answers(tiny(cls, task_column="school").fit(other, y), other))


@every_mixed
def test_tasks_may_be_numbered(cls):
    X, y = long_table()
    X = X.with_columns(school=pl.col("school").replace_strict({"east": 10, "north": 2, "west": 7}))
    estimator = tiny(cls, task_column="school").fit(X, y)
    assert sorted(task.name for task in estimator.tasks_) == ["10", "2", "7"]
    assert len(estimator.predict(X)) == len(X)


@every_mixed
def test_weight_zero_equals_an_absent_label_in_a_long_table(cls):
    X, y = long_table()
    weight = (np.random.default_rng(1).random(len(X)) < 0.7).astype(float)
    absent = pl.select(pl.when(pl.Series(weight > 0)).then(y).alias("grade")).to_series()
    said = answers(tiny(cls, task_column="school").fit(X, absent, sample_weight=np.ones(len(X))), X)
    assert same(said, answers(tiny(cls, task_column="school").fit(X, y, sample_weight=weight), X))


@every_mixed
def test_validation_rows_name_their_task(cls):
    X, y = long_table()
    X_val, y_val = long_table(seed=1)
    estimator = tiny(cls, task_column="school").fit(X, y, X_val=X_val, y_val=y_val)
    assert list(estimator.score_tasks(X_val, y_val)) == ["east", "north", "west"]


@every_mixed
def test_what_a_long_table_lacks_is_named(cls):
    X, y = long_table()
    with pytest.raises(ValueError, match="'class' is no column of X"):
        tiny(cls, task_column="class").fit(X, y)
    with pytest.raises(ValueError, match=r"school.*missing"):
        tiny(cls, task_column="school").fit(X.with_columns(school=pl.lit(None, dtype=pl.String)), y)
    with pytest.raises(ValueError, match="one target"):
        tiny(cls, task_column="school").fit(X, pl.DataFrame({"a": y, "b": y}))
    estimator = tiny(cls, task_column="school").fit(X, y)
    with pytest.raises(ValueError, match=r"school.*'south'"):
        estimator.predict(X.with_columns(school=pl.lit("south")))
    with pytest.raises(ValueError, match="school"):
        estimator.predict(X.drop("school"))


@every_mixed
def test_a_task_of_a_long_table_without_labels_is_named(cls):
    X, y = long_table()
    y = y.to_frame("mark").select(pl.when(X["school"] != "west").then(pl.col("mark"))).to_series()
    with pytest.raises(ValueError, match=r"task 'west' .* no observed label"):
        tiny(cls, task_column="school").fit(X, y)


@every_mixed
def test_probabilities_of_a_long_frame_are_under_its_column(cls):
    X, y = long_table()
    y = KINDS["binary"](y)
    flat = tiny(cls, task_column="school").fit(X, y).predict_proba(X)
    framed = tiny(cls, task_column="school").fit(X, y.to_frame()).predict_proba(X)
    assert list(framed) == ["passed"]
    np.testing.assert_array_equal(framed["passed"], flat)
