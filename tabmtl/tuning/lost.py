"""Trials whose worker is gone: found by what they carry, and put in the queue again as often as it makes sense.

A trial carries who runs it, and the error that ended it, if one did. What has failed without an error was lost with its
worker. So a recovery that is itself cut off, at whatever point, is completed by the next one.
"""

from __future__ import annotations

import warnings

import optuna
from optuna.trial import FrozenTrial, TrialState

from tabmtl.schema import TabmtlWarning

#: User attributes of trials: who runs it (nobody yet is ""), which trial it repeats, and what it raised.
WORKER, REPEATS, ERROR = "worker", "repeats", "error"

_MOST = 2  # repetitions: what ends its worker again and again would end all of them


def was_lost(trial: FrozenTrial) -> bool:
    """Whether a trial has failed without an error of its own."""
    return trial.state == TrialState.FAIL and WORKER in trial.user_attrs and ERROR not in trial.user_attrs


def is_repeated(study: optuna.Study, number: int) -> bool:
    """Whether a trial was lost, and is or was tried again."""
    return any(trial.user_attrs.get(REPEATS) == number for trial in study.get_trials(deepcopy=False))


def repeat_lost(study: optuna.Study, given_up: set[int]) -> None:
    """Put the trials that were lost in the queue again.

    Parameters
    ----------
    study : optuna.Study
    given_up : set of int
        Trials that were lost too often, which is said once; more are added.
    """
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get(REPEATS) for trial in trials}
    for trial in trials:
        if not was_lost(trial) or trial.number in repeated | given_up:
            continue
        times, first = 0, trial
        while REPEATS in first.user_attrs:
            times, first = times + 1, trials[first.user_attrs[REPEATS]]
        if times < _MOST:
            _repeat(study, trial)
            continue
        given_up.add(trial.number)
        warnings.warn(
            f"trial {first.number} was lost with its worker {times + 1} times, and is not tried again: its parameters "
            f"{trial.params} may need more memory than there is",
            TabmtlWarning,
            stacklevel=2,
        )


def _repeat(study: optuna.Study, trial: FrozenTrial) -> None:
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={REPEATS: trial.number, WORKER: ""},
            system_attrs=trial.system_attrs,  # those of a trial that was put in the queue, among others
        )
    )
