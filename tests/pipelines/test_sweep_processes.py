"""Sweeps as processes: what is left when one was killed, and what its workers do and say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import pytest
import quick_sweep
from commands import TINY
from optuna.trial import FrozenTrial, TrialState

from tabmtl.pipelines.tracking import STATE
from tabmtl.tuning import count_ended, open_study, repeated_trials

PARENT = "mlflow.parentRunId"


def study_of(folder: Path) -> Any:
    return open_study("rodents-SharedBottom-mean", storage=folder / "sweep.db")


def slow_sweep(table: list[str], folder: Path, store: str) -> list[str]:
    """A sweep whose trials have many epochs, and take about a second."""
    settings = ("epochs=8", "patience=8", "batch_size=4", "hidden=[8]", "n_jobs=1")
    words = [word for setting in settings for word in ("--set", setting)]
    places = ["--storage", str(folder / "sweep.db"), "--tracking-uri", store]
    return [*table, "--model", "SharedBottom", *words, *places]


def apart(*words: str) -> subprocess.Popen[str]:
    """The sweep in a process of its own."""
    command = [sys.executable, quick_sweep.__file__, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_until(condition: Callable[[list[FrozenTrial]], bool], folder: Path, process: subprocess.Popen[str]) -> None:
    """Return when the trials of the sweep are so."""
    study = None
    for _ in range(1200):
        time.sleep(0.1)
        assert process.poll() is None, process.communicate()
        try:
            study = study or study_of(folder)
        except ValueError:  # not made yet
            continue
        if condition(study.trials):
            return
    raise TimeoutError("the trials did not come to this")


@pytest.mark.all_faces
def test_a_killed_sweep_goes_on_with_nothing_lost(table, tmp_path, store, monkeypatch):
    words = [*slow_sweep(table, tmp_path, store), "--trials", "3", "--register", "rodents"]
    with apart(*words) as first:
        wait_until(lambda found: len(found) > 1 and bool(found[1].intermediate_values), tmp_path, first)
        first.kill()
    runs = commands.Registry(store).runs()
    assert {name: run.info.status for name, run in runs.items()} == {
        "rodents-SharedBottom-mean": "RUNNING",
        "trial 0": "FINISHED",
        "trial 1": "RUNNING",  # a lie, until the sweep goes on
    }
    monkeypatch.setitem(open_study.__kwdefaults__, "grace_period", quick_sweep.GRACE_PERIOD)
    assert commands.run("sweep", *words) == 0
    study, registry = study_of(tmp_path), commands.Registry(store)
    lost = study.trials[1]
    repetitions = [trial for trial in study.trials if trial.system_attrs.get("retry_history") == [1]]
    assert lost.state == TrialState.FAIL
    assert repeated_trials(study) == {1}
    assert [trial.params for trial in repetitions] == [lost.params]
    done = [trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(done) == 3
    assert len(study.trials) == 4
    runs = registry.runs()
    assert runs["trial 1"].info.status == "KILLED"
    assert runs["trial 1"].data.tags[STATE] == "lost"
    assert runs["trial 1"].data.params["learning_rate"] == str(lost.params["learning_rate"])
    assert not [name for name, run in runs.items() if run.info.status == "RUNNING"]
    parents = [run for run in runs.values() if PARENT not in run.data.tags]
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert registry.versions("rodents") == ["1"]


@pytest.mark.all_faces  # half a minute; tuning/test_workers shares a study in every run
def test_workers_share_the_trials_and_end_with_the_sweep(table, tmp_path, store):
    with apart(*slow_sweep(table, tmp_path, store), "--trials", "99", "--workers", "2") as process:
        wait_until(
            lambda found: len({trial.user_attrs.get("worker") for trial in found} - {None}) == 2, tmp_path, process
        )
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
    workers = [child for child in children if Path(f"/proc/{child}").exists()]
    for _ in range(200):
        workers = [child for child in workers if Path(f"/proc/{child}").exists()]
        if not workers:
            break
        time.sleep(0.05)
    assert workers == []
    assert commands.Registry(store).runs()["trial 0"].data.tags[PARENT]


@pytest.mark.all_faces  # three processes for one line
def test_a_mistake_that_the_workers_find_is_a_line(table, tmp_path):
    words = [*table, *TINY, "--storage", str(tmp_path / "sweep.db"), "--no-mlflow", "--set", "device=cuda:99"]
    with apart(*words, "--trials", "4", "--workers", "2") as process:
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("tabmtl sweep: error: ")]
    assert errors[-1].startswith("tabmtl sweep: error: all workers ended with errors, see above; exit codes [2, 2]")
    assert "device" in errors[0]
    assert len(errors) == 3


@pytest.mark.all_faces  # a minute; tuning/test_workers kills one in every run
def test_a_worker_that_is_killed_is_missed_but_costs_no_trial(table, tmp_path, store):
    with apart(*slow_sweep(table, tmp_path, store), "--trials", "5", "--workers", "2", "--no-refit") as process:
        wait_until(
            lambda found: len({trial.user_attrs.get("worker") for trial in found} - {None}) == 2, tmp_path, process
        )
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        worker = next(child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes())
        os.kill(int(worker), signal.SIGKILL)
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "warning: a worker was ended by signal 9; 1 of 2 go on\n" in said
    study = study_of(tmp_path)
    ended = [trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(ended) == count_ended(study)
    assert 5 <= len(ended) <= 5 + 1, "each of the two workers may begin the last trial"
    assert {trial.number for trial in study.trials if trial not in ended} == repeated_trials(study)
