"""Predictions and scores by saved models: the answers of the model, in whole files, and errors that name the file."""

import io
import json
from contextlib import contextmanager
from datetime import datetime

import commands
import numpy as np
import polars as pl
import pytest
from compared import table
from polars.testing import assert_frame_equal

import tabmtl
import tabmtl.serving.mlflow
from tabmtl import SharedBottom, SharedTrees
from tabmtl.pipelines import saved


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
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
def model(folder):
    return tabmtl.load(folder / "model")


def read(file, like):
    """Read answers; those of a CSV file by the types of others."""
    return pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file, schema=like.schema)


@pytest.mark.parametrize("data", ["new.csv", "new.parquet"])
@pytest.mark.parametrize("output", ["answers.csv", "answers.parquet"])
def test_a_file_is_answered_as_a_frame_is(data, output, folder, model, tmp_path, capsys):
    new = pl.read_parquet(folder / "new.parquet")
    words = ["--model", folder / "model", "--data", folder / data, "--output", tmp_path / output]
    assert commands.run("predict", *words) == 0
    assert f"Predicted late, delay <min>, kind, code of 80 rows: {tmp_path / output}" in capsys.readouterr().out
    expected = model.predict(new.select(model.feature_names_in_.tolist()))
    assert_frame_equal(read(tmp_path / output, expected), expected)
    assert [file.name for file in tmp_path.iterdir()] == [output]


def test_probabilities_stand_beside_the_answers(folder, model, tmp_path):
    words = ["--model", folder / "model", "--data", folder / "new.parquet", "--output", tmp_path / "answers.parquet"]
    assert commands.run("predict", *words, "--probabilities", "--keep", "id") == 0
    found = pl.read_parquet(tmp_path / "answers.parquet")
    classes = ["late=no", "late=yes", "kind=u", "kind=v", "kind=w", "code=02", "code=1"]
    assert found.columns == ["id", "late", "delay <min>", "kind", "code", *classes]
    X = pl.read_parquet(folder / "new.parquet").select(model.feature_names_in_.tolist())
    assert np.array_equal(found.select("late=no", "late=yes"), model.predict_proba(X)["late"])


def test_rows_come_from_the_standard_input(folder, tmp_path, monkeypatch):
    words = ["--model", folder / "model", "--output", tmp_path / "answers.csv"]
    content = (folder / "new.csv").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert commands.run("predict", *words, "--data", "-") == 0
    piped = (tmp_path / "answers.csv").read_bytes()
    assert commands.run("predict", *words, "--data", folder / "new.csv") == 0
    assert piped == (tmp_path / "answers.csv").read_bytes()


def test_a_score_has_its_interval(folder, model, capsys):
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


def test_a_target_that_the_file_lacks_has_no_score(folder, model, tmp_path, capsys):
    new = pl.read_parquet(folder / "new.parquet")
    new.rename({"kind": "kinds"}).write_csv(tmp_path / "some.csv")
    assert commands.run("score", "--model", folder / "model", "--data", tmp_path / "some.csv", "--json") == 0
    printed = capsys.readouterr()
    found = {row["task"]: row["score"] for row in json.loads(printed.out)["tasks"]}
    assert list(found) == ["late", "delay <min>", "kind", "code"] and found["kind"] is None
    X = new.select(model.feature_names_in_.tolist())
    assert found["late"] == pytest.approx(model.score_tasks(X, new.select([*found]))["late"])
    assert "the file lacks the targets ['kind']; near is 'kinds'; the others are scored" in printed.err


def test_a_registered_model_is_found_by_its_alias(folder, model, monkeypatch, capsys):
    asked = []

    @contextmanager
    def connected(store, *, must_exist):
        asked.append(store.uri)
        yield store.uri

    monkeypatch.setattr(saved, "connected", connected)
    monkeypatch.setattr(tabmtl.serving.mlflow, "load_model", lambda uri: asked.append(uri) or model, raising=False)
    words = ["--model", "models:/shop@champion", "--data", folder / "new.csv", "--json"]
    assert commands.run("score", *words, store="sqlite:///shop.db") == 0
    assert asked == ["sqlite:///shop.db", "models:/shop@champion"]
    assert json.loads(capsys.readouterr().out)["model"] == "models:/shop@champion"


