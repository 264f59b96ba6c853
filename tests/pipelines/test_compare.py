"""The command that compares: its rows are those of train, and what it prints, writes and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import commands
import compared
import polars as pl
import pytest
from commands import TARGETS

import tabmtl
from tabmtl.comparison.judging import OVERALL
from tabmtl.pipelines.compare import ModelList, chosen, compare
from tabmtl.pipelines.data.tables import DataSource, open_table

QUICK = ["--model", "SharedBottom", "--set", "SharedBottom.epochs=1", "--set", "SharedBottom.n_jobs=1"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return commands.small_table(tmp_path_factory.mktemp("compare"))


class Asked(Exception):
    """The arguments of a comparison, in place of it."""

    def __init__(self, models: Any, X: Any, y: Any, **options: Any) -> None:
        super().__init__("asked")
        self.models, self.X, self.y, self.options = models, X, y, options


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the arguments with which the command would compare."""

    def ask(**options: Any) -> Asked:
        def refuse(*args: Any, **kwargs: Any) -> None:
            raise Asked(*args, **kwargs)

        monkeypatch.setattr(tabmtl, "compare", refuse, raising=False)
        with pytest.raises(Asked) as caught:
            compare(DataSource(**options))
        return caught.value

    return ask


def test_models_are_compared_and_the_page_is_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    monkeypatch.setattr(tabmtl.Comparison, "report", lambda self, path: path.write_text("a page"))
    words = ["--data", file, "--split-column", "split", *TARGETS, *QUICK, "--report", page]
    assert commands.run("compare", *words) == 0
    printed = capsys.readouterr().out
    assert "SharedBottom: fitted in " in printed
    sizes = dict(pl.read_parquet(file)["split"].value_counts().iter_rows())
    assert f"{sizes['train']} rows to fit and {sizes['test']} to test (by the column split)." in printed
    assert f"Written to {page}" in printed and page.read_text() == "a page"
    command = printed.strip().splitlines()[-1]
    assert command.startswith("Nothing is clearly ahead, so the reference, to train and register:  tabmtl train --data")
    assert "--target male=binary --model SharedBottom --set epochs=1" in command


def test_a_reference_is_tuned_unless_it_is_said_not_to_be() -> None:
    def settings(*texts: str) -> list[str]:
        return ModelList(model=["IndependentTasks"], set=list(texts)).choices()["IndependentTasks"].set

    assert settings() == ["tune=all"]
    assert settings("IndependentTasks.num_leaves=8") == ["num_leaves=8", "tune=all"]
    assert settings("IndependentTasks.tune=[]") == ["tune=[]"]
    assert settings("IndependentTasks.early_stopping=false") == ["early_stopping=false"]


def test_the_model_to_train_is_one_that_is_ahead_or_the_reference() -> None:
    X, y = compared.table()
    options: Any = {"random_state": 0, "groups": "day", "drop": ["day"]}
    models = {"constant": compared.constant(), "linear": compared.linear()}
    assert chosen(tabmtl.compare(models, X, y, **options)) == ("linear", "The best that is ahead")
    name, why = chosen(compared.comparison())
    assert (name, why) == ("linear", "Nothing is clearly ahead, so the reference")
    failed = tabmtl.compare({"broken": compared.Broken(), "linear": compared.linear()}, X, y, **options)
    assert chosen(failed) == ("linear", "The best mean score")


def test_test_rows_are_those_of_train(file: Path, asked: Any) -> None:
    options = {"data": str(file), "target": ["weight", "male=binary"], "drop": ["split"], "split_seed": 3}
    found, rows = asked(**options), open_table(DataSource(**options))
    X, y = rows.parts["test"]
    assert found.options["X_test"].equals(X) and found.options["y_test"].equals(y)
    assert len(found.X) == len(rows.parts["train"][0]) + len(rows.parts["val"][0])
    assert "X_val" not in found.options and found.options["groups"] is None
    assert list(found.models) == list(tabmtl.default_models(600))
    assert found.options["tasks"] == {"male": "binary"}


def test_groups_go_to_every_model(file: Path, asked: Any) -> None:
    found = asked(data=str(file), target=["weight"], drop=["split", "species_id"], group_column="species_id")
    (groups, tested), rows = found.options["groups"], pl.read_parquet(file)
    assert len(groups) == len(found.X) and "species_id" not in found.X.columns
    assert len(tested) == len(found.options["X_test"]) and not set(tested) & set(groups)
    assert groups.n_unique() < rows["species_id"].n_unique()


