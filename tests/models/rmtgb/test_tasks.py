"""The ensembles of single tasks in R-MTGB: small, one-sided and unrelated tasks, and which tasks share at all."""

import numpy as np
import polars as pl
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss

from tabmtl import RMTGB
from tabmtl.synth import make_outlier_tasks

SHORT = {"n_estimators_shared": 5, "n_estimators_outlier": 10, "n_estimators_task": 15, "random_state": 0}


def long(**options):
    return RMTGB(**{"task_column": "task", **SHORT, **options})


def shrunk(table, y, **n_rows):
    """A long table of which some tasks keep only their first rows."""
    rank = pl.int_range(pl.len()).over("task")
    few = pl.col("task").replace_strict(n_rows, default=10**9, return_dtype=pl.Int64)
    kept = table.select(rank < few).to_series()
    return table.filter(kept), y.filter(kept)


def rounds_of(estimator, task):
    return estimator.block_rounds_.filter(pl.col("task") == task).drop("task").row(0)


@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_block_3_lowers_the_training_loss_of_every_task_round_by_round(n_classes):
    bench = make_outlier_tasks(n_tasks=4, n_train=80, n_test=0, random_state=0)
    y = bench.y
    if n_classes:
        y = pl.Series("y", np.digitize(y, [0.0, 0.8][: n_classes - 1])).cast(pl.String)
    estimator = long(early_stopping=False).fit(bench.X, y)
    for task in bench.functions:
        own = bench.X["task"] == task
        matrix, labels = estimator.encode(bench.X.filter(own)), y.filter(own).to_list()
        export = estimator.export_task(task)
        last = export.num_trees() // export.num_model_per_iteration()
        losses = []
        for n_trees in range(last - 15, last + 1):
            said = export.predict(matrix, num_iteration=n_trees)
            loss = (
                log_loss(labels, said, labels=list("012"[:n_classes])) if n_classes else ((said - labels) ** 2).mean()
            )
            losses.append(loss)
        assert (np.diff(losses) < 0).all()


def test_a_task_of_16_rows_gets_real_splits():
    bench = make_outlier_tasks(n_tasks=4, n_train=80, n_test=0, random_state=0)
    X, y = shrunk(bench.X, bench.y, t1=16)
    estimator = long(early_stopping=False).fit(X, y)
    assert rounds_of(estimator, "t1") == (5, 10, 15)
    own = estimator.export_task("t1").dump_model()["tree_info"][-15:]
    assert all(tree["num_leaves"] > 1 for tree in own)


@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_task_of_one_row_learns_a_shrunk_constant_and_no_tree(early_stopping):
    bench = make_outlier_tasks(n_tasks=5, n_train=60, n_test=0, random_state=0)
    X, y = shrunk(bench.X, bench.y, t1=1, t4=1)
    estimator = long(early_stopping=early_stopping).fit(X, y)
    group = estimator._groups[0]
    said = estimator.predict(X)
    assert said.is_finite().all()
    for t in (1, 4):
        row = np.flatnonzero(X["task"] == f"t{t}")
        assert rounds_of(estimator, f"t{t}")[2] == 0
        s = expit(group.theta[t])
        one, B, A = group.shared(estimator.encode(X[row]), 1)[:, 0, 0]
        score = group.start[t, 0] + one + (1 - s) * B + s * A + group.own_start[t, 0]
        assert said[int(row[0])] == pytest.approx(score * y.std(ddof=0) + y.mean(), rel=1e-9)


@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_task_of_one_class_in_a_long_table_is_no_obstacle(early_stopping):
    """All tasks have one list of classes; an own tree of such a task only makes it surer."""
    bench = make_outlier_tasks(n_tasks=5, n_train=60, n_test=40, target="classification", random_state=0)
    y = pl.select(pl.when(bench.X["task"] == "t2").then(1).otherwise(bench.y).alias("y")).to_series()
    estimator = long(early_stopping=early_stopping).fit(bench.X, y)
    assert all(task.classes == (0, 1) for task in estimator.tasks_)
    shares = estimator.predict_proba(bench.X_test)
    assert np.isfinite(shares).all()
    sure = shares[bench.X_test["task"] == "t2", 1]
    assert sure.mean() > shares[bench.X_test["task"] != "t2", 1].mean() + 0.1
    assert sure.max() < 1


