"""The command that compares: its rows are those of train, and what it prints, writes and refuses."""

from __future__ import annotations

from typing import Any
from unittest.mock import ANY

import commands
import compared
import polars as pl
import pytest
from commands import TARGETS

import tabmtl
from tabmtl.inspection.comparison.judging import COLUMNS, OVERALL
from tabmtl.pipelines.compare import ModelList, compare, why_chosen
from tabmtl.pipelines.data.tables import DataSource, open_table

QUICK = ["--model", "SharedBottom", "--set", "SharedBottom.epochs=1", "--set", "SharedBottom.n_jobs=1"]


class Asked(Exception):
    """The arguments of a comparison, in place of it."""

    def __init__(self, models: Any, X: Any, y: Any, **options: Any) -> None:
        super().__init__("asked")
        self.models, self.X, self.y, self.options = models, X, y, options


@pytest.fixture
def asked(monkeypatch):
    """Return the arguments with which the command would compare."""

    def ask(**options):
        def refuse(*args, **kwargs):
            raise Asked(*args, **kwargs)

        monkeypatch.setattr(tabmtl, "compare", refuse, raising=False)
        with pytest.raises(Asked) as caught:
            compare(DataSource(**options))
        return caught.value

    return ask


def test_models_are_compared_and_the_page_is_written(rodents, tmp_path, monkeypatch, capsys):
    page = tmp_path / "report.html"
    monkeypatch.setattr(tabmtl.Comparison, "report", lambda self, path: path.write_text("a page"))
    words = ["--data", rodents, "--split-column", "split", *TARGETS, *QUICK, "--report", page]
    words += [
        "--metric",
        "weight=r2",
        "--metric",
        "male=f1",
        "--metric",
        "male=roc_auc",
        "--class-weight",
        "male=1:2",
        "--time-limit",
        600,
    ]
    assert commands.run("compare", *words) == 0
    printed = capsys.readouterr().out
    assert "SharedBottom: fitted in " in printed
    sizes = dict(pl.read_parquet(rodents)["split"].value_counts().iter_rows())
    said = f"{sizes['train']} rows to fit, {sizes['val']} to stop by and {sizes['test']} to test (by the column split)."
    assert said in printed
    assert f"Written to {page}" in printed and page.read_text() == "a page"
    command = printed.strip().splitlines()[-1]
    assert command.startswith("No other model was fitted, so the reference, to train and save:  tabmtl train --data")
    assert (
        "--target male=binary --metric weight=r2 --metric male=f1 --metric male=roc_auc --class-weight male=1:2"
        in command
    )
    assert " --model SharedBottom --set epochs=1 " in command and "By further metrics" in printed
    assert command.endswith(" --output model")
    assert "rodents: SharedBottom within 600 min; Ctrl-C" in printed and "CPU s" in printed
    metrics = {
        line.split()[0]: line.split()[1]
        for line in printed.partition("By further")[0].splitlines()
        if "SharedBottom  " in line
    }
    assert metrics == {"SharedBottom": ANY, "weight": "r2", "hindfoot_length": "r2", "male": "f1"}


def test_a_reference_is_tuned_unless_it_is_said_not_to_be():
    def settings(*texts):
        return ModelList(model=["IndependentTasks"], set=list(texts)).choices()["IndependentTasks"].set

    assert settings() == ["tune=all"]
    assert settings("IndependentTasks.num_leaves=8") == ["num_leaves=8", "tune=all"]
    assert settings("IndependentTasks.tune=[]") == ["tune=[]"]
    assert settings("IndependentTasks.early_stopping=false") == ["early_stopping=false"]


