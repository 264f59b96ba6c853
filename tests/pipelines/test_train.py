"""One fit from the command line: what it prints, logs, registers and saves, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import commands
import mlflow
import numpy as np
import polars as pl
import pytest
from commands import TARGETS, TINY

import tabmtl
import tabmtl.mlflow
from tabmtl.pipelines.data import ClickColumns, TrainSource, tables
from tabmtl.pipelines.model_choice import ModelChoice
from tabmtl.pipelines.tracking import Tracking
from tabmtl.pipelines.train import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    commands.small_table(folder)
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> list[str]:
    """The options that name the small table."""
    return ["--data", str(folder / "rodents.parquet"), "--split-column", "split", *TARGETS]


@pytest.fixture(scope="module")
def store(folder: Path) -> str:
    return commands.store(folder)


@pytest.fixture(scope="module")
def printed(folder: Path, table: list[str], store: str) -> str:
    """A fit with all that there is, and what it printed."""
    capture = pytest.MonkeyPatch()
    lines: list[str] = []
    with capture.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        words = ["--baseline", "--register", "rodents", "--output", folder / "model"]
        assert commands.run("train", *table, *TINY, *words, store=store) == 0
    return "\n".join(lines)


def test_the_scores_of_the_test_rows_are_printed(printed: str, folder: Path) -> None:
    test = pl.read_parquet(folder / "rodents.parquet").filter(pl.col("split") == "test")
    X, y = test.drop("split", "weight", "hindfoot_length", "male"), test["weight", "hindfoot_length", "male"]
    scores = tabmtl.load(folder / "model").score_tasks(X, y)
    for task, score in scores.items():
        assert any(line.split()[:1] == [task] and f"{score:.4f}" in line for line in printed.splitlines()), task
    assert "Gain on the test rows over one LightGBM per task" in printed
    assert "Δm = " in printed


def test_a_gain_has_intervals_that_are_paired(printed: str, folder: Path) -> None:
    lines = printed.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Gain on the test rows"))
    gains = "\n".join(lines[start:]).split("\n\n")[1].splitlines()
    assert gains[0].split() == ["task", "score", "reference", "difference", "low", "high"]
    for line in gains[1:4]:
        score, reference, difference, low, high = map(float, line.split()[1:])
        assert difference == pytest.approx(score - reference, abs=2e-4)
        assert low < difference < high
    assert "paired row by row and joint over 3 tasks; mean difference " in printed and " over 3 of 3 tasks" in printed


def test_the_run_holds_epochs_scores_and_gain(printed: str, store: str) -> None:
    run = commands.Registry(store).runs()["SharedBottom on rodents"]
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == "2"
    assert {"val/male/roc_auc", "final/weight/r2", "test/weight/r2", "gain/male"} <= run.data.metrics.keys()
    history = commands.Registry(store).client.get_metric_history(run.info.run_id, "val/male/roc_auc")
    assert [point.step for point in history] == [0, 1]


def test_files_lie_beside_the_database_and_that_is_said(printed: str, folder: Path, store: str) -> None:
    place = folder / "mlruns" / "tabmtl"
    assert place.as_uri() in printed
    assert any(place.rglob("MLmodel"))
    assert f"--backend-store-uri {store} --host 127.0.0.1" in printed


def test_the_first_version_is_champion_and_the_next_challenger(
    printed: str, table: list[str], store: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = commands.Registry(store)
    assert registry.aliases("rodents") == {"champion": "1"}
    assert commands.run("train", *table, *TINY, "--seed", 1, "--register", "rodents", store=store) == 0
    assert registry.aliases("rodents") == {"champion": "1", "challenger": "2"}
    said = capsys.readouterr().out
    assert f"serve promote rodents --data {folder / 'rodents.parquet'} --split-column split" in said


def test_the_registered_model_is_the_saved_one(printed: str, folder: Path, store: str) -> None:
    X = pl.read_parquet(folder / "rodents.parquet").drop("split", "weight", "hindfoot_length", "male")
    mlflow.set_tracking_uri(store)
    try:
        model = tabmtl.mlflow.load_model("models:/rodents/1")
    finally:
        mlflow.set_tracking_uri(None)
    assert model.predict(X).equals(tabmtl.load(folder / "model").predict(X))


def test_without_mlflow_nothing_is_left(table: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert commands.run("train", *table, *TINY, "--no-mlflow") == 0
    assert list(tmp_path.iterdir()) == []


def test_the_function_is_called_from_python_too(folder: Path) -> None:
    source = TrainSource(data=str(folder / "rodents.parquet"), split_column="split", target=["weight=regression"])
    choice = ModelChoice(model="RMTGB", set=["n_estimators_task=5", "n_estimators_shared=5"], seed=3)
    model = train(source, ClickColumns(), choice, Tracking(no_mlflow=True))
    assert [task.name for task in model.tasks_] == ["weight"]
    assert model.random_state == 3
    assert model.n_estimators_task == 5


def test_an_ensemble_is_compared_registered_and_saved(
    table: list[str], store: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--model", "MultiTaskEnsemble", "--set", "time_limit=1e-3"]  # which leaves time for the reference only
    words = ["--baseline", "--register", "ensemble", "--output", folder / "ensemble"]
    assert commands.run("train", *table, *settings, *words, store=store) == 0
    run = commands.Registry(store).runs()["MultiTaskEnsemble on rodents"]
    assert {"final/male/roc_auc", "test/weight/r2", "gain/male"} <= run.data.metrics.keys()
    assert run.data.params["time_limit"] == "0.001"
    mlflow.set_tracking_uri(store)
    try:
        model = tabmtl.mlflow.load_model("models:/ensemble@champion")
    finally:
        mlflow.set_tracking_uri(None)
    X = pl.read_parquet(folder / "rodents.parquet").drop("split", "weight", "hindfoot_length", "male")
    assert model.predict(X).equals(tabmtl.load(folder / "ensemble").predict(X))
    assert "Gain on the test rows over one LightGBM per task" in capsys.readouterr().out


def test_a_long_table_is_learned(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    school = pl.Series("school", ["east", "west"]).gather(rng.integers(0, 2, 200))
    X = pl.DataFrame({"x": rng.normal(size=200), "school": school})
    X.with_columns(grade=2 * X["x"]).write_csv(tmp_path / "long.csv")
    source = TrainSource(data=str(tmp_path / "long.csv"), target=["grade"], task_column="school")
    choice = ModelChoice(model="SharedBottom", set=["epochs=1"])
    model = train(source, ClickColumns(), choice, Tracking(no_mlflow=True))
    assert [task.name for task in model.tasks_] == ["east", "west"]


def test_a_recommender_learns_from_a_click_log(tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    clicks, items = commands.small_log(tmp_path)
    settings = ["--set", "epochs=1", "--set", "d_model=16", "--set", 'categories=["category"]']
    words = ["--data", clicks, "--items", items, "--model", "M2TRec", *settings, "--register", "shop"]
    assert commands.run("train", *words, store=store) == 0
    run = commands.Registry(store).runs()["M2TRec on clicks"]
    assert {"val/mrr_at_20", "test/mrr_at_20", "test/recall_at_20"} <= run.data.metrics.keys()
    assert "in order of time; 30 items" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "code"), [(KeyboardInterrupt(), "KILLED", 130), (OSError("disk full"), "FAILED", 2)]
)
def test_a_run_ends_as_what_happened(
    error: BaseException,
    status: str,
    code: int,
    table: list[str],
    store: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(tables.TableRows, "fit", fail)
    words = ["--experiment", status]
    assert commands.run("train", *table, *TINY, *words, store=store) == code
    assert capsys.readouterr().err in ("tabmtl train: interrupted\n", "tabmtl train: error: disk full\n")
    (run,) = commands.Registry(store).runs(status).values()
    assert run.info.status == status


def test_the_model_is_saved_before_it_is_logged(
    table: list[str], store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(tables.TableRows, "log_fitted", fail)
    assert commands.run("train", *table, *TINY, "--output", tmp_path / "model", store=store) == 2
    captured = capsys.readouterr()
    assert captured.err == "tabmtl train: error: disk full\n"
    assert f"Saved in {tmp_path / 'model'}" in captured.out
    assert tabmtl.load(tmp_path / "model").tasks_


MISTAKES = {
    "unknown set": (["--data", "portl"], "near is portal"),
    "unknown model": (["--data", "portal", "--model", "MMoo"], "near is MMoE"),
    "unknown parameter": (["--data", "portal", "--set", "epoch=1"], "near is epochs"),
    "parameter of another option": (
        ["--data", "portal", "--set", "random_state=1"],
        "use --seed instead of --set random_state",
    ),
    "parameter that holds code": (["--data", "portal", "--set", "on_epoch=1"], "no parameter 'on_epoch'"),
    "parameter out of range": (["--data", "portal", "--set", "epochs=0"], "epochs must be at least 1, got 0"),
    "parameter of another type": (["--data", "portal", "--set", "epochs=many"], "got 'many'"),
    "setting without value": (["--data", "portal", "--set", "epochs"], "takes name=value"),
    "setting twice": (["--data", "portal", "--set", "epochs=1", "--set", "epochs=2"], "'epochs' twice"),
    "seed out of range": (["--data", "portal", "--seed", "-1"], "--seed must be"),
    "a table for a recommender": (["--data", "portal", "--model", "VSKNN"], "portal is a table"),
    "a log for a table model": (["--data", "diginetica"], "diginetica is a click log"),
    "no data folder": (["--data", "star"], "TABMTL_DATA"),
    "output of another kind": (["--data", "portal", "--output", "thesis"], "choose another folder"),
    "output in a file": (
        ["--data", "portal", "--output", "notes.txt/x"],
        "--output: cannot write to notes.txt/x",
    ),
    "files of MLflow in a file": (
        ["--data", "portal", "--tracking-uri", "sqlite:///full/mlflow.db"],
        "cannot write",
    ),
    "threads": (["--data", "portal", "--model", "IndependentTasks", "--set", "n_jobs=0"], "n_jobs must be None or"),
    "a model in a parameter": (
        ["--data", "portal", "--model", "IndependentTasks", "--set", "classifier=x"],
        "no parameter 'classifier' to set",
    ),
    "models in a parameter": (
        ["--data", "portal", "--model", "MultiTaskEnsemble", "--set", "models=[]"],
        "no parameter 'models' to set: known are drop, n_folds, n_jobs, n_processes, refit, time_limit",
    ),
    "baseline of itself": (["--data", "portal", "--model", "IndependentTasks", "--baseline"], "already"),
    "store is no database": (["--data", "portal", "--tracking-uri", "sqlite:///notes.txt"], "cannot open"),
    "store in no folder": (["--data", "portal", "--tracking-uri", "sqlite:///no/mlflow.db"], "unable to open database"),
    "nobody answers": (["--data", "portal", "--tracking-uri", "http://127.0.0.1:9"], "cannot open http://127.0.0.1:9"),
    "unknown scheme": (
        ["--data", "portal", "--tracking-uri", "ftp://x"],
        "open ftp://x (unknown kind of address)",
    ),
    "bad model name": (["--data", "portal", "--register", "a/b"], "'a/b'"),
    "register nowhere": (["--data", "portal", "--register", "a", "--no-mlflow"], "--register needs MLflow"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line_and_nothing_is_trained(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TABMTL_DATA", raising=False)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "draft.txt").write_text("not to be overwritten")
    (tmp_path / "notes.txt").write_text("no database" * 100)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mlruns").write_text("no folder")
    commands.store(tmp_path / "full")
    monkeypatch.setattr(tables.TableRows, "fit", lambda *_: pytest.fail("trained"))
    assert commands.run("train", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("tabmtl train: error: ")
    assert error.count("\n") == 1


def test_without_mlflow_installed_the_cure_is_said(
    table: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tabmtl.pipelines.tracking.find_spec", lambda name: None)
    assert commands.run("train", *table, *TINY) == 2
    assert "pip install 'tabmtl[mlflow]', or --no-mlflow" in capsys.readouterr().err
