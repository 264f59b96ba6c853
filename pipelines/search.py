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
from typing import TYPE_CHECKING, Annotated, Any

from tabmtl.pipelines.data import Rows
from tabmtl.pipelines.data.files import ClickColumns, DataSource
from tabmtl.pipelines.model_choice import ModelChoice
from tabmtl.pipelines.options import Help, near, pairs
from tabmtl.pipelines.terminal import INTERRUPTED, MISTAKE, in_order, is_mistake, one_line
from tabmtl.pipelines.tracking import Tracking, connected, without_password
from tabmtl.pipelines.train import open_problem
from tabmtl.schema import TabmtlWarning

if TYPE_CHECKING:
    import optuna

    from tabmtl.tuning import Objective

_FACTS = "tabmtl:facts"  # user attribute of a study: what it was made for
_PATIENCE = 30  # seconds that a worker has to end in order


@dataclass(frozen=True, kw_only=True)
class Search:
    """Search: how many trials, where they are kept, and what is best.

    Parameters
    ----------
    trials : int
        Of the study in the end, those of former calls among them.
    timeout : float, optional
        Seconds after which no trial begins.
    trial_timeout : float, optional
        Seconds after which a trial of a network ends with its epoch, pruned.
    storage : str
        A journal file, or the URL of a database.
    study : str, optional
        Name; default that of the data, the model and the objective.
    objective : {"mean", "pareto"}
        One number, with pruning, or the score of every task.
    weight : list of str
        ``task=number``: chooses the point of the Pareto front with the best weighted mean; tasks that are left out
        count 0. All are equal by default.
    above_single_task : bool
        Instead of weights, choose a point where no task is below `IndependentTasks` on the validation rows.
    workers : int
        Processes on this machine.
    no_refit : bool
        Only work on the trials.
    """

    trials: Annotated[int, Help("of the study in the end; the same command again goes on to it")] = 20
    timeout: Annotated[float | None, Help("seconds after which no trial begins", "SECONDS")] = None
    trial_timeout: Annotated[
        float | None, Help("seconds after which a trial is pruned, looked at after every epoch", "SECONDS")
    ] = None
    storage: Annotated[
        str, Help("journal file of this machine, or database of several: postgresql://...", "FILE|URL")
    ] = "sweep.journal"
    study: Annotated[str | None, Help("default: data, model and objective", "NAME")] = None
    objective: Annotated[str, Help("mean prunes bad trials early; pareto seeks the front", "mean|pareto")] = "mean"
    weight: Annotated[
        list[str], Help("to choose from the front, a task that is left out counts 0; repeated", "TASK=NUMBER")
    ] = field(default_factory=list)
    above_single_task: Annotated[
        bool, Help("instead of --weight: choose a point with no task below one LightGBM per task")
    ] = False
    workers: Annotated[int, Help("processes that share the trials")] = 1
    no_refit: Annotated[bool, Help("only run trials, as further machines do")] = False

    def check(self) -> None:
        """Raise a ValueError for what does not go together."""
        if self.objective not in ("mean", "pareto"):
            raise ValueError(f"--objective is mean or pareto, got {self.objective!r}")
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
        for name, text in pairs(self.weight, "--weight"):
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
    """What a worker process does; it ends with the process that started it, however that ends."""
    from tabmtl.tuning import open_study

    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with in_order(), nullcontext() if job.parent is None else connected(job.tracking):
            rows, estimator = open_problem(job.source, job.clicks, job.choice)
            goal = make_goal(rows, estimator, job.choice, job.search)
            study = open_study(job.study, goal, storage=job.search.storage, seed=job.choice.seed)
            _work(job, study, goal)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not is_mistake(error):
            raise
        print(f"tabmtl sweep: error: {one_line(error)}", file=sys.stderr)
        sys.exit(MISTAKE)


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
