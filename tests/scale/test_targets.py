"""Files teach every kind of targets what frames teach."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from conformance import tiny
from scipy.special import expit
from wired import read_small_parts, run_ranks

from tabmtl import FrequentClassWarning, IndependentTasks, SharedBottom, SharedTrees, Task
from tabmtl.scale import Shards, predict_files
from tabmtl.targets.quantiles import Quantiles

rng = np.random.default_rng(0)
N = 500
X = pl.DataFrame({"a": rng.normal(size=N), "b": rng.normal(size=N), "c": rng.integers(0, 3, N)})
RATE = np.exp(0.5 + 0.8 * X["a"].to_numpy())
GRADES = ("poor", "fair", "good", "great")
GRADE = (rng.random((N, 1)) < expit(2 * X["a"].to_numpy()[:, None] - [-1.5, 0.0, 2.0])).sum(axis=1)
Y = pl.DataFrame(
    {
        "visits": rng.poisson(RATE),
        "claim": rng.gamma(4.0, RATE / 4),
        "spend": rng.poisson(RATE) * rng.gamma(4.0, 1 / 4, N),
        "height": 2 * X["a"] + rng.normal(size=N),
        "delay": 2 * X["a"] + np.exp(0.5 * X["b"].to_numpy()) * rng.normal(size=N),
        "grade": pl.Series(np.array(GRADES)[GRADE], dtype=pl.Enum(GRADES)),
        "paid": np.where(X["a"] + rng.normal(size=N) > 1.6, "fraud", "ok"),
    }
)
NUMBERS = {"visits": "poisson", "claim": "gamma", "spend": "tweedie:1.6", "height": "huber:0.2", "delay": "quantile"}
LEVELS = {"delay": Quantiles((0.1, 0.5, 0.8))}
NAMES = ["delay_q0.1", "delay_q0.5", "delay_q0.8"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Features and targets as a file."""
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    X.hstack(Y).write_parquet(path)
    return path


@pytest.mark.parametrize(
    ("cls", "tasks"),
    [
        (SharedTrees, NUMBERS),
        pytest.param(SharedTrees, {"grade": "ordinal"}, marks=pytest.mark.all_faces),
        pytest.param(IndependentTasks, {"grade": "ordinal"}, marks=pytest.mark.all_faces),
        pytest.param(SharedTrees, {"paid": "focal"}, marks=pytest.mark.all_faces),
    ],
)
def test_files_teach_the_same(cls, tasks, file):
    others = Y.drop(*tasks)
    columns = dict.fromkeys(others.columns, "ignore")
    model = tiny(cls, tasks=tasks, early_stopping=False, n_estimators=5, columns=columns)
    stored = model.fit(Shards(file), [*tasks]).predict(X.hstack(others))
    assert stored.equals(model.fit(X.hstack(others), Y.select(*tasks)).predict(X.hstack(others)))


@pytest.mark.all_faces
def test_files_teach_and_hold_levels(file, tmp_path):
    rows = X.hstack(Y.drop("delay", "claim"))
    trees = tiny(SharedTrees, tasks=LEVELS)
    expected = trees.fit(rows, Y.select("delay", "claim")).predict_quantiles(rows)
    trees.fit(Shards(file), ["delay", "claim"])
    assert trees.predict_quantiles(rows).equals(expected)
    alone = tiny(IndependentTasks, tasks=LEVELS, families=("lightgbm",)).fit(Shards(file), ["delay", "claim"])
    assert (np.diff(alone.predict_quantiles(rows).to_numpy(), axis=1) >= 0).all()
    for method, columns in (("predict_quantiles", NAMES), ("both", ["delay", "claim", *NAMES])):
        (answers,) = map(pl.read_parquet, predict_files(trees, file, tmp_path / method, method=method))
        assert answers.columns == columns
        assert answers.select(NAMES).equals(expected)


def test_tasks_without_levels_have_no_quantiles_in_files(tmp_path):
    words = "quantiles need a task with several levels, and 'delay' is regression: .*'delay': 'quantiles:0.1:0.5:0.9'"
    with pytest.raises(ValueError, match=words):
        model = tiny(SharedTrees).fit(X, Y.select("delay"))
        predict_files(model, tmp_path / "no.parquet", tmp_path, method="predict_quantiles")


def test_the_positive_class_of_files_is_named(file):
    tasks = {"paid": Task(name="paid", kind="binary", metric=("average_precision", "f1", "roc_auc"))}
    words = "'paid': average_precision, f1 are of 'ok', the more frequent class, .* sorted behind 'fraud'; say "
    with pytest.warns(FrequentClassWarning, match=words):
        tiny(SharedTrees, tasks=tasks).fit(Shards(file), "paid")


def test_processes_that_fit_together_weigh_by_the_labels_of_all(monkeypatch):
    read_small_parts(monkeypatch)
    table = X.hstack(Y.select("paid", "grade")).sort("paid")  # ranks see other shares of the classes
    tasks = [
        Task(name="paid", kind="binary", class_weight="balanced"),
        Task(name="grade", kind="multiclass", class_weight={"great": 5.0}),
    ]

    def fit():
        model = tiny(SharedBottom, tasks=tasks, early_stopping=False, dropout=0.0)
        return model.fit(Shards(table.lazy()), ["paid", "grade"])

    one, *many = (model.predict_proba(X)["paid"] for model in (fit(), *run_ranks(2, fit)))
    for each in many:  # up to rounding
        assert abs(one - each).mean() < 0.01


@pytest.mark.parametrize(("cls", "atol"), [(SharedTrees, 1e-6), (SharedBottom, 0.2)])
def test_long_files_weigh_each_task_by_its_own_labels(cls, atol, tmp_path):
    table = X.with_columns(site=np.where(X["a"] > 0, "x", "y"))
    table.with_columns(Y["paid"]).write_parquet(tmp_path / "rows.parquet")
    tasks = {"paid": Task(name="paid", kind="binary", class_weight="balanced")}
    model = tiny(cls, task_column="site", early_stopping=False, tasks=tasks)
    found = model.fit(Shards(tmp_path / "rows.parquet"), "paid").predict_proba(table)
    np.testing.assert_allclose(found, model.fit(table, Y["paid"]).predict_proba(table), atol=atol)
