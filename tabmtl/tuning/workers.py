"""Run the trials of a study: any number of processes, now and later, until it has all of them.

A worker gives a sign of life while it runs a trial, Optuna's heartbeat. A trial without one for the grace period of the
study fails, and is put in the queue again by the worker or reader that notices it first. If that one is killed in the
same moment, the trial stays failed.
"""

from __future__ import annotations

import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from tabmtl.base.ranks import EndedElsewhereError, answer
from tabmtl.base.schema import DivergenceError
from tabmtl.training.run import Run, current
from tabmtl.tuning.studies import at_work, check_same, quiet, retry, retry_stale, storage_errors
from tabmtl.tuning.trial import Objective

#: User attribute of trials: the machine and process that runs it.
WORKER = "worker"

_POLL = 1.0  # seconds

Callback = Callable[[optuna.Study, FrozenTrial], None]


def run_study(
    study: optuna.Study | None,
    objective: Objective,
    *,
    n_trials: int | None = None,
    timeout: float | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Run trials until a study has this number of them, or the time is up.

    Call it again, here or in another process, to go on; call it in several processes at once to share the trials. A
    trial whose worker was killed or interrupted is put in the queue again, at most twice, and run by the workers that
    are left: a worker that finds all trials taken waits for them to end. A dead worker is noticed after the grace
    period of the study. Workers that begin the last trial at the same moment run too many, at most one each.

    Inside of `tabmtl.scale.joined`, the processes of the group are one worker together: all call this, and fit every
    trial with the same parameters. Rank 0 alone has the study: it asks for parameters, reports scores, and prunes.
    Trials have no checkpoints; the study tells what there is to do after a restart.

    Parameters
    ----------
    study : optuna.Study
        From `open_study`. None on the other ranks of a group.
    objective : Objective
        In a group from `objective` with `tabmtl.scale.Shards`, made by all ranks.
    n_trials : int, optional
        Trials of the study that have ended, see `count_ended`, of all workers and of former calls.
    timeout : float, optional
        Seconds after which this call begins no trial. One that hangs is not ended: kill its process.
    callbacks : sequence of callable, optional
        Called with study and trial after every trial, as in Optuna.

    Raises
    ------
    ValueError
        If neither ``n_trials`` nor ``timeout`` is given, study is None on rank 0, or it was made for another search or
        other rows.
    OSError
        If the storage is locked, full, read-only or out of reach. Call again to go on; in a group all ranks end, and
        the job is to be started again.
    """
    if n_trials is None and timeout is None:
        raise ValueError("run_study needs an end: give n_trials, timeout or both")
    with Run(group=current()).entered():  # without checkpoints of the job
        if current().rank:
            _follow(objective)
            return
        if study is None:
            current().gather(None)  # ends the others, which wait for the first answer
            raise ValueError("run_study needs a study, from open_study; None is for the other ranks of a group")
        most = math.inf if n_trials is None else n_trials
        end = time.monotonic() + (math.inf if timeout is None else timeout)
        begun = at_work.set(True)
        try:
            with quiet(), storage_errors(f"the storage of the study {study.study_name!r}"):
                answer(current(), lambda: check_same(study, objective))
                while (turn := answer(current(), lambda: _turn(study, most, end))) != "end":
                    if turn == "trial":
                        _run_one(study, objective, callbacks)
                    else:
                        time.sleep(min(_POLL, max(0.0, end - time.monotonic())))
        finally:
            at_work.reset(begun)


def _turn(study: optuna.Study, most: float, end: float) -> Literal["trial", "wait", "end"]:
    """Return what comes next: a trial, the end of the call, or to wait for trials of other workers."""
    if time.monotonic() >= end:
        return "end"
    retry_stale(study)
    ended = count_ended(study)
    if ended >= most:
        return "end"
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return "trial" if ended + sum(WORKER in trial.user_attrs for trial in running) < most else "wait"


def _follow(objective: Objective) -> None:
    """Take part in the trials of rank 0, as another rank of its group."""
    answer(current())  # that the study is one of these trials
    while (turn := answer(current())) != "end":
        if turn == "trial":
            with suppress(EndedElsewhereError, DivergenceError):  # which do not end the study; rank 0 tells it of them
                answer(current())
                objective.take_part()


def count_ended(study: optuna.Study) -> int:
    """Count the trials that are complete, pruned or failed; a lost trial and its repetition are one."""
    repeated = repeated_trials(study)
    trials = study.get_trials(deepcopy=False)
    return sum(trial.state.is_finished() and trial.number not in repeated for trial in trials)


def repeated_trials(study: optuna.Study) -> set[int]:
    """Return the numbers of the trials that were lost with their worker, and are in the queue or tried again."""
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        histories = map(RetryHeartbeatStaleTrialCallback.retry_history, study.get_trials(deepcopy=False))
        return {number for history in histories for number in history}


def _run_one(study: optuna.Study, objective: Objective, callbacks: Sequence[Callback]) -> None:
    begun: list[int] = []
    mistakes: list[Exception] = []

    def run(trial: optuna.Trial) -> float | tuple[float, ...]:
        begun.append(trial.number)
        try:
            answer(current(), lambda: trial.set_user_attr(WORKER, f"{platform.node()}-{os.getpid()}"))
            return objective(trial)
        except KeyboardInterrupt:
            retry(study, study.trials[trial.number])
            raise
        except (optuna.TrialPruned, UpdateFinishedTrialError):
            raise
        except Exception as error:
            mistakes.append(error)
            raise

    try:
        study.optimize(run, n_trials=1, callbacks=list(callbacks))
    except Exception:
        failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        if mistakes or not any(trial.number in begun for trial in failed):
            raise  # else others took this worker for dead, and try again
