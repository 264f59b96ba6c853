"""Metrics of one's own: those of scikit-learn as functions score as ours do, with about the same intervals."""

from __future__ import annotations

import pickle
import warnings
from functools import partial

import numpy as np
import polars as pl
import pytest
from cases import later
from conformance import CANDIDATES, tiny
from sklearn import metrics as sk
from sklearn.base import clone

from tabmtl import MultiTaskEnsemble, SharedBottom, SharedTrees, Task, compare, load, make_task_metric
from tabmtl.base.schema import TabmtlWarning
from tabmtl.base.storage.stored import put_together, take_apart
from tabmtl.metrics.intervals import score_difference, score_interval
from tabmtl.metrics.scores import score_task

rng = np.random.default_rng(0)
X = pl.DataFrame({"a": rng.normal(size=300), "b": rng.normal(size=300)})
Y = pl.DataFrame({"late": np.where(X["a"] + rng.normal(size=300) > 0, "yes", "no"), "delay": X["b"]})


def profit(labels, answers):
    """A right alarm earns 3, a false one costs 1."""
    return float(np.mean(np.where(answers == "yes", np.where(labels == "yes", 3.0, -1.0), 0.0)))


PROFIT = make_task_metric(profit)
TASKS = {"late": Task(name="late", kind="binary", metric=(PROFIT, "roc_auc"))}
#: A metric of ours, the same of scikit-learn's function, and its kind.
SAME = {
    "accuracy": ("binary", make_task_metric(sk.accuracy_score, bounds=(0, 1))),
    "f1": ("binary", make_task_metric(sk.f1_score, bounds=(0, 1), pos_label="yes")),
    "roc_auc": ("binary", make_task_metric(sk.roc_auc_score, response_method="predict_proba", bounds=(0, 1))),
    "neg_log_loss": (
        "multiclass",
        make_task_metric(
            sk.log_loss,
            greater_is_better=False,
            name="log",
            response_method="predict_proba",
            bounds=(0, np.inf),
            labels=[*"abc"],
        ),
    ),
    "neg_mean_absolute_error": (
        "regression",
        make_task_metric(sk.mean_absolute_error, greater_is_better=False, name="mae", bounds=(0, np.inf)),
    ),
    "r2": ("regression", make_task_metric(sk.r2_score, bounds=(-np.inf, 1))),
}


def drawn(kind, n, rng):
    """Labels and two answers."""
    if kind == "regression":
        y = rng.standard_t(5, size=n)
        return y, y + rng.normal(size=n), y + 1.1 * rng.normal(size=n)
    width = 2 if kind == "binary" else 3
    y = rng.choice(width, n, p=[0.9, 0.1] if width == 2 else [0.6, 0.3, 0.1])
    each = [np.exp(2 * np.eye(width)[y] + rng.normal(size=(n, width)) * spread) for spread in (1.0, 1.1)]
    return y.astype(float), *(one / one.sum(axis=1, keepdims=True) for one in each)


@pytest.mark.parametrize("name", later(SAME, "f1", "roc_auc"))
@pytest.mark.parametrize(
    ("n", "weighed", "near"),
    [
        (300, False, 0.05),
        *(pytest.param(*case, marks=pytest.mark.all_faces) for case in ((300, True, 0.05), (4000, False, 0.05))),
    ],
)
def test_functions_of_scikit_learn_score_as_ours_with_the_same_errors(name, n, weighed, near):
    kind, own = SAME[name]
    classes = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c")}.get(kind)
    ours, theirs = (Task(name="t", kind=kind, classes=classes, metric=metric) for metric in (name, own))
    rng = np.random.default_rng(0)  # other tests, and their order, change no draw
    y, *answers = drawn(kind, n, rng)
    weight = rng.uniform(0.5, 2, n) if weighed else None
    expected, found = (score_interval(task, y, answers[0], weight) for task in (ours, theirs))
    np.testing.assert_allclose(found.score, expected.score)
    np.testing.assert_allclose(found.standard_error, expected.standard_error, rtol=near)
    if name != "accuracy":  # which compares no classes, so that the rarer one does not widen its interval
        np.testing.assert_allclose(found[2:], expected[2:], atol=near * (expected.high - expected.low))
    expected, found = (score_difference(task, y, *answers, weight) for task in (ours, theirs))
    np.testing.assert_allclose(found.standard_error, expected.standard_error, rtol=2 * near)


