"""Scores of one of two classes: every table that shows one names the class, and a warning tells of the wrong one."""

import numpy as np
import polars as pl
import pytest
from conformance import tiny
from sklearn.metrics import accuracy_score, brier_score_loss

from tabmtl import FrequentClassWarning, IndependentTasks, SharedTrees, Task, compare
from tabmtl.base.schema import told
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


WRONG = "'paid': average_precision, f1 are of 'ok', the more frequent class, .* sorted behind 'fraud'; say "


def test_a_fit_warns_of_scores_of_the_more_frequent_class():
    cure = "tasks={'paid': 'binary:fraud'}, or tasks={'paid': 'binary:ok'} if that is meant"
    with pytest.warns(FrequentClassWarning, match=WRONG + cure) as caught:
        tiny(SharedTrees, tasks=named(kind="binary")).fit(X, Y)
    assert len(caught) == 1
    with pytest.warns(FrequentClassWarning, match="say tasks={'paid': 'focal:2.0:fraud'}"):
        tiny(SharedTrees, tasks=named(kind="focal")).fit(X, Y)


def test_a_long_table_is_warned_of_by_its_column():
    rows = X.with_columns(shop=pl.Series(["u", "v"] * (N // 2)))
    with pytest.warns(FrequentClassWarning, match="task 'paid': .*say tasks={'paid': 'binary:fraud'}") as caught:
        tiny(SharedTrees, tasks=named(kind="binary"), task_column="shop").fit(rows, Y.select("paid"))
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (Y["paid"], "binary:fraud"),
        (Y["paid"], "binary:ok"),
        (Y["paid"].replace_strict({"ok": "fine", "fraud": "fraud"}), "binary"),  # which is sorted last
        (Y["paid"].cast(pl.Enum(["fraud", "ok"])), "binary"),  # whose type has an order
        (pl.Series(~RARE), "binary"),  # True is the positive one for everybody
        (pl.Series(~RARE).cast(pl.Int8), "binary"),
    ],
)
def test_no_warning_where_a_class_is_named_or_rare_or_true(labels, kind):
    y = labels.alias("paid").to_frame()
    model = tiny(SharedTrees, tasks=named(kind=kind)).fit(X, y)
    model.score_tasks(X, y, metric="f1")
    fresh = tiny(SharedTrees, tasks=named("roc_auc", kind)).fit(X[:200], y[:200])
    fresh.tune_thresholds(X[200:], y[200:], metric="f1")
    assert fresh.thresholds_["metric"].to_list() == ["f1"]


def test_declared_classes_are_named():
    task = Task(name="paid", kind="binary", classes=("fraud", "ok"), metric="f1")
    model = tiny(SharedTrees, tasks=[task]).fit(X, Y)
    assert model.score_tasks(X, Y, metric="f1")["paid"] > 0.9


def test_scores_and_thresholds_of_a_fitted_model_warn():
    model = tiny(SharedTrees).fit(X[:200], Y[:200])
    for call in (model.score_tasks, model.score_intervals):
        told.clear()
        with pytest.warns(FrequentClassWarning, match="'paid': f1 is of 'ok'"):
            call(X, Y, metric=("f1", "roc_auc"))
        call(X, Y)  # by ROC AUC
    late = {"X": X[200:], "y": Y[200:], "tasks": "paid"}
    model.tune_thresholds(**late)
    told.clear()
    with pytest.warns(FrequentClassWarning, match="'paid': f1 is of 'ok'"):
        model.tune_thresholds(**late, metric="f1")
    with pytest.warns(FrequentClassWarning, match="'paid': the threshold by costs is of 'ok'"):
        model.tune_thresholds(**late, costs={("fraud", "ok"): 9.0, ("ok", "fraud"): 1.0})
    assert model.thresholds_["above"].to_list() == ["ok"]


def test_a_comparison_warns_once():
    models = [tiny(SharedTrees), tiny(IndependentTasks)]
    with pytest.warns(FrequentClassWarning, match=WRONG) as caught:
        compare(models, X, Y, tasks=named(kind="binary"), random_state=0)
    assert len([each for each in caught if each.category is FrequentClassWarning]) == 1