def test_a_model_reads_the_dates_of_a_file_as_in_fit(tmp_path, capsys):
    moments = pl.datetime_range(datetime(2024, 1, 1), datetime(2024, 3, 1), "7h", eager=True)
    rows = pl.DataFrame(
        {"when": moments, "day": moments.dt.date(), "at": moments.dt.time(), "took": moments - moments[0]}
    )
    y = moments.dt.weekday().alias("y") + pl.Series(np.random.default_rng(0).normal(size=len(rows)))
    model = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0).fit(rows, y)
    model.save(tmp_path / "model")
    rows.hstack([y]).write_parquet(tmp_path / "new.parquet")
    texts = rows.with_columns(pl.exclude("took").dt.to_string("iso:strict"), pl.col("took").dt.total_seconds())
    texts.hstack([y]).write_csv(tmp_path / "new.csv")
    for data in ("new.parquet", "new.csv"):
        words = ["--model", tmp_path / "model", "--data", tmp_path / data]
        assert commands.run("predict", *words, "--output", tmp_path / "answers.parquet") == 0
        assert pl.read_parquet(tmp_path / "answers.parquet").to_series().equals(model.predict(rows))
        capsys.readouterr()
        assert commands.run("score", *words, "--json") == 0
        assert json.loads(capsys.readouterr().out)["mean_score"] == pytest.approx(model.score(rows, y))


def test_a_model_reads_the_lists_and_texts_of_a_file_as_in_fit(tmp_path, capsys):
    rng, size = np.random.default_rng(0), np.arange(200)
    tags = [None if k % 9 == 0 else "|".join(["b", "7", "c "][: 1 + k % 3]) for k in size]
    vectors = [f"{a:.2f}|{b:.2f}" for a, b in rng.normal(size=(200, 2))]
    remarks = [f"{'lovely' if k % 2 else 'dreadful'} house by the river, number {k}" for k in size]
    rows = pl.DataFrame({"size": size, "tags": tags, "vector": vectors, "remark": remarks, "liked": size % 2})
    rows.write_csv(tmp_path / "rows.csv")
    words = ["--data", tmp_path / "rows.csv", "--target", "liked=binary", "--set", "n_estimators=2", "--no-mlflow"]
    words += [
        "--list-separator",
        "|",
        "--column",
        "remark=text",
        "--model",
        "SharedTrees",
        "--output",
        tmp_path / "model",
    ]
    assert commands.run("train", *words) == 0
    model = tabmtl.load(tmp_path / "model")
    kinds = {name: model.coder_.features.kind_of(name) for name in rows.columns[:-1]}
    assert kinds == {"size": "numbers", "tags": "flat tags", "vector": "flat vectors", "remark": "flat texts"}
    assert model.coder_.features.columns.numeric[1:5] == ("tags: count", "tags: 7", "tags: b", "tags: c")
    rows[:1].with_columns(tags=pl.lit("7")).write_csv(tmp_path / "one.csv")  # one number, which is a tag
    words = ["--model", tmp_path / "model", "--data", tmp_path / "one.csv", "--output", tmp_path / "answers.csv"]
    assert commands.run("predict", *words) == 0
    vector = pl.Series([[float(own) for own in vectors[0].split("|")]])
    X = rows[:1].drop("liked").with_columns(tags=pl.Series([["7"]]), vector=vector)
    assert pl.read_csv(tmp_path / "answers.csv")["liked"].to_list() == model.predict(X)["liked"].to_list()


