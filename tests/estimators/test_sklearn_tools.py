"""scikit-learn's own tools, on polars frames of mixed, partly missing targets: they run, and what they say is true."""

from __future__ import annotations

import warnings
from importlib import import_module

import numpy as np
import polars as pl
import pytest
from cases import later
from conformance import features, mixed_targets, tiny
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline

from tabmtl import RMTGB, IndependentTasks, MultiTaskKFold, SharedBottom, make_multitask_scorer

pytestmark = pytest.mark.usefixtures("three_folds")

X, Y = features(240), mixed_targets(features(240))
FRAMES = {"wide": (X, Y), "one task": (X, Y["late"])}
#: A rate that learns, and one that does not.
RATES = {"learning_rate": [1e-6, 0.02]}
QUICK = {"epochs": 10, "learning_rate": 0.02, "average_decay": 0.9}
MODELS = {
    "SharedBottom": tiny(SharedBottom, **QUICK),
    "RMTGB": tiny(RMTGB, learning_rate=0.3),
    "IndependentTasks": tiny(IndependentTasks, patience=3, learning_rate=0.05),
}


def network(**params):
    return tiny(SharedBottom, **QUICK | params)


@pytest.mark.parametrize("frames", later(FRAMES, "one task"))
@pytest.mark.parametrize("scoring", [None, make_multitask_scorer()], ids=["score", "scorer"])
def test_grid_search_finds_the_rate_that_learns(frames, scoring):
    features_, targets = FRAMES[frames]
    search = GridSearchCV(network(), RATES, cv=2, scoring=scoring).fit(features_, targets)
    worse, better = search.cv_results_["mean_test_score"]
    assert search.best_params_ == {"learning_rate": 0.02}
    assert better > worse + 0.2
    assert search.score(features_, targets) == pytest.approx(search.best_estimator_.score(features_, targets))
    predicted = search.predict(features_)
    assert type(predicted) is type(targets)
    assert pl.DataFrame(predicted).null_count().sum_horizontal().item() == 0


@pytest.mark.all_faces
def test_halving_keeps_the_rate_that_learns():
    import_module("sklearn.experimental.enable_halving_search_cv")
    halving = import_module("sklearn.model_selection").HalvingGridSearchCV
    options = {"resource": "epochs", "min_resources": 4, "max_resources": 12, "random_state": 0}
    network_of_all = network(early_stopping=False, batch_size=32)
    search = halving(
        network_of_all, {"learning_rate": [1e-7, 1e-6, 0.02]}, scoring=make_multitask_scorer(), cv=2, **options
    )
    assert search.fit(X, Y).n_resources_ == [4, 12] and search.best_params_["learning_rate"] == 0.02


@pytest.mark.parametrize("cv", later([3, MultiTaskKFold(3, random_state=0)], 3), ids=["int", "MultiTaskKFold"])
@pytest.mark.parametrize("name", MODELS)
def test_cross_validation_scores_rows_that_were_not_trained_on(name, cv):
    scorer = make_multitask_scorer(per_task=True)
    result = cross_validate(MODELS[name], X, Y, cv=cv, scoring=scorer, return_estimator=True, return_indices=True)
    for task in Y.columns:
        assert (result[f"test_{task}"] > {"late": 0.75, "size": 0.65, "delay": 0.3}[task]).all()
    for fold, estimator in enumerate(result["estimator"]):
        test = result["indices"]["test"][fold]
        scores = estimator.score_tasks(X[test], Y[test])
        assert scores == {task: result[f"test_{task}"][fold] for task in Y.columns}


def test_sample_weights_are_cut_like_the_rows():
    weight = pl.DataFrame({name: np.where(X["flag"], 1.0, 0.0) for name in Y.columns})
    result = cross_validate(network(), X, Y, cv=2, params={"sample_weight": weight}, return_estimator=True)
    train = np.arange(120, 240)
    alone = network().fit(X[train], Y[train], sample_weight=weight[train])
    assert alone.predict(X).equals(result["estimator"][0].predict(X))


def columns() -> ColumnTransformer:
    return ColumnTransformer(
        [
            ("numbers", SimpleImputer(strategy="median"), ["plain", "holes", "count"]),
            ("levels", "passthrough", ["text", "flag"]),
        ],
        verbose_feature_names_out=False,
    ).set_output(transform="polars")


@pytest.mark.parametrize("name", MODELS)
def test_a_pipeline_over_columns_is_one_model(name):
    model = Pipeline([("columns", columns()), ("model", clone(MODELS[name]))]).fit(X, Y)
    assert list(model[-1].feature_names_in_) == ["plain", "holes", "count", "text", "flag"]
    assert model.predict(X).schema == Y.schema
    by_hand = clone(MODELS[name]).fit(columns().fit_transform(X), Y)
    assert model.predict(X).equals(by_hand.predict(model[0].transform(X)))
    assert model.score(X, Y) > 0.6


def test_a_network_is_a_transformer_in_a_pipeline():
    trunk = network(hidden=(16, 4)).set_output(transform="polars")
    model = Pipeline([("trunk", trunk), ("model", IndependentTasks(families=("lightgbm",), random_state=0))]).fit(X, Y)
    assert list(model[-1].feature_names_in_) == [f"sharedbottom{i}" for i in range(4)]
    assert model.score(X, Y) > 0.6


@pytest.mark.parametrize("name", MODELS)
def test_the_column_that_matters_is_the_important_one(name):
    model = clone(MODELS[name]).fit(X, Y)
    scorer = make_multitask_scorer()
    # scikit-learn makes an array of a polars frame; nobody is told that it has no names
    with warnings.catch_warnings(action="error"):
        found = permutation_importance(model, X, Y, scoring=scorer, n_repeats=3, random_state=0)
    importance = dict(zip(X.columns, found["importances_mean"], strict=True))
    assert importance.pop("plain") > 0.3
    assert max(importance.values()) < 0.1
    assert importance["constant"] == 0