def test_there_is_one_group_per_loss_and_list_of_classes():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 3))
    letters = np.array(list("abcd"))
    Y = pl.DataFrame(
        {
            "price": X[:, 0],
            "late": np.where(X[:, 0] > 0, "yes", "no"),
            "grade": letters[np.digitize(X[:, 1], [-0.5, 0.5])],
            "cost": X[:, 1],
            "mark": letters[np.digitize(X[:, 0], [-0.5, 0.5])],
            "paid": np.where(X[:, 2] > 0, "no", "yes"),
            "other": letters[1 + np.digitize(X[:, 0], [-0.5, 0.5])],
        }
    )
    estimator = RMTGB(early_stopping=False, **SHORT).fit(X, Y)
    assert estimator.block_rounds_["task"].to_list() == Y.columns
    shared = dict(estimator.block_rounds_.select("task", "shared").iter_rows())
    assert shared == {**dict.fromkeys(Y.columns, 5), "other": 0}
    assert dict(estimator.outlier_score_.select("task", "shares").iter_rows())["other"] is False
    groups = [{Y.columns[t] for t in group.members} for group in estimator._groups]
    assert groups == [{"price", "cost"}, {"late", "paid"}, {"grade", "mark"}, {"other"}]


def test_the_order_of_targets_of_other_losses_changes_nothing():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 3))
    Y = pl.DataFrame({"price": X[:, 0], "late": np.where(X[:, 0] > 0, "yes", "no"), "cost": X[:, 1]})
    whole = RMTGB(early_stopping=False, **SHORT).fit(X, Y).predict(X)
    without = RMTGB(early_stopping=False, **SHORT).fit(X, Y.drop("late")).predict(X)
    assert whole.select("price", "cost").equals(without)


@pytest.mark.parametrize("layout", ["long", pytest.param("wide", marks=pytest.mark.all_faces)])
def test_unrelated_tasks_go_alone(layout):
    """As without blocks 1 and 2, to the bit."""
    alone = {"n_estimators_shared": 0, "n_estimators_outlier": 0, "n_estimators_task": 100, "random_state": 0}
    together = {"n_estimators_task": 100, "random_state": 0}
    if layout == "long":
        bench = make_outlier_tasks(n_tasks=4, n_outliers=0, common=0.0, n_train=800, n_test=50, random_state=0)
        X, y, X_test, y_test = bench.X, bench.y, bench.X_test, bench.y_test
        alone["task_column"] = together["task_column"] = "task"
    else:
        x = np.random.default_rng(0).normal(size=(500, 6))
        labels = np.column_stack([x[:, 0] * x[:, 1], x[:, 2] * x[:, 3], x[:, 4] ** 2, np.sin(3 * x[:, 5])])
        X, y, X_test, y_test = x[:400], labels[:400], x[400:], labels[400:]
    one, two = RMTGB(**together).fit(X, y), RMTGB(**alone).fit(X, y)
    assert not one.outlier_score_["shares"].any()
    np.testing.assert_array_equal(one.predict(X_test), two.predict(X_test))
    assert one.score(X_test, y_test) == two.score(X_test, y_test)
    assert two.score(X_test, y_test) > 0.5  # R²: 0 is for who knows the task's mean


def test_related_tasks_share_and_gain():
    """Beside the score of the same trees for every task alone, and of the task's mean, 0."""
    bench = make_outlier_tasks(n_tasks=8, n_train=100, n_test=200, random_state=0)
    few = {"n_estimators_shared": 30, "n_estimators_task": 30, "learning_rate": 0.3}
    alone = {"n_estimators_shared": 0, "n_estimators_outlier": 0}
    together, single = (
        RMTGB(task_column="task", random_state=0, **few | options).fit(bench.X, bench.y) for options in ({}, alone)
    )
    assert together.outlier_score_["shares"].all()
    assert not single.outlier_score_["shares"].any()
    scores = [estimator.score(bench.X_test, bench.y_test) for estimator in (together, single)]
    assert scores[0] > scores[1] + 0.05
    assert scores[1] > 0.5
