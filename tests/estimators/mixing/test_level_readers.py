"""IndependentTasks whose families read means of levels."""

from contextlib import ExitStack

import numpy as np
import polars as pl
import pytest
from cases import later
from numpy.testing import assert_array_equal
from sklearn.metrics import roc_auc_score

from tabmtl import IndependentTasks, gain_importances
from tabmtl.estimators.learner import Marks
from tabmtl.estimators.mixing.levels import LevelRows
from tabmtl.models.independent.folds import Dealt
from tabmtl.models.independent.rows import Sample, reading

pytestmark = pytest.mark.usefixtures("three_folds")
N_LEVELS = 12


def table(n=120, n_levels=N_LEVELS, seed=0):
    """A number, a column of levels, and two targets that the effects of the levels tell."""
    rng = np.random.default_rng(seed)
    effect = 2 * rng.normal(size=n_levels)
    level, x = rng.integers(0, n_levels, n), rng.normal(size=n)
    X = pl.DataFrame({"x": x, "level": [f"level {k}" for k in level]})
    own = effect[level] + 0.3 * x
    return X, pl.DataFrame({"r": own + rng.normal(size=n) / 2, "b": own + rng.normal(size=n) > 0})


@pytest.fixture(scope="module")
def fitted():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tabmtl.models.independent.choice.MOST_FOLDS", 3)
        X, y = table()
        yield X, y, IndependentTasks(n_jobs=1, random_state=0).fit(X, y)


def test_sums_are_saved(fitted, reloaded):
    X, _, model = fitted
    loaded = reloaded(model)
    assert model._levels.n_numbers == 3
    for name in ("places", "sizes", "task", "label", "knots", "sums", "weights", "rows"):
        assert_array_equal(getattr(loaded._levels, name), getattr(model._levels, name))
    assert loaded.predict(X).equals(model.predict(X))
    assert loaded.leaderboard_.equals(model.leaderboard_)


def test_a_row_is_answered_as_in_the_batch(fitted):
    X, _, model = fitted
    X = X[:6].with_columns(level=pl.Series([*X["level"][:4], None, "unseen"]))
    assert pl.concat([model.predict(X[i]) for i in range(6)]).equals(model.predict(X))
    probabilities = model.predict_proba(X)["b"]
    assert_array_equal(np.vstack([model.predict_proba(X[i])["b"] for i in range(6)]), probabilities)


def test_asked_tasks_are_answered_as_beside_the_others(fitted):
    X, _, model = fitted
    for name in "rb":
        assert model.predict(X, tasks=[name])[name].equals(model.predict(X)[name])


def test_levels_have_the_share_of_their_means(fitted, reloaded):
    _, _, model = fitted
    found = gain_importances(model)
    assert found["feature"].unique().sort().to_list() == ["level", "x"]
    assert found["importance"].sum() == pytest.approx(2)  # of two tasks
    assert found.filter(feature="level")["importance"].min() > 0.7
    assert gain_importances(reloaded(model)).equals(found)


def test_further_rows_add_to_the_sums(fitted, reloaded):
    X, y, model = fitted
    model, before = reloaded(model), model._levels
    more = X[:40].with_columns(level=pl.lit("level 3"))
    model.partial_fit(more, y[:40])
    after = model._levels
    assert after.rows.sum() == 160
    assert (after.rows - before.rows).max() == 40
    assert after.weights.sum() == pytest.approx(before.weights.sum() + 80)
    answers = model.predict(X)
    assert answers["r"].is_finite().all() and answers["b"].null_count() == 0


def test_tasks_come_and_go(fitted, reloaded):
    X, y, model = fitted
    model, before = reloaded(model), model.predict(X)
    model.add_task(X, y.select(more=pl.col("r") * 2))
    answers = model.predict(X)
    assert answers.drop("more").equals(before)
    assert np.corrcoef(answers["more"], y["r"])[0, 1] > 0.8
    model.remove_task("r")
    assert model.predict(X).equals(answers.drop("r"))
    assert model.leaderboard_["task"].unique().sort().to_list() == ["b", "more"]
    model.partial_fit(X[:40], y[:40].select("b", more=pl.col("r")))
    assert model.predict(X)["more"].is_finite().all()
    assert reloaded(model).predict(X).equals(model.predict(X))


