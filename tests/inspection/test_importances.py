"""Importances by shuffling: what they are, that they are exact where they must be, and what is refused."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conformance import CANDIDATES, tiny
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import tabmtl
from tabmtl import ESMM, IndependentTasks, MultiTaskEnsemble, SharedBottom, SharedTrees, Task, gain_importances
from tabmtl.base.schema import TabmtlWarning
from tabmtl.inspection.importances import permutation_importances

RNG = np.random.default_rng(0)
N = 240
X = pl.DataFrame({"a": RNG.normal(size=N), "b": RNG.normal(size=N), "town": RNG.choice(["Ulm", "Bonn"], N)})
X = X.with_columns(zero=pl.lit(0.0), twin=pl.col("a"))
# exact steps, so that no tree splits on anything else
Y = X.select(
    step=pl.when(pl.col("a") > 0).then(10.0).otherwise(0.0),
    high=pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.col("b") > 0),
)


@pytest.fixture(scope="module")
def model():
    return IndependentTasks(early_stopping=False, colsample_bytree=1.0, random_state=0).fit(X.drop("twin"), Y)


def importances(model, X=X, y=Y, **options):
    found = permutation_importances(model, X, y, **{"random_state": 0, **options})
    return {(task, feature): own for task, feature, own in found.select("task", "feature", "importance").iter_rows()}


def test_a_feature_counts_for_the_tasks_that_read_it(model):
    found = permutation_importances(model, X.drop("twin"), Y, random_state=0)
    assert found["task"].to_list() == ["step"] * 4 + ["high"] * 4
    assert found["feature"].to_list() == ["a", "b", "town", "zero"] * 2
    assert found.filter(task="step")["metric"].unique().item() == "r2"
    assert dict(found.select("task", "n_labelled").iter_rows()) == {"step": N, "high": N // 2}
    read = found.filter(pl.col("importance") != 0)
    assert dict(read.select("task", "feature").iter_rows()) == {"step": "a", "high": "b"}
    assert (read["importance"] > 0.4).all()
    assert (read["low"] > 0).all()
    rest = found.filter(pl.col("importance") == 0)
    assert rest.select("importance", "standard_error", "low", "high").unique().rows() == [(0, 0, 0, 0)]


def test_an_importance_is_the_mean_fall_over_the_shuffles():
    trees = tiny(SharedTrees).fit(X, Y)
    whole, falls = trees.score_tasks(X, Y), []
    rng = np.random.default_rng(7)
    for _ in range(3):
        order = np.argsort(rng.random(N))
        moved = X.with_columns(X["a"].gather(order), X["town"].gather(order))
        falls.append([whole[task] - score for task, score in trees.score_tasks(moved, Y).items()])
    found = importances(trees, features=[["a", "town"]], n_repeats=3, random_state=7)
    assert [*found] == [("step", "a + town"), ("high", "a + town")]
    np.testing.assert_allclose([*found.values()], np.mean(falls, axis=0), rtol=1e-12)


@pytest.mark.parametrize(("n_repeats", "widest"), [pytest.param(1, 1.7, marks=pytest.mark.all_faces), (5, 1.3)])
def test_the_error_is_the_spread_over_rows_and_shuffles(n_repeats, widest):
    rng, size = np.random.default_rng(1), 150
    rows = pl.DataFrame({"a": rng.normal(size=9_000), "b": rng.normal(size=9_000)})
    amount, is_known = rows["a"] + 0.3 * rng.normal(size=9_000), pl.int_range(pl.len()) % 3 > 0
    y = rows.select(ratio=amount, square=pl.when(is_known).then(amount), high=amount + rows["b"] > 0)
    square = Task(name="square", kind="regression", metric="neg_mean_squared_error")
    plain = IndependentTasks(tasks={"square": square}, regressor=LinearRegression(), classifier=LogisticRegression())
    plain.fit(rows[:300], y[:300])
    options = {"features": ["a"], "n_repeats": n_repeats}
    starts = range(300, 9_000 - size, size)
    parts = [
        permutation_importances(plain, rows[i : i + size], y[i : i + size], random_state=i, **options) for i in starts
    ]
    for (task,), found in pl.concat(parts).group_by("task"):
        ratio = (found["standard_error"] ** 2).mean() ** 0.5 / found["importance"].std()
        assert 0.8 < ratio < widest, task
    ones = np.repeat(np.arange(100), 9)
    by_row, by_group = (
        permutation_importances(plain, rows[:900], y[:900], random_state=0, groups=groups, **options)
        for groups in (None, ones)
    )
    assert by_group["importance"].equals(by_row["importance"])
    assert (by_group["standard_error"] != by_row["standard_error"]).all()


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_neither_order_of_columns_nor_company_nor_container_matters(model):
    trees = tiny(SharedTrees).fit(X, Y)
    found = importances(trees)
    assert importances(trees) == found
    assert importances(trees, random_state=1) != found
    assert importances(trees, X.select(sorted(X.columns)[::-1])) == found
    assert importances(trees, features=["town"], tasks="high") == {("high", "town"): found["high", "town"]}
    pandas = X.to_pandas().set_axis(RNG.permutation(N))  # an index says nothing
    (batch,) = X.rechunk().to_arrow().combine_chunks().to_batches()
    for given in (pandas, X.to_arrow(), batch, X.lazy(), [[*row] for row in X.rows()]):
        assert importances(trees, given) == found
    numbers = X.select("a", "b").to_numpy()
    trees = tiny(SharedTrees).fit(numbers, Y)
    found = importances(trees, numbers)
    assert {feature for _, feature in found} == {"x0", "x1"}
    assert importances(trees, pd.DataFrame(numbers), features=["x1"])["high", "x1"] == found["high", "x1"]
    assert importances(trees, numbers.tolist()) == found


def test_twins_stand_in_for_each_other():
    twins = tiny(SharedBottom, epochs=20, learning_rate=0.03, average_decay=0.0).fit(X, Y)
    found = importances(twins, features=["a", "twin", ["a", "twin"]])
    assert found["step", "a + twin"] > found["step", "a"] + found["step", "twin"]


def test_rows_of_a_long_table_are_shuffled_within_their_task():
    task = np.where(np.arange(N) % 2 == 0, "one", "two")
    long = X.select("a", level=pl.Series(np.where(task == "one", 5.0, -5.0)), task=pl.Series(task))
    y = long.select((pl.col("a") > 0) * 10.0 + pl.col("level")).to_series().alias("y")
    trees = tiny(SharedTrees, task_column="task").fit(long, y)
    found = importances(trees, long, y)
    assert [*found] == [("one", "a"), ("one", "level"), ("two", "a"), ("two", "level")]
    assert [found["one", "level"], found["two", "level"]] == [0, 0]  # of a task it is constant
    assert min(found["one", "a"], found["two", "a"]) > 0.5


def test_funnels_ensembles_and_models_of_scikit_learn_are_asked_alike(tmp_path):
    numbers, step = X.select("a", "b"), Y.select("step")
    foreign = IndependentTasks(regressor=LinearRegression(), classifier=LogisticRegression()).fit(numbers, Y)
    assert importances(foreign, numbers)["high", "a"] < 0.1 < importances(foreign, numbers)["high", "b"]
    mixture = MultiTaskEnsemble(models=CANDIDATES, n_folds=2, random_state=0).fit(numbers, step)
    mixture.save(tmp_path / "model")
    found = importances(mixture, numbers, step)
    assert found["step", "a"] > 0.3
    assert importances(tabmtl.load(tmp_path / "model"), numbers, step) == found
    steps = X.select(click=pl.col("a") > -1, buy=(pl.col("a") > -1) & (pl.col("b") > 0))
    funnel = ESMM(task_chain=["click", "buy"], epochs=2, random_state=0).fit(numbers, steps)
    assert set(importances(funnel, numbers, steps)) == {(task, name) for task in steps.columns for name in "ab"}


def test_columns_are_shuffled_before_a_preprocessor():
    make = make_column_transformer((OneHotEncoder(sparse_output=False), ["town"]), ("passthrough", ["b", "zero"]))
    y = Y.select(high=(X["town"] == "Ulm") & (X["b"] > 0))
    before = tiny(SharedTrees, preprocessor=make.set_output(transform="polars")).fit(X, y)
    found = importances(before, y=y)
    assert [feature for _, feature in found] == X.columns
    assert min(found["high", "town"], found["high", "b"]) > 0.1
    assert [found["high", name] for name in ("a", "zero", "twin")] == [0, 0, 0]
    assert gain_importances(before)["feature"].to_list() == before.encode(X).columns


def test_an_undefined_score_is_null_and_said_once(model):
    same = Y.with_columns(high=pl.lit(True))
    with pytest.warns(TabmtlWarning) as told:
        found = permutation_importances(model, X.drop("twin"), same, random_state=0)
    assert [str(each.message) for each in told] == [
        "task 'high': roc_auc is undefined: one single class among the labelled rows"
    ]
    assert found.filter(task="high")["importance"].to_list() == [None] * 4
    alone = permutation_importances(
        model, X.drop("twin"), same, tasks="step", random_state=0
    )  # and not a word on the other
    assert alone.equals(found.filter(task="step"))
    assert found.filter(task="step")["importance"].null_count() == 0
    lone = Y.with_columns(high=pl.int_range(pl.len()) == 1)
    with pytest.warns(TabmtlWarning, match="task 'high': falls of roc_auc have no interval: the class True has one"):
        found = permutation_importances(model, X.drop("twin"), lone, features=["b"], random_state=0)
    assert found.filter(task="high")["importance"].null_count() == 0
    assert found.filter(task="high")["standard_error"].to_list() == [None]


MODEL = r"the model has \['a', 'b', 'town', 'zero'\]"
REFUSED = [
    (LinearRegression(), {}, TypeError, "estimator of tables of tabmtl, got a LinearRegression: sklearn.inspection"),
    (
        make_pipeline(StandardScaler(), SharedTrees()),
        {},
        TypeError,
        r"got a Pipeline: fit its last step .* preprocessor=, or give pipeline\[-1\]",
    ),
    (SharedTrees(), {}, NotFittedError, "not fitted"),
    (None, {"X": X[:5].drop("twin")}, ValueError, f"X has 5 rows, y has {N}"),
    (None, {"tasks": "low"}, ValueError, r"tasks names tasks that the model does not have: \['low'\].*'high'\]"),
    (None, {"tasks": 0}, TypeError, "tasks must be the name of a task or a sequence of names, got 0"),
    (None, {"tasks": []}, ValueError, r"tasks must name a task, got \[\]; leave it out for all"),
    (None, {"features": "a"}, TypeError, r"features must be a sequence of columns, got 'a': put it in a list"),
    (None, {"features": [0]}, TypeError, "features must name columns by text, got 0"),
    (None, {"features": ["a", ["b", "tow"]]}, ValueError, rf"does not have: \['tow'\]; near is 'town'; {MODEL}"),
    (None, {"features": []}, ValueError, r"must name a column in each place, got \[\]; leave it out for all"),
    (None, {"features": ["a", []]}, ValueError, "must name a column in each place"),
    (None, {"features": ["a", ["a"]]}, ValueError, "no column twice in one place, and no place twice"),
    (None, {"features": [["a", "a"]]}, ValueError, "no column twice in one place"),
    (None, {"n_repeats": 0}, ValueError, "n_repeats must be at least 1, got 0"),
    (None, {"random_state": -1}, ValueError, "random_state must be a whole number from 0"),
    (None, {"groups": "doctor"}, ValueError, "groups names the column 'doctor', which X lacks"),
]


@pytest.mark.parametrize(("asked", "options", "error", "words"), REFUSED)
def test_what_cannot_be_shuffled_is_refused(asked, options, error, words, model):
    with pytest.raises(error, match=words):
        permutation_importances(model if asked is None else asked, **{"X": X.drop("twin"), "y": Y, **options})


def test_the_task_column_is_no_feature():
    long = pl.DataFrame({"x": RNG.normal(size=60), "task": ["a", "b"] * 30, "id": range(60)})
    y = long["x"].alias("y")
    trees = tiny(SharedTrees, task_column="task", columns={"id": "ignore"}).fit(long, y)
    assert {feature for _, feature in importances(trees, long, y)} == {"x"}
    with pytest.raises(ValueError, match=r"does not have: \['task', 'id'\]; the model has \['x'\]"):
        permutation_importances(trees, long, y, features=["x", ["task", "id"]])