def test_a_model_is_stopped_and_judged_by_it(tmp_path):
    model = tiny(SharedBottom, tasks=TASKS, epochs=8, learning_rate=0.02).fit(X, Y)
    assert "val/late/profit" in model.history_.columns
    expected = profit(Y["late"].to_numpy(), model.predict(X)["late"].to_numpy())
    assert model.score_tasks(X, Y)["late"] == expected
    intervals = model.score_intervals(X, Y)
    assert intervals["metric"].to_list() == ["profit", "roc_auc", "r2"]
    low, score, high = intervals.select("low", "score", "high").row(0)
    assert low < score == expected < high
    for copy in (clone(model).fit(X, Y), pickle.loads(pickle.dumps(model))):
        assert copy.score_tasks(X, Y)["late"] == expected
    frame = compare({"net": model, "trees": tiny(SharedTrees)}, X, Y, tasks=TASKS, random_state=0).frame
    assert frame["metric"].to_list() == ["profit", "r2"] * 2 and frame["difference_error"][2] > 0
    ensemble = MultiTaskEnsemble(tasks=TASKS, models=CANDIDATES, n_folds=2, random_state=0).fit(X, Y)
    assert ensemble.leaderboard_["score"].is_not_null().all()


def test_a_file_keeps_its_name_alone(tmp_path):
    model = tiny(SharedTrees, tasks=TASKS).fit(X, Y)
    model.save(tmp_path / "model")
    again = load(tmp_path / "model", metrics=[PROFIT])
    assert again.tasks_ == model.tasks_ and again.score_tasks(X, Y) == model.score_tasks(X, Y)
    with pytest.warns(TabmtlWarning, match=r"'late': the file names the metric 'profit', .* give it again") as caught:
        found = load(tmp_path / "model")
    assert len(caught) == 1 and (found.tasks_[0].metric, found.tasks_[0].more_metrics) == ("roc_auc", ())
    assert found.predict(X).equals(model.predict(X)) and found.tasks["late"].metric == "roc_auc"
    found.save(tmp_path / "other")
    with warnings.catch_warnings(action="error"):
        assert put_together(Task, take_apart(TASKS["late"])) == TASKS["late"]  # as coders alone, which judge nothing
        assert load(tmp_path / "other").score_tasks(X, Y) == found.score_tasks(X, Y)
    with pytest.raises(TypeError, match=r"metrics must be a list of what make_task_metric gives, got .'profit'"):
        load(tmp_path / "model", metrics=["profit"])


def test_a_value_that_is_none_is_no_score():
    task = Task(name="t", kind="regression", metric=make_task_metric(lambda y, p: np.nan, name="nothing"))
    with pytest.warns(TabmtlWarning, match=r"'t': nothing is undefined: its value is nan"):
        assert np.isnan(score_task(task, np.arange(3.0), np.ones(3)))


def fails(labels, answers):
    raise KeyError("price")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_task_metric(lambda y, p: 0.0), "name must be a word such as 'profit', .* got '<lambda>'"),
        (lambda: make_task_metric(partial(profit)), "name must be a word .* got ''; pass one as name="),
        (lambda: make_task_metric(profit, bounds=1), "bounds must be the least .* got 1"),
        (lambda: make_task_metric(profit, response_method="decision_function"), "must be 'predict' or 'predict_proba'"),
        (lambda: make_task_metric(profit, bounds=(1, 0)), r"bounds must be the least .* got \(1, 0\)"),
        (
            lambda: judged(make_task_metric(profit, name="roc_auc")),
            "'late': 'roc_auc' is the name of a metric of binary",
        ),
        (
            lambda: judged(PROFIT, sample_weight=np.linspace(0, 1, 300)),
            "'profit' takes no sample_weight, and rows have",
        ),
        (lambda: judged(make_task_metric(fails)), "'late': the metric 'fails' failed: KeyError: 'price'"),
        (
            lambda: judged(make_task_metric(profit, response_method="predict_proba"), name="delay", kind="regression"),
            "'delay': the metric 'profit' takes probabilities, which a regression task has none of",
        ),
    ],
)
def test_what_cannot_be_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def judged(metric, sample_weight=None, name="late", kind="binary"):
    task = Task(name=name, kind=kind, metric=metric)
    return tiny(SharedTrees, tasks={name: task}).fit(X, Y).score_tasks(X, Y, sample_weight)


def test_what_cannot_be_called_is_no_metric():
    with pytest.raises(TypeError, match=r"function must be callable, .* got 'f1'"):
        make_task_metric("f1")
