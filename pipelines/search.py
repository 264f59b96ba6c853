"""The trials of a sweep: what is searched, in which study, and the processes that work on it."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Literal

from tabmtl.pipelines.data import ClickColumns, DataSource, Rows
from tabmtl.pipelines.model_choice import ModelChoice
from tabmtl.pipelines.terminal import INTERRUPTED, exit_code, near, pairs
from tabmtl.pipelines.tracking import Tracking, connected, without_password
from tabmtl.pipelines.train import open_rows_and_model
from tabmtl.schema import TabmtlWarning

if TYPE_CHECKING:
    import optuna

    from tabmtl.tuning import Objective

_FACTS = "tabmtl:facts"  # user attribute of a study: what it was made for
_PATIENCE = 30  # seconds that a worker has to end in order


@dataclass(frozen=True, kw_only=True)
class Search:
    """How many trials are run, where they are kept, and which one is the best.

    Parameters
    ----------
    trials : int
        Trials of the study in the end, over all calls.
    timeout : float, optional
        Seconds after which no trial begins.
    trial_timeout : float, optional
        Seconds after which a trial is pruned, after an epoch.
    storage : str
        Journal file, or database of several machines: postgresql://...
    study : str, optional
        Name of the study; default data, model and objective.
    objective : {"mean", "pareto"}
        One number, with pruning, or the Pareto front of the tasks.
    weight : list of str
        TASK=NUMBER, to choose from the front; tasks that are left out count 0; may be repeated.
    above_single_task : bool
        Instead of --weight: no task below one LightGBM per task.
    workers : int
        Processes that share the trials.
    no_refit : bool
        Only run trials, as further machines do.
    """

    trials: int = 20
    timeout: float | None = None
    trial_timeout: float | None = None
    storage: str = "sweep.journal"
    study: str | None = None
    objective: Literal["mean", "pareto"] = "mean"
    weight: list[str] = field(default_factory=list)
    above_single_task: bool = False
    workers: int = 1
    no_refit: bool = False

    def __post_init__(self) -> None:
        if self.objective == "mean" and (self.weight or self.above_single_task):
            raise ValueError("--weight and --above-single-task choose from a front: take --objective pareto")
        if self.weight and self.above_single_task:
            raise ValueError("--weight and --above-single-task are two ways to choose: take one")
        numbers = self.weights.values()
        if self.weight and not (all(math.isfinite(number) and number >= 0 for number in numbers) and any(numbers)):
            raise ValueError(f"--weight takes numbers of at least 0, and one above it, got {' '.join(self.weight)}")
        for name in ("trials", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        for flag, seconds in (("--timeout", self.timeout), ("--trial-timeout", self.trial_timeout)):
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{flag} must be above 0, got {seconds:g}")

    def check_weights(self, tasks: Sequence[str]) -> None:
        """Raise a ValueError for a weight of no task."""
        for task in self.weights:
            if task not in tasks:
                raise ValueError(f"--weight: there is no task {task!r}: {near(task, tasks)}")

    @property
    def weights(self) -> dict[str, float]:
        """The weights as numbers."""
        found = {}
        for name, text in pairs(self.weight, "--weight").items():
            try:
                found[name] = float(text)
            except ValueError:
                raise ValueError(f"--weight {name}= takes a number, got {text!r}") from None
        return found


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a process needs to work on the trials of a sweep.

    Parameters
    ----------
    source, clicks, choice, tracking, search
        The options.
    study : str
    experiment_id, parent : str, optional
        Of the run of the sweep; None where nothing is logged.
    """

    source: DataSource
    clicks: ClickColumns
    choice: ModelChoice
    tracking: Tracking
    search: Search
    study: str
    experiment_id: str | None = None
    parent: str | None = None


def make_goal(rows: Rows, estimator: Any, choice: ModelChoice, search: Search) -> Objective:
    """What the trials do, and in which time: parameters that are set are not searched."""
    space = {name: entry for name, entry in estimator.search_space.items() if name not in choice.params}
    goal = rows.objective(estimator, per_task=search.objective == "pareto", search_space=space)
    return goal.within(seconds=search.trial_timeout)


