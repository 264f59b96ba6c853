"""Rows and models of the comparisons on real sets: splits, few labels, bags, and models beside ours."""

from functools import partial

import numpy as np
import polars as pl
import pytest

from benchmarks import problems
from benchmarks.problems import (
    Alone,
    Bag,
    Case,
    CatBoost,
    Distilled,
    Plain,
    answers_of,
    open_case,
    score_answers,
    slope_of,
)
from tabmtl import IndependentTasks


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(problems, "ROWS", 500)


def test_rows_are_split_and_labels_of_one_task_are_few():
    case = open_case("portal", 1, None)
    assert (len(case.train[0]), len(case.test[0])) == (400, 100)
    assert case.groups is None
    scarce = case.scarce("weight", 40, 1)
    assert scarce.train[1]["weight"].count() == 40
    assert scarce.train[1].drop("weight").equals(case.train[1].drop("weight"))
    assert scarce.test[1].equals(case.test[1])
    kept = scarce.train[1]["weight"].is_not_null()
    assert scarce.train[1]["weight"].filter(kept).equals(case.train[1]["weight"].filter(kept))


def test_whole_groups_are_on_one_side(tmp_path, monkeypatch):
    days = problems.load("flights")
    sizes = np.bincount(np.unique(problems.units_of(days), return_inverse=True)[1])
    monkeypatch.setattr(problems, "load", lambda *_, **__: days)
    case = open_case("flights", 0, tmp_path)
    assert case.groups is not None
    assert np.bincount(case.groups)[np.unique(case.groups)].tolist() == sizes[np.unique(case.groups)].tolist()
    assert len(case.train[0]) + len(case.test[0]) <= max(500, sizes.max())


def test_few_labels_hold_fewer_and_each_class_in_two_groups():
    n = 200
    late = np.zeros(n, dtype=np.int64)
    late[[150, 151, 152, 180]] = 1  # three of one day, and one of another
    X, y = pl.DataFrame({"x": np.arange(n)}), pl.DataFrame({"late": late, "delay": late + 0.5})
    tasks = {"late": "binary", "delay": "regression"}
    case = Case(train=(X, y), test=(X, y), tasks=tasks, groups=np.arange(n) // 10)
    for seed in range(5):
        few, more = (case.scarce("late", k, seed).train[1]["late"] for k in (10, 50))
        assert (few.count(), more.count()) == (10, 50)
        assert few.filter(few.is_not_null()).equals(more.filter(few.is_not_null()))
        rows = np.flatnonzero((few == 1).fill_null(False).to_numpy())
        assert len(rows) == len(set(rows // 10)) == 2
        assert 180 in rows


@pytest.mark.filterwarnings("ignore:tasks 'male'. in the folds:tabmtl.base.schema.TabmtlWarning")
@pytest.mark.all_faces
def test_a_bag_averages_answers_and_a_twin_learns_tasks_alone():
    case = open_case("portal", 0, None)
    tasks = {name: case.tasks[name] for name in ("male", "weight")}
    (X, y), X_test = (case.train[0], case.train[1].select(list(tasks))), case.test[0]
    make = partial(IndependentTasks, families=("lightgbm",), colsample_bytree=0.5, patience=1, learning_rate=0.3)
    bag, twin = Bag(make, tasks=tasks, random_state=3), Alone(make, tasks=tasks, random_state=3)
    bag.fit(X, y, None)
    twin.fit(X, y, None)
    seeds = [3 + problems.SEED_STEP * i for i in range(problems.N_BAGGED)]
    models = [make(tasks=tasks, random_state=seed).fit(X, y) for seed in seeds]
    expected = [answers_of(model, X_test) for model in models]
    for task in tasks:
        np.testing.assert_allclose(answers_of(bag, X_test)[task], np.mean([each[task] for each in expected], axis=0))
        rows = y[task].is_not_null()
        alone = make(tasks={task: tasks[task]}, random_state=3).fit(X.filter(rows), y.select(task).filter(rows))
        np.testing.assert_allclose(answers_of(twin, X_test)[task], answers_of(alone, X_test)[task])


def test_a_slope_of_calibration_is_that_of_the_log_odds():
    rng = np.random.default_rng(0)
    odds = rng.normal(size=20_000)
    chance = 1 / (1 + np.exp(-odds))
    labels = pl.Series(rng.random(20_000) < chance).cast(pl.Int64)
    bold = 1 / (1 + np.exp(-2 * odds))
    assert slope_of(labels, chance) == pytest.approx(1, abs=0.05)
    assert slope_of(labels.replace_strict({0: "no", 1: "yes"}).set(pl.Series(odds > 2), None), bold) == pytest.approx(
        0.5, abs=0.05
    )
    assert slope_of(labels, np.full(20_000, 0.3)) is None


@pytest.mark.filterwarnings("ignore:tasks 'male'")
def test_a_distilled_network_reads_rows_without_labels(monkeypatch):
    seen = []

    class Teacher(IndependentTasks):
        def fit(self, X, y, **options):
            seen.append((len(X), y.null_count().row(0), len(options["groups"])))
            return super().fit(X, y, **options)

    monkeypatch.setattr(problems, "distill", lambda model, X, random_state: seen.append(len(X)) or model)
    case = open_case("portal", 0, None)
    known = pl.int_range(pl.len()) < 300
    y = case.train[1].select("male", "weight").select(pl.when(known).then(pl.all().fill_null(0)))
    quick = partial(Teacher, families=("lightgbm",), patience=1, learning_rate=0.3)
    model = Distilled(quick, tasks={"male": "binary", "weight": "regression"}, random_state=0)
    model.fit(case.train[0], y, np.arange(400))
    assert seen == [(300, (0, 0), 300), 400]
    assert answers_of(model, case.test[0])["weight"].shape == (100,)


def test_catboost_learns_with_few_labels_of_a_task():
    """R² of weight by 40 of 400 labels: 0 by their mean, .67 by one LightGBM model."""
    pytest.importorskip("catboost")
    case = open_case("portal", 0, None).scarce("weight", 40, 0)
    model = CatBoost(tasks=case.tasks, random_state=0)
    model.fit(*case.train, groups=None)
    scores = score_answers(case.tasks, case.test[1], answers_of(model, case.test[0]))
    assert scores.keys() == case.tasks.keys()
    assert scores["weight"] > 0.25


def test_plain_lightgbm_takes_text_and_unseen_levels():
    X = pl.DataFrame({"level": ["a", "b"] * 30, "x": [float(i) for i in range(60)]})
    model = Plain(tasks={"late": "binary"}, random_state=0, n_estimators=5)
    model.fit(X, pl.DataFrame({"late": [0, 1] * 30}), None)
    assert answers_of(model, X[:3].with_columns(level=pl.lit("new")))["late"].shape == (3,)