def test_no_label_of_a_fold_tells_the_answers_to_it():
    """Nor do those of other tasks: what learned the other folds has no mean of theirs, not even by a group."""
    X, y = table()
    group = np.arange(120) // 4
    fold = group % 3
    held = np.flatnonzero(fold == 1)
    found = []
    for change in (1, 5):
        other = y.with_row_index().with_columns(
            r=pl.when(pl.col("index").is_in(held)).then(pl.col("r").reverse() * change).otherwise("r"),
        )
        model = IndependentTasks(families=("lightgbm", "extra_trees"), n_jobs=1, random_state=0)
        with pytest.MonkeyPatch.context() as patch:  # one setting, which labels of the fold choose otherwise
            patch.setattr("tabmtl.models.independent.rows.Levels.readings", ("all",))
            patch.setattr("tabmtl.models.independent.mixture.LEAVES", (3,))
            patch.setattr("tabmtl.estimators.mixing.levels._SHARES", np.linspace(0, 1, 3))
            patch.setattr("tabmtl.estimators.mixing.judged.likelihood_weights", lambda *given: np.array([0.0, 1.0]))
            patch.setattr("numpy.quantile", lambda values, shares: np.linspace(-3, 3, len(shares)))
            found.append(model.fit_unseen(X, other.drop("index"), fold=fold, groups=group))
    assert_array_equal(found[0][1][held], found[1][1][held])
    assert np.abs(found[0][1] - found[1][1]).max() > 0


@pytest.mark.parametrize("is_long", later([False, True], True))
def test_a_target_with_many_labels_tells_a_scarce_one_of_its_levels(is_long, monkeypatch):
    """ROC AUC of 40 labels on 500 new rows; without the means of all targets, a level has a label or two."""
    monkeypatch.setattr("tabmtl.models.independent.mixture.PENALTIES", (100.0, 1.0))
    X, y = table(700, 30, seed=1)
    train, test = slice(200), slice(200, 700)
    y = y.with_columns(r=pl.col("r") > 0)
    scarce = y[train].with_columns(b=pl.when(pl.int_range(pl.len()) < 40).then("b"))
    alone = IndependentTasks(n_jobs=1, random_state=0).fit(X[train][:40], y[train][:40, ["b"]])
    both, asked = IndependentTasks(n_jobs=1, random_state=0), X[test]
    if is_long:
        both.task_column = "task"
        rows = X[train].hstack(scarce).unpivot(["r", "b"], index=["x", "level"], variable_name="task").drop_nulls()
        both.fit(rows.drop("value"), rows["value"])
        asked = asked.with_columns(task=pl.lit("b"))
        answers = both.predict_proba(asked)
    else:
        answers = both.fit(X[train], scarce).predict_proba(asked)["b"]
    by_itself, together = (
        roc_auc_score(y[test]["b"], p[:, 1]) for p in (alone.predict_proba(X[test])["b"], np.asarray(answers))
    )
    assert together > by_itself + 0.05


def test_labels_of_rows_set_aside_are_in_no_means_of_fewer_folds():
    """Rows set aside judge what is learned, also where the folds of a table are joined to fewer ones."""
    X, y = table()
    set_aside, fold = np.arange(0, 120, 4), np.arange(120) % 10
    found = []
    for b in (y["b"], y["b"].scatter(set_aside, ~y["b"].gather(set_aside))):
        coder, rows, _ = IndependentTasks().__learner__().rows(ExitStack(), X, y.with_columns(b), None, Marks())
        levels = LevelRows.learn(rows.read(), coder.features.columns, coder.labels.tasks)
        given = reading(levels, rows.read(), None, fold, {0, 1})(1)
        learned = Sample.of_task(given).apart(set_aside).rows(np.setdiff1d(np.arange(120), set_aside))
        dealt = Dealt.of(learned, coder.labels.tasks[1], 0, 5)
        found.append([dealt.rows.filled("own", held).x for held in dealt.held])
    assert len(found[0]) == 5
    assert_array_equal(*found)


def test_numbers_of_levels_have_names_that_no_column_has(three_folds):
    X, y = table(60)
    X = X.rename({"x": "level, mean 1"})
    model = IndependentTasks(families=("lightgbm", "extra_trees"), n_jobs=1, random_state=0).fit(X, y)
    assert model.encode(X).columns == ["level, mean 1", *(f"level, mean {k}_" for k in (1, 2, 3)), "level"]
