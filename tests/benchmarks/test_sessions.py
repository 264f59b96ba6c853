"""The benchmark of recommenders runs on a small drawn log, and reports what it measured."""

from dataclasses import replace

import polars as pl
import pytest

from benchmarks import sessions
from benchmarks.sessions import GENERATOR, main, open_set, report
from tabmtl.synth import make_sessions


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(sessions, "make_sessions", lambda n, m, **options: make_sessions(300, 60, **options))
    tiny = {"epochs": 1, "d_model": 8, "device": "cpu", "n_jobs": 1}
    monkeypatch.setattr(sessions, "CHOSEN", {GENERATOR: tiny})
    monkeypatch.setattr(sessions, "CHANGES", ({"id_mode": "none"}, {"d_model": 8}))


def test_all_models_are_scored_on_every_seed(small, tmp_path, capsys):
    main(["--sets", GENERATOR, "--seeds", "0", "1", "--output", str(tmp_path)])
    table = pl.read_csv(tmp_path / "sessions.csv")
    models = {"Popularity", "CategoryPopularity", "SequentialRules", "SequentialRules, last 5", "VSKNN", "STAN"}
    models |= {"M2TRec", "M2TRec, id-free", "M2TRec, launching", "M2TRec, the paper's form", "(the law)"}
    assert set(table["model"]) == models
    assert table.group_by("model").agg(pl.col("seed").n_unique())["seed"].to_list() == [2] * len(models)
    everything = table.filter((pl.col("bucket") == "all") & (pl.col("model") != "(the law)"))
    assert everything["recall@20"].is_between(0, 1).all()
    assert everything["n_targets"].n_unique() == 2  # a log a seed, the same targets for all
    out = capsys.readouterr().out
    assert "(the law)" in out
    assert "±" in out


def test_settings_are_chosen_without_test_clicks(small, tmp_path, capsys, monkeypatch):
    data, _ = open_set(GENERATOR, 0, None)
    untested = replace(data, clicks=data.part("train").with_columns(split=pl.lit("train")))
    monkeypatch.setattr(sessions, "open_set", lambda *_: (untested, {}))
    main(["--sets", GENERATOR, "--choose", "--share", "0.5", "--output", str(tmp_path)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(GENERATOR)]
    labels = [line.split("mrr")[0].removeprefix(GENERATOR).strip() for line in lines]
    assert labels[-2:] == ["M2TRec", "M2TRec {'id_mode': 'none'}"]  # a change that is none is left out
    assert len(lines) == 8


def test_curves_are_of_equal_steps(small, tmp_path, capsys):
    main(["--curves", "--seeds", "0", "--output", str(tmp_path)])
    table = pl.read_csv(tmp_path / "sessions_curves.csv")
    assert table.group_by("id_mode", "weight").len()["len"].to_list() == [1] * 4
    assert "equal steps" in capsys.readouterr().out


def test_the_spread_is_over_seeds(capsys):
    same = {"set": "s", "model": "m", "bucket": "all", "mrr@20": 0.1}
    report(pl.DataFrame([same | {"seed": seed, "recall@20": 0.1 * seed} for seed in (1, 3)]))
    assert "0.2000 ± 0.1414" in capsys.readouterr().out


def test_missing_data_is_said(tmp_path, capsys):
    main(["--sets", "diginetica", "--folder", str(tmp_path), "--output", str(tmp_path)])
    assert "skipped: diginetica" in capsys.readouterr().out
