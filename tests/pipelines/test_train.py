"""One fit from the command line: what it prints, logs, registers and saves."""

import re
from types import SimpleNamespace

import commands
import mlflow
import numpy as np
import polars as pl
import pytest
from commands import TINY

import tabmtl
import tabmtl.serving.mlflow
from tabmtl.pipelines.data import ClickColumns, TrainSource, tables
from tabmtl.pipelines.model_choice import ModelChoice
from tabmtl.pipelines.tracking import Tracking
from tabmtl.pipelines.train import train

NAMES = ["weight", "hindfoot_length", "male"]


@pytest.fixture(scope="module")
def done(rodents, table, tmp_path_factory):
    """A fit with all that there is: its folder, its store, and what it printed."""
    folder = tmp_path_factory.mktemp("train")
    store, lines = commands.store(folder), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tabmtl.models.independent.choice.MOST_FOLDS", 3)
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        words = ["--baseline", "--register", "rodents", "--output", folder / "model"]
        assert commands.run("train", *table, *TINY, *words, store=store) == 0
    return SimpleNamespace(folder=folder, store=store, lines="\n".join(lines).splitlines())


def registered(name, store):
    """A model as the registry of a store has it."""
    mlflow.set_tracking_uri(store)
    try:
        return tabmtl.serving.mlflow.load_model(f"models:/{name}")
    finally:
        mlflow.set_tracking_uri(None)


def test_the_scores_of_the_test_rows_are_printed(done, rodents):
    test = pl.read_parquet(rodents).filter(pl.col("split") == "test")
    scores = tabmtl.load(done.folder / "model").score_tasks(test.drop("split", *NAMES), test[NAMES])
    for task, score in scores.items():
        assert any(line.split()[:1] == [task] and f"{score:.4f}" in line for line in done.lines), task


def test_a_gain_has_intervals_that_are_paired(done):
    start = next(i for i, line in enumerate(done.lines) if line.startswith("Gain on the test rows over"))
    gains = "\n".join(done.lines[start:])
    assert "Δm = " in gains
    assert "paired row by row and joint over 3 tasks; mean difference " in gains and " over 3 of 3 tasks" in gains
    head, *rows = gains.split("\n\n")[1].splitlines()
    assert head.split() == ["task", "score", "reference", "difference", "low", "high"]
    for line in rows[:3]:
        score, reference, difference, low, high = map(float, line.split()[1:])
        assert difference == pytest.approx(score - reference, abs=2e-4)
        assert low < difference < high


def test_the_run_holds_epochs_scores_and_gain(done):
    run = commands.Registry(done.store).runs()["SharedBottom on rodents"]
    assert (run.info.status, run.data.params["epochs"]) == ("FINISHED", "2")
    assert {"val/male/roc_auc", "final/weight/r2", "test/weight/r2", "gain/male"} <= run.data.metrics.keys()
    history = commands.Registry(done.store).client.get_metric_history(run.info.run_id, "val/male/roc_auc")
    assert [point.step for point in history] == [0, 1]


def test_files_lie_beside_the_database_and_that_is_said(done):
    place, printed = done.folder / "mlruns" / "tabmtl", "\n".join(done.lines)
    assert place.as_uri() in printed
    assert any(place.rglob("MLmodel"))
    assert f"--backend-store-uri {done.store} --host 127.0.0.1" in printed


def test_the_first_version_is_champion_and_the_next_challenger(done, table, rodents, capsys):
    registry = commands.Registry(done.store)
    assert registry.aliases("rodents") == {"champion": "1"}
    assert commands.run("train", *table, *TINY, "--seed", 1, "--register", "rodents", store=done.store) == 0
    assert registry.aliases("rodents") == {"champion": "1", "challenger": "2"}
    assert f"serve promote rodents --data {rodents} --split-column split" in capsys.readouterr().out


def test_the_registered_model_is_the_saved_one(done, rodents):
    X = pl.read_parquet(rodents).drop("split", *NAMES)
    assert registered("rodents/1", done.store).predict(X).equals(tabmtl.load(done.folder / "model").predict(X))


