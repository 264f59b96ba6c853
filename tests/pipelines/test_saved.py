"""Predictions and scores by saved models: the answers of the model, in whole files, and errors that name the file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import commands
import numpy as np
import polars as pl
import pytest
from compared import table
from polars.testing import assert_frame_equal

import tabmtl
import tabmtl.mlflow
from tabmtl import SharedBottom
from tabmtl.pipelines import saved
from tabmtl.pipelines.tracking import Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of a mixed table, and new rows, which have an id."""
    folder = tmp_path_factory.mktemp("saved")
    X, y = table()
    X = X.with_columns(shop=pl.Series(np.resize(["007", "12"], len(X))))
    y = y.with_columns(code=pl.Series(np.where(X["a"] > 0, "1", "02")))  # text that a CSV file shows as numbers
    SharedBottom(epochs=1, hidden=(8,), n_jobs=1, random_state=0).fit(X[:240], y[:240]).save(folder / "model")
    rows = X[240:].hstack(y[240:]).with_row_index("id")
    rows.write_csv(folder / "new.csv")
    rows.write_parquet(folder / "new.parquet")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return tabmtl.load(folder / "model")


def read(file: Path, like: pl.DataFrame) -> pl.DataFrame:
    """Read answers; those of a CSV file by the types of others."""
    return pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file, schema=like.schema)


