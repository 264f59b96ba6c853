"""Trials of a sweep as lines of the terminal and nested runs of MLflow, in whatever process and however they end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from tabmtl.metrics.scores import mean_score
from tabmtl.pipelines.tracking import REFIT, Log, make_client, status_of
from tabmtl.tuning.trial import ENDED, FAILURE, Scores

#: Tags of runs: of which trial, how that ended and why.
TRIAL, STATE, REASON = "tabmtl.trial", "tabmtl.state", "tabmtl.reason"

_PARENT = "mlflow.parentRunId"
_LONGEST = 500  # letters of a reason
_MOST_RUNS = 1000


def say_trial(names: Sequence[str], study: optuna.Study, trial: FrozenTrial) -> None:
    """Print a line on a trial that has ended; Optuna keeps the last numbers of one that was pruned."""
    said = ", ".join(f"{name} {value:.4f}" for name, value in zip(names, trial.values or (), strict=False))
    if trial.state != TrialState.COMPLETE:
        reasons = [trial.user_attrs[name] for name in (FAILURE, ENDED) if name in trial.user_attrs]
        said = ": ".join([trial.state.name.lower(), *reasons]) + (f", {said} so far" if said else "")
    seconds = trial.duration.total_seconds() if trial.duration is not None else 0.0
    print(f"trial {trial.number}: {said}  ({seconds:.1f} s)", flush=True)


class TrialRuns:
    """A nested run for every trial of this process: what an objective reports to.

    A store that does not answer costs what it should have kept, and a warning, but no trial.

    Parameters
    ----------
    experiment_id, parent : str
        Of the run of the sweep.
    """

    def __init__(self, experiment_id: str, parent: str) -> None:
        self.experiment_id, self.parent = experiment_id, parent
        self._trial: Any = None
        self._run_id: str | None = None
        self._callback: Any = None
        self._has_params = False

    @contextmanager
    def of(self, trial: optuna.Trial) -> Iterator[None]:
        """The run of a trial: FINISHED, KILLED where it was pruned or interrupted, or FAILED."""
        self._begin(trial)
        try:
            yield
        except optuna.TrialPruned as error:
            failed = FAILURE in trial.user_attrs
            self._end("FAILED" if failed else "KILLED", "failed" if failed else "pruned", str(error))
            raise
        except BaseException as error:
            self._end(status_of(error), "failed" if isinstance(error, Exception) else "interrupted", repr(error))
            raise
        self._end("FINISHED", "complete", "")

    def log_epoch(self, record: Mapping[str, float | None]) -> None:
        """Log the record of an epoch."""
        if self._callback is not None:
            with self._as_warning():
                self._log_params()
                self._callback(record)

    def log_scores(self, model: Any, scores: Scores) -> None:
        """Log what the kept weights have scored."""
        from tabmtl.mlflow.callback import metric_name

        names = {task.name: f"{task.name}/{task.metric}" for task in getattr(model, "tasks_", ())}
        final = {f"final/{names.get(name, name)}": score for name, score in scores.items()}
        final |= {"final/score": mean_score(scores)}
        with self._as_warning():
            for name, score in final.items():
                if self._run_id is not None and score is not None and math.isfinite(score):
                    make_client().log_metric(self._run_id, metric_name(name), score)

    def _begin(self, trial: optuna.Trial) -> None:
        from tabmtl.mlflow import MLflowCallback

        self._trial, self._run_id, self._callback, self._has_params = trial, None, None, False
        with self._as_warning():
            end_lost_runs(trial.study, self.experiment_id, self.parent)
            tags = {_PARENT: self.parent, TRIAL: str(trial.number)}
            run = make_client().create_run(self.experiment_id, run_name=f"trial {trial.number}", tags=tags)
            self._run_id = run.info.run_id
            self._callback = MLflowCallback(run_id=self._run_id)

    def _end(self, status: str, state: str, reason: str) -> None:
        if self._run_id is None:
            return
        with self._as_warning():
            client = make_client()
            self._log_params()
            self._callback.flush()
            client.set_tag(self._run_id, STATE, state)
            if reason:
                client.set_tag(self._run_id, REASON, reason[:_LONGEST])
            client.set_terminated(self._run_id, status)

    def _log_params(self) -> None:
        """Log what the trial was fitted with; known since its fit has begun."""
        from mlflow.entities import Param

        if self._run_id is not None and not self._has_params:
            params = [Param(name, str(value)) for name, value in self._trial.params.items()]
            make_client().log_batch(self._run_id, params=params)
            self._has_params = True

    def _as_warning(self) -> AbstractContextManager[None]:
        from tabmtl.mlflow.callback import as_warning

        return as_warning(f"trial {self._trial.number} is not logged in full, but goes on")


def end_lost_runs(study: optuna.Study, experiment_id: str, parent: str) -> None:
    """End the runs of trials that are over, but had no chance to say so: their process was killed."""
    trials = study.get_trials(deepcopy=False)
    for run in _open_runs(experiment_id, parent):
        number = int(run.data.tags.get(TRIAL, -1))
        if 0 <= number < len(trials) and trials[number].state.is_finished():
            complete = trials[number].state == TrialState.COMPLETE
            make_client().set_tag(run.info.run_id, STATE, "complete" if complete else "lost")
            make_client().set_terminated(run.info.run_id, "FINISHED" if complete else "KILLED")


def end_lost_refits(experiment_id: str, parent: str) -> None:
    """End the runs of final fits whose sweep was killed."""
    for run in _open_runs(experiment_id, parent):
        if REFIT in run.data.tags:
            make_client().set_tag(run.info.run_id, STATE, "lost")
            make_client().set_terminated(run.info.run_id, "KILLED")


def go_on(log: Log, run_id: str | None) -> str | None:
    """The run of a sweep that goes on, if it is still there."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        run = log.client.get_run(run_id)
    except MlflowException:
        return None
    there = run.info.lifecycle_stage == "active" and run.info.experiment_id == log.experiment_id
    return run_id if there else None


def _open_runs(experiment_id: str, parent: str) -> Any:
    among = f"tags.{_PARENT} = '{parent}' and attributes.status = 'RUNNING'"
    return make_client().search_runs([experiment_id], among, max_results=_MOST_RUNS)
