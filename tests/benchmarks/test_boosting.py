"""The comparison of boosted models: its splits, its baselines, its search and its tables, on small tables."""

from __future__ import annotations

import json
import os
from argparse import Namespace

import numpy as np
import polars as pl
import pytest
from cases import later

from benchmarks import boosting as bench
from benchmarks import datasets
from benchmarks.peers.lightgbm import BASELINES, Coded, fit_baseline
from benchmarks.splits import open_split, split_rows
from tabmtl.base.schema import Batch
from tabmtl.columns import Features

N_SCHOOLS, N_PUPILS = 6, 50
PARAMS = {
    "n_estimators": 60,
    "learning_rate": 0.2,
    "early_stopping_round": 10,
    "min_child_samples": 5,
    "num_threads": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with generated schools (long), every 30th row of the flights sample (wide), and no other set."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    n = N_SCHOOLS * N_PUPILS
    school = rng.permutation(np.repeat(10 ** np.arange(N_SCHOOLS), N_PUPILS))
    columns = {name: rng.normal(size=n) for name in ("SES", "MEANSES", "Size", "PRACAD", "DISCLIM", "MEANSES_sch")}
    columns |= {name: rng.integers(2, size=n).astype(str) for name in ("Minority", "Sex", "Sector")}
    schools = pl.DataFrame({**columns, "HIMINTY": school % 2, "task": school, "y": 10 + columns["SES"] + school % 3})
    categorical, tasks = ["Minority", "Sex", "Sector"], {"y": "regression"}
    meta = {"features": schools.columns[:-2], "categorical": categorical, "tasks": tasks, "task_column": "task"}
    flights = datasets.load("flights").table.gather_every(30).collect()
    for name, table in {"mathachieve": schools, "flights": flights}.items():
        (folder / name).mkdir()
        table.with_columns(split=pl.lit("train")).write_parquet(folder / name / "data.parquet")
    (folder / "mathachieve" / "data.meta.json").write_text(json.dumps(meta))
    return folder


def batch_of(numbers, y, **more):
    """A batch without categories."""
    return Batch(x=Features(numbers=numbers, codes=np.zeros((len(y), 0), dtype=np.int32)), y=y, **more)


def contradicting(n: int, *, long: bool, seed: int) -> Batch:
    """Two tasks of opposite slope in one feature; the second has another unit where the layout is wide."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, size=(n, 1)).astype(np.float32)
    task = rng.integers(2, size=n)
    y = np.column_stack([x, 1_000 - 100 * x]).astype(float)
    return batch_of(x, x * (1 - 2 * task[:, None]), task=task) if long else batch_of(x, y)


def coded(*, long: bool) -> Coded:
    train, val = (contradicting(n, long=long, seed=n) for n in (600, 200))
    return Coded(train=train, val=val, kinds=("regression", "regression"), n_numeric=1)


@pytest.mark.parametrize("name", bench.SETS)
def test_seed_0_gives_the_stored_split(name):
    if "TABMTL_DATA" not in os.environ:
        pytest.skip("TABMTL_DATA is unset: it names the folder that holds <name>/data.parquet per set")
    data = datasets.load(name, full=True)
    stored = data.split.collect()["split"].to_numpy()
    assert (split_rows(data, 0) == stored).all()
    redrawn = split_rows(data, 1)
    assert (redrawn != stored).any()
    assert (redrawn == "test").sum() == pytest.approx((stored == "test").sum(), rel=0.1)


def test_days_never_cross_the_split_of_a_seed(folder):
    data = datasets.load("flights", folder, full=True)
    days = data.table.select("yday").collect().with_columns(split=split_rows(data, 3))
    assert days.group_by("yday").agg(pl.col("split").n_unique())["split"].max() == 1
    assert days.unique("yday")["split"].value_counts().sort("split")["count"].to_list() == [13, 40, 14]


def test_every_school_is_split_for_itself(folder):
    data = datasets.load("mathachieve", folder)
    rows = data.table.select("task").collect().with_columns(split=split_rows(data, 3))
    counts = rows.group_by("task", "split").len()
    for part, n in {"train": 30, "val": 10, "test": 10}.items():
        assert counts.filter(split=part)["len"].to_list() == [n] * N_SCHOOLS


def test_a_subsample_takes_whole_days_of_the_train_rows(folder):
    problem = open_split("flights", 0, folder)
    fewer = problem.thinned(0)
    assert len(np.unique(fewer.units)) == round(0.2 * len(np.unique(problem.units)))
    assert np.isin(problem.units, fewer.units).sum() == len(fewer.units) == len(fewer.frames["train"][0])
    np.testing.assert_array_equal(fewer.labels("train")[:, 0], fewer.frames["train"][1]["cancelled"].to_numpy())
    assert fewer.frames["val"] is problem.frames["val"]
    assert (problem.thinned(1).units[:50] != fewer.units[:50]).any()


@pytest.mark.parametrize("long", [False, True])
def test_the_task_helps_where_tasks_contradict(long):
    data = coded(long=long)
    fresh = contradicting(300, long=long, seed=7)
    truth = fresh.wide_labels(2)
    r2 = {}
    for method in BASELINES:
        answer = fit_baseline(method, data, PARAMS).predict(fresh)
        np.testing.assert_array_equal(np.isnan(answer), np.isnan(truth))
        r2[method] = 1 - np.nanmean(np.square(answer - truth), axis=0) / np.nanvar(truth, axis=0)
    assert (r2["pooled"] < 0.1).all()
    assert (r2["task_id"] > 0.95).all()
    assert (r2["per_task"] > 0.95).all()


def test_a_task_that_says_nothing_alone_is_still_used():
    # labels are on the same rows, and whole: after standardising, the task by itself has a gain of exactly 0
    x, z = np.meshgrid(np.arange(-9, 10, 2), np.arange(-9, 10, 2))
    features = np.tile(np.column_stack([x.ravel(), z.ravel()]), (20, 1)).astype(np.float32)
    y = np.column_stack([2 * features[:, 0] + features[:, 1], 2 * features[:, 0] - features[:, 1]]).astype(float)
    batch = batch_of(features, y)
    data = Coded(train=batch, val=batch, kinds=("regression", "regression"), n_numeric=2)
    answer = fit_baseline("task_id", data, PARAMS).predict(batch)
    assert (1 - np.square(answer - y).mean(axis=0) / y.var(axis=0) > 0.95).all()


@pytest.mark.parametrize("method", BASELINES)
def test_rows_without_any_label_change_nothing(method):
    data = coded(long=False)
    empty = contradicting(100, long=False, seed=9)
    numbers = np.vstack([data.train.x.numbers, empty.x.numbers])
    batch = batch_of(numbers, np.vstack([data.train.y, np.full((100, 2), np.nan)]))
    padded = Coded(train=batch, val=data.val, kinds=data.kinds, n_numeric=1)
    answers = [fit_baseline(method, each, PARAMS).predict(data.val) for each in (data, padded)]
    np.testing.assert_array_equal(*answers)


def test_no_model_has_more_trees_than_the_cap():
    model = fit_baseline("per_task", coded(long=True), {**PARAMS, "n_estimators": 4})
    assert [booster.num_trees() for booster in model.boosters] == [4, 4]


def test_settings_are_drawn_from_the_space_and_ruled_by_the_seed():
    first, *drawn = bench.draw_settings(300, 0, cap=70)
    assert first == {}
    bounds = {"num_leaves": (4, 63), "min_child_samples": (5, 100), "colsample_bytree": (0.5, 1)}
    for name, (low, high) in {**bounds, "reg_lambda": (1e-2, 100)}.items():
        values = [setting[name] for setting in drawn]
        assert low <= min(values) < 1.2 * low
        assert 0.9 * high < max(values) <= high
    for block, values in {"shared": {0, 70}, "outlier": {0, 70}, "task": {70}}.items():
        assert {setting[f"n_estimators_{block}"] for setting in drawn} == values
    assert bench.draw_settings(5, 0, cap=70) == [first, *drawn[:4]]
    assert bench.draw_settings(5, 1, cap=70) != [first, *drawn[:4]]


def test_a_constant_has_the_validation_error_one_in_a_wide_table(folder):
    problem = open_split("flights", 0, folder)
    constants = np.nanmean(problem.labels("train"), axis=0)
    answer = np.tile(constants, (len(problem.coded.val), 1))
    assert bench.validation_error(problem, answer) == pytest.approx(1)
    assert bench.validation_error(problem, np.nan_to_num(problem.labels("val"))) < 1e-6


def test_errors_of_a_long_table_are_over_all_rows_and_over_tasks(folder):
    problem = open_split("mathachieve", 0, folder)
    off = np.arange(1.0, N_SCHOOLS + 1)
    rmse = np.sqrt(np.mean(off**2))
    assert bench.validation_error(problem, problem.labels("val") + off) == pytest.approx(rmse)
    error, scores = bench.score_test(problem, problem.labels("test") + off)
    assert error == pytest.approx(rmse)
    assert scores == {"mean task RMSE": pytest.approx(off.mean())}


def test_the_error_of_a_wide_table_is_one_minus_the_mean_score(folder):
    problem = open_split("flights", 0, folder)
    error, scores = bench.score_test(problem, np.nan_to_num(problem.labels("test")))
    assert scores == dict.fromkeys(problem.data.tasks, 1.0)
    assert error == 0


@pytest.mark.parametrize("name", later(["mathachieve", "flights"], "flights"))
def test_our_answers_stand_in_the_cells_of_their_tasks(name, folder):
    problem = open_split(name, 0, folder)
    for setting in bench.draw_settings(2, 0, cap=50):
        answer = bench.fit_ours("rmtgb", problem, setting, 0, Namespace(threads=1))("val")
        labels = problem.labels("val")
        assert not np.isnan(answer[~np.isnan(labels)]).any()
        assert bench.validation_error(problem, answer) < (1.1 if name == "mathachieve" else 0.95)


def test_every_method_is_scored_on_every_split(folder, tmp_path, capsys):
    argv = ["--folder", str(folder), "--seeds", "0", "1", "--trials", "3", "--trees", "5", "--output", str(tmp_path)]
    bench.main(["--sets", "star", "mathachieve", "--methods", *BASELINES, *argv])
    printed = capsys.readouterr().out
    assert "skipped: star: expected the table" in printed
    fits = pl.read_csv(tmp_path / "boosting.csv").filter(score="error")
    assert sorted(fits.select("method", "seed").rows()) == sorted((m, s) for m in BASELINES for s in (0, 1))
    assert fits["trial"].is_between(0, 2).all()
    mean = fits.filter(method="pooled")["value"].mean()
    assert f"{mean:.4f} ± " in next(line for line in printed.splitlines() if "error  " in line)


def test_a_big_set_is_searched_on_fewer_rows(folder, tmp_path, monkeypatch):
    seen = []
    original = bench.fit_baseline

    def spy(method, data, params):
        seen.append((len(data.train), len(data.val)))
        return original(method, data, params)

    monkeypatch.setattr(bench, "MANY_ROWS", 1_000)
    monkeypatch.setattr(bench, "fit_baseline", spy)
    argv = ["--sets", "flights", "--methods", "per_task", "--folder", str(folder), "--output", str(tmp_path)]
    bench.main([*argv, "--seeds", "0", "--trials", "2", "--trees", "3"])
    problem = open_split("flights", 0, folder)
    n_val = len(problem.coded.val)
    n_few, n_all = len(problem.thinned(0).units), len(problem.units)
    assert seen == [(n_few, n_val), (n_few, n_val), (n_all, n_val)]


def test_methods_are_compared_seed_by_seed():
    errors = {"rmtgb": {0: 1.0, 1: 2.0, 2: 5.0}, "pooled": {0: 1.5, 1: 1.75, 3: 0.0}}
    said = bench.compare("rmtgb", "pooled", errors)
    assert said == "error of rmtgb - pooled: -0.1250 ± 0.5303, lower in 1 of 2 seeds"