def test_without_mlflow_nothing_is_left(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commands.run("train", *table, *TINY, "--no-mlflow") == 0
    assert list(tmp_path.iterdir()) == []


def test_without_a_name_a_model_mixes_each_task_alone_and_all_together(rodents):
    source = TrainSource(data=str(rodents), split_column="split", target=["weight=regression"])
    choice = ModelChoice(set=["n_folds=2"], seed=3)
    model = train(source, ClickColumns(), choice, Tracking(no_mlflow=True))
    assert {*model.leaderboard_["model"]} == {"IndependentTasks", "SharedTrees", "MultiTaskEnsemble"}
    assert (model.models, model.random_state, model.n_folds) == ("fast", 3, 2)


def test_a_set_of_models_is_named_by_the_command(rodents):
    source = TrainSource(data=str(rodents), split_column="split", target=["weight=regression"])
    choice = ModelChoice(model="MultiTaskEnsemble", set=["models=fast", "n_folds=2"])
    assert train(source, ClickColumns(), choice, Tracking(no_mlflow=True)).models == "fast"
    with pytest.raises(ValueError, match=r"models must be one of .*'quick'"):
        train(source, ClickColumns(), ModelChoice(model="MultiTaskEnsemble", set=["models=quick"]), Tracking())


def test_the_function_is_called_from_python_too(rodents):
    source = TrainSource(data=str(rodents), split_column="split", target=["weight=regression"])
    choice = ModelChoice(model="RMTGB", set=["n_estimators_task=5", "n_estimators_shared=5"], seed=3)
    model = train(source, ClickColumns(), choice, Tracking(no_mlflow=True))
    assert [task.name for task in model.tasks_] == ["weight"]
    assert (model.random_state, model.n_estimators_task) == (3, 5)


@pytest.mark.all_faces
def test_a_model_goes_on_from_a_folder_and_from_the_registry(done, table, rodents, tmp_path, capsys):
    height = len(tabmtl.load(done.folder / "model").history_)
    words = ["train", "--data", rodents, "--split-column", "split", "--set", "learning_rate=0.001"]
    for model in (done.folder / "model", "models:/rodents@champion"):
        named = ["--continue", model, "--output", tmp_path / "model", "--register", "again"]
        assert commands.run(*words, *named, store=done.store) == 0
        assert len(tabmtl.load(tmp_path / "model").history_) == height + 1
    said = capsys.readouterr().out
    assert "rows to stop on too" in said and "Registered as version 2 of the model again" in said
    assert tabmtl.load(tmp_path / "model").get_params()["learning_rate"] == 0.001
    assert (
        commands.run("serve", "promote", "again", "--data", rodents, "--split-column", "split", store=done.store) == 2
    )
    assert "because it went on by them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (["--continue", "nowhere"], "--continue: there is no folder 'nowhere'"),
        (["--continue", "nowhere", "--baseline"], "--baseline has no effect with --continue"),
        (["--continue", "nowhere", "--model", "MMoE"], "--model has no effect with --continue"),
        (["--continue", "nowhere", "--target", "weight"], "--target has no effect with --continue"),
        (["--continue", "nowhere", "--no-mlflow"], "lose the model .* folder by --output, or leave --no-mlflow out"),
    ],
)
def test_what_does_not_go_with_continue(words, mistake, rodents, capsys):
    assert commands.run("train", "--data", rodents, *words) == 2
    assert re.search(mistake, capsys.readouterr().err)


