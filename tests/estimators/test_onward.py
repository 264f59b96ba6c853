"""Estimators that go on from what they have learned: new rows, levels and classes, warm starts, kept optimisers."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from conformance import NETWORKS, answers, features, mixed_targets, same, targets_for, tiny
from models_at_hand import fitted
from sklearn.metrics import get_scorer

import tabmtl
from tabmtl import (
    IndependentTasks,
    MMoE,
    MultiTaskEnsemble,
    SharedBottom,
    SharedBottomClassifier,
    SharedTrees,
    Task,
)
from tabmtl.base.schema import TabmtlWarning
from tabmtl.estimators import learner

pytestmark = pytest.mark.filterwarnings("ignore:y holds classes:tabmtl.base.schema.TabmtlWarning")
every_network = pytest.mark.parametrize("cls", NETWORKS, ids=lambda cls: cls.__name__)
STILL = {"learning_rate": 0.0, "weight_decay": 0.0}  # a pass that moves nothing
#: Statistics of experts would be those of the new rows.
PLAIN = {"expert_norm": "none", "min_frequency": 1, "n_members": 2}


def listed(n: int = 120, seed: int = 0, fresh: bool = False) -> pl.DataFrame:
    """Rows with every form of columns that levels are in; fresh ones have levels that others lack."""
    rng = np.random.default_rng(seed)
    levels = np.array(["red", "green", "blue"] if not fresh else ["black", "red", "white"])
    lists = [rng.choice(levels, size=k).tolist() for k in rng.integers(0, 4, size=n)]
    return features(n, seed).with_columns(
        text=levels[rng.integers(0, 3, size=n)],
        tags=pl.Series([rng.choice(["a", "b", "c"], size=2).tolist() for _ in range(n)]),
        seen=pl.Series(lists),
        past=pl.Series(lists[::-1]),
    )


SEQUENCES = {"columns": {"seen": "sequence:text", "past": "sequence"}}


@pytest.mark.filterwarnings("ignore:.* experts have collapsed:tabmtl.base.schema.TabmtlWarning")
@every_network
def test_what_is_known_keeps_its_answers_where_levels_and_classes_join(cls):
    X, more = listed(), listed(60, seed=1, fresh=True)
    y, y_more = targets_for(cls, X), targets_for(cls, more)
    model = tiny(cls, **SEQUENCES, **{name: value for name, value in PLAIN.items() if name in cls._get_param_names()})
    if "size" in y.columns:
        y_more = y_more.with_columns(size=pl.lit("giant"))
    model.fit(X, y)
    before, unseen = model.__answers__(X), model.__answers__(X.with_columns(text=pl.lit("violet")))
    model.set_params(**STILL).partial_fit(more, y_more)
    assert "black" in model.coder_.levels["text"]
    after, new = model.__answers__(X), model.__answers__(X.with_columns(text=pl.lit("black")))
    for task, *found in zip(model.tasks_, before, after, unseen, new, strict=True):
        rtol = 1e-4
        if "giant" in (task.classes or ()):
            rtol = 0.01  # of the mean over members, whose shares of a new class differ
            assert (found[1][:, -1] > 0).all() and (found[1][:, -1] < 0.5).all()
            found = [part[:, :3] / part[:, :3].sum(axis=1, keepdims=True) for part in found]
        np.testing.assert_allclose(found[0], found[1], rtol=rtol, atol=1e-6)
        np.testing.assert_allclose(found[2], found[3], rtol=rtol, atol=1e-6)


def test_a_pass_is_a_row_of_the_history_and_learns_what_is_new():
    rng = np.random.default_rng(0)
    X = pl.DataFrame({"x": rng.normal(size=600), "town": rng.choice(["Ulm", "Bonn"], size=600)})
    y = X.select(price="x", kind=pl.when(pl.col("x") > 0).then(pl.lit("a")).otherwise(pl.lit("b")))
    tasks = {"kind": "multiclass"}
    model = SharedBottom(hidden=(16,), epochs=5, random_state=0, tasks=tasks, learning_rate=0.02).fit(X, y)
    later = X.with_columns(town=pl.lit("Aachen"))
    moved = y.with_columns(price=pl.col("price") + 3, kind=pl.lit("c"))
    before, height = model.predict(later)["price"], len(model.history_)
    for _ in range(3):
        model.partial_fit(later, moved)
    assert (model.predict(later)["price"] - before).mean() > 1
    assert (model.predict(later)["kind"] == "c").mean() > 0.9
    assert model.history_["epoch"].to_list() == [*range(height + 3)]
    assert model.history_["val/loss"].null_count() == 3 and "train/kind/loss" in model.history_.columns


def test_a_class_more_parts_heads_of_one_width():
    X, labels = np.random.default_rng(0).normal(size=(90, 2)), np.arange(90) % 3
    tasks = {"y0": "multiclass", "y1": "multiclass"}
    model = SharedBottom(hidden=(8,), epochs=2, tasks=tasks, random_state=0, n_members=2)
    model.fit(X, np.column_stack([labels, labels]))
    before = model.__answers__(X)[0]
    model.set_params(**STILL).partial_fit(X, np.column_stack([labels, labels + 1]))
    assert [len(task.classes) for task in model.tasks_] == [3, 4]
    np.testing.assert_allclose(before, model.__answers__(X)[0], rtol=1e-4)
    assert model.__answers__(X)[1].shape == (90, 4)


def test_an_unfitted_network_begins_by_a_pass_and_knows_given_classes():
    X = np.random.default_rng(0).normal(size=(90, 2))
    y = np.where(X[:, 0] > 0, "a", "b")
    model = tabmtl.SharedBottomClassifier(hidden=(8,), random_state=0).partial_fit(X, y, classes=["a", "b", "c"])
    assert len(model.history_) == 1 and model.classes_.tolist() == ["a", "b", "c"]
    assert model.partial_fit(X, np.full(90, "dd")).classes_.tolist() == ["a", "b", "c", "dd"]
    assert model.predict_proba(X).shape == (90, 4)
    two = SharedBottom(hidden=(8,), random_state=0)
    two.partial_fit(X, np.column_stack([y, y]), classes={"y1": ["a", "b"]})
    assert [task.kind.name for task in two.tasks_] == ["binary", "binary"]


def test_a_classifier_has_new_classes_in_their_sorted_place():
    X, rows = features(90), np.arange(90)
    y = np.array(["b", "d", "c"])[rows % 3]
    now = np.where(rows % 5 == 0, "a", y)
    model = tiny(SharedBottomClassifier).fit(X, y).partial_fit(X, now)
    assert model.tasks_[0].classes == ("b", "c", "d", "a") and model.classes_.tolist() == ["a", "b", "c", "d"]
    probabilities = model.predict_proba(X)
    np.testing.assert_array_equal(probabilities, model.__answers__(X)[0][:, [3, 0, 1, 2]])
    np.testing.assert_array_equal(model.classes_[probabilities.argmax(axis=1)], model.predict(X))
    own = np.log(probabilities[rows, np.searchsorted(model.classes_, now)])
    assert get_scorer("neg_log_loss")(model, X, now) == pytest.approx(own.mean())


def test_classes_that_no_call_has_named_join_with_one_warning():
    X, y = features(), mixed_targets(features())
    model, more = tiny(SharedBottom).fit(X, y), y.with_columns(size=pl.lit("gaint"))
    with pytest.warns(TabmtlWarning, match=r"and they join: task 'size' \['gaint'\]; if they are mistakes") as found:
        model.partial_fit(X, more)
    assert len(found) == 1
    with warnings.catch_warnings(action="error"):
        model.partial_fit(X, more)
        model.partial_fit(X, y.with_columns(size=pl.lit("giant")), classes={"size": ["giant"]})


@pytest.mark.parametrize("cls", [SharedTrees, IndependentTasks])
def test_a_model_of_an_earlier_release_goes_on(cls):
    X, y = features(), mixed_targets(features())
    model = tiny(cls).fit(X, y)
    fitted = replace(model._fitted, n_labels=None) if cls is IndependentTasks else model._fitted
    model._model = replace(model._model, fitted=fitted, profile=None)
    model.partial_fit(X[:60], y[:60]).predict(X)
    with pytest.raises(ValueError, match="keeps no profile"):
        model.drift(X)


def test_errors_of_several_facts_keep_them():
    with pytest.raises(UnicodeDecodeError) as found, learner._naming_warm_start():
        b"\xff".decode()
    assert found.value.args[:3] == ("utf-8", b"\xff", 0)


def test_a_warm_start_begins_at_the_last_fit():
    X, y = features(), mixed_targets(features())
    model = tiny(SharedBottom, warm_start=True, epochs=5).fit(X, y)
    with pytest.raises(ValueError, match=r"new targets \['later'\].*warm_start=False begins anew"):
        model.fit(X, y.with_columns(later="delay"))
    with pytest.raises(TypeError, match=r"column 'plain' was numeric.*warm_start=False begins anew"):
        model.fit(X.with_columns(plain=pl.lit("a")), y)
    with pytest.raises(ValueError, match=r"parameters \['hidden'\] have changed.*say warm_start=False"):
        copy.copy(model).set_params(hidden=(5,)).fit(X, y)
    changes = {"tasks": {"late": "regression"}, "columns": {"plain": "ignore"}, "numeric_transform": "quantile"}
    for name, value in changes.items():
        with pytest.raises(ValueError, match=rf"^{name} is .*, and was .* in the last fit: set it back; warm_start=Tr"):
            copy.copy(model).set_params(**{name: value}).fit(X, y)
    before, shuffled = model.__answers__(X), X.with_columns(plain=pl.col("plain").reverse())
    with pytest.raises(ValueError, match="rows that fit has not seen"):
        copy.copy(model).fit(shuffled, y).calibrate(X, y)
    fresh = X.with_columns(text=pl.lit("black"))
    model.set_params(epochs=1, early_stopping=False, **STILL).fit(fresh, y.with_columns(size=pl.lit("giant")))
    assert model.tasks_[1].classes[-1] == "giant" and "black" in model.coder_.levels["text"]
    np.testing.assert_allclose(before[0], model.__answers__(X)[0], rtol=1e-5)
    assert len(model.history_) == 1


def test_rows_of_known_tasks_of_a_long_table_go_on():
    model, X, y = fitted(MMoE, "long")
    is_east = X["school"] == "east"
    before = model.__answers__(X)[0]
    model.partial_fit(X.filter(is_east).with_columns(text=pl.lit("black")), y.filter(is_east))
    assert "black" in model.coder_.levels["text"] and not np.array_equal(before, model.__answers__(X)[0])
    with pytest.raises(ValueError, match=r"the task 'south' is new.*add_task"):
        model.partial_fit(X.with_columns(school=pl.lit("south")), y)


def test_decisions_are_dropped_with_one_warning():
    X, y = features(300), mixed_targets(features(300))
    model = tiny(SharedBottom).fit(X[:150], y[:150]).tune_thresholds(X[150:], y[150:], tasks="late")
    with pytest.warns(TabmtlWarning, match=r"dropped; call them again") as found:
        model.partial_fit(X, y)
    assert len(found) == 1 and not hasattr(model, "thresholds_")
    with pytest.raises(ValueError, match="rows that fit has not seen"):
        model.calibrate(X, y)


X, Y = features(), mixed_targets(features())


@pytest.mark.parametrize(
    ("fit", "go_on", "words"),
    [
        ({}, {"X": X.drop("plain")}, "plain"),
        ({}, {"X": X.with_columns(plain=pl.lit("a"))}, "column 'plain' was numeric"),
        ({}, {"y": Y.with_columns(late=pl.lit("never"))}, "task 'late', which is binary.*'never'.*fit again"),
        ({}, {"y": Y.drop("size")}, r"y lacks the targets \['size'\]"),
        ({}, {"y": Y.with_columns(later="delay")}, r"new targets \['later'\].*add_task"),
        ({}, {"y": Y.clear(len(Y))}, "none of the 120 rows has a label"),
        ({}, {"classes": {"colour": ["a"]}}, "classes names columns.*colour"),
        ({}, {"classes": {"delay": [1.0]}}, "task 'delay'"),
        ({}, {"X": X[:0], "y": Y[:0]}, "0 sample"),
        ({"tasks": {"size": Task(name="size", kind="multiclass", classes=("large", "medium", "small"))}},
         {"y": Y.with_columns(size=pl.lit("giant"))}, "classes were declared in fit"),
        ({}, {"params": {"hidden": (5,)}}, r"another form since the parameters \['hidden'\] have changed"),
        ({}, {"params": {"learning_rate": 1e30}}, "diverged"),
    ],
)  # fmt: skip
def test_what_cannot_go_on_says_why_and_changes_nothing(fit, go_on, words):
    model = tiny(SharedBottom, **fit).fit(X, Y)
    before, weights = answers(model, X), dict(model.weights_)
    model.set_params(**go_on.get("params", {}))
    with pytest.raises((ValueError, TypeError), match=words):
        model.partial_fit(go_on.get("X", X), go_on.get("y", Y), classes=go_on.get("classes"))
    assert same(before, answers(model, X)) and model.weights_.keys() == weights.keys()


def test_who_has_no_partial_fit_names_the_cure():
    with pytest.raises(AttributeError, match=r"MultiTaskEnsemble has no partial_fit.*distill"):
        MultiTaskEnsemble().partial_fit(X, Y)
