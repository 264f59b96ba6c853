"""Shared trees in folds: each takes the rounds that suit the others, and is a fitted estimator like any."""

import numpy as np
import polars as pl
import pytest
from conformance import same
from numpy.testing import assert_array_equal
from sklearn.base import clone

from tabmtl import IndependentTasks, MultiTaskEnsemble, SharedBottom, SharedTrees
from tabmtl.base.schema import Batch, TimeLimitWarning
from tabmtl.columns import Features
from tabmtl.models.shared_trees.stop import Followed, Stop
from tabmtl.models.shared_trees.targets import make_targets
from tabmtl.models.shared_trees.together import fit_in_folds
from tabmtl.targets import Task

N, K = 240, 3
FOLD = np.arange(N) % K
SMALL = {"n_estimators": 30, "n_estimators_task": 10, "patience": 10}


def table(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, 4))
    sign = pl.Series(X[:, 0] + X[:, 1] > 0).to_frame("sign").with_row_index()
    sign = sign.select(pl.when(pl.col("index") < 60).then("sign"))
    return pl.DataFrame(X), sign.insert_column(0, pl.Series("value", X[:, 0] + 0.3 * rng.normal(size=N)))


def fit(model, X, y, fold=FOLD, **arguments):
    """Copies of an estimator, each fitted without the rows of a fold."""
    copies = [clone(model).set_params(random_state=k) for k in range(K)]
    coder = copies[0].__learner__().coder(X, y)
    arguments = {"X": X, "y": y, "sample_weight": None, **arguments}

    def part(rows):
        own = {name: None if each is None else each[rows] for name, each in arguments.items()}
        return {"batch": coder.read(own["X"]), **own}

    rows = [np.flatnonzero(fold != k) for k in range(K)], [np.flatnonzero(fold == k) for k in range(K)]
    given, judged = ([part(own) for own in side] for side in rows)
    return copies, fit_in_folds(copies, coder, given, judged)


@pytest.mark.parametrize("weight", [None, np.arange(N) % 4 / 2.0])
def test_each_is_a_fitted_estimator_of_its_own(weight, reloaded):
    X, y = table()
    fitted, is_fitted = fit(SharedTrees(**SMALL), X, y, sample_weight=weight)
    assert is_fitted
    answers = [each.__answers__(X) for each in fitted]
    assert not same(answers[0], answers[1])
    again, _ = fit(SharedTrees(**SMALL), X, y, sample_weight=weight)
    assert all(same(one, each.__answers__(X)) for one, each in zip(answers, again, strict=True))
    assert same(reloaded(fitted[1]).__answers__(X), answers[1])
    assert fitted[0].rounds_["n_labels"].to_list() == ([160, 40] if weight is None else [120, 30])
    exported = fitted[0].export_task("value").predict(fitted[0].encode(X).to_numpy())
    np.testing.assert_allclose(exported, answers[0][0], rtol=1e-5)