@pytest.fixture
def place(folder, tmp_path, monkeypatch):
    """The folder of a user with files that do not fit the model, and with answers."""
    (tmp_path / "model").symlink_to(folder / "model")
    rows = pl.read_csv(folder / "new.csv")
    at_70 = pl.when(pl.col("id") == 70)
    for name, changed in {
        "new": rows,
        "less": rows.drop("b"),
        "unlabelled": rows.drop("late", "delay <min>", "kind", "code"),
        "na": rows.with_columns(a=at_70.then(pl.lit("n/a")).otherwise("a")),
        "inf": rows.with_columns(a=at_70.then(float("inf")).otherwise("a")),
        "maybe": rows.with_columns(late=pl.lit("maybe")),
    }.items():
        changed.write_csv(tmp_path / f"{name}.csv")
    rows.write_csv(tmp_path / "semicolons.csv", separator=";")
    (tmp_path / "answers.csv").write_text("old")
    monkeypatch.chdir(tmp_path)
    return tmp_path


ANSWER = "predict --output answers.csv --model model --data"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "predict --output answers.csv --model nowhere --data new.csv",
            "no folder 'nowhere': name one that train --o",
        ),
        ("predict --output answers.csv --model . --data new.csv", "is no tabmtl model"),
        (f"{ANSWER} new.cvs", "no file is called new.cvs"),
        (f"{ANSWER} less.csv", "lacks the columns ['b'], which the model was fitted on; it has ['id', 'a', "),
        (f"{ANSWER} inf.csv", "column 'a' holds an infinite value"),
        (f"{ANSWER} na.csv", "'a' holds 'n/a', which is no number: mend the cell, or leave it empty if the value is m"),
        (f"{ANSWER} new.csv --keep idd", "['idd'], which keep names; near is 'id'"),
        (f"{ANSWER} -", "it is empty; expected CSV with a line of names (in the standard input)"),
        ("score --model model --data semicolons.csv", "semicolons.csv are separated by semicolons, expected commas: "),
        ("score --model model --data unlabelled.csv", "the file lacks the targets ['late', 'delay <min>', 'kind', "),
        ("score --model model --data maybe.csv", "task 'late': the label 'maybe' was not seen in fit; expected one"),
        ("score --model model --data maybe.csv", "; fit with rows that have it, or drop its rows"),
        ("predict --output answers.txt --model model --data new.csv", "--output must end in .parquet or .csv"),
        ("predict --output nowhere/a.csv --model model --data new.csv", "--output: there is no folder nowhere"),
        ("predict --output new.csv --model model --data new.csv", "is the input, which its answers would replace"),
    ],
)
def test_a_mistake_names_file_and_column_and_writes_nothing(words, message, place, mistake, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    before = sorted(place.iterdir())
    line = mistake(*words.split())
    assert message in line
    assert (sorted(place.iterdir()), (place / "answers.csv").read_text()) == (before, "old")


def test_a_closed_standard_input_is_said(place, mistake, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert "it is closed; expected CSV with a line of names" in mistake(*ANSWER.split(), "-")


def test_drift_has_an_exit_code(folder, model, tmp_path, capsys):
    words = ["--model", folder / "model", "--data"]
    known = table()[0][:240].with_columns(shop=pl.Series(np.resize(["007", "12"], 240)))
    known.write_csv(tmp_path / "known.csv")
    assert commands.run("drift", *words, tmp_path / "known.csv") == 0
    assert "Drifted: nothing." in capsys.readouterr().out
    moved = known.with_columns(pl.col("a") + 2)
    moved.write_parquet(tmp_path / "moved.parquet")
    assert commands.run("drift", *words, tmp_path / "moved.parquet") == 1
    names, first = (line.split() for line in capsys.readouterr().out.splitlines()[:2])
    assert {"n", "is_drift"} <= {*names} and first[1] == "a" and {"240", "yes"} <= {*first}
    assert commands.run("drift", *words, tmp_path / "moved.parquet", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert "a" in found["drifted"] and found["lines"][0]["is_drift"]
    names = [word for name in found["drifted"] for word in ("--ignore", name)]
    assert commands.run("drift", *words, tmp_path / "moved.parquet", *names) == 0
    assert commands.run("drift", *words, tmp_path / "moved.parquet", "--reference", tmp_path / "moved.parquet") == 0
    moved[:9].write_csv(tmp_path / "few.csv")
    capsys.readouterr()
    assert commands.run("drift", *words, tmp_path / "few.csv") == 2
    assert "X has 9 rows: give 20 or more" in capsys.readouterr().err
