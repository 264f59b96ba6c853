"""Several metrics of a task: the first is watched, all are reported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from conformance import tiny
from forging import forge_facts
from sklearn.metrics import accuracy_score, make_scorer

from tabmtl import IndependentTasks, SharedBottom, SharedTrees, SharedTreesClassifier, Task, compare, load

rng = np.random.default_rng(0)
X = pl.DataFrame({"a": rng.normal(size=300), "b": rng.normal(size=300)})
Y = pl.DataFrame({"late": X["a"] + rng.normal(size=300) > 1, "delay": X["b"] + rng.normal(size=300)})
SEVERAL = ("average_precision", "roc_auc", "neg_log_loss")
TASKS = {"late": Task(name="late", kind="binary", metric=SEVERAL), "delay": "regression"}


def test_the_first_is_watched_and_all_are_reported(tmp_path):
    model = tiny(SharedBottom, tasks=TASKS).fit(X, Y)
    assert "val/late/average_precision" in model.history_.columns and "val/late/roc_auc" not in model.history_.columns
    scores = model.score_tasks(X, Y)
    assert [*scores] == ["late", "delay"] and model.score(X, Y) == np.mean([*scores.values()])
    assert [*scores.by_metric["late"]] == [*SEVERAL] and scores.by_metric["late"]["average_precision"] == scores["late"]
    assert all(name in scores._repr_html_() for name in SEVERAL)
    intervals = model.score_intervals(X, Y)
    assert intervals.select("task", "metric").rows() == [*(("late", name) for name in SEVERAL), ("delay", "r2")]
    for name, score, low, high in intervals.filter(task="late").select("metric", "score", "low", "high").rows():
        alone = {"late": Task(name="late", kind="binary", metric=name)}
        own = tiny(SharedTrees, tasks=alone | {"delay": "regression"}).fit(X, Y).score_intervals(X, Y)
        assert low < score < high and own["metric"][0] == name and score == scores.by_metric["late"][name]
    assert ", ".join(SEVERAL) in model.tasks_._repr_html_()
    model.save(tmp_path / "model")
    assert load(tmp_path / "model").tasks_ == model.tasks_ and load(tmp_path / "model").tasks == TASKS

    def as_before(facts):
        for task in facts["coder"]["labels"]["tasks"]:
            del task["more_metrics"]

    assert load(forge_facts(tmp_path / "model", as_before)).tasks_[0].more_metrics == ()


def test_a_classifier_still_scores_by_accuracy():
    tasks = {"late": Task(name="late", kind="binary", metric=("roc_auc", "accuracy"))}
    model = tiny(SharedTreesClassifier, tasks=tasks).fit(X, Y[["late"]])
    assert model.score(X, Y[["late"]]) == model.score_tasks(X, Y[["late"]]).by_metric["late"]["accuracy"]


def test_a_comparison_judges_by_the_first_and_shows_all():
    models = {"alone": IndependentTasks(families=("lightgbm",)), "together": tiny(SharedTrees)}
    found = compare(models, X, Y, tasks=TASKS, random_state=0)
    assert found.frame.select("task", "metric").unique().height == 2 and found.frame.height == 4
    assert found.further.select("model", "metric").rows() == [(name, each) for name in models for each in SEVERAL[1:]]
    assert found.summary.filter(model="alone")["mean_score"][0] == found.frame.filter(model="alone")["score"].mean()
    for text in (str(found), found._repr_html_()):
        assert "By further metrics" in text and "neg_log_loss" in text


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (("roc_auc", "roc_auc"), "'late': metric names 'roc_auc' twice"),
        ((), r"'late': metric must be the name of a score, or a tuple of several, .* got \(\)"),
        ({"roc_auc", "f1"}, "'late': metric must be the name of a score, or a tuple of several, .* got {"),
        (("roc_auc", 1), "metric must be the name of a score"),
        (accuracy_score, "got <function accuracy_score .*; wrap a function, such as that of a scorer, by make_task_m"),
        (make_scorer(accuracy_score), r"got make_scorer\(accuracy_score.*; wrap a function"),
        (("roc_auc", "r2"), "'late': metric 'r2' does not fit binary tasks; choose one of"),
    ],
)
def test_metrics_that_do_not_fit_are_named(metric, words):
    with pytest.raises(ValueError, match=words):
        tiny(SharedTrees, tasks={"late": Task(name="late", kind="binary", metric=metric)}).fit(X, Y)


def test_the_watched_metric_is_none_of_the_others():
    several = Task(name="late", kind="binary", metric=("average_precision", "f1"))
    assert (replace(several, metric="f1").metric, replace(several, metric="f1").more_metrics) == ("f1", ())
    assert Task(name="late", kind="binary", metric="f1", more_metrics="roc_auc").more_metrics == ("roc_auc",)
    default = Task(name="late", kind="binary", more_metrics=("roc_auc", "f1"))
    model = tiny(SharedTrees, tasks={"late": default}).fit(X, Y)
    assert (model.tasks_[0].metric, model.tasks_[0].more_metrics) == ("roc_auc", ("f1",))