def test_a_long_table_grows_in_folds():
    X, y = table()
    X = X.with_columns(task=pl.Series(np.array(["a", "b"])[np.arange(N) // K % 2]))
    y = np.where(X["task"] == "a", y["value"], -y["value"])
    fitted, is_fitted = fit(SharedTrees(**SMALL, learning_rate=0.2, task_column="task"), X, y)
    assert is_fitted
    for k, model in enumerate(fitted):
        assert model.score(X.filter(k == FOLD), y[k == FOLD]) > 0.5


def test_every_fold_takes_the_rounds_that_suit_the_others():
    y = 1 + np.random.default_rng(0).normal(size=(N, 1))
    batch = Batch(x=Features(numbers=np.zeros((N, 1)), codes=np.zeros((N, 0))), y=y)
    targets = make_targets(batch, (Task(name="value", kind="regression"),), np.zeros(1), np.ones(1))
    folds = []
    for k in range(K):
        own = targets.rows(np.flatnonzero(k == FOLD))
        folds.append(Followed(np.zeros((1, 1), np.float32), False, np.zeros(1, int), own, np.zeros(1), None))
    stop, losses = Stop(folds, 1, 999, lambda leader, n: np.ones(n)), []
    for _ in range(200):
        for fold in folds:
            fold.add(np.full((1, 1), 0.01), [np.zeros(len(fold.targets), np.int32)])
        losses.append([fold.losses[0] for fold in folds])
        stop.judge(0)
    stop.close()
    total = np.sum(losses, axis=1)
    assert [fold.close()[0] for fold in folds] == [1 + np.argmin(total - own) for own in np.transpose(losses)]
    assert stop.kept[0] == 1 + np.argmin(total)
    assert len({*stop.kept, *(fold.kept[0] for fold in folds)}) > 2


def test_labels_that_no_other_fold_judges_are_left_to_fits_of_their_own():
    X, y = table()
    fold = np.where(FOLD == 0, 0, -1)
    fold[:2] = 1, 2
    y = pl.DataFrame({"value": np.where(fold < 1, y["value"], np.nan)})
    assert not fit(SharedTrees(**SMALL), X, y, fold)[1]
    X, y = table()
    assert not fit(SharedTrees(**SMALL, early_stopping=False), X, y)[1]
    assert not fit(SharedBottom(epochs=1), X, y)[1]


def test_the_time_limit_ends_all_folds():
    X, y = table()
    with pytest.warns(TimeLimitWarning, match=r"round 1 of 30.*trees of single tasks"):
        fitted, _ = fit(SharedTrees(**SMALL, time_limit=1e-9), X, y)
    assert max(model.rounds_["shared"].max() for model in fitted) <= 1


def test_trees_of_a_task_alone_are_kept_where_they_pay_in_other_folds():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 2))
    y = pl.DataFrame({"exact": np.round(3 * X[:, 0]) + np.sign(X[:, 1]), "noise": rng.normal(size=N)})
    fitted, _ = fit(SharedTrees(n_estimators=20, n_estimators_task=5, learning_rate=0.1), pl.DataFrame(X), y)
    own = np.array([model.rounds_["own"] for model in fitted])
    assert (own[:, 0] > 0).all()
    assert_array_equal(own[:, 1], 0)


def test_the_ensemble_grows_shared_trees_in_its_folds(monkeypatch):
    X, y = table()
    models = {"alone": IndependentTasks(families=("lightgbm",)), "together": SharedTrees(**SMALL)}
    monkeypatch.setattr(SharedTrees, "_fit_rows", None)  # by which each fold would be fitted alone
    model = MultiTaskEnsemble(models=models, n_folds=3, random_state=0).fit(X, y)
    assert model.leaderboard_["left_out"].null_count() == len(model.leaderboard_)
    assert len(model.estimators_["together"]) == 3


def unlike(n_labels, seed=0):
    """A linear target of few labels beside two of other columns, and rows to test it."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(1200, 6))
    line, product, square = 3 * X[:, 0] + X[:, 1], X[:, 2] * X[:, 3], X[:, 4] ** 2
    y = np.column_stack([line, product, square]) + 0.3 * rng.normal(size=(1200, 3))
    y[n_labels:, 0] = np.nan
    return X[:800], y[:800], X[800:], line[800:]


def test_few_labels_drop_the_trees_of_others_where_those_of_the_task_alone_are_better():
    X, y, X_test, line = unlike(80)
    model = SharedTrees(random_state=0, learning_rate=0.2, n_estimators=60, n_estimators_task=60).fit(X, y)
    assert model.rounds_["shared"][0] == 0
    assert model.rounds_["own"][0] > 10
    assert model.rounds_["n_labels"].to_list() == [80, 800, 800]
    assert np.corrcoef(model.predict(X_test)[:, 0], line)[0, 1] > 0.9
    assert same(model.predict(X_test, tasks=["y0"]).ravel(), model.predict(X_test)[:, 0])


def test_few_labels_keep_the_trees_of_others_that_help():
    X, y, _, _ = unlike(60)
    y[:60, 0] = y[:60, 1] + y[:60, 2]
    model = SharedTrees(random_state=0, learning_rate=0.1, n_estimators=150).fit(X, y)
    assert model.rounds_["shared"][0] > 10


def test_rows_of_a_group_and_of_new_times_are_never_dealt_to_folds(monkeypatch):
    X, y, _, _ = unlike(80)
    splits = []
    split = SharedTrees._split
    monkeypatch.setattr(SharedTrees, "_split", lambda *args: splits.append(split(*args)) or splits[-1])
    group = np.arange(800) // 8
    model = SharedTrees(random_state=0, n_estimators=5, n_estimators_task=0)
    model.fit(X, y, groups=group)
    assert len(splits[0].folds) == 3
    for fit_rows, judged in splits[0].folds:
        assert not {*group[fit_rows]} & {*group[judged]}
        assert len(fit_rows) + len(judged) == 800
    model.fit(X, y, time=np.arange(800.0)[::-1].copy())
    model.fit(X[:600], y[:600], X_val=X[600:], y_val=y[600:])
    model.fit(X, y[:, 1:])
    assert [len(each.folds) for each in splits[1:]] == [0, 0, 0]
