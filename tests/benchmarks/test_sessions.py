"""The benchmark of recommenders runs on a small drawn log, and reports what it measured."""

from dataclasses import replace

import polars as pl
import pytest

from benchmarks import sessions
from benchmarks.sessions import GENERATOR, main, open_set
from tabmtl.sessions import VSKNN
from tabmtl.synth import make_sessions
from tabmtl.tuning import count_ended, open_study


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(sessions, "make_sessions", lambda n, m, **options: make_sessions(300, 60, **options))
    tiny = {"epochs": 1, "d_model": 8, "device": "cpu", "n_jobs": 1}
    make = sessions.m2trec
    monkeypatch.setattr(sessions, "m2trec", lambda data, seed, **settings: make(data, seed, **tiny | settings))
    monkeypatch.setattr(sessions, "CHANGES", ({"id_mode": "none"}, {"d_model": 8}))


@pytest.mark.all_faces  # ten seconds
def test_all_models_are_scored_on_every_seed(small, tmp_path, capsys):
    main(["--sets", GENERATOR, "--seeds", "0", "1", "--trials", "0", "--output", str(tmp_path)])
    table = pl.read_csv(tmp_path / "sessions.csv")
    models = {"Popularity", "CategoryPopularity", "SequentialRules", "VSKNN", "STAN"}
    models |= {"M2TRec", "M2TRec, the paper's form", "M2TRec, without ids", "M2TRec, new items added", "(the law)"}
    models |= {"Blend", "Blend, without VSKNN"}
    assert set(table["model"]) == models
    assert table.group_by("model").agg(pl.col("seed").n_unique())["seed"].to_list() == [2] * len(models)
    everything = table.filter((pl.col("bucket") == "all") & (pl.col("model") != "(the law)"))
    assert everything["recall@20"].is_between(0, 1).all()
    assert everything["n_targets"].n_unique() == 2  # a log a seed, the same targets for all
    own = everything.filter(model="VSKNN")
    assert own["mrr@20 difference"].to_list() == [0, 0]
    other = everything.filter(model="STAN").sort("seed")
    expected = other["mrr@20"] - own.sort("seed")["mrr@20"]
    assert other["mrr@20 difference"].to_list() == pytest.approx(expected.to_list())
    assert (other["mrr@20 standard_error"] > 0).all()
    out = capsys.readouterr().out
    assert "(the law)" in out
    assert "±" in out
    assert "difference to VSKNN" in out


@pytest.mark.all_faces
def test_every_model_is_tuned_by_equally_many_trials_which_a_rerun_reads(small, tmp_path, monkeypatch):
    arguments = ["--sets", GENERATOR, "--seeds", "0", "--trials", "2", "--output", str(tmp_path), "--models"]
    scores = pl.exclude("cpu_seconds", "^.* standard_error$")  # without an error where nothing differs
    main([*arguments, *sessions.TUNABLE])
    first = pl.read_csv(tmp_path / "sessions.csv").select(scores)
    assert {f"{model}, best of 2" for model in sessions.TUNABLE} < set(first["model"])
    for model in sessions.TUNABLE:
        study = open_study(f"{GENERATOR} 0: {model}", storage=tmp_path / sessions.STUDIES)
        assert count_ended(study) == 2
        if model != "M2TRec":  # whose width here is not in its search space
            defaults = getattr(sessions, model)().get_params()
            assert study.trials[0].params.items() <= defaults.items()
    monkeypatch.setattr(VSKNN, "score", lambda *_: pytest.fail("a trial ran again"))
    main([*arguments, "VSKNN"])
    again = pl.read_csv(tmp_path / "sessions.csv").select(scores)
    tuned = pl.col("model") == "VSKNN, best of 2"
    assert again.filter(tuned).equals(first.filter(tuned))


def test_trials_are_judged_by_a_sample_of_the_newest_train_sessions(small, tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "MOST_JUDGES", 7)
    judged, make = [], sessions.session_objective

    def spied(model, older, *, clicks_val, items):
        judged.append((older, clicks_val))
        return make(model, older, clicks_val=clicks_val, items=items)

    monkeypatch.setattr(sessions, "session_objective", spied)
    main(["--sets", GENERATOR, "--seeds", "0", "--trials", "1", "--models", "VSKNN", "--output", str(tmp_path)])
    [(older, newer)] = judged
    test = open_set(GENERATOR, 0, None)[0].part("test")
    assert older["time"].max() <= newer.group_by("session_id").agg(pl.col("time").max())["time"].min()
    assert 4 <= newer["session_id"].n_unique() <= 7
    assert not set(test["session_id"]) & (set(older["session_id"]) | set(newer["session_id"]))


def test_settings_are_chosen_without_test_clicks(small, tmp_path, capsys, monkeypatch):
    data, _ = open_set(GENERATOR, 0, None)
    untested = replace(data, clicks=data.part("train").with_columns(split=pl.lit("train")))
    monkeypatch.setattr(sessions, "open_set", lambda *_: (untested, {}))
    main(["--sets", GENERATOR, "--choose", "--share", "0.5", "--output", str(tmp_path)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(GENERATOR)]
    labels = [line.split("mrr")[0].removeprefix(GENERATOR).strip() for line in lines]
    assert labels[-2:] == ["M2TRec", "M2TRec {'id_mode': 'none'}"]  # a change that is none is left out
    assert len(lines) == 7


def test_curves_are_of_equal_steps(small, tmp_path, capsys):
    main(["--curves", "--seeds", "0", "--output", str(tmp_path)])
    table = pl.read_csv(tmp_path / "sessions_curves.csv")
    assert table.group_by("id_mode", "weight").len()["len"].to_list() == [1] * 4
    assert "equal steps" in capsys.readouterr().out
