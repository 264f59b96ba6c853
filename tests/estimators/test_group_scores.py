"""Scores by group where models are fitted, compared and searched, and scores of a step given the one before."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from tabmtl import ESMM, IndependentTasks, MMoE, SharedTrees, Task, compare
from tabmtl.metrics.given import score_given
from tabmtl.metrics.scores import Answered
from tabmtl.synth import make_funnel

LOG = make_funnel(600, n_users=30, n_items=10, click_rate=0.4, conversion_rate=0.2, random_state=0)
X, Y = LOG.X.select("user", "item", "user_x0", "position"), LOG.y.select("click", "conversion")
USER = X["user"].to_numpy()
TRAIN, VAL = np.flatnonzero(USER < "u20"), np.flatnonzero(USER >= "u20")
TASKS = {"click": Task(name="click", kind="binary", metric=("gauc", "ndcg@3"))}
PAIR = (USER[TRAIN], USER[VAL])
SPLIT = {"X_val": X[VAL], "y_val": Y[VAL]}


def network(**options):
    return MMoE(**{"n_experts": 2, "epochs": 3, "tasks": TASKS, "monitor": "click", "random_state": 0} | options)


@pytest.mark.parametrize("groups", ["user", PAIR])
def test_early_stopping_watches_scores_by_group(groups):
    model = network().fit(X[TRAIN], Y[TRAIN], groups=groups, **SPLIT)
    found = model.score_tasks(X[VAL], Y[VAL], groups=USER[VAL])
    assert model.history_["val/click/gauc"].max() == pytest.approx(found["click"], abs=1e-6)
    if groups == "user":  # which the model remembers
        assert model.score_tasks(X[VAL], Y[VAL])["click"] == found["click"]


def test_without_validation_rows_whole_groups_are_set_aside_and_scored():
    model = network(columns={"user": "ignore"}).fit(X, Y, groups="user")
    assert model.history_["val/click/gauc"].null_count() == 0
    assert model.score_tasks(X, Y).by_metric["click"].keys() == {"gauc", "ndcg@3"}


def test_a_file_keeps_the_metrics_and_the_column_of_groups(reloaded):
    model = SharedTrees(tasks=TASKS, n_estimators=5, n_estimators_task=5, random_state=0).fit(X, Y, groups="user")
    assert reloaded(model).score_tasks(X, Y).by_metric == model.score_tasks(X, Y).by_metric


def test_models_are_compared_by_group():
    models = {name: SharedTrees(n_estimators=n) for name, n in (("few", 2), ("more", 20))}
    found = compare(models, X, Y, groups="user", tasks=TASKS, columns={"user": "ignore"}, random_state=0)
    assert found.frame.filter(task="click")["metric"].to_list() == ["gauc", "gauc"]
    assert found.frame.filter(task="click", model="more")["difference_error"].item() > 0
    assert found.further["metric"].to_list() == ["ndcg@3", "ndcg@3"]


def test_metrics_can_be_asked_for_after_fit():
    y = Y.with_columns(late=pl.Series(np.random.default_rng(0).normal(size=len(Y))))
    model = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0).fit(X, y)
    scores = model.score_tasks(X, y, groups="user")
    assert [*scores.by_metric["late"]] == ["r2"] and [*scores.n_groups] == ["click", "conversion"]
    assert [*scores.by_metric["click"]] == ["roc_auc", "gauc", "ndcg@10", "mrr", "hit_rate@10"]
    table = model.score_intervals(X, y, groups="user", metric=("gauc", "mrr@3"))
    assert table["metric"].to_list() == ["gauc", "mrr@3", "gauc", "mrr@3", "r2"]
    assert model.score_intervals(X, y, groups="user")["metric"].to_list() == ["roc_auc", "roc_auc", "r2"]


def fitted():
    return SharedTrees(tasks=TASKS, n_estimators=2, n_estimators_task=5, random_state=0).fit(X, Y, groups=USER)


REFUSED = [
    (
        lambda: network().fit(X, Y),
        "gauc compares rows of one group, such as a user",
    ),
    (
        lambda: network().fit(X[TRAIN], Y[TRAIN], groups=USER[TRAIN], **SPLIT),
        "X_val have no groups; name a col",
    ),
    (lambda: fitted().score_tasks(X, Y), "and the rows have no groups; name the column of X that holds them, or give"),
    (lambda: fitted().score_tasks(X, Y, groups="who"), "who"),
    (lambda: compare({"a": fitted()}, X, Y, tasks=TASKS), "the rows to test have no groups"),
    (lambda: fitted().score_tasks(X, Y, metric="ndgc@3"), "metric 'ndgc@3' fits no task; those of the tasks are"),
    (lambda: fitted().score_tasks(X, Y, groups="user", given="clik"), r"given names tasks.*clik"),
    (lambda: fitted().score_tasks(X, Y, groups="user", given="conversion"), "no other binary task needs it, since of"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("given", [(), {}, ["click"], 1])
def test_a_step_is_given_by_one_name(given):
    with pytest.raises(TypeError, match="given must be the name of a task, got"):
        fitted().score_tasks(X, Y, groups="user", given=given)


def test_a_funnel_is_scored_given_a_step_and_with_it():
    model = ESMM(task_chain=["click", "conversion"], epochs=2, random_state=0).fit(X, Y)
    found, p = model.score_tasks(X, Y, given="click"), model.predict_proba(X)
    clicked = Y["click"].to_numpy() == 1
    rate, conversion = p["conversion"][:, 1] / p["click"][:, 1], Y["conversion"].to_numpy()
    assert found == pytest.approx(
        {
            "click": roc_auc_score(Y["click"], p["click"][:, 1]),
            "conversion|click": roc_auc_score(conversion[clicked], rate[clicked]),
            "conversion&click": roc_auc_score(conversion, p["conversion"][:, 1]),
        }
    )
    only = model.score_tasks(X.filter(clicked), Y.filter(clicked), given="click", metric="accuracy")
    assert only["conversion|click"] == np.mean((rate[clicked] > 0.5) == conversion[clicked])
    assert [*model.score_intervals(X, Y, given="click")["task"]] == [*found]


def test_labels_tell_whether_an_answer_is_given_the_step():
    rng = np.random.default_rng(0)
    click, buy = (rng.random((2, 200)) < 0.5).astype(float)
    p_click, p_buy = rng.random((2, 200))
    tasks = [Task(name=name, kind="binary", classes=(0, 1)).at((0.3,)) for name in ("click", "buy")]
    outputs = [np.column_stack([1 - p, p]) for p in (p_click, p_buy)]
    of_clicked = Answered(tasks, np.column_stack([click, np.where(click == 1, buy, np.nan)]), outputs)
    both = score_given(of_clicked, "click")
    np.testing.assert_array_equal(both.outputs[1][:, 1], p_buy)
    np.testing.assert_allclose(both.outputs[2][:, 1], p_buy * p_click)
    np.testing.assert_array_equal(both.labels[:, 2], click * buy)
    assert [task.thresholds for task in both.tasks] == [(0.3,), (0.3,), None]
    of_all = score_given(of_clicked._replace(labels=np.column_stack([click, click * buy])), "click")
    np.testing.assert_allclose(of_all.outputs[1][:, 1], np.minimum(p_buy / p_click, 1))
    np.testing.assert_array_equal(of_all.outputs[2][:, 1], p_buy)
    assert replace(tasks[1], name="buy|click") == of_all.tasks[1]
    assert [task.thresholds for task in of_all.tasks] == [(0.3,), None, (0.3,)]


def test_candidates_of_an_ensemble_are_judged_by_group():
    from tabmtl import MultiTaskEnsemble

    candidates = {
        "alone": IndependentTasks(families=("lightgbm",)),
        "together": SharedTrees(n_estimators=5, n_estimators_task=5),
    }
    model = MultiTaskEnsemble(models=candidates, n_folds=2, tasks=TASKS, columns={"user": "ignore"}, random_state=0)
    board = model.fit(X, Y, groups="user").leaderboard_.filter(task="click")
    assert board["is_judged"].all() and (board["standard_error"] > 0.005).all()
