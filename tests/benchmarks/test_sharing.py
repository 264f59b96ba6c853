"""The comparison of sharing with single tasks, on small tables: its rows, its differences, and what it runs again."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import r2_score, roc_auc_score

from benchmarks import sharing as benchmark
from tabmtl import IndependentTasks

NAMES = ("SharedTrees", benchmark.TWIN)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows, few labels and few trees."""
    monkeypatch.setattr(benchmark, "ROWS", 500)
    monkeypatch.setattr(benchmark, "FEW", {"binary": 60, "regression": 40})
    few = {name: partial(benchmark.MODELS[name], n_estimators=5) for name in NAMES}
    monkeypatch.setattr(benchmark, "MODELS", {**benchmark.MODELS, **few})


def test_rows_are_split_and_labels_of_one_task_are_few() -> None:
    case = benchmark.open_case("portal", 1, None)
    assert (len(case.train[0]), len(case.test[0])) == (400, 100)
    assert case.groups is None
    scarce = case.scarce("weight", 40, 1)
    assert scarce.train[1]["weight"].count() == 40
    assert scarce.train[1].drop("weight").equals(case.train[1].drop("weight"))
    assert scarce.test[1].equals(case.test[1])
    kept = scarce.train[1]["weight"].is_not_null()
    assert scarce.train[1]["weight"].filter(kept).equals(case.train[1]["weight"].filter(kept))


def test_whole_groups_are_on_one_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = benchmark.load("flights")
    unit = np.unique(benchmark.units_of(days), return_inverse=True)[1]
    monkeypatch.setattr(benchmark, "load", lambda *_, **__: days)
    case = benchmark.open_case("flights", 0, tmp_path)
    sizes = np.bincount(unit)
    assert case.groups is not None
    assert np.bincount(case.groups)[np.unique(case.groups)].tolist() == sizes[np.unique(case.groups)].tolist()
    assert len(case.train[0]) + len(case.test[0]) <= max(500, sizes.max())


def test_few_labels_hold_fewer_and_each_class_in_two_groups() -> None:
    n = 200
    late = np.zeros(n, dtype=np.int64)
    late[[150, 151, 152, 180]] = 1  # three of one day, and one of another
    X, y = pl.DataFrame({"x": np.arange(n)}), pl.DataFrame({"late": late, "delay": late + 0.5})
    tasks = {"late": "binary", "delay": "regression"}
    case = benchmark.Case(train=(X, y), test=(X, y), tasks=tasks, groups=np.arange(n) // 10)
    for seed in range(5):
        few, more = (case.scarce("late", k, seed).train[1]["late"] for k in (10, 50))
        assert (few.count(), more.count()) == (10, 50)
        assert few.filter(few.is_not_null()).equals(more.filter(few.is_not_null()))
        rows = np.flatnonzero((few == 1).fill_null(False).to_numpy())
        assert len(rows) == len(set(rows // 10)) == 2
        assert 180 in rows


@pytest.mark.all_faces
def test_missing_fits_run_and_differences_are_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--sets", "portal", "--models", *NAMES, "--settings", "full", "weight", "--output", str(tmp_path)]
    benchmark.main([*common, "--seeds", "0"])
    capsys.readouterr()
    benchmark.main([*common, "--seeds", "0", "1"])
    printed = capsys.readouterr().out
    assert "seed 1" in printed
    assert "seed 0" not in printed
    scores = pl.read_csv(tmp_path / "sharing.csv")
    assert scores.group_by("setting", "model").len()["len"].to_list() == [2] * 4
    wide = scores.filter(setting="weight").pivot("model", index="seed", values="score")
    difference = (wide["SharedTrees"] - wide[benchmark.TWIN]).to_numpy()
    stated = f"{difference.mean():+.4f} ± {difference.std(ddof=1) / math.sqrt(2):.4f}"
    assert stated in next(line for line in printed.splitlines() if line.strip().startswith("weight SharedTrees"))


def test_bag_scores_the_average_answer(monkeypatch: pytest.MonkeyPatch, three_folds: None) -> None:
    monkeypatch.setattr(benchmark, "N_BAGGED", 2)
    case = benchmark.open_case("portal", 0, None)
    tasks = {name: case.tasks[name] for name in ("male", "weight")}
    (X, y), (X_test, y_test) = ((X, y.select(list(tasks))) for X, y in (case.train, case.test))
    make = partial(IndependentTasks, colsample_bytree=0.5)
    bag = benchmark.Bag(make, tasks=tasks, random_state=3)
    bag.fit(X, y, None)
    seeds = [3 + benchmark.SEED_STEP * i for i in range(benchmark.N_BAGGED)]
    models = [make(tasks=tasks, random_state=seed).fit(X, y) for seed in seeds]
    male = np.mean([model.predict_proba(X_test)["male"][:, 1] for model in models], axis=0)
    weight = np.mean([model.predict(X_test)["weight"].to_numpy() for model in models], axis=0)
    known = {name: y_test[name].is_not_null().to_numpy() for name in tasks}
    expected = {
        "male": roc_auc_score(y_test["male"].drop_nulls(), male[known["male"]]),
        "weight": r2_score(y_test["weight"].drop_nulls(), weight[known["weight"]]),
    }
    scores = bag.score_tasks(X_test, y_test)
    assert scores == pytest.approx(expected)
    assert scores != pytest.approx(models[0].score_tasks(X_test, y_test))


def test_bags_are_compared_with_bags_and_run_where_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Constant:
        def __init__(self, tasks: dict[str, str], random_state: int) -> None:
            self._scores = dict.fromkeys(tasks, float(random_state))

        def fit(self, *_: object, **__: object) -> None:
            pass

        def score_tasks(self, *_: object) -> dict[str, float]:
            return self._scores

    monkeypatch.setattr(benchmark, "MODELS", dict.fromkeys(benchmark.MODELS, Constant))
    common = ["--sets", "portal", "--settings", "full", "--output", str(tmp_path), "--seeds", "0", "1"]
    benchmark.main(common)
    assert not set(pl.read_csv(tmp_path / "sharing.csv")["model"]) & set(benchmark.BAGS)
    benchmark.main([*common, "--models", *benchmark.BAGS])
    lines = capsys.readouterr().out.splitlines()
    (header,) = (line for line in lines[-12:] if f"to {benchmark.REFERENCE}" in line)
    assert header.count("to ") == 4
    (line,) = (line for line in lines[-12:] if line.strip().startswith(f"full {benchmark.BAGS[0]}"))
    assert line.count("±") == 1


def test_catboost_learns_with_few_labels_of_a_task() -> None:
    """R² of weight by 40 of 400 labels: 0 by their mean, .67 by one LightGBM model."""
    pytest.importorskip("catboost")
    case = benchmark.open_case("portal", 0, None).scarce("weight", 40, 0)
    model = benchmark.CatBoost(tasks=case.tasks, random_state=0)
    model.fit(*case.train, groups=None)
    scores = model.score_tasks(*case.test)
    assert scores.keys() == case.tasks.keys()
    assert scores["weight"] is not None
    assert scores["weight"] > 0.25
