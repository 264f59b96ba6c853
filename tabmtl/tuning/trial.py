"""Trials: suggest parameters, fit an estimator with them, and score it on validation rows."""

from __future__ import annotations

import math
import sys
import time
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol, Self

import optuna
from optuna.exceptions import ExperimentalWarning
from sklearn.base import clone

from tabmtl.base.params import check_count, check_positive
from tabmtl.base.ranks import answer
from tabmtl.base.schema import DivergenceError, TabmtlWarning, describe_error
from tabmtl.training.run import current as current_group
from tabmtl.tuning.spaces import current, suggest

Scores = dict[str, float | None]

#: User attributes of trials: scores of the validation rows, why it was ended early, and why its fit failed.
SCORES, ENDED, FAILURE = "scores", "ended", "failure"


class Reporter(Protocol):
    """Receiver of the events of trials, see `Objective.reported_to`. An exception raised here ends the trial."""

    def of(self, trial: optuna.Trial) -> AbstractContextManager[Any]:
        """Return the context of a trial, entered before it has parameters; its early end is raised inside."""

    def log_epoch(self, record: Mapping[str, float | None]) -> None:
        """Receive the record of an epoch, before it may end the trial."""

    def log_scores(self, model: Any, scores: Scores) -> None:
        """Receive the fitted model and its scores on the validation rows."""


@dataclass(kw_only=True, eq=False, repr=False)
class Objective:
    """Function of trials to maximise, made by `objective` or `session_objective`; `run_study` calls it.

    A single number is reported after every epoch, and the pruner of the study may end the trial. Optuna cannot prune
    trials with a number for each task; `within` ends those. Models without epochs, such as trees, run to their end.

    A fit that diverges or runs out of memory is a pruned trial, with a warning. So is a fit that raises any other
    ValueError, once a fit has succeeded. Before that, the error is more likely to be about the estimator or the rows
    than about the parameters of the trial, and is raised. In a group of processes that fit together, only a fit that
    diverges is pruned.

    The user attributes of a trial hold the scores of the validation rows (``scores``: of every task, or MRR@20), why it
    was ended early (``ended``), and why its fit failed (``failure``).

    Attributes
    ----------
    names : tuple of str
        Names of the numbers: ``("mean",)``, the tasks, or ``("mrr@20",)``.
    search_space : dict
        The space that is searched, choices as a study stores them.
    facts : dict
        Facts that tell this search from others, such as checksums of its rows, as JSON: a study keeps them.
    """

    est: Any
    search_space: dict[str, dict[str, Any]]
    names: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    floors: dict[str, float] = field(default_factory=dict)
    warmup: int = 5
    reporter: Reporter | None = None
    _works: bool = field(default=False, init=False)

    def __repr__(self) -> str:
        numbers, searched = ", ".join(self.names), ", ".join(self.search_space)
        return f"<objective of {type(self.est).__name__}: {numbers}; searches {searched}>"

    @property
    def defaults(self) -> dict[str, Any]:
        """The parameters that the estimator has now, as a study stores them; they are its first trial."""
        return current(self.est, self.search_space)

    def within(
        self, *, seconds: float | None = None, floors: Mapping[str, float] | None = None, warmup: int = 5
    ) -> Self:
        """Return the same objective with a budget; trials that exceed it are pruned.

        Parameters
        ----------
        seconds : float, optional
            Time that a trial may take, checked after every epoch; a fit that hangs within one goes on.
        floors : mapping of str to float, optional
            Lowest score of a task: reached in validation within ``warmup`` epochs, and held in the end.
        warmup : int, default=5

        Returns
        -------
        Objective
            A new one, with the same reporter.

        Raises
        ------
        ValueError
            If a number is out of range, a floor names no task, or the estimator has no epochs to check the time after.
        """
        if seconds is not None:
            check_positive("seconds", seconds)
            if not hasattr(self.est, "on_epoch"):
                raise ValueError(
                    f"the seconds of a trial are checked after every epoch, and {type(self.est).__name__} has none: "
                    "leave them out"
                )
        check_count("warmup", warmup)
        unknown = [task for task in floors or () if task not in self._floor_names()]
        if unknown:
            raise ValueError(f"floors names {unknown}; there are scores of {list(self._floor_names())}")
        return replace(self, seconds=seconds, floors=dict(floors or {}), warmup=warmup)

    def reported_to(self, reporter: Reporter) -> Self:
        """Return the same objective, with the same budget, that reports its trials, such as to a log of experiments."""
        return replace(self, reporter=reporter)

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        """Run a trial.

        Returns
        -------
        value : float, or tuple of float
            One for each of ``names``.

        Raises
        ------
        optuna.TrialPruned
            If the trial was ended early, or its fit failed.
        ValueError
            If the study minimises, or has another number of directions.
        """
        study = getattr(trial, "study", None)  # a FixedTrial has none
        if study is not None:
            self.check_directions(study)
            name_numbers(study, self.names)
        with nullcontext() if self.reporter is None else self.reporter.of(trial):
            return self._run(trial)

    def check_directions(self, study: optuna.Study) -> None:
        """Raise a ValueError unless a study maximises as many numbers as the objective gives."""
        directions = [direction.name.lower() for direction in study.directions]
        if directions != ["maximize"] * len(self.names):
            raise ValueError(
                f"the objective gives {list(self.names)}, to be maximised, and the directions of the study "
                f"{study.study_name!r} are {directions}: take another name, and make it by open_study, or with "
                f"directions=['maximize'] * {len(self.names)}"
            )

    def take_part(self) -> None:
        """Fit what rank 0 of the group tries, and score with it; it tells the study how that ended."""
        params = answer(current_group())
        self._fit_and_score(clone(self.est).set_params(**params))

    def _run(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        params = answer(current_group(), lambda: suggest(trial, self.search_space))
        model = clone(self.est).set_params(**params)
        watch = _Watch(self, trial)
        if hasattr(model, "on_epoch"):
            model.set_params(on_epoch=watch)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".* is undefined", TabmtlWarning)  # said once, by `objective`
                scores = self._fit_and_score(model)
        except Exception as error:
            if not self._is_of_parameters(error):
                raise
            self._fail(trial, error)
        self._works = True
        trial.set_user_attr(SCORES, scores)
        if self.reporter is not None:
            self.reporter.log_scores(model, scores)
        watch.check_floors(scores)
        return self._values(trial, scores)

    def _values(self, trial: optuna.Trial, scores: Scores) -> float | tuple[float, ...]:
        values = self._chosen(scores)
        wrong = [name for name, value in zip(self.names, values, strict=True) if not math.isfinite(value)]
        if wrong:
            self._fail(trial, ValueError(f"the score of {wrong} is not finite"))
        return values[0] if len(values) == 1 else values

    def _fail(self, trial: optuna.Trial, error: Exception) -> None:
        reason = describe_error(error)
        trial.set_user_attr(FAILURE, reason[:1000])
        warnings.warn(f"trial {trial.number} failed and counts as pruned: {reason}", TabmtlWarning, stacklevel=4)
        raise optuna.TrialPruned(reason) from error

    def _is_of_parameters(self, error: Exception) -> bool:
        """Return whether other parameters would have gone well; in a group only if all its ranks have this error."""
        if isinstance(error, DivergenceError):
            return True
        if current_group().size > 1:
            return False
        torch = sys.modules.get("torch")
        exhausted = (MemoryError,) if torch is None else (MemoryError, torch.OutOfMemoryError)
        return isinstance(error, exhausted) or (self._works and isinstance(error, ValueError))

    @abstractmethod
    def _fit_and_score(self, model: Any) -> Scores:
        """Fit, and score the validation rows; in a group all ranks do, and rank 0 has the scores."""

    @abstractmethod
    def _epoch_scores(self, record: Mapping[str, float | None]) -> Scores:
        """Score the validation rows after an epoch, by the names of `_fit_and_score`."""

    @abstractmethod
    def _chosen(self, scores: Scores) -> tuple[float, ...]:
        """Return a number for each of ``names``; NaN if there is none."""

    def _floor_names(self) -> tuple[str, ...]:
        return ()