def test_what_goes_on_is_kept_where_mlflow_is_missing(rodents, capsys, monkeypatch):
    monkeypatch.setattr("tabmtl.pipelines.tracking.find_spec", lambda name: None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert commands.run("train", "--data", rodents, "--continue", "nowhere") == 2
    assert "name a folder by --output, or pip install 'tabmtl[mlflow]'" in capsys.readouterr().err


@pytest.mark.all_faces
def test_an_ensemble_is_compared_registered_and_saved(table, store, rodents, tmp_path, capsys):
    settings = ["--model", "MultiTaskEnsemble", "--set", "time_limit=1e-3"]  # which leaves time for the reference only
    words = ["--baseline", "--register", "ensemble", "--output", tmp_path / "ensemble"]
    assert commands.run("train", *table, *settings, *words, store=store) == 0
    run = commands.Registry(store).runs()["MultiTaskEnsemble on rodents"]
    assert {"test/weight/r2", "gain/male"} <= run.data.metrics.keys()
    assert not [name for name in run.data.metrics if name.startswith("final/")]  # which would be of rows it has learned
    assert run.data.params["time_limit"] == "0.001"
    X = pl.read_parquet(rodents).drop("split", *NAMES)
    saved = tabmtl.load(tmp_path / "ensemble")
    assert registered("ensemble@champion", store).predict(X).equals(saved.predict(X))
    printed = capsys.readouterr().out
    assert "Gain on the test rows over IndependentTasks, which learns each task alone:" in printed
    n_val = (pl.read_parquet(rodents)["split"] == "val").sum()
    assert f"; it chose by folds of its own, so it has learned the {n_val} rows to stop on too\n" in printed


def test_a_long_table_is_learned(tmp_path):
    rng = np.random.default_rng(0)
    school = pl.Series("school", ["east", "west"]).gather(rng.integers(0, 2, 200))
    X = pl.DataFrame({"x": rng.normal(size=200), "school": school})
    X.with_columns(grade=2 * X["x"]).write_csv(tmp_path / "long.csv")
    source = TrainSource(data=str(tmp_path / "long.csv"), target=["grade"], task_column="school")
    choice = ModelChoice(model="SharedBottom", set=["epochs=1"])
    model = train(source, ClickColumns(), choice, Tracking(no_mlflow=True))
    assert [task.name for task in model.tasks_] == ["east", "west"]


def test_a_recommender_learns_from_a_click_log(tmp_path, store, capsys):
    clicks, items = commands.small_log(tmp_path)
    settings = ["--set", "epochs=1", "--set", "d_model=16", "--set", 'categories=["category"]']
    words = ["--data", clicks, "--items", items, "--model", "M2TRec", *settings, "--register", "shop"]
    assert commands.run("train", *words, store=store) == 0
    run = commands.Registry(store).runs()["M2TRec on clicks"]
    assert {"val/mrr_at_20", "test/mrr_at_20", "test/recall_at_20"} <= run.data.metrics.keys()
    assert "in order of time; 30 items" in capsys.readouterr().out
    again = ["--data", clicks, "--items", items, "--continue", "models:/shop@champion", "--register", "shop"]
    assert commands.run("train", *again, store=store) == 0
    said = capsys.readouterr().out
    assert "clicks to stop on too" in said and "Registered as version 2 of the model shop, alias challenger" in said


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "status", "code"), [(KeyboardInterrupt(), "KILLED", 130), (OSError("disk full"), "FAILED", 2)]
)
def test_a_run_ends_as_what_happened(error, status, code, table, store, monkeypatch, capsys):
    monkeypatch.setattr(tables.TableRows, "fit", failing(error))
    assert commands.run("train", *table, *TINY, store=store) == code
    assert capsys.readouterr().err in ("tabmtl train: interrupted\n", "tabmtl train: error: disk full\n")
    (run,) = commands.Registry(store).runs().values()
    assert run.info.status == status


def test_the_model_is_saved_before_it_is_logged(table, store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tables.TableRows, "log_fitted", failing(OSError("disk full")))
    assert commands.run("train", *table, *TINY, "--output", tmp_path / "model", store=store) == 2
    captured = capsys.readouterr()
    assert captured.err == "tabmtl train: error: disk full\n"
    assert f"Saved in {tmp_path / 'model'}" in captured.out
    assert tabmtl.load(tmp_path / "model").tasks_


def test_without_mlflow_installed_a_model_is_trained_and_saved(table, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tabmtl.pipelines.tracking.find_spec", lambda name: None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert commands.run("train", *table, *TINY, "--output", tmp_path / "model") == 0
    assert "\nNothing is logged: MLflow is not installed (pip install 'tabmtl[mlflow]').\n" in capsys.readouterr().out
    assert tabmtl.load(tmp_path / "model").tasks_


@pytest.mark.parametrize(
    "words", [["--register", "a"], ["--tracking-uri", "sqlite:///m.db"], ["--experiment", "e"], []]
)
def test_without_mlflow_installed_its_options_are_refused(words, table, mistake, monkeypatch):
    monkeypatch.setattr("tabmtl.pipelines.tracking.find_spec", lambda name: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "" if words else "sqlite:///m.db")
    assert "pip install 'tabmtl[mlflow]'; to train without it" in mistake("train", *table, *TINY, *words)