def test_the_model_to_train_is_one_that_is_ahead_or_the_reference():
    X, y = compared.table()
    options: Any = {"random_state": 0, "groups": "day", "columns": {"day": "ignore"}}
    models = {"constant": compared.constant(), "linear": compared.linear()}
    ahead = tabmtl.compare(models, X, y, **options)
    failed = tabmtl.compare({"broken": compared.Broken(), "linear": compared.linear()}, X, y, **options)
    alone = tabmtl.compare({"linear": compared.linear(), "broken": compared.Broken()}, X, y, **options)
    for found, why in [
        (ahead, "The best that is ahead"),
        (compared.comparison(), "Nothing is clearly ahead, so the reference"),
        (failed, "The best mean score"),
        (alone, "No other model was fitted, so the reference"),
    ]:
        assert (found.leader, why_chosen(found)) == ("linear", why)


def test_test_rows_are_those_of_train(rodents, asked):
    options = {"data": str(rodents), "target": ["weight", "male=binary"], "column": ["split=ignore"], "split_seed": 3}
    found, rows = asked(**options), open_table(DataSource(**options))
    X, y = rows.parts["test"]
    assert found.options["X_test"].equals(X) and found.options["y_test"].equals(y)
    assert len(found.X) == len(rows.parts["train"][0]) + len(rows.parts["val"][0])
    assert "X_val" not in found.options and found.options["groups"] is None
    assert list(found.models) == list(tabmtl.default_models(600))
    assert found.options["tasks"] == {"male": "binary"}


def test_groups_go_to_every_model(rodents, asked):
    found = asked(
        data=str(rodents), target=["weight"], column=["split=ignore", "species_id=ignore"], group_column="species_id"
    )
    (groups, tested), rows = found.options["groups"], pl.read_parquet(rodents)
    assert len(groups) == len(found.X) and "species_id" not in found.X.columns
    assert len(tested) == len(found.options["X_test"]) and not set(tested) & set(groups)
    assert groups.n_unique() < rows["species_id"].n_unique()


def test_times_go_to_every_model(rodents, asked):
    found = asked(data=str(rodents), target=["weight"], column=["split=ignore", "year=ignore"], time_column="year")
    years = found.options["time"]
    assert len(years) == len(found.X) and "year" not in found.X.columns
    assert len(found.options["X_test"]) == (pl.read_parquet(rodents)["year"] > years.max()).sum()


def test_days_of_flights_are_drawn_as_one(asked):
    found = asked(data="flights")
    groups, rows = found.options["groups"], (found.X, found.options["X_val"], found.options["X_test"])
    assert [*map(len, groups)] == [*map(len, rows)]
    assert len(set().union(*groups)) == sum(group.n_unique() for group in groups) < 365


def test_a_given_split_keeps_its_validation_rows(rodents, asked):
    found = asked(data=str(rodents), target=["weight"], split_column="split")
    n_val = (pl.read_parquet(rodents)["split"] == "val").sum()
    assert len(found.options["X_val"]) == len(found.options["y_val"]) == n_val


@pytest.mark.parametrize(("best", "is_interrupted", "code"), [("a", False, 0), (None, False, 1), ("a", True, 130)])
def test_the_exit_code_tells_how_it_ended(best, is_interrupted, code, rodents, monkeypatch):
    row = pl.DataFrame(
        {
            "model": ["a"],
            "task": ["weight"],
            "metric": ["r2"],
            "score": pl.Series([1.0 if best else None], dtype=pl.Float64),
        }
    )
    frame = pl.concat([pl.DataFrame(schema=COLUMNS), row], how="diagonal")
    found = tabmtl.Comparison(
        frame=frame, models={}, calibration=pl.DataFrame(), overall=pl.DataFrame(schema=OVERALL),
        tasks=(tabmtl.Task(name="weight", kind="regression"),),
        reference="a", n_fit=1, n_test=1, how="", is_interrupted=is_interrupted,
    )  # fmt: skip
    monkeypatch.setattr(tabmtl, "compare", lambda *_, **__: found, raising=False)
    models = ModelList()
    monkeypatch.setattr(tabmtl, "default_models", lambda n: {"a": tabmtl.SharedBottom()}, raising=False)
    assert compare(DataSource(data=str(rodents), target=["weight"]), models) == code