def test_days_of_flights_are_drawn_as_one(asked: Any) -> None:
    found = asked(data="flights")
    fitted, tested = found.options["groups"]
    assert (len(fitted), len(tested)) == (len(found.X), len(found.options["X_test"]))
    assert not set(fitted) & set(tested) and tested.n_unique() < 100


def test_a_given_split_keeps_its_validation_rows(file: Path, asked: Any) -> None:
    found = asked(data=str(file), target=["weight"], split_column="split")
    n_val = (pl.read_parquet(file)["split"] == "val").sum()
    assert len(found.options["X_val"]) == len(found.options["y_val"]) == n_val


MISTAKES = {
    "no target": ([], "--target must name the columns of"),
    "unknown target": (["--target", "weigth"], "--target: there is no column 'weigth': near is weight"),
    "unknown model": (["--target", "weight", "--model", "MMOE"], "there is no model 'MMOE'"),
    "a recommender": (["--target", "weight", "--model", "M2TRec"], "compare takes models of tables"),
    "a model twice": (["--target", "weight", "--model", "PLE", "--model", "PLE"], "--model names a model twice"),
    "a setting of no model": (["--target", "weight", *QUICK, "--set", "epochs=2"], "--set takes MODEL.NAME=VALUE"),
    "an unknown setting": (["--target", "weight", *QUICK, "--set", "SharedBottom.epoch=2"], "no parameter 'epoch'"),
    "no test rows": (["--target", "weight", "--test-share", "0"], "give a --test-share above 0"),
    "no folder": (["--target", "weight", "--report", "nowhere/report.html"], "--report: there is no folder nowhere"),
    "no page": (
        ["--target", "weight", "--report", "report.pdf"],
        "--report writes HTML: name a file such as report.html",
    ),
    "no effect": (["--target", "weight", "--val-share", "0.1"], "--val-share has no effect"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line_before_any_fit(
    words: list[str], message: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.run("compare", "--data", file, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("tabmtl compare: error: ") and message in error
    assert error.count("\n") == 1


def test_models_are_checked_before_the_file_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["--model", "MMOE"], "there is no model 'MMOE'"),
        ([*QUICK, "--set", "SharedBottom.epoch=2"], "no parameter 'epoch'"),
    ):
        assert commands.run("compare", "--data", "nowhere.csv", "--target", "weight", *words) == 2
        assert message in capsys.readouterr().err


def test_a_column_of_dates_is_cured_by_an_option(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pl.read_parquet(file).drop("split").with_columns(day=pl.lit("2020-01-02"))
    table.write_csv(tmp_path / "days.csv")
    assert commands.run("compare", "--data", tmp_path / "days.csv", "--target", "weight") == 2
    error = capsys.readouterr().err
    assert "column 'day' holds dates or times (Date); write numbers that follow from it into the file" in error
    assert error.endswith("or leave it out by --drop day\n")


@pytest.mark.parametrize(("best", "is_interrupted", "code"), [("a", False, 0), (None, False, 1), ("a", True, 130)])
def test_the_exit_code_tells_how_it_ended(
    best: str | None, is_interrupted: bool, code: int, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pl.DataFrame({"model": ["a"], "score": [1.0 if best else None]}, {"model": pl.String, "score": pl.Float64})
    names = {"difference": pl.Float64, "difference_low": pl.Float64, "difference_high": pl.Float64}
    names |= {"fit_seconds": pl.Float64, "predict_ms": pl.Float64, "error": pl.String, "task": pl.String}
    names |= {"metric": pl.String, "standard_error": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    frame = pl.concat([frame, pl.DataFrame(schema=names)], how="diagonal").with_columns(task=pl.lit("weight"))
    found = tabmtl.Comparison(
        frame=frame, models={}, calibration=pl.DataFrame(), overall=pl.DataFrame(schema=OVERALL),
        tasks=(tabmtl.Task(name="weight", kind="regression"),),
        reference="a", n_fit=1, n_test=1, how="", is_interrupted=is_interrupted,
    )  # fmt: skip
    monkeypatch.setattr(tabmtl, "compare", lambda *_, **__: found, raising=False)
    models = ModelList()
    monkeypatch.setattr(tabmtl, "default_models", lambda n: {"a": tabmtl.SharedBottom()}, raising=False)
    assert compare(DataSource(data=str(file), target=["weight"]), models) == code
