"""Intervals and sets that estimators predict, in every container, file and layout."""

from functools import cache

import numpy as np
import polars as pl
import pytest
from cases import later

from tabmtl import SharedBottom, SharedBottomClassifier, SharedTrees
from tabmtl.testing import features, long_table, mixed_targets

N = 600
X = features(N).with_columns(region=pl.Series(np.random.default_rng(0).choice(["north", "south"], N)))
Y = mixed_targets(X)
FIT, GIVEN, NEW = slice(0, 200), slice(200, 400), slice(400, N)


def fitted(model=None, **params):
    model = SharedTrees(n_estimators=20, n_estimators_task=5, random_state=0) if model is None else model
    return model.fit(X[FIT], Y[FIT]).conformalize(X[GIVEN], Y[GIVEN], **params)


@cache
def known_model():
    return fitted()


@pytest.mark.parametrize(
    "model",
    [SharedTrees(n_estimators=20, n_estimators_task=5, random_state=0), SharedBottom(epochs=3, random_state=0)],
    ids=["trees", "network"],
)
def test_intervals_hold_labels_of_new_rows(model):
    found = fitted(model).predict_interval(X[NEW], level=0.9)
    assert found.columns == ["late_set", "size_set", "delay_low", "delay_high"]
    labelled = Y[NEW]["delay"].is_not_null()
    held = (found["delay_low"] <= Y[NEW]["delay"]) & (found["delay_high"] >= Y[NEW]["delay"])
    assert 0.8 < held.filter(labelled).mean() < 0.98
    sure = found.select(pl.col("size_set").list.contains(model.predict(X[NEW])["size"])).to_series()
    assert sure.all()
    assert (found["size_set"].list.len() > 1).any()


def test_a_row_and_a_loaded_model_have_the_intervals_of_the_batch(reloaded):
    expected = known_model().predict_interval(X[NEW], level=0.8)
    loaded = reloaded(known_model())
    assert loaded.predict_interval(X[NEW], level=0.8).equals(expected)
    assert loaded.predict_interval(X[400:401], level=0.8).equals(expected[:1])


def test_a_named_column_of_groups_is_found_in_new_rows():
    model = fitted(groups="region")
    found = model.predict_interval(X[NEW])
    assert found.equals(model.predict_interval(X[NEW], groups=X[NEW]["region"]))
    assert not found.equals(known_model().predict_interval(X[NEW]))


def test_a_group_that_is_a_number_is_the_same_as_a_float():
    number = X["region"].eq_missing("north").cast(pl.Int64)
    model = fitted(groups=number[GIVEN])
    found = model.predict_interval(X[NEW], groups=number[NEW])
    assert model.predict_interval(X[NEW], groups=number[NEW].cast(pl.Float64)).equals(found)


def test_pandas_and_arrays():
    pandas = SharedTrees(n_estimators=20, n_estimators_task=5, random_state=0).fit(
        X[FIT].to_pandas(), Y[FIT].to_pandas()
    )
    rows = X[NEW].to_pandas().iloc[::-1]
    found = pandas.conformalize(X[GIVEN].to_pandas(), Y[GIVEN].to_pandas()).predict_interval(rows)
    assert [*found.columns] == known_model().predict_interval(X[NEW]).columns
    assert found.index.equals(rows.index)
    numbers, y = X.select(pl.selectors.numeric()).to_numpy(), Y["size"].to_numpy()
    model = SharedBottomClassifier(epochs=2, random_state=0).fit(numbers[FIT], y[FIT])
    assert model.conformalize(numbers[GIVEN], y[GIVEN]).predict_interval(numbers[NEW]).dtypes == [pl.List(pl.String)]


@pytest.mark.parametrize("dtype", later([pl.Int8, pl.Int64, pl.Boolean, pl.Float64], pl.Int64, pl.Float64))
def test_sets_hold_classes_of_the_type_of_labels(dtype):
    y = pl.DataFrame({"late": (X["plain"] > 0).cast(dtype)})
    model = (
        SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0)
        .fit(X[FIT], y[FIT])
        .conformalize(X[GIVEN], y[GIVEN])
    )
    found = model.predict_interval(X[NEW])
    assert found.schema == {"late_set": pl.List(dtype)}


def test_long_tables_have_intervals_of_each_rows_task():
    rows, y = long_table(N)
    model = SharedTrees(n_estimators=20, n_estimators_task=5, task_column="school", random_state=0).fit(
        rows[FIT], y[FIT]
    )
    found = model.conformalize(rows[GIVEN], y[GIVEN]).predict_interval(rows[NEW])
    assert found.shape == (200, 2)
    with pytest.raises(ValueError, match="joint=True holds the numbers of a row"):
        model.predict_interval(rows[NEW], joint=True)


@pytest.mark.parametrize("kind", ["numbers", "classes"])
def test_rows_of_tasks_without_scores_have_nulls_in_their_place(kind):
    rows, y = long_table(N)
    y = y if kind == "numbers" else y > y.median()
    model = SharedTrees(n_estimators=20, n_estimators_task=5, task_column="school", random_state=0).fit(
        rows[FIT], y[FIT]
    )
    every = model.conformalize(rows[GIVEN], y[GIVEN]).predict_interval(rows[NEW])
    name = model.tasks_[0].name
    is_known = rows[NEW]["school"] == name
    found = model.conformalize(rows[GIVEN], y[GIVEN], tasks=name).predict_interval(rows[NEW])
    assert found.filter(is_known).equals(every.filter(is_known))
    assert found.filter(~is_known).null_count().row(0) == (200 - is_known.sum(),) * found.width
    others = model.predict_interval(rows[NEW].filter(~is_known))
    assert others.equals(found.filter(~is_known))


def test_a_new_fit_and_new_probabilities_end_intervals():
    model = fitted()
    with pytest.warns(UserWarning, match=r"the sets of the tasks \['late'\] .* call conformalize anew"):
        model.calibrate(X[GIVEN], Y[GIVEN], tasks="late", method="temperature")
    assert model.predict_interval(X[NEW]).columns == ["size_set", "delay_low", "delay_high"]
    model.fit(X[FIT], Y[FIT])
    with pytest.raises(ValueError, match=r"call conformalize\(X, y\)"):
        model.predict_interval(X[NEW])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fitted().conformalize(X[FIT], Y[FIT]), "rows that fit has not seen"),
        (lambda: fitted().conformalize(X[GIVEN].drop("region"), Y[GIVEN]), "region"),
        (lambda: fitted(tasks=[]), "tasks names none of the tasks of conformalize"),
        (lambda: fitted(tasks="dela"), "near is 'delay'"),
        (lambda: known_model().predict_interval(X[NEW], level=1.0), "level must be between 0 and 1"),
        (
            lambda: known_model().predict_interval(X[NEW], level=0.999),
            "needs at least 999 labelled rows of task 'late'",
        ),
        (lambda: fitted(tasks="late").predict_interval(X[NEW], joint=True), "conformalize was given none"),
        (lambda: known_model().predict_interval(X[NEW], groups="region"), "groups have no effect"),
        (lambda: fitted(groups=[*X[GIVEN]["region"]]).predict_interval(X[NEW]), "give the groups of the rows"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
