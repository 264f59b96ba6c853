"""Many workers on one study: no trial is lost, neither when they share it nor when one of them is killed."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import optuna
import postgres
import pytest
from optuna.trial import TrialState

from tabmtl import SharedBottom
from tabmtl.base.schema import TabmtlWarning
from tabmtl.tuning import Objective, count_ended, open_study, repeated_trials, run_study
from tabmtl.tuning.studies import retry
from tabmtl.tuning.workers import WORKER

pytestmark = pytest.mark.all_faces  # slow: make test-all


#: Seconds after which a worker without a sign of life is dead, for who opens a study with a grace period of a second.
LONG = 2.1


def is_retry(trial) -> bool:
    return "retry_history" in trial.system_attrs


@pytest.fixture
def database():
    """URL of a database of a PostgreSQL server that ends with the test."""
    with ExitStack() as stack:
        try:
            yield stack.enter_context(postgres.server())
        except postgres.NoServerError as error:
            pytest.skip(str(error))


class Scripted(Objective):
    """Does in each trial what a script says: a number is the value, an exception is raised."""

    def _fit_and_score(self, model):
        step = self.script.pop(0)
        if isinstance(step, BaseException):
            raise step
        if callable(step):
            step = step()
        return {"mean": step}

    def _chosen(self, scores):
        return (scores["mean"],)


def scripted(*script) -> Scripted:
    goal = Scripted(est=SharedBottom(), search_space={"dropout": {"low": 0.0, "high": 0.5}}, names=("mean",))
    goal.script = list(script)
    return goal


def states(study):
    return [trial.state.name for trial in study.trials]


@pytest.fixture(params=["study.db", "sqlite:///study.db"])
def begin(request):
    """A function that makes an objective of a script, and its study in a file that is named in two ways."""

    def begin(*script, **options):
        goal = scripted(*script)
        return goal, open_study("s", goal, storage=request.param, **options)

    return begin


def together(n: int, work, *arguments) -> None:
    """Do some work in several processes at once, and wait for their end."""
    workers = [multiprocessing.get_context("fork").Process(target=work, args=arguments) for _ in range(n)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert {worker.exitcode for worker in workers} <= {0, 9}


def test_an_interrupted_trial_is_tried_again(begin):
    goal, study = begin(0.1, KeyboardInterrupt(), 0.2, 0.3)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, goal, n_trials=3)
    assert states(study) == ["COMPLETE", "FAIL", "WAITING"]
    run_study(study, goal, n_trials=3)
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[2].params == study.trials[1].params


def test_a_mistake_is_raised_and_counts_as_a_trial(begin):
    goal, study = begin(0.1, TypeError("mine"), 0.2, 0.3)
    with pytest.raises(TypeError, match="mine"):
        run_study(study, goal, n_trials=3)
    run_study(study, goal, n_trials=3)
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]
    run_study(study, goal, n_trials=3)
    run_study(study, goal, n_trials=0)
    assert len(study.trials) == 3


def die_in_a_trial() -> None:
    goal = scripted(lambda: os._exit(9))
    run_study(open_study("s", goal, storage="study.db", grace_period=1), goal, n_trials=1)


def test_a_trial_that_kills_its_workers_is_given_up(begin):
    goal, study = begin(0.1, 0.2, grace_period=1)
    for _ in range(3):
        together(1, die_in_a_trial)
        time.sleep(LONG)
    assert states(study) == ["FAIL", "FAIL", "RUNNING"]
    with pytest.warns(TabmtlWarning, match=r"trial 0 was lost with its worker 3 times.*{'dropout': 0.1}"):
        run_study(study, goal, n_trials=2)
    assert states(study) == ["FAIL", "FAIL", "FAIL", "COMPLETE"], "which counts as one trial"
    assert (repeated_trials(study), count_ended(study)) == ({0, 1}, 2)


def test_a_reader_notices_a_dead_worker():
    study = open_study("s", scripted(), storage="study.db")
    together(1, die_in_a_trial)
    open_study("s", storage="study.db")
    assert states(study) == ["RUNNING"], "it may live"
    time.sleep(LONG)
    open_study("s", storage="study.db", grace_period=1)
    assert states(study) == ["FAIL", "WAITING"]
    assert study.trials[0].params == study.trials[1].params == scripted().defaults


class Dying(optuna.samplers.RandomSampler):
    """Ends its process when a trial has just begun."""

    def before_trial(self, study, trial):
        os._exit(9)


def die_at_the_start_of_a_trial() -> None:
    goal = scripted()
    study = open_study("s", goal, storage="study.db")
    study.sampler = Dying()
    run_study(study, goal, n_trials=99)


def test_a_worker_that_dies_with_a_trial_of_the_queue_before_it_draws_parameters(begin):
    goal, study = begin(0.1, 0.2, grace_period=1)
    together(1, die_at_the_start_of_a_trial)
    assert states(study) == ["RUNNING"]
    time.sleep(LONG)
    run_study(study, goal, n_trials=2)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[1].params == goal.defaults


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_foreign_trial_is_left_alone(begin):
    goal, study = begin(0.1, 0.2, grace_period=1)
    run_study(study, goal, n_trials=1)
    study.ask()
    study.ask().set_user_attr(WORKER, "another")
    time.sleep(LONG)
    run_study(study, goal, n_trials=2, timeout=0.5)
    assert states(study)[:3] == ["COMPLETE", "RUNNING", "RUNNING"]


def test_a_trial_whose_worker_lives_is_left_alone(begin):
    began, end = threading.Event(), threading.Event()

    def wait():
        began.set()
        assert end.wait(60)
        return 0.5

    def work():
        slow, own = begin(wait, grace_period=2)
        run_study(own, slow, n_trials=1)

    goal, study = begin(0.1, 0.2, grace_period=2)
    other = threading.Thread(target=work)
    other.start()
    try:
        assert began.wait(60)
        run_study(study, goal, n_trials=2, timeout=4)
        assert states(study) == ["RUNNING", "COMPLETE"], "it waits for the other"
    finally:
        end.set()
        other.join()
    run_study(study, goal, n_trials=2)
    assert states(study) == ["COMPLETE", "COMPLETE"]


def test_a_trial_that_was_taken_over_does_not_stop_its_worker(begin):
    goal, study = begin(0.1, 0.2, 0.3)

    def fit(model):
        if len(study.trials) == 1:  # others hold this worker for dead
            study.tell(0, state=TrialState.FAIL)
            retry(study, study.trials[0])
        return {"mean": goal.script.pop(0)}

    goal._fit_and_score = fit
    run_study(study, goal, n_trials=2)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[1].params == study.trials[0].params


def note_trials() -> None:
    goal = scripted(*[0.1] * 99)
    study = open_study("s", goal, storage="study.db")
    with Path("notes").open("a", buffering=1) as notes:
        run_study(study, goal, n_trials=20, callbacks=[lambda study, trial: notes.write(f"{trial.number}\n")])


def test_workers_take_no_trial_from_the_queue_twice():
    study = open_study("s", scripted(), storage="study.db")
    for i in range(19):
        study.enqueue_trial({"dropout": i / 100})
    together(4, note_trials)
    numbers = [int(line) for line in Path("notes").read_text().splitlines()]
    assert sorted(numbers) == list(range(len(study.trials)))
    assert set(states(study)) == {"COMPLETE"}


def die_on(database) -> None:
    goal = scripted(0.1, lambda: os._exit(9))
    run_study(open_study("s", goal, storage=database), goal, n_trials=6)


def share(database, meeting) -> None:
    goal = scripted(lambda: meeting.wait(60) / 10, *[0.1] * 99)
    run_study(open_study("s", goal, storage=database), goal, n_trials=6)


def test_workers_share_a_study_on_postgresql_and_one_dies(database):
    together(1, die_on, database)
    time.sleep(LONG)
    open_study("s", storage=database, grace_period=1)
    together(2, share, database, multiprocessing.get_context("fork").Barrier(2))
    study = open_study("s", storage=database)
    assert count_ended(study) in (6, 7), "both may begin the last trial at once"
    assert {trial.state for trial in study.trials if trial.number != 1} == {TrialState.COMPLETE}
    (again,) = (trial for trial in study.trials if is_retry(trial))
    assert study.trials[1].state == TrialState.FAIL
    assert again.params == study.trials[1].params
    assert len({trial.user_attrs[WORKER] for trial in study.trials}) == 3


def test_an_end_is_needed_and_kept(begin):
    goal, study = begin(0.1, 0.2)
    with pytest.raises(ValueError, match="give n_trials, timeout or both"):
        run_study(study, goal)
    run_study(study, goal, timeout=0)
    assert not study.get_trials(states=(TrialState.COMPLETE,))
    seen = []
    run_study(study, goal, n_trials=2, timeout=60, callbacks=[lambda study, trial: seen.append(trial.number)])
    assert seen == [0, 1]
