"""Sweeps from the command line: trials as nested runs, the chosen fit, and mistakes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import commands
import mlflow
import optuna
import pytest
from commands import TINY
from mlflow.exceptions import MlflowException
from optuna.trial import TrialState

import tabmtl
from tabmtl.pipelines.sweep import print_trial
from tabmtl.pipelines.tracking import REASON, REFIT, STATE, TrialRuns
from tabmtl.tuning import open_study

PARENT = "mlflow.parentRunId"


@pytest.fixture
def sweep(table, tmp_path, store):
    """A quick sweep with a file and a store of its own; gives its exit code."""
    file = tmp_path / "sweep.db"

    def run(*words):
        return commands.run("sweep", *table, *TINY, "--storage", file, *words, store=store)

    return run


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    """The file of a sweep that has its one trial."""
    file = tmp_path_factory.mktemp("finished") / "sweep.db"
    words = [*table, *TINY, "--storage", file, "--objective", "pareto", "--trials", 1, "--no-mlflow", "--no-refit"]
    assert commands.run("sweep", *words) == 0
    return file


def study_of(path: Path, name: str = "rodents-SharedBottom-mean") -> Any:
    return open_study(name, storage=path / "sweep.db")


def test_every_trial_is_a_nested_run_and_the_best_is_fitted_again(sweep, tmp_path, store, capsys):
    assert sweep("--trials", 2, "--register", "rodents", "--output", tmp_path / "model") == 0
    registry, study = commands.Registry(store), study_of(tmp_path)
    runs = registry.runs()
    parent = runs.pop("rodents-SharedBottom-mean")
    assert {run.data.tags[PARENT] for run in runs.values()} == {parent.info.run_id}
    assert {run.info.status for run in [parent, *runs.values()]} == {"FINISHED"}
    for trial in study.trials:
        run = runs[f"trial {trial.number}"]
        assert run.data.params["learning_rate"] == str(trial.params["learning_rate"])
        assert run.data.metrics["final/score"] == pytest.approx(trial.value)
        assert {"final/male/roc_auc", "val/weight/r2", "train/loss"} <= run.data.metrics.keys()
    best = study.best_trial
    again = runs[f"refit of trial {best.number}"]
    assert again.data.metrics["final/score"] == pytest.approx(best.value)
    assert again.data.tags[REFIT] == str(best.number)
    assert registry.aliases("rodents") == {"champion": "1"}
    assert tabmtl.load(tmp_path / "model").learning_rate == best.params["learning_rate"]
    assert f"Trial {best.number} is chosen" in capsys.readouterr().out


def test_the_same_command_goes_on_and_scores_no_test_rows_twice(sweep, tmp_path, store, capsys):
    assert sweep("--trials", 1, "--register", "rodents") == 0
    first = capsys.readouterr().out
    assert sweep("--trials", 1, "--register", "rodents") == 0
    second = capsys.readouterr().out
    assert "test rows are scored only once" in second
    assert next(line for line in first.splitlines() if "roc_auc" in line) in second
    assert commands.Registry(store).versions("rodents") == ["1"]
    assert sweep("--trials", 2, "--no-refit") == 0
    assert len(study_of(tmp_path).trials) == 2
    assert sum(PARENT not in run.data.tags for run in commands.Registry(store).runs().values()) == 1


def test_parameters_that_are_set_are_not_searched(sweep, tmp_path):
    assert sweep("--trials", 1, "--set", "batch_size=64", "--no-refit", "--no-mlflow") == 0
    (trial,) = study_of(tmp_path).trials
    assert {"batch_size", "hidden"}.isdisjoint(trial.params)
    assert "learning_rate" in trial.params


def test_a_study_is_not_mixed_with_other_settings(sweep, capsys):
    assert sweep("--trials", 1, "--no-refit", "--no-mlflow") == 0
    for words, named in ((["--set", "patience=3"], "set"), (["--seed", 5], "seed"), (["--target", "year"], "columns")):
        assert sweep("--trials", 2, "--no-mlflow", *words) == 2
        error = capsys.readouterr().err
        assert f"was made with {named} = " in error and "another name of a study" in error


@pytest.mark.all_faces  # ten seconds
def test_a_front_is_searched_and_a_point_above_single_tasks_chosen(sweep, tmp_path, store, monkeypatch, capsys):
    words = ["--objective", "pareto", "--trials", 3]
    assert sweep(*words, "--weight", "weight=1") == 0
    study = study_of(tmp_path, "rodents-SharedBottom-pareto")
    best = max(study.trials, key=lambda trial: trial.values[0])
    assert f"Trial {best.number} is chosen" in capsys.readouterr().out
    parent = commands.Registry(store).runs()["rodents-SharedBottom-pareto"]
    files = {file.path for file in commands.Registry(store).client.list_artifacts(parent.info.run_id)}
    assert {"pareto.png", "trials.csv"} <= files
    study.set_user_attr("tabmtl:single_task", dict.fromkeys(["weight", "hindfoot_length", "male"], 0.999))
    assert sweep(*words, "--above-single-task") == 1
    said = capsys.readouterr()
    assert "No point is chosen: of " in said.out and "more --trials, or --weight in place of" in said.out
    assert "error" not in said.err
    study.set_user_attr("tabmtl:single_task", dict.fromkeys(["weight", "hindfoot_length", "male"], -99.0))
    assert sweep(*words, "--above-single-task") == 0
    assert commands.Registry(store).client.get_run(parent.info.run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    "forged",
    [
        {"tabmtl:refit": 7},
        {"tabmtl:refit": {"asked": {"trial": "x"}, "fitted": {"scores": {}}}},
        {"tabmtl:refit": {"asked": {"trial": 0}, "fitted": {"scores": {"a": [1], "b": [1, 2]}}}},
        {"tabmtl:single_task": [1]},
        {"tabmtl:single_task": {"male": "much"}},
        {"tabmtl:single_task": {"nobody": 0.5}},
        {"tabmtl:facts": "x"},
        {"tabmtl:facts": {"set": "x" * 10**6}},
        {"tabmtl:sought": {"search_space": {}, "estimator": ["x"] * 10**5}},
    ],
    ids=lambda forged: f"{forged}"[:50],
)
def test_a_forged_study_is_a_line(forged, finished, table, tmp_path, mistake):
    file = shutil.copy(finished, tmp_path / "sweep.db")
    study = study_of(tmp_path, "rodents-SharedBottom-pareto")
    for name, value in forged.items():
        study.set_user_attr(name, value)
    words = [*table, *TINY, "--storage", file, "--objective", "pareto", "--trials", 1, "--no-mlflow"]
    above = ["--above-single-task"] if "tabmtl:single_task" in forged else []
    line = mistake("sweep", *words, *above)
    assert len(line) < 2_000
    assert re.search("another|expected numbers of the tasks", line)


def test_pruned_failed_and_interrupted_trials_are_said_to_be(sweep, tmp_path, store, monkeypatch):
    ends = [optuna.TrialPruned("by the pruner"), MemoryError("no room"), KeyboardInterrupt()]

    def fit(*_, **__):
        raise ends.pop(0)

    with monkeypatch.context() as patch:
        patch.setattr(tabmtl.SharedBottom, "fit", fit)
        assert sweep("--trials", 3) == 130
    runs = commands.Registry(store).runs()
    found = [(runs[f"trial {i}"].info.status, runs[f"trial {i}"].data.tags[STATE]) for i in range(3)]
    assert found == [("KILLED", "pruned"), ("FAILED", "failed"), ("KILLED", "interrupted")]
    assert "no room" in runs["trial 1"].data.tags[REASON]
    assert runs["rodents-SharedBottom-mean"].info.status == "KILLED"
    assert sweep("--trials", 3, "--no-refit") == 0
    assert commands.Registry(store).runs()["rodents-SharedBottom-mean"].info.status == "FINISHED"
    states = [trial.state for trial in study_of(tmp_path).trials]
    assert states == [TrialState.PRUNED, TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE]


@pytest.mark.parametrize("objective", ["mean", "pareto"])
def test_a_trial_ends_with_the_epoch_in_which_its_time_is_up(objective, sweep, tmp_path, store, capsys):
    words = ["--objective", objective, "--no-refit"]
    assert sweep(*words, "--trials", 1, "--trial-timeout", 1e-6) == 0
    assert "trial 0: pruned: after epoch 1 and " in capsys.readouterr().out
    run = commands.Registry(store).runs()["trial 0"]
    assert (run.info.status, run.data.tags[STATE]) == ("KILLED", "pruned")
    assert "s, of 1e-06" in run.data.tags[REASON]
    assert "val/weight/r2" in run.data.metrics, "the epoch is logged"
    assert sweep(*words, "--trials", 2, "--trial-timeout", 600) == 0
    states = [trial.state for trial in study_of(tmp_path, f"rodents-SharedBottom-{objective}").trials]
    assert states == [TrialState.PRUNED, TrialState.COMPLETE]


def test_a_line_on_a_trial_says_how_it_ended(capsys):
    study = optuna.create_study(direction="maximize")
    for state, value, reason in [
        (TrialState.COMPLETE, 0.5, None),
        (TrialState.PRUNED, 0.62951, "by the pruner, after epoch 5"),
        (TrialState.PRUNED, None, "after epoch 1 and 2.0 s, of 1"),
    ]:
        trial = study.ask()
        if value is not None:
            trial.report(value, 5)
        if reason is not None:
            trial.set_user_attr("ended", reason)
        print_trial(["mean"], study, study.tell(trial, value if reason is None else None, state))
    said = [line.rpartition("  (")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == [
        "trial 0: mean 0.5000",
        "trial 1: pruned: by the pruner, after epoch 5, mean 0.6295 so far",
        "trial 2: pruned: after epoch 1 and 2.0 s, of 1",
    ]


def test_a_model_whose_parameters_are_all_set_is_refused(table, monkeypatch, mistake):
    monkeypatch.setattr(tabmtl.SharedBottom, "search_space", {"dropout": {"low": 0.0, "high": 0.5}})
    line = mistake("sweep", *table, "--model", "SharedBottom", "--set", "dropout=0.1")
    assert line.endswith("fit it once by tabmtl train, or leave out a --set")


def test_without_a_complete_trial_nothing_is_chosen(table, tmp_path, monkeypatch, mistake):
    def prune(*_, **__):
        raise optuna.TrialPruned("hopeless")

    monkeypatch.setattr(tabmtl.SharedBottom, "fit", prune)
    words = ["--storage", tmp_path / "sweep.db", "--trials", 1, "--no-mlflow"]
    assert "is complete" in mistake("sweep", *table, *TINY, *words)


def test_a_store_that_fails_costs_no_trial(sweep, tmp_path, store, monkeypatch):
    def create_run(client, *given, run_name, **options):
        if run_name.startswith("trial "):
            raise MlflowException("the database is locked")
        return real(client, *given, run_name=run_name, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TrialRuns, "log_epoch", lambda *_: None)
        real = mlflow.MlflowClient.create_run
        patch.setattr(mlflow.MlflowClient, "create_run", create_run)
        assert sweep("--trials", 1, "--no-refit") == 0
    assert "trial 0" not in commands.Registry(store).runs()
    (trial,) = study_of(tmp_path).trials
    assert trial.state == TrialState.COMPLETE


def test_a_recommender_is_tuned(tmp_path, store):
    clicks, _ = commands.small_log(tmp_path)
    words = ["--data", clicks, "--model", "SequentialRules", "--trials", 2, "--storage", tmp_path / "sweep.db"]
    assert commands.run("sweep", *words, store=store) == 0
    study = study_of(tmp_path, "clicks-SequentialRules-mean")
    runs = commands.Registry(store).runs()
    assert study.metric_names == ["mrr@20"]
    assert runs["trial 0"].data.metrics["final/mrr_at_20"] == pytest.approx(study.trials[0].value)
    assert commands.run("sweep", *words, "--objective", "pareto", store=store) == 2
