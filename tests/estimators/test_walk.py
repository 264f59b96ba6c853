"""Rows that walk down trees together reach LightGBM's leaves, and sum their values to LightGBM's bits."""

import lightgbm as lgb
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tabmtl.base.storage.lightgbm_text import TreeText
from tabmtl.estimators.boosted import walk
from tabmtl.estimators.boosted.joined import JoinedModels
from tabmtl.estimators.boosted.walk import Walk, predict

N = 2 * walk.LEAST_ROWS + 3
OBJECTIVES = {"regression": 1, "binary": 1, "multiclass": 3, "none": 1, "poisson": 1, "tweedie": 1, "quantile": 1}
OTHERS = [
    {"zero_as_missing": True},
    {"linear_tree": True},
    {"boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1},
    {"reg_sqrt": True},
    {"num_leaves": 300, "min_data_in_leaf": 1, "max_bin": 1_000},
]


def rows(seed, n=N):
    """Numbers with and without gaps and zeros, numbers of few values, and levels."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5)).astype(np.float32)
    X[rng.random(n) < 0.2, 0] = np.nan
    X[rng.random(n) < 0.2, 1] = 0
    X[:, 3] = np.round(2 * X[:, 3])
    X[:, 4] = rng.integers(0, 40, n)
    X[rng.random(n) < 0.1, 4] = np.nan
    return X


def strange(seed):
    """Rows that hold gaps where the trees saw none, tiny and huge numbers, and unknown levels."""
    X = rows(seed)
    X[::7, 1:4] = np.nan
    X[1::7, :4] = [1e-36, -1e-36, 3e38, -3e38]
    X[2::7, 4] = 1_000
    return X


def grown(objective="regression", rounds=30, **params):
    X, rng = rows(0), np.random.default_rng(1)
    y = np.nan_to_num(X[:, 0]) + X[:, 1] * X[:, 2] + (X[:, 4] % 3 == 0) + 0.1 * rng.normal(size=N)
    y = y if OBJECTIVES[objective] == 1 and objective != "binary" else np.digitize(y, [0, 1][: OBJECTIVES[objective]])
    y = (y > 0).astype(int) if objective == "binary" else y
    y = np.abs(y) if objective in ("poisson", "tweedie") else y
    own = {"objective": "regression" if objective == "none" else objective, "verbosity": -1, "num_threads": 1}
    own |= {"num_class": OBJECTIVES[objective], "min_data_per_group": 1, "cat_smooth": 1, "max_bin": 15} | params
    return lgb.train(own, lgb.Dataset(X, y, categorical_feature=[4], params=own), rounds)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"num_leaves": 200, "min_data_in_leaf": 1},
        {"num_leaves": 200, "min_data_in_leaf": 1, "max_bin": 1_000, "extra_trees": True},  # many thresholds
        {"num_leaves": 2},
        {"max_depth": 3},
        {"use_missing": False, "max_bin": 1_000},
    ],
)
def test_rows_reach_the_leaves_of_lightgbm(params, monkeypatch):
    monkeypatch.setattr(walk, "_TREES", 7)
    booster = grown(**params)
    found = Walk.of(TreeText(booster.model_to_string()).cut()[1])
    for X in (rows(2), strange(3), rows(4, 1), rows(5, 64), rows(6, 1_500)):
        assert_array_equal(found.find(X), booster.predict(X, pred_leaf=True).reshape(len(X), -1))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_answers_have_the_bits_of_lightgbm(objective, monkeypatch):
    text = TreeText(grown(objective).model_to_string())
    if objective == "none":  # as the package joins trees
        text = TreeText.joined(*text.cut(), 1)
    booster = lgb.Booster(model_str=text)
    monkeypatch.delattr(walk, "booster_of")
    for X in (rows(2), strange(3)):
        assert_array_equal(predict(text, X, 1), booster.predict(X, num_threads=1))


@pytest.mark.parametrize("others", [[], OTHERS])
def test_joined_models_answer_as_each_alone(others):
    boosters = [grown(objective) for objective in OBJECTIVES] + [grown(**params) for params in others]
    joined = JoinedModels([TreeText(booster.model_to_string()) for booster in boosters])
    for X in (rows(2, 1), strange(3)[:16]):
        for booster, found in zip(boosters, joined.predict(X), strict=True):
            assert_array_equal(found, booster.predict(X, num_threads=1))


@pytest.mark.parametrize("params", OTHERS)
def test_other_trees_are_left_to_lightgbm(params, monkeypatch):
    booster, X = grown(**params), rows(2)
    text = TreeText(booster.model_to_string())
    assert_array_equal(predict(text, X, 1), booster.predict(X, num_threads=1))
    monkeypatch.delattr(walk, "booster_of")
    with pytest.raises(NameError):
        predict(text, X, 1)


def test_a_constant_is_a_tree_too():
    booster = grown(min_data_in_leaf=N)
    text = TreeText(booster.model_to_string())
    assert_array_equal(predict(text, rows(2), 1), booster.predict(rows(2), num_threads=1))
