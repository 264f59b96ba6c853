"""Work on a study: any number of processes, now and later, until it has all its trials.

A worker of a journal file holds a lock on a file of its own while it works, which the system takes from it when it
dies, however it dies; so whether a trial is lost is known at once, and a slow worker is never taken for a dead one. In
databases workers leave a sign of life every minute, and a trial without one for three minutes is lost. Workers take
turns to look for lost trials and to begin one, so that none is begun twice, or beyond the number that is asked for.
"""

from __future__ import annotations

import contextlib
import math
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from tabmtl.tuning.locks import FileLock, NoLock
from tabmtl.tuning.lost import ERROR, REPEATS, WORKER, repeat_lost, was_lost
from tabmtl.tuning.studies import journal_folder, quiet, turn_of
from tabmtl.tuning.trial import Objective

_POLL = 1.0  # seconds

Callback = Callable[[optuna.Study, FrozenTrial], None]


def run_study(
    study: optuna.Study,
    objective: Objective,
    *,
    n_trials: int | None = None,
    timeout: float | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Run trials until a study has so many, or the time is up.

    Call it again, here or in another process, to go on; call it in several processes at once to share the trials. A
    trial whose worker was killed, or interrupted, is put in the queue again, up to twice, and run by the workers that
    are left: a worker that finds all trials taken waits for them to end. A dead worker is noticed at once on a journal
    file, and after three minutes in a database. The number of trials is exact on a journal file and in PostgreSQL; in
    another database, workers that begin the last trial at the same moment run one too many.

    Parameters
    ----------
    study : optuna.Study
        As `open_study` gives it.
    objective : Objective
    n_trials : int, optional
        Trials of the study that have ended, of all workers and of former calls: complete, pruned or failed. A lost
        trial and its repetition are one.
    timeout : float, optional
        Seconds after which this call begins no trial.
    callbacks : sequence of callable, optional
        Called with study and trial after every trial, as Optuna has it.

    Raises
    ------
    ValueError
        If neither ``n_trials`` nor ``timeout`` is given.
    """
    if n_trials is None and timeout is None:
        raise ValueError("run_study needs an end: give n_trials, timeout or both")
    most = math.inf if n_trials is None else n_trials
    end = time.monotonic() + (math.inf if timeout is None else timeout)
    with quiet(), Worker(study).at_work() as worker:
        while time.monotonic() < end:
            with worker.turn():
                worker.recover()
                ended, running = _count(study)
                if ended >= most:
                    return
                if ended + running < most:
                    worker.run_one(objective, callbacks)
                    continue
            time.sleep(min(_POLL, max(0.0, end - time.monotonic())))


class Worker:
    """Who runs trials of a study: the mark on its trials, its sign of life, and its turns.

    Parameters
    ----------
    study : optuna.Study
    """

    def __init__(self, study: optuna.Study) -> None:
        self.study, self.name = study, uuid.uuid4().hex
        self._folder, self._turn = journal_folder(study), turn_of(study)
        self._given_up: set[int] = set()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[Worker]:
        """Give the sign of life, and end it."""
        if self._folder is None:
            yield self
            return
        life = FileLock(self._folder / self.name)
        life.acquire()
        try:
            yield self
        finally:
            life.path.unlink(missing_ok=True)
            life.release()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Let no other worker look for lost trials or begin one; `run_one` ends it when its own trial has begun."""
        self._turn.acquire()
        try:
            yield
        finally:
            self._turn.release()

    def recover(self) -> None:
        """End the trials whose worker is gone, and put them in the queue again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            worker = trial.user_attrs.get(WORKER)
            if worker is not None and self._is_dead(worker):
                with contextlib.suppress(ValueError, UpdateFinishedTrialError):
                    self.study.tell(trial.number, state=TrialState.FAIL)
        repeat_lost(self.study, self._given_up)

    def _is_dead(self, worker: str) -> bool:
        if not worker:  # it went in its turn, before it could sign: nobody else has the turn now
            return not isinstance(self._turn, NoLock)
        if self._folder is None or Path(worker).name != worker:
            return False
        life = FileLock(self._folder / worker)
        dead = life.acquire(wait=False)
        if dead:
            life.path.unlink(missing_ok=True)
            life.release()
        return dead

    def run_one(self, objective: Objective, callbacks: Sequence[Callback]) -> None:
        """Run a trial."""
        begun: list[int] = []

        def run(trial: optuna.Trial) -> float | tuple[float, ...]:
            begun.append(trial.number)
            trial.set_user_attr(WORKER, self.name)
            self._turn.release()
            try:
                return objective(trial)
            except optuna.TrialPruned:
                raise
            except Exception as error:
                trial.set_user_attr(ERROR, repr(error)[:1000])
                raise

        try:
            self.study.optimize(run, n_trials=1, callbacks=list(callbacks))
        except Exception as error:
            trials = self.study.get_trials(deepcopy=False)
            if any(was_lost(trials[number]) for number in begun):
                return  # others took this worker for dead
            if isinstance(error, AssertionError) and isinstance(error.__context__, OSError):
                raise error.__context__ from None  # which a check of Optuna's has covered up
            raise


def _count(study: optuna.Study) -> tuple[int, int]:
    """Trials that have ended, and that workers are at."""
    trials = study.get_trials(deepcopy=False)
    repeated = sum(REPEATS in trial.user_attrs for trial in trials)
    ended = sum(trial.state.is_finished() for trial in trials)
    running = sum(trial.state == TrialState.RUNNING and bool(trial.user_attrs.get(WORKER)) for trial in trials)
    return ended - repeated, running
