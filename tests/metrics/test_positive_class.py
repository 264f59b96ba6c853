"""Scores of one of two classes: every table that shows one names the class, and a warning tells of the wrong one."""

import commands
import numpy as np
import polars as pl
import pytest
from conformance import tiny
from sklearn.metrics import accuracy_score, brier_score_loss

from tabmtl import IndependentTasks, SharedTrees, Task, compare
from tabmtl.metrics import make_task_metric
from tabmtl.metrics.classes import TWO_CLASSES
from tabmtl.metrics.scores import positive_class, score_task, shown_metric

rng = np.random.default_rng(0)
N = 300
X = pl.DataFrame({"a": rng.normal(size=N), "b": rng.normal(size=N)})
RARE = X["a"].to_numpy() + rng.normal(size=N) > 1.6
Y = pl.DataFrame({"paid": np.where(RARE, "fraud", "ok"), "amount": X["b"] + rng.normal(size=N)})
BOTH = ("average_precision", "f1", "roc_auc")


def named(metric=BOTH, kind="binary:fraud"):
    return {"paid": Task(name="paid", kind=kind, metric=metric)}


@pytest.mark.parametrize("metric", TWO_CLASSES)
def test_a_metric_of_the_positive_class_is_another_one_of_the_other_class(metric):
    y, p = RARE.astype(float), np.clip(0.3 - 0.1 * X["a"].to_numpy(), 0.01, 0.99)
    group = np.arange(N) // 30
    here, there = (
        Task(name="y", kind="binary", classes=("ok", "fraud"), metric=metric),
        Task(name="y", kind="binary", classes=("fraud", "ok"), metric=metric),
    )
    score = score_task(here, y, np.column_stack([1 - p, p]), None, group)
    swapped = score_task(there, 1 - y, np.column_stack([p, 1 - p]), None, group)
    is_same = score == pytest.approx(swapped, abs=1e-12)
    assert is_same == (positive_class(here) is None)
    assert shown_metric(here) == metric + ("" if is_same else " of fraud")


def test_a_function_of_ones_own_depends_on_it_where_it_takes_probabilities():
    takes_p = make_task_metric(brier_score_loss, response_method="predict_proba", name="own")
    facts = {"name": "y", "kind": "binary", "classes": ("ok", "fraud")}
    assert shown_metric(Task(**facts, metric=takes_p)) == "own of fraud"
    assert shown_metric(Task(**facts, metric=make_task_metric(accuracy_score, name="own"))) == "own"


def test_scores_name_the_class():
    model = tiny(SharedTrees, tasks=named()).fit(X, Y)
    table = model.score_intervals(X, Y)
    assert table["positive_class"].to_list() == ["fraud", "fraud", None, None]
    assert table["n_positive"][0] == RARE.sum()
    page = model.score_tasks(X, Y)._repr_html_()
    assert "average_precision of fraud" in page and "f1 of fraud" in page and "roc_auc of" not in page


def test_comparisons_name_the_class():
    found = compare([tiny(SharedTrees), tiny(IndependentTasks)], X, Y, tasks=named(), random_state=0)
    for text in (str(found), found._repr_html_()):
        assert "average_precision of fraud" in text and "f1 of fraud" in text and "roc_auc of" not in text
    assert set(found.frame["metric"]) == {"average_precision", "r2"}  # by which frames are filtered


def test_pictures_name_the_class():
    pytest.importorskip("matplotlib")
    found = compare([tiny(SharedTrees), tiny(IndependentTasks)], X, Y, tasks=named(), random_state=0)
    axes = found.plot(values="score").axes_
    assert axes["paid"].get_xlabel() == "average_precision of fraud (higher is better)"
    assert axes["amount"].get_xlabel() == "r2 (higher is better)"


def test_commands_name_the_class(tmp_path, capsys):
    X.hstack(Y).write_csv(tmp_path / "rows.csv")
    words = ["--data", tmp_path / "rows.csv", "--target", "paid=binary:fraud", "--metric", "paid=f1"]
    words += ["--model", "SharedTrees", "--set", "n_estimators=3", "--no-mlflow", "--output", tmp_path / "model"]
    assert commands.run("train", *words) == 0
    printed = capsys.readouterr().out
    assert "positive_class" in printed and "fraud" in printed
    assert commands.run("score", "--model", tmp_path / "model", "--data", tmp_path / "rows.csv") == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "f1" in line)
    assert row.split()[-1] == "fraud" and row.split()[-2] == str(RARE.sum())
