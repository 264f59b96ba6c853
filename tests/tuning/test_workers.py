"""Many workers on one study: no trial is lost, neither when they share it nor when one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
import swarm
from optuna.trial import TrialState

from tabmtl.schema import TabmtlWarning
from tabmtl.tuning import Objective, open_study, pareto_front, run_study
from tabmtl.tuning.locks import FileLock
from tabmtl.tuning.lost import REPEATS, WORKER
from tabmtl.tuning.workers import Worker

POSTGRES = os.environ.get("TABMTL_POSTGRES_URL")


@contextmanager
def working(*arguments):
    """Workers at work, until they end; they must within two minutes."""
    command = [sys.executable, swarm.__file__, *map(str, arguments)]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)
    try:
        yield process
        process.wait(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def kill_the_hanging(folder: Path) -> None:
    end = time.monotonic() + 120
    while not (folder / "hanging").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(int((folder / "hanging").read_text()), signal.SIGKILL)


def count_the_lost(study, n_trials, folder) -> int:
    """All trials are complete but those that were lost, which have been repeated; how many were lost."""
    assert not (folder / "error").exists(), (folder / "error").read_text()
    lost = {trial.number: trial for trial in study.trials if trial.state != TrialState.COMPLETE}
    assert {trial.state for trial in lost.values()} == {TrialState.FAIL}
    again = {trial.user_attrs[REPEATS]: trial for trial in study.trials if REPEATS in trial.user_attrs}
    assert again.keys() == lost.keys()
    assert all(again[number].params.items() >= trial.params.items() for number, trial in lost.items())
    assert len(study.trials) - len(lost) == n_trials
    return len(lost)


def test_four_workers_of_which_one_is_killed(tmp_path):
    journal, goal = tmp_path / "journal", swarm.make_goal()
    study = open_study("shared", goal, storage=journal, seed=0)
    with working(journal, "shared", tmp_path, 4, 14):
        kill_the_hanging(tmp_path)
    assert count_the_lost(study, 14, tmp_path) == 1
    assert len({trial.user_attrs[WORKER] for trial in study.trials}) >= 3
    drawn = [trial.params["dropout"] for trial in study.trials if REPEATS not in trial.user_attrs]
    assert len(set(drawn)) == len(drawn), "no two workers draw the same"
    assert pareto_front(study).height
    assert sorted(file.name for file in tmp_path.joinpath("journal.workers").iterdir()) == ["turn", "write"]


def test_a_study_whose_only_worker_was_killed_is_gone_on_with(tmp_path):
    journal, goal = tmp_path / "journal", swarm.make_goal()
    study = open_study("alone", goal, storage=journal)
    with working(journal, "alone", tmp_path, 1, 3):
        kill_the_hanging(tmp_path)
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
    run_study(open_study("alone", goal, storage=journal), goal, n_trials=3)
    assert count_the_lost(study, 3, tmp_path) == 1
    assert study.trials[0].params.items() >= goal.defaults.items()


@pytest.mark.skipif(POSTGRES is None, reason="TABMTL_POSTGRES_URL is unset: it names a PostgreSQL database to write to")
def test_four_workers_on_postgresql(tmp_path):
    name, goal = f"tabmtl-{uuid.uuid4().hex}", swarm.make_goal()
    study = open_study(name, goal, storage=POSTGRES, seed=0)
    try:
        with working(POSTGRES, name, tmp_path, 4, 14, 9):
            kill_the_hanging(tmp_path)
        assert count_the_lost(study, 14, tmp_path)  # a busy machine may take a slow worker for dead
        run_study(open_study(name, goal, storage=POSTGRES), goal, n_trials=20)
        assert len(open_study(name, storage=POSTGRES).get_trials(states=(TrialState.COMPLETE,))) == 20
    finally:
        optuna.delete_study(study_name=name, storage=study._storage)


class Scripted(Objective):
    """Does in each trial what a script says: a number is the value, an exception is raised."""

    def _fit_and_score(self, model):
        step = self.script.pop(0)
        if isinstance(step, BaseException):
            raise step
        return {"mean": step}

    def _chosen(self, scores):
        return (scores["mean"],)


def scripted(*script) -> Scripted:
    est = swarm.make_goal().est
    goal = Scripted(est=est, search_space={"dropout": {"low": 0.0, "high": 0.5}}, names=("mean",))
    goal.script = list(script)
    return goal


def states(study):
    return [trial.state.name for trial in study.trials]


@pytest.fixture(params=["journal", "sqlite:///study.db"])
def storage(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return request.param


def test_an_interrupted_trial_is_tried_again(storage):
    goal = scripted(0.1, KeyboardInterrupt(), 0.2, 0.3)
    study = open_study("s", goal, storage=storage)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, goal, n_trials=3)
    assert states(study) == ["COMPLETE", "FAIL"]
    run_study(study, goal, n_trials=3)
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[2].params == study.trials[1].params


def test_a_mistake_is_raised_and_counts_as_a_trial(storage):
    goal = scripted(0.1, TypeError("mine"), 0.2, 0.3)
    study = open_study("s", goal, storage=storage)
    with pytest.raises(TypeError, match="mine"):
        run_study(study, goal, n_trials=3)
    run_study(study, goal, n_trials=3)
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]
    run_study(study, goal, n_trials=3)
    run_study(study, goal, n_trials=0)
    assert len(study.trials) == 3


def test_a_trial_that_kills_its_workers_is_given_up(tmp_path):
    goal = scripted(*[0.1] * 9)
    study = open_study("s", goal, storage=tmp_path / "journal")
    for attempt in range(3):
        Worker(study).recover()
        trial = study.ask()
        trial.suggest_float("dropout", 0, 0.5)
        trial.set_user_attr(WORKER, f"gone {attempt}")
    assert states(study) == ["FAIL", "FAIL", "RUNNING"]
    with pytest.warns(TabmtlWarning, match=r"trial 0 was lost with its worker 3 times.*{'dropout': 0.1}"):
        run_study(study, goal, n_trials=2)
    assert states(study) == ["FAIL", "FAIL", "FAIL", "COMPLETE"], "which counts as one trial"


def test_a_trial_that_was_taken_from_the_queue_by_a_worker_that_died_at_once(tmp_path):
    goal = scripted(0.1, 0.2)
    study = open_study("s", goal, storage=tmp_path / "journal")
    assert study.ask().user_attrs == {WORKER: ""}, "which would have signed, before it gave its turn away"
    run_study(study, goal, n_trials=2)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[1].params == goal.defaults


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_foreign_trial_is_left_alone(storage):
    goal = scripted(0.1, 0.2)
    study = open_study("s", goal, storage=storage)
    run_study(study, goal, n_trials=1)
    study.ask()
    study.ask().set_user_attr(WORKER, "../journal")
    run_study(study, goal, n_trials=2, timeout=0.5)
    assert states(study)[:3] == ["COMPLETE", "RUNNING", "RUNNING"]


def test_a_trial_whose_worker_lives_is_left_alone(tmp_path):
    goal = scripted(0.1, 0.2)
    study = open_study("s", goal, storage=tmp_path / "journal")
    with Worker(study).at_work() as other:
        trial = study.ask()
        trial.set_user_attr(WORKER, other.name)
        run_study(study, goal, n_trials=2, timeout=0.3)
        assert states(study) == ["RUNNING", "COMPLETE"], "it waits for the other"
    study.tell(trial, 0.5)
    run_study(study, goal, n_trials=2)
    assert states(study) == ["COMPLETE", "COMPLETE"]


def test_a_trial_that_was_taken_over_does_not_stop_its_worker(storage):
    goal = scripted(0.1, 0.2, 0.3)
    study = open_study("s", goal, storage=storage)

    def fit(model):
        if len(study.trials) == 1:  # others hold this worker for dead
            study.tell(0, state=TrialState.FAIL)
        return {"mean": goal.script.pop(0)}

    goal._fit_and_score = fit
    run_study(study, goal, n_trials=2)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[1].params == study.trials[0].params


def test_an_end_is_needed_and_kept(storage):
    goal = scripted(0.1, 0.2)
    study = open_study("s", goal, storage=storage)
    with pytest.raises(ValueError, match="give n_trials, timeout or both"):
        run_study(study, goal)
    run_study(study, goal, timeout=0)
    assert not study.get_trials(states=(TrialState.COMPLETE,))
    seen = []
    run_study(study, goal, n_trials=2, timeout=60, callbacks=[lambda study, trial: seen.append(trial.number)])
    assert seen == [0, 1]


def test_a_lock_is_of_one_at_a_time(tmp_path):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire(wait=False)
    first.release()
    first.release()
    assert second.acquire(wait=False)
    second.release()
