"""Mistakes that everybody makes once: each error names them, and says what to write instead."""

import datetime
import pickle
import re
from copy import copy, deepcopy

import numpy as np
import polars as pl
import pytest
from conformance import tiny
from sklearn.calibration import CalibratedClassifierCV
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from tabmtl import (
    IndependentTasks,
    MultiTaskEnsemble,
    SharedBottom,
    SharedTrees,
    SharedTreesClassifier,
    multitask_gain,
)

N = 80
X = pl.DataFrame({"a": np.arange(N) % 7 / 7, "s": ["u", "v"] * (N // 2)})
Y = pl.DataFrame({"k": ["x", "y", "y", "x"] * (N // 4), "r": np.arange(N) % 5 / 5})
FRAME = pl.concat([X, Y], how="horizontal")


@pytest.fixture(scope="module")
def model():
    return tiny(SharedTrees).fit(X, Y)


def test_targets_in_a_dict(model):
    said = r"y must be a frame, a series or an array, got a dict; make it a frame of the library of X, .*DataFrame\(y\)"
    with pytest.raises(TypeError, match=said):
        tiny(SharedTrees).fit(X, {"k": ["x", "y"]})
    with pytest.raises(TypeError, match=said):
        model.score_tasks(X, {"k": ["x", "y"]})


def test_numbers_have_no_probabilities(model):
    p = model.predict_proba(X)
    with pytest.raises(KeyError, match=r"'r' is regression, whose numbers have no .*; say predict\(X, tasks='r'\)"):
        p["r"]
    with pytest.raises(KeyError, match=r"no task is named 'kk'; near is 'k'; those with probabilities are \['k'\]"):
        p["kk"]
    assert "r" not in p and p.get("r") is None  # a dict in all else
    for copied in (pickle.loads(pickle.dumps(p)), copy(p), deepcopy(p), p.copy(), {**p}):
        assert type(copied) is dict and [*copied] == ["k"] and np.array_equal(copied["k"], p["k"])
    assert p == {"k": p["k"]} and repr(p) == repr({**p})


def test_several_levels_are_answered_by_their_own_verb():
    model = tiny(SharedTrees, tasks={"r": "quantiles:0.2:0.8"}).fit(X, Y)
    with pytest.raises(KeyError, match=r"'r' is quantiles:0.2:0.8, .*; say predict_quantiles\(X, tasks='r'\)"):
        model.predict_proba(X)["r"]


@pytest.mark.parametrize(
    "convert", [pl.DataFrame.clone, pl.DataFrame.lazy, pl.DataFrame.to_pandas, pl.DataFrame.to_arrow]
)
def test_targets_by_their_names(convert):
    with pytest.raises(TypeError, match=r"^y must hold the labels, got the names \['k', 'r'\]; give X without these"):
        tiny(SharedTrees).fit(convert(FRAME), ["k", "r"])


def test_labels_that_are_names_of_columns_are_labels():
    frame = pl.DataFrame({"a": [0.0, 1.0, 0.5, 0.2], "b": [1.0, 2.0, 3.0, 4.0]})
    assert tiny(SharedTrees).fit(frame, ["a", "b", "a", "b"]).tasks_[0].classes == ("a", "b")


@pytest.mark.parametrize(
    ("cls", "method", "cure"),
    [
        (IndependentTasks, "export_task", r"are in estimators_\[task\]"),
        (MultiTaskEnsemble, "export_task", r"distill\("),
        (SharedBottom, "export_task", "LightGBM reads trees; write it as an ONNX file"),
    ],
)
def test_an_export_of_another_kind_of_model(cls, method, cure):
    with pytest.raises(AttributeError, match=f"{cls.__name__} has no {method}: .*{cure}"):
        getattr(tiny(cls), method)
    assert not hasattr(cls, method)


def test_a_model_of_others_that_reads_no_text():
    foreign = IndependentTasks(classifier=LogisticRegression(), regressor=Ridge())
    for features in (X, X.to_pandas()):
        with pytest.raises(
            ValueError,
            match=r"(?s)task 'k': LogisticRegression .*categories in \['s'\]; put an encoder before it: make_pip",
        ):
            foreign.fit(features, Y)
    gaps = pl.when(pl.col("a") > 0).then("a")
    with pytest.raises(
        ValueError, match=r"(?s)task 'r': Ridge cannot be fitted: .*make_pipeline\(SimpleImputer\(\), Ridge\(\)\)$"
    ):
        foreign.fit(X.select(a=gaps), Y.select("r"))
    cure = make_pipeline(SimpleImputer(), Ridge())
    assert IndependentTasks(regressor=cure).fit(X.select(a=gaps), Y.select("r")), "the cure exists"


LONG = X.with_columns(shop=pl.Series(["north", "south"] * (N // 2)))
RATES = Y.rename({"r": "rates"})
REFUSED = [
    (ValueError, "['late', 'r2'], which are no columns", lambda model: model.fit(X, ["late", "r2"])),
    (TypeError, "y must hold the labels, got the names ['k']", lambda model: model.fit(FRAME, "k")),
    (TypeError, "got the names ('k', 'q')", lambda model: model.fit(FRAME, ("k", "q"))),
    (TypeError, "give scores=model.score_tasks(X, y), got Shared", lambda model: multitask_gain(model, model)),
    (TypeError, "give reference=model.score_tasks(X, y)", lambda model: multitask_gain({"k": 0.5}, model)),
    (ValueError, "that y does not have: ['kk']; near is 'k'; y has", lambda _: fit(tasks={"kk": "binary"})),
    (ValueError, "near is 'rates'; y", lambda _: fit(y=RATES, tasks={"rate": "regression"})),
    (
        ValueError,
        "task_column names columns that X does not have: ['shops']; near is 'shop'; X has",
        lambda _: fit(LONG, Y["r"], task_column="shops"),
    ),
    (
        ValueError,
        "['shops']; near is 'shop'; X has",
        lambda _: fit(LONG, columns={"shops": "category", "s": "category"}),
    ),
    (ValueError, "near is 'rates'; tasks are", lambda _: fit(y=RATES, cls=SharedBottom, monitor="rate")),
    (ValueError, "not seen in fit; near is 'x'", lambda model: model.score_tasks(X, Y.with_columns(k=pl.lit("xx")))),
    (ValueError, "the target y is None; give the columns of y", lambda model: model.score_tasks(X, None)),
    (ValueError, "got 'rate'; near is 'rates'", lambda _: fit(y=RATES).export_task("rate")),
]


def fit(X=X, y=Y, cls=SharedTrees, **params):
    return tiny(cls, **params).fit(X, y)


@pytest.mark.parametrize(("error", "message", "call"), REFUSED)
def test_mistakes_are_told_with_what_is_near(model, error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call(model)


@pytest.mark.parametrize("scoring", ["roc_auc", "accuracy", "r2", "neg_log_loss"])
def test_a_plain_score_is_for_targets_of_its_kind(scoring):
    cure = r"'k' is binary, 'r' is regression: say scoring=make_multitask_scorer\(\), or leave"
    with pytest.raises(ValueError, match=cure):
        cross_val_score(tiny(SharedTrees), X, Y, scoring=scoring, cv=2, error_score="raise")
    numbers = Y.select("r", q=pl.col("r") + 1)
    if scoring == "r2":
        assert np.isfinite(cross_val_score(tiny(SharedTrees), X, numbers, scoring=scoring, cv=2)).all()


def test_a_calibration_of_scikit_learn_needs_a_classifier_face(model):
    with pytest.raises(AttributeError, match=r"no classes_: a Classifier face, .* as CalibratedClassifierCV"):
        CalibratedClassifierCV(tiny(SharedTrees), cv=2).fit(X, Y["k"])
    assert not hasattr(model, "classes_") and "classes_" not in model._repr_html_()
    labels = Y["k"].to_numpy()
    calibrated = CalibratedClassifierCV(tiny(SharedTreesClassifier), cv=2).fit(X.select("a").to_numpy(), labels)
    assert calibrated.classes_.tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("sample_weight: could not convert", lambda model: model.score(X, Y, ["heavy"] * N)),
        ("sample_weight: could not convert", lambda model: model.score(X, Y, Y.with_columns(r=pl.lit("heavy")))),
        ("sample_weight: float() argument", lambda model: model.score(X, Y, object())),
        ("X: Expected 2D array, got scalar", lambda model: fit("rows")),
        ("y: Found array with dim 3", lambda model: fit(y=np.ones((N, 2, 2)))),
        ("tasks must be a mapping", lambda model: model.add_task(X, Y["r"].alias("new"), tasks=2.0)),
        ("there is no task array", lambda model: model.remove_task(np.ones(3))),
        ("tasks must be the name of a task", lambda model: model.conformalize(X, Y, tasks=1)),
        ("tasks must be the name of a task", lambda model: model.tune_thresholds(X, Y, tasks=1, metric={"k": "f1"})),
        ("metric must be the name of a score", lambda model: model.score_tasks(X, Y, metric=2)),
        ("metric must be the name of a score", lambda model: model.score_intervals(X, Y, metric=[2])),
        ("ignore must be the name of a column or task", lambda model: model.drift(X, ignore=-1)),
        ("level must be between 0 and 1", lambda model: model.score_intervals(X, Y, level=b"0.9")),
        ("classes must be a mapping", lambda model: model.partial_fit(X, Y, classes=True)),
        ("classes must be a mapping", lambda model: model.partial_fit(X, Y, classes={"k": 2})),
        ("target y is None", lambda model: model.add_task(X, None)),
        ("target y is None", lambda model: of_towns().add_task(X.with_columns(s=pl.lit("w")), None)),
    ],
)
def test_a_value_of_another_type_is_named(model, words, call):
    model = deepcopy(model)  # which has not seen these rows
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        call(model)


def test_a_warm_start_of_another_type_is_named():
    model = tiny(SharedBottom).fit(X, Y)
    with pytest.raises(ValueError, match="warm_start must be True or False"):
        model.set_params(warm_start=np.ones(3)).fit(X, Y)


def of_towns():
    """Return a model of a long table."""
    return fit(y=Y["r"], task_column="s")


@pytest.mark.parametrize("is_long", [False, True], ids=["wide", "long"])
@pytest.mark.parametrize("label", [[0.5], {"a": 1}, datetime.date(2024, 1, 1)], ids=["lists", "records", "dates"])
def test_labels_that_are_none_are_refused_alike_by_all_verbs(label, is_long):
    options = {"epochs": 1, "random_state": 0} | ({"task_column": "s"} if is_long else {})
    y, wrong = Y.select("r"), pl.DataFrame({"r": [label] * N})
    model = SharedBottom(**options).fit(X, y)
    before = model.predict(X)
    for call in (
        lambda: SharedBottom(**options).fit(X, wrong),
        lambda: SharedBottom(**options).fit(X, y, X_val=X, y_val=wrong),
        lambda: model.partial_fit(X, wrong),
        lambda: model.score_tasks(X, wrong),
        lambda: model.conformalize(X, wrong),
        lambda: model.set_params(warm_start=True).fit(X, wrong),
    ):
        with pytest.raises(TypeError, match=r"'r': labels of type .* are neither classes nor numbers; (give|cast)"):
            call()
    assert model.predict(X).equals(before)


def test_labels_in_a_list_are_taken_by_all_verbs():
    array, rows = X.select("a").to_numpy(), Y.rows()
    model = tiny(SharedBottom).fit(array, rows, X_val=array, y_val=rows)
    said = model.predict(array)
    assert model.partial_fit(array, rows).predict(array).shape == said.shape
    assert [*model.score_tasks(array, rows)] == [task.name for task in model.tasks_]
    assert model.set_params(warm_start=True).fit(array, rows).predict(array).shape == said.shape
