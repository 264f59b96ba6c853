"""Training on files that need not fit in memory, alone and in two processes, and going on after a cut."""

import subprocess
import sys

import commands
import polars as pl
import pytest
from commands import TARGETS, TINY

import tabmtl
from tabmtl import SharedBottom
from tabmtl.pipelines.data import ClickColumns, TrainSource, open_shards
from tabmtl.scale import Shards
from tabmtl.training.table_loop import TableLoop

NAMES = ["weight", "hindfoot_length", "male"]


@pytest.fixture(scope="module")
def folder(rodents, tmp_path_factory):
    """Two files to train on, one to stop on, and one to score."""
    folder = tmp_path_factory.mktemp("shards")
    table = pl.read_parquet(rodents).drop("split")
    (folder / "train").mkdir()
    for n, rows in enumerate((table[:200], table[200:400])):
        rows.write_parquet(folder / "train" / f"{n}.parquet")
    table[400:500].write_parquet(folder / "valid.parquet")
    table[500:].write_csv(folder / "test.csv")
    return folder


@pytest.fixture(scope="module")
def shards(folder):
    return ["--shards", str(folder / "train" / "*.parquet"), *TARGETS, *TINY]


def test_a_fit_from_files_is_scored_saved_and_registered(shards, folder, capsys):
    store = commands.store(folder)
    parts = ["--valid-shards", folder / "valid.parquet", "--test-shards", folder / "test.csv"]
    roles = ["--column", "month=category", "--column", "year=ignore", "--cache", folder / "cache"]
    words = [*parts, *roles, "--register", "rodents", "--output", folder / "model"]
    assert commands.run("train", *shards, *words, store=store) == 0
    printed = capsys.readouterr().out
    sizes = "400 rows to train on, 100 to stop on, 100 to score, in 2 files to train on; 3 features, 3 targets"
    assert f"train: {sizes}" in printed
    assert "Registered as version 1 of the model rodents, alias champion." in printed
    model = tabmtl.load(folder / "model")
    columns = {"year": "ignore", "month": "category"}
    own = SharedBottom(epochs=2, hidden=[8], n_jobs=1, random_state=0, tasks={"male": "binary"}, columns=columns)
    own.fit(Shards(folder / "train" / "*.parquet"), NAMES, X_val=Shards(folder / "valid.parquet"), y_val=NAMES)
    test = pl.read_csv(folder / "test.csv")
    assert model.predict(test.drop(NAMES)).equals(own.predict(test.drop(NAMES)))
    scores = own.score_tasks(test.drop(NAMES), test.select(NAMES))
    for task, score in scores.items():
        assert any(line.split()[:1] == [task] and f"{score:.4f}" in line for line in printed.splitlines()), task
    source = TrainSource(shards=[shards[1]], test_shards=[str(folder / "test.csv")], target=NAMES)
    table = open_shards(source, ClickColumns(), "SharedBottom").table(own, "test")
    assert dict(table.select("task", "score").iter_rows()) == pytest.approx(scores)
    run = commands.Registry(store).runs()["SharedBottom on train"]
    assert {"val/male/roc_auc", "test/weight/r2"} <= run.data.metrics.keys()
    assert sorted(path.name for path in (folder / "cache").iterdir()) == ["train", "val"]


def test_without_other_files_no_rows_are_scored(shards, capsys):
    assert commands.run("train", *shards, "--group-column", "month", "--no-mlflow") == 0
    assert commands.run("train", *shards, "--time-column", "year", "--no-mlflow") == 0
    assert "No rows are left to score: name files by --test-shards." in capsys.readouterr().out


@pytest.mark.all_faces
def test_a_gain_on_files_has_no_intervals(shards, folder, capsys):
    words = ["--test-shards", folder / "test.csv", "--baseline", "--no-mlflow"]
    assert commands.run("train", *shards, *words) == 0
    _, table, said = capsys.readouterr().out.rpartition("Gain on the test rows over")[2].strip().split("\n\n")
    head, *rows = table.splitlines()
    assert head.split() == ["task", "score", "reference", "difference"] and "interval" not in said
    for row in rows[:3]:
        score, reference, difference = map(float, row.split()[1:])
        assert difference == pytest.approx(score - reference, abs=2e-4)


def test_a_fit_that_was_cut_off_goes_on(shards, tmp_path, capsys, monkeypatch, mistake):
    run_epoch = TableLoop.run_epoch
    words = [*shards, "--checkpoint", tmp_path / "checkpoints", "--no-mlflow"]
    with monkeypatch.context() as patch:
        patch.setattr(TableLoop, "run_epoch", lambda self, n: run_epoch(self, n) if n < 1 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            commands.run("train", *words)
    assert "the parameter patience was 6 and is 2" in mistake("train", *words, "--set", "patience=2")
    assert commands.run("train", *words, "-v") == 0
    assert "goes on after epoch 1 of 2, from a checkpoint" in capsys.readouterr().out
    assert not list((tmp_path / "checkpoints").iterdir())


def test_several_processes_share_files_only(mistake, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = mistake("train", "--data", "portal", "--no-mlflow")
    assert "several processes share the rows of --shards; --data is for one" in line


@pytest.mark.all_faces  # starts two processes
def test_two_processes_share_the_files_and_one_speaks(shards, folder, tmp_path):
    table = pl.concat([pl.read_parquet(folder / "train" / "0.parquet")] * 11)
    table.write_parquet(tmp_path / "rows.parquet")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["-m", "tabmtl", "train", "--shards", str(tmp_path / "rows.parquet"), *shards[2:], "--no-mlflow", "-v"]
    words += ["--output", str(tmp_path / "model"), "--test-shards", str(folder / "test.csv")]
    ended = subprocess.run([*launcher, *words], capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("epoch 2/2") == ended.stdout.count("Scores of the test rows") == 1
    assert tabmtl.load(tmp_path / "model").history_.height == 2
