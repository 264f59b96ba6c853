"""Importances of features: of networks by shuffling validation rows, of trees by gain, by task."""

import numpy as np
import polars as pl
import pytest
from conformance import tiny
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

from tabmtl import RMTGB, IndependentTasks, SharedBottom, SharedTrees, gain_importances
from tabmtl.base.storage.lightgbm_text import TreeText
from tabmtl.estimators.boosted.gain import feature_gains

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


def test_a_network_names_what_measures_its_importances():
    model = tiny(SharedBottom).fit(X, Y)
    with pytest.raises(AttributeError, match=r"has no feature_importances_.*say tabmtl.permutation_importances"):
        print(model.feature_importances_)


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
    found = gain_importances(model, tasks="value")
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
    own = gain_importances(model, tasks="value")  # of more trees than are read at a time
    np.testing.assert_allclose(own["importance"], [found[name] for name in X.columns])
    assert feature_gains([], X.width).tolist() == [[0.0]] * X.width


def test_tasks_that_share_all_splits_rely_on_different_features():
    Z = Y.with_columns(value=X["noise"] * 10)
    found = gain_importances(tiny(SharedTrees).fit(X, Z))
    assert found.columns == ["task", "feature", "importance"]
    best = found.sort("importance").group_by("task").last()
    assert dict(best.select("task", "feature").iter_rows()) == {"value": "noise", "high": "strong"}
    assert found.filter(feature="zero")["importance"].to_list() == [0, 0]
    np.testing.assert_allclose(found.group_by("task").agg(pl.sum("importance"))["importance"], 1)
    empty = gain_importances(SharedTrees(early_stopping=False, n_estimators=1).fit(X.select("zero"), Y))
    assert empty["importance"].to_list() == [0, 0]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (tiny(SharedBottom), "needs trees, and a SharedBottom has none: say tabmtl.permutation_importances"),
        (IndependentTasks(regressor=LinearRegression()), "that of task 'value' is a LinearRegression: say tabmtl.perm"),
        (SharedTrees(), "not fitted"),
    ],
)
def test_what_has_no_trees_has_no_gain(model, words):
    if not isinstance(model, SharedTrees):
        model.fit(X.drop("town"), Y.select("value"))
    with pytest.raises((TypeError, NotFittedError), match=words):
        gain_importances(model)