def open_search(name: str, goal: Objective, search: Search, facts: Mapping[str, Any], seed: int) -> optuna.Study:
    """Make the study, or go on with it.

    Parameters
    ----------
    name : str
    goal : Objective
    search : Search
    facts : mapping of str to value
        What the trials of one study share, as JSON.
    seed : int

    Raises
    ------
    ValueError
        If the study was made for other data, settings or parameters.
    """
    from tabmtl.tuning import open_study

    study = open_study(name, goal, storage=search.storage, seed=seed)
    ours, known = json.loads(json.dumps(facts)), study.user_attrs.get(_FACTS)
    if known is None:
        study.set_user_attr(_FACTS, ours)
        return study
    for fact, value in ours.items():
        if known.get(fact) != value:
            raise ValueError(
                f"the study {name!r} in {without_password(search.storage)} was made with {fact} = {known.get(fact)}, "
                f"and is asked to go on with {value}: give what it had, or another --study"
            )
    return study


def run_trials(job: Job, study: optuna.Study, goal: Objective) -> None:
    """Run the trials that are left, in this process, or in as many as ``workers`` says.

    Raises
    ------
    ChildProcessError
        If all workers ended with an error.
    """
    n_workers = min(job.search.workers, job.search.trials - _ended(study))
    if n_workers < 2:
        _work(job, study, goal)
        return
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work_apart, args=(job,)) for _ in range(n_workers)]
    with _threads_for(len(workers)):
        for worker in workers:
            worker.start()
    try:
        _wait_for(workers)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(_PATIENCE)
            worker.kill()
    codes = [worker.exitcode for worker in workers]
    if all(codes):
        raise ChildProcessError(f"all workers ended with errors, see above; exit codes {codes}")


def _wait_for(workers: Sequence[BaseProcess]) -> None:
    """Wait for all workers, and say of those that had no chance to say it themselves that they are gone."""
    left = [*workers]
    while left:
        ended = wait([worker.sentinel for worker in left])
        for worker in [worker for worker in left if worker.sentinel in ended]:
            worker.join()
            left.remove(worker)
            code = worker.exitcode or 0
            if code < 0 or code == INTERRUPTED:
                by = f"signal {-code}" if code < 0 else "an interrupt"
                said = f"a worker was ended by {by}; {len(left)} of {len(workers)} go on"
                warnings.warn(said, TabmtlWarning, stacklevel=2)


def _ended(study: optuna.Study) -> int:
    """Trials that have ended, as `run_study` counts them."""
    from tabmtl.tuning.lost import REPEATS

    trials = study.get_trials(deepcopy=False)
    return sum(trial.state.is_finished() - (REPEATS in trial.user_attrs) for trial in trials)


def _work(job: Job, study: optuna.Study, goal: Objective) -> None:
    import optuna

    from tabmtl.pipelines.trials import TrialRuns, say_trial
    from tabmtl.tuning import run_study

    if job.parent is not None and job.experiment_id is not None:
        goal = goal.reported_to(TrialRuns(job.experiment_id, job.parent))
    say = partial(say_trial, goal.names)
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # below, it prints the traceback of an error that is raised too
    try:
        run_study(study, goal, n_trials=job.search.trials, timeout=job.search.timeout, callbacks=[say])
    finally:
        optuna.logging.set_verbosity(level)


def _work_apart(job: Job) -> None:
    """Work in a process of its own, which ends with the process that started it, however that ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(exit_code(partial(_open_and_work, job), "tabmtl sweep"))


def _open_and_work(job: Job) -> None:
    from tabmtl.tuning import open_study

    with nullcontext() if job.parent is None else connected(job.tracking):
        rows, estimator = open_rows_and_model(job.source, job.clicks, job.choice)
        goal = make_goal(rows, estimator, job.choice, job.search)
        study = open_study(job.study, goal, storage=job.search.storage, seed=job.choice.seed)
        _work(job, study, goal)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)  # the trial is lost, and known to be


@contextmanager
def _threads_for(workers: int) -> Iterator[None]:
    """Share the processors among the workers that are started inside, where the user has not."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
