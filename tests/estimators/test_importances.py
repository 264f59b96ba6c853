"""Importances of features: of networks by shuffling validation rows, of trees by gain, by task."""

import pickle

import numpy as np
import polars as pl
import pytest
from conformance import tiny
from sklearn.linear_model import LinearRegression

from tabmtl import RMTGB, IndependentTasks, SharedBottom, SharedTrees
from tabmtl.estimators.boosted.gain import feature_gains
from tabmtl.storage.lightgbm_text import TreeText

RNG = np.random.default_rng(0)
N = 300
X = pl.DataFrame(
    {
        "noise": RNG.normal(size=N),
        "town": RNG.choice(["Ulm", "Bonn", "Kiel"], N),
        "strong": RNG.normal(size=N),
        "zero": np.zeros(N),
    }
)
Y = pl.DataFrame(
    {
        "value": 3 * X["strong"] + 4 * (X["town"] == "Ulm").cast(pl.Int8) + RNG.normal(size=N),
        "high": X["strong"] + RNG.normal(size=N) > 0,
    }
)
LEARNS = {"epochs": 15, "learning_rate": 0.03, "average_decay": 0.0}


def test_a_network_shuffles_validation_rows(reloaded):
    model = tiny(SharedBottom, **LEARNS).fit(X, Y)
    found = dict(zip(X.columns, model.feature_importances_, strict=True))
    assert found["strong"] > found["town"] > 0.05
    assert found["strong"] > 0.2
    assert abs(found["noise"]) < 0.1
    assert found["zero"] == 0
    np.testing.assert_array_equal(reloaded(model).feature_importances_, model.feature_importances_)
    again = pickle.loads(pickle.dumps(model))  # which has been asked
    np.testing.assert_array_equal(again.feature_importances_, model.feature_importances_)
    again = tiny(SharedBottom, **LEARNS).fit(X, Y)
    assert not hasattr(pickle.loads(pickle.dumps(again)), "feature_importances_")  # it takes no rows along
    np.testing.assert_array_equal(again.feature_importances_, model.feature_importances_)


def test_given_validation_rows_are_shuffled():
    model = tiny(SharedBottom, **LEARNS)
    model.fit(X[:200], Y[:200], X_val=X[200:], y_val=Y[200:])
    rows = X[200:].with_columns(strong=X[200:]["strong"].gather(np.random.default_rng(0).permutation(100)))
    expected = model.score(X[200:], Y[200:]) - model.score(rows, Y[200:])
    assert model.feature_importances_[2] == pytest.approx(expected, abs=1e-5)


def test_a_network_of_a_long_table_has_no_importance_of_its_task(tmp_path):
    long = X.with_columns(task=pl.int_range(N) % 2).select("task", "strong", "noise")
    model = tiny(SharedBottom, task_column="task", **LEARNS).fit(long, Y["value"])
    assert model.feature_importances_.shape == (3,)
    assert model.feature_importances_[0] == 0
    assert model.feature_importances_.argmax() == 1


def test_without_validation_rows_there_are_none(reloaded):
    model = tiny(SharedBottom, early_stopping=False).fit(X, Y)
    with pytest.raises(AttributeError, match=r"needs the validation rows of fit.*fit with early_stopping=True or"):
        print(model.feature_importances_)
    assert not hasattr(reloaded(model), "feature_importances_")


@pytest.mark.parametrize("cls", [SharedTrees, RMTGB])
def test_trees_share_out_the_gain(cls):
    model = tiny(cls).fit(X, Y)
    assert model.feature_importances_.shape == (4,)
    assert model.feature_importances_.sum() == pytest.approx(1)
    assert X.columns[int(model.feature_importances_.argmax())] == "strong"
    if cls is RMTGB:
        np.testing.assert_allclose(model.block_importances_.sum(axis=0), model.feature_importances_)


def test_the_gain_of_trees_of_squared_errors_is_that_of_lightgbm():
    model = IndependentTasks(families=("lightgbm",), random_state=0).fit(X, Y)
    booster = model.estimators_["value"]
    gains = dict(zip(model.encode(X).columns, booster.feature_importance("gain"), strict=True))
    found = model.importances_.filter(task="value")
    np.testing.assert_allclose(
        found["importance"], [gains[name] / sum(gains.values()) for name in X.columns], rtol=1e-6
    )


def test_gains_sum_to_the_variances_of_the_trees():
    model = SharedTrees(early_stopping=False, n_estimators=130, random_state=0).fit(X, Y)
    booster, rows = model.export_task("value"), model.encode(X).to_numpy()
    one_by_one = [booster.predict(rows, start_iteration=i, num_iteration=1).var() for i in range(booster.num_trees())]
    gains = feature_gains(TreeText(booster.model_to_string()).cut()[1], X.width)
    assert gains.sum() == pytest.approx(sum(one_by_one))
    found = dict(zip(model.encode(X).columns, gains[:, 0] / gains.sum(), strict=True))
    own = model.importances_.filter(task="value")  # of more trees than are read at a time
    np.testing.assert_allclose(own["importance"], [found[name] for name in X.columns])
    assert feature_gains([], X.width).tolist() == [[0.0]] * X.width


def test_tasks_that_share_all_splits_rely_on_different_features():
    Z = Y.with_columns(value=X["noise"] * 10)
    found = tiny(SharedTrees).fit(X, Z).importances_
    assert found.columns == ["task", "feature", "importance"]
    best = found.sort("importance").group_by("task").last()
    assert dict(best.select("task", "feature").iter_rows()) == {"value": "noise", "high": "strong"}
    assert found.filter(feature="zero")["importance"].to_list() == [0, 0]
    np.testing.assert_allclose(found.group_by("task").agg(pl.sum("importance"))["importance"], 1)
    empty = SharedTrees(early_stopping=False, n_estimators=1).fit(X.select("zero"), Y).importances_
    assert empty["importance"].to_list() == [0, 0]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (tiny(SharedBottom), "SharedBottom has no importances_: only the trees.*inspection.feature_importances"),
        (IndependentTasks(regressor=LinearRegression()), "that of task 'value' is a LinearRegression: say tabmtl.insp"),
        (SharedTrees(), "not fitted"),
    ],
)
def test_what_has_no_trees_has_no_gain(model, words):
    if not isinstance(model, SharedTrees):
        model.fit(X.drop("town"), Y.select("value"))
    with pytest.raises(AttributeError, match=words):
        print(model.importances_)