class _Watch:
    """Hook after every epoch: calls the user's own hook and the reporter, then checks whether the trial ends."""

    def __init__(self, goal: Objective, trial: optuna.Trial) -> None:
        self._goal, self._trial, self._own = goal, trial, getattr(goal.est, "on_epoch", None)
        self._start, self._best = time.monotonic(), dict.fromkeys(goal.floors, -math.inf)

    def __call__(self, record: Mapping[str, float | None]) -> bool | None:
        answer = None if self._own is None else self._own(record)
        goal, epoch = self._goal, int(record["epoch"] or 0) + 1
        if goal.reporter is not None:
            goal.reporter.log_epoch(record)
        scores = goal._epoch_scores(record)
        spent = time.monotonic() - self._start
        if goal.seconds is not None and spent > goal.seconds:
            self._end(f"after epoch {epoch} and {spent:.1f} s, of {goal.seconds:g}")
        for task in self._best:
            score = scores[task]
            self._best[task] = max(self._best[task], -math.inf if score is None else score)
        if epoch >= goal.warmup:
            self.check_floors(self._best)
        if len(goal.names) == 1:
            (value,) = goal._chosen(scores)
            if math.isfinite(value):
                self._trial.report(value, epoch)
            if self._trial.should_prune():
                self._end(f"by the pruner, after epoch {epoch}")
        return answer

    def check_floors(self, scores: Mapping[str, float | None]) -> None:
        """Prune the trial if a task is below its floor."""
        for task, floor in self._goal.floors.items():
            score = scores[task]
            if score is not None and score < floor:
                self._end(f"{task} is at {score:.4f}, below {floor:g}")

    def _end(self, reason: str) -> NoReturn:
        self._trial.set_user_attr(ENDED, reason)
        raise optuna.TrialPruned(reason)


def name_numbers(study: optuna.Study, names: Sequence[str]) -> None:
    """Name the numbers of a study, unless they have names."""
    if study.metric_names is None:
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            study.set_metric_names(list(names))