@pytest.mark.parametrize("data", ["new.csv", "new.parquet"])
@pytest.mark.parametrize("output", ["answers.csv", "answers.parquet"])
def test_a_file_is_answered_as_a_frame_is(
    data: str, output: str, folder: Path, model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = pl.read_parquet(folder / "new.parquet")
    words = ["--model", folder / "model", "--data", folder / data, "--output", tmp_path / output]
    assert commands.run("predict", *words) == 0
    assert f"Predicted late, delay <min>, kind, code of 80 rows: {tmp_path / output}" in capsys.readouterr().out
    expected = model.predict(new.select(model.feature_names_in_.tolist()))
    assert_frame_equal(read(tmp_path / output, expected), expected)
    assert [file.name for file in tmp_path.iterdir()] == [output]


def test_probabilities_stand_beside_the_answers(folder: Path, model: Any, tmp_path: Path) -> None:
    words = ["--model", folder / "model", "--data", folder / "new.parquet", "--output", tmp_path / "answers.parquet"]
    assert commands.run("predict", *words, "--probabilities", "--keep", "id") == 0
    found = pl.read_parquet(tmp_path / "answers.parquet")
    classes = ["late=no", "late=yes", "kind=u", "kind=v", "kind=w", "code=02", "code=1"]
    assert found.columns == ["id", "late", "delay <min>", "kind", "code", *classes]
    X = pl.read_parquet(folder / "new.parquet").select(model.feature_names_in_.tolist())
    assert np.array_equal(found.select("late=no", "late=yes"), model.predict_proba(X)["late"])


def test_rows_come_from_the_standard_input(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--model", folder / "model", "--output", tmp_path / "answers.csv"]
    content = (folder / "new.csv").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert commands.run("predict", *words, "--data", "-") == 0
    piped = (tmp_path / "answers.csv").read_bytes()
    assert commands.run("predict", *words, "--data", folder / "new.csv") == 0
    assert piped == (tmp_path / "answers.csv").read_bytes()


def test_a_closed_standard_input_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    words = ["--model", folder / "model", "--output", tmp_path / "answers.csv"]
    assert commands.run("predict", *words, "--data", "-") == 2
    assert "it is closed; expected CSV with a line of names" in capsys.readouterr().err


def test_a_score_has_its_interval(folder: Path, model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    new = pl.read_parquet(folder / "new.parquet")
    expected = model.score_intervals(
        new.select(model.feature_names_in_.tolist()), new.select("late", "delay <min>", "kind", "code")
    )
    for data in ("new.csv", "new.parquet"):
        assert commands.run("score", "--model", folder / "model", "--data", folder / data, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert_frame_equal(pl.DataFrame(found["tasks"], expected.schema), expected)
        assert found["mean_score"] == pytest.approx(expected["score"].mean())
    assert commands.run("score", "--model", folder / "model", "--data", folder / "new.csv") == 0
    printed = capsys.readouterr().out
    assert printed.split()[:7] == ["task", "metric", "score", "error", "low", "high", "labelled"]
    assert f"Mean score: {expected['score'].mean():.4f}" in printed


def test_a_target_that_the_file_lacks_has_no_score(
    folder: Path, model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = pl.read_parquet(folder / "new.parquet")
    new.rename({"kind": "kinds"}).write_csv(tmp_path / "some.csv")
    assert commands.run("score", "--model", folder / "model", "--data", tmp_path / "some.csv", "--json") == 0
    printed = capsys.readouterr()
    found = {row["task"]: row["score"] for row in json.loads(printed.out)["tasks"]}
    assert list(found) == ["late", "delay <min>", "kind", "code"] and found["kind"] is None
    X = new.select(model.feature_names_in_.tolist())
    assert found["late"] == pytest.approx(model.score_tasks(X, new.select([*found]))["late"])
    assert "the file lacks the targets ['kind']; near is 'kinds'; the others are scored" in printed.err


def test_a_store_that_is_not_there_is_not_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for words in (
        ["score", "--model", "models:/shop@champion", "--data", folder / "new.csv"],
        ["serve", "promote", "shop", "--data", folder / "new.csv"],
        ["serve", "start", "shop"],
    ):
        assert commands.run(*words) == 2
        assert "no model is registered in sqlite:///mlflow.db: there is no file mlflow.db" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_registered_model_is_found_by_its_alias(
    folder: Path, model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    @contextmanager
    def connected(store: Store, *, must_exist: bool) -> Iterator[str]:
        asked.append(store.uri)
        yield store.uri

    monkeypatch.setattr(saved, "connected", connected)
    monkeypatch.setattr(tabmtl.mlflow, "load_model", lambda uri: asked.append(uri) or model, raising=False)
    words = ["--model", "models:/shop@champion", "--data", folder / "new.csv", "--json"]
    assert commands.run("score", *words, store="sqlite:///shop.db") == 0
    assert asked == ["sqlite:///shop.db", "models:/shop@champion"]
    assert json.loads(capsys.readouterr().out)["model"] == "models:/shop@champion"


def test_mistakes_are_one_line_that_names_file_and_column(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, data, out = folder / "model", folder / "new.csv", tmp_path / "answers.csv"
    rows = pl.read_csv(data)
    rows.drop("b").write_csv(tmp_path / "less.csv")
    rows.drop("late", "delay <min>", "kind", "code").write_csv(tmp_path / "unlabelled.csv")
    rows.with_columns(a=pl.when(pl.col("id") == 70).then(pl.lit("n/a")).otherwise("a")).write_csv(tmp_path / "na.csv")
    rows.write_csv(tmp_path / "semicolons.csv", separator=";")
    rows.with_columns(a=pl.when(pl.col("id") == 70).then(float("inf")).otherwise("a")).write_csv(tmp_path / "inf.csv")
    rows.with_columns(late=pl.lit("maybe")).write_csv(tmp_path / "maybe.csv")
    out.write_text("old")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    predict, score = ("predict", "--output", out), ("score",)
    for words, message in [
        (
            [*predict, "--model", "nowhere", "--data", data],
            "there is no folder 'nowhere': name one that train --output",
        ),
        ([*predict, "--model", tmp_path, "--data", data], "is no tabmtl model"),
        ([*predict, "--model", kept, "--data", "new.cvs"], "no file is called new.cvs"),
        (
            [*predict, "--model", kept, "--data", tmp_path / "less.csv"],
            f"lacks the columns ['b'], which the model was fitted on; it has {rows.drop('b').columns} (in {tmp_path}/",
        ),
        ([*predict, "--model", kept, "--data", tmp_path / "inf.csv"], "column 'a' holds an infinite value"),
        (
            [*predict, "--model", kept, "--data", tmp_path / "na.csv"],
            "'a' holds 'n/a', which is no number: mend the cell, or leave it empty if the value is missing (in",
        ),
        (
            [*score, "--model", kept, "--data", tmp_path / "semicolons.csv"],
            "semicolons.csv are separated by semicolons, expected commas: write it again",
        ),
        ([*predict, "--model", kept, "--data", data, "--keep", "idd"], "['idd'], which keep names; near is 'id'"),
        (
            [*predict, "--model", kept, "--data", "-"],
            "it is empty; expected CSV with a line of names (in the standard input)",
        ),
        (
            [*score, "--model", kept, "--data", tmp_path / "unlabelled.csv"],
            "the file lacks the targets ['late', 'delay <min>', 'kind', 'code']; it has ['id', ",
        ),
        (
            [*score, "--model", kept, "--data", tmp_path / "maybe.csv"],
            "task 'late': the label 'maybe' was not seen in fit; expected one of ['no', 'yes'] (in",
        ),
        (
            ["predict", "--model", kept, "--data", data, "--output", "answers.txt"],
            "--output must end in .parquet or .csv",
        ),
        (
            ["predict", "--model", kept, "--data", data, "--output", "nowhere/a.csv"],
            "--output: there is no folder nowhere",
        ),
        (
            ["predict", "--model", kept, "--data", data, "--output", data],
            "is the input, which its answers would replace",
        ),
    ]:
        assert commands.run(*words) == 2, words
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert out.read_text() == "old" and not list(tmp_path.glob(".*"))
