"""Hyper-parameters in files: plain values, tasks and LightGBM estimators come back, all else is named."""

import json
import re
from dataclasses import replace

import lightgbm as lgb
import numpy as np
import pytest
from conformance import answers, same
from models_at_hand import fitted
from sklearn.linear_model import LinearRegression

from tabmtl import IndependentTasks, MMoE, SharedBottom, SharedTrees, Task
from tabmtl.base.params import from_json, to_json

#: What files of earlier releases hold of what left: fields that are empty, and parameters at their defaults.
LEFT = {
    MMoE: (
        {"slimmed": None, "pruned": None, "optimizer": {}, "task_weights": [], "task_snapshot": np.zeros(0, "i8")},
        {"slim": None, "keep": "mean", "keep_optimizer": False},
    ),
    SharedTrees: ({}, {"decay_rate": 1.0}),
}
UNSAVED = [object(), float("nan"), {1: 2}, LinearRegression(), print, lgb.LGBMRanker()]


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, 0.1, "text", (1, (2, "x")), [1, [2.5]], {"a": [1], "b": {"c": (None,)}}, (), {}, []),
        Task(name="a", kind="binary", classes=(False, True), weight=0.5),
        {"a": Task(name="a", kind="regression")},
    ],
)
def test_parameters_come_back_as_they_were(value):
    back = from_json(json.loads(json.dumps(to_json("p", value))))
    assert back == value
    assert type(back) is type(value)


def test_estimators_of_the_package_come_back_by_class_and_parameters():
    late = Task(name="late", kind="binary")
    net = MMoE(epochs=3, tasks={"late": late}, on_epoch=print, random_state=np.random.RandomState(0))
    trees = IndependentTasks(regressor=lgb.LGBMRegressor(num_leaves=7))
    back = from_json(json.loads(json.dumps(to_json("candidates", {"net": net, "more": [trees]}))))
    assert type(back["net"]) is MMoE
    assert back["net"].get_params() == net.get_params() | {"on_epoch": None, "random_state": None}
    assert back["more"][0].regressor.get_params() == trees.regressor.get_params()


@pytest.mark.parametrize(
    ("value", "name", "error"),
    [
        (type("Mine", (MMoE,), {})(), "candidates['a'] is a Mine, which is no class of tabmtl", TypeError),
        (MMoE, "candidates['a']=<class", TypeError),
        (MMoE(monitor=print), "candidates['a'].monitor=", TypeError),
        (IndependentTasks(regressor=LinearRegression()), "candidates['a'].regressor=LinearRegression()", TypeError),
        (MMoE(tasks={"\ud800": "binary"}), "candidates['a'].tasks=", ValueError),
        (MMoE(n_jobs=10**6), "n_jobs must be", ValueError),
    ],
)
def test_what_an_estimator_among_the_parameters_cannot_hold_is_named_with_its_place(value, name, error):
    with pytest.raises(error, match=re.escape(name)):
        to_json("candidates", {"a": value})


def test_numpy_values_come_back_as_plain_ones():
    task = Task(name="a", kind="multiclass", classes=tuple(np.array([3, 1, 2])))
    back = from_json(json.loads(json.dumps(to_json("tasks", {"a": task, "n": np.float64(0.5)}))))
    assert back == {"a": Task(name="a", kind="multiclass", classes=(3, 1, 2)), "n": 0.5}
    assert from_json(to_json("columns", np.array(["a", "b"]))) == ["a", "b"]
    assert to_json("random_state", np.random.RandomState(0)) is None  # a loaded model draws nothing


@pytest.mark.parametrize("value", UNSAVED)
def test_parameters_that_need_pickle_are_named(value):
    with pytest.raises(TypeError, match=r"colour.*cannot be saved without pickle.*plain value"):
        to_json("colour", value)


@pytest.mark.parametrize("value", ["\ud800", ["a", ("b\udfff",)], {"\udc80": 1}])
def test_half_a_surrogate_pair_is_named(value):
    with pytest.raises(ValueError, match=r"colour=.*half a surrogate pair.*take it out") as caught:
        to_json("colour", value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "code", "default"),
    [("on_epoch", lambda record: None, None)],
)
def test_code_that_only_training_runs_is_not_saved_and_a_loaded_model_has_the_default(reloaded, name, code, default):
    estimator, X, _ = fitted(SharedBottom, **{name: code})
    loaded = reloaded(estimator)
    assert getattr(loaded, name) == default
    assert same(answers(estimator, X), answers(loaded, X))


def test_code_elsewhere_is_named():
    estimator, _, _ = fitted(SharedBottom)
    estimator._fitted_params["monitor"] = print
    with pytest.raises(TypeError, match=r"monitor=.*cannot be saved without pickle"):
        estimator.save("nowhere")


def test_lightgbm_estimators_are_saved_as_their_parameters(reloaded):
    estimator, X, _ = fitted(
        IndependentTasks,
        classifier=lgb.LGBMClassifier(num_leaves=7, class_weight="balanced", n_estimators=20),
        regressor=lgb.LGBMRegressor(objective="huber", n_estimators=20),
    )
    loaded = reloaded(estimator)
    assert loaded.classifier.get_params() == estimator.classifier.get_params()
    assert loaded.regressor.objective == "huber"
    assert same(answers(estimator, X), answers(loaded, X))


def test_foreign_estimators_are_not_saved(tmp_path):
    X = np.random.default_rng(0).normal(size=(30, 2))
    estimator = IndependentTasks(regressor=LinearRegression()).fit(X, X)
    with pytest.raises(TypeError, match=r"'y0'.*LinearRegression.*(joblib|skops)"):
        estimator.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("cls", LEFT, ids=lambda cls: cls.__name__)
def test_files_of_before_are_read_if_they_hold_nothing_of_what_left(cls):
    model, X, _ = fitted(cls)
    saved, (fields, params) = model.__saved__(), LEFT[cls]

    def read(fields, params):
        arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
        facts = {name: value for name, value in fields.items() if name not in arrays}
        facts |= {"params": saved.facts["params"] | params}
        return cls.__from_saved__(replace(saved, facts=saved.facts | facts, arrays=saved.arrays | arrays))

    assert same(answers(read(fields, params), X), answers(model, X))
    for name, value in fields.items():
        with pytest.raises(ValueError, match=name):
            read(fields | {name: np.zeros(3, dtype="i8") if isinstance(value, np.ndarray) else ["something"]}, params)
    for name in params:
        with pytest.raises(TypeError, match=name):
            read(fields, params | {name: "something"})
