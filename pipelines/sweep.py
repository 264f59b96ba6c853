"""Search the parameters of a model, fit the chosen point again, and log and register it: ``tabmtl sweep``.

A sweep is a study of Optuna, kept in an SQLite file or a database, and a run of MLflow with a nested run for every
trial. The same command again goes on with it until it has all its trials, also if it was killed; other machines join
it with ``--no-refit``.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import polars as pl

from tabmtl import tuning
from tabmtl.base.params import check_count
from tabmtl.base.schema import warn_user
from tabmtl.pipelines.data import ClickColumns, DataSource, Rows, TableRows, open_rows
from tabmtl.pipelines.model_choice import ModelChoice
from tabmtl.pipelines.terminal import INTERRUPTED, exit_code, lay_out, near, pairs, tell, verbosity
from tabmtl.pipelines.tracking import REFIT, Log, Tracking, TrialRuns, connected, make_client, open_log
from tabmtl.pipelines.train import (
    Fitted,
    check_output,
    fit_and_report,
    fit_single_tasks,
    prepare,
    print_places,
    rows_to_promote,
)

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

#: User attributes of a study: its run of MLflow, the chosen fit, and the single-task scores.
_RUN, _REFIT, _SINGLE = "tabmtl:run", "tabmtl:refit", "tabmtl:single_task"
_SHOWN_TRIALS, _SHOWN_TASKS = 5, 6
_PATIENCE = 30  # seconds that a worker has to end in order


@dataclass(frozen=True, kw_only=True)
class Search:
    """Options of a search: its trials, its storage, and the choice of the best trial.

    Parameters
    ----------
    trials : int
        Trials of the study, over all calls.
    timeout : float, optional
        Start no trial after this number of seconds.
    trial_timeout : float, optional
        Prune a trial of a network after the first epoch that ends later than this number of seconds.
    storage : str
        SQLite file, or database for several machines: postgresql://...
    study : str, optional
        Name of the study; default data, model and objective.
    objective : {"mean", "pareto"}
        One number, with pruning, or the Pareto front of the tasks.
    weight : list of str
        TASK=NUMBER, to choose from the front; tasks left out count 0; may be repeated.
    above_single_task : bool
        Instead of --weight: no task below IndependentTasks.
    workers : int
        Processes that share the trials.
    no_refit : bool
        Only run trials, for example on further machines.
    """

    trials: int = 20
    timeout: float | None = None
    trial_timeout: float | None = None
    storage: str = "sweep.db"
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
        check_count("--trials", self.trials)
        check_count("--workers", self.workers)
        for flag, seconds in (("--timeout", self.timeout), ("--trial-timeout", self.trial_timeout)):
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{flag} must be above 0, got {seconds:g}")

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


@dataclass(frozen=True)
class NoPoint:
    """Result of a sweep without a good enough point on its front.

    Parameters
    ----------
    reason : str
    """

    reason: str
    exit_code: ClassVar[int] = 1


def sweep(
    source: DataSource,
    clicks: ClickColumns = ClickColumns(),
    choice: ModelChoice = ModelChoice(),
    search: Search = Search(),
    tracking: Tracking = Tracking(),
    *,
    output: Path | None = None,
) -> Fitted | NoPoint | None:
    """Search the parameters of a model, and fit the best again.

    Every trial learns from train rows, and is stopped and judged on validation rows; these only judge models that stop
    by none. The chosen one is fitted again, scored on test rows once, logged and registered. Repeat the command to
    continue, also after a kill.
    The exit code is 1 if every point has a task below IndependentTasks, so that none is chosen.

    Parameters
    ----------
    source, clicks : DataSource, ClickColumns
        Source of the rows.
    choice : ModelChoice
        The estimator; the search leaves out parameters that it sets.
    search : Search
        The trials.
    tracking : Tracking
        Where to log them.
    output : Path, optional
        Save the chosen model to this folder.

    Returns
    -------
    Fitted, NoPoint or None
        None with ``no_refit``.

    Raises
    ------
    ValueError, OSError, ImportError
        If an option does not fit, or no trial is complete; finished trials are kept.
    """
    if output is not None:
        check_output(output)
    opened, choice = partial(open_rows, source, clicks), choice.named("SharedTrees")
    rows, estimator = prepare(opened, choice)
    goal = _make_goal(rows, estimator, choice, search)
    name = search.study or f"{rows.name}-{choice.model}-{search.objective}"
    study = tuning.open_study(name, goal, storage=search.storage, seed=choice.seed)
    tell(rows.describe())
    tell(f"Study {name}: {search.trials} trials of {choice.model} over {', '.join(goal.search_space)}")
    with open_log(tracking) as log, _run_of_sweep(log, study, search) as parent:
        runs = None if log is None or parent is None else TrialRuns(log.experiment.experiment_id, parent)
        try:
            in_worker = partial(_open_and_work, opened, choice, search, tracking, name, runs)
            _run_trials(study, goal, search, runs, in_worker)
        except KeyboardInterrupt:
            print("Interrupted: repeat the command to continue.", file=sys.stderr)
            raise
        found = _Found(study=study, rows=rows, estimator=estimator, log=log, runs=runs)
        found.print_trials()
        if search.no_refit:
            return None
        point = found.choose(search)
        if isinstance(point, NoPoint):
            return point
        fitted = found.fit_chosen(point, tracking.register, output)
        if log is not None:
            print_places(log, fitted, tracking.register, rows_to_promote(rows, estimator))
    return fitted


def _make_goal(rows: Rows, estimator: Any, choice: ModelChoice, search: Search) -> tuning.Objective:
    """Make the objective of the trials, without the parameters that are set, for a study of these rows and settings."""
    space = {name: entry for name, entry in estimator.search_space.items() if name not in choice.params}
    if not space:
        left_out = ", or leave out a --set" if estimator.search_space else ""
        raise ValueError(f"{choice.model} has no parameter to search: fit it once by tabmtl train{left_out}")
    goal = rows.objective(estimator, per_task=search.objective == "pareto", search_space=space)
    for task in search.weights:
        if task not in goal.names:
            raise ValueError(f"--weight: there is no task {task!r}: {near(task, goal.names)}")
    facts = {**rows.identity, "set": choice.params, "seed": choice.seed, **goal.facts}
    return replace(goal.within(seconds=search.trial_timeout), facts=facts)


@contextmanager
def _run_of_sweep(log: Log | None, study: optuna.Study, search: Search) -> Iterator[str | None]:
    """Yield the parent run of the trials: a new one, or the continued one of the study."""
    if log is None:
        yield None
        return
    client, known = make_client(), study.user_attrs.get(_RUN)
    there = client.search_runs([log.experiment.experiment_id], f"attributes.run_id = '{known}'")
    if there and search.no_refit and there[0].info.status == "RUNNING":
        yield known  # of another machine, which will end it
        return
    with log.run(study.study_name, run_id=known if there else None) as parent:
        study.set_user_attr(_RUN, parent)
        client.log_param(parent, "study", study.study_name)
        client.log_param(parent, "objective", search.objective)
        yield parent


def _run_trials(
    study: optuna.Study, goal: tuning.Objective, search: Search, runs: TrialRuns | None, in_worker: Callable[[], None]
) -> None:
    """Run the trials that are left, in this process or in several.

    Raises
    ------
    ChildProcessError
        If all workers ended with an error.
    """
    n_workers = min(search.workers, search.trials - tuning.count_ended(study))
    if n_workers < 2:
        _work(study, goal, search, runs)
        return
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work_apart, args=(in_worker, verbosity.get())) for _ in range(n_workers)]
    with _threads_for(n_workers):
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
    """Wait for all workers, and report those that could not report themselves."""
    left: dict[Any, BaseProcess] = {worker.sentinel: worker for worker in workers}
    while left:
        for sentinel in wait(left):
            worker = left.pop(sentinel)
            worker.join()
            code = worker.exitcode or 0
            if code < 0 or code == INTERRUPTED:
                by = f"signal {-code}" if code < 0 else "an interrupt"
                warn_user(f"a worker was ended by {by}; {len(left)} of {len(workers)} go on")


@contextmanager
def _threads_for(workers: int) -> Iterator[None]:
    """Divide the processors among the workers started inside, unless the user has set the threads."""
    given = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = given or str(max(1, (os.cpu_count() or 1) // workers))
    try:
        yield
    finally:
        if given is None:
            del os.environ["OMP_NUM_THREADS"]


def _work_apart(in_worker: Callable[[], None], level: int) -> None:
    """Work in a separate process, which ends with the process that started it, however that ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    verbosity.set(level)
    sys.exit(exit_code(in_worker, "tabmtl sweep"))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)  # the trial is lost, which the next worker notices


def _open_and_work(
    opened: Callable[[str], Rows],
    choice: ModelChoice,
    search: Search,
    tracking: Tracking,
    name: str,
    runs: TrialRuns | None,
) -> None:
    with nullcontext() if runs is None else connected(tracking):
        rows, estimator = prepare(opened, choice)
        goal = _make_goal(rows, estimator, choice, search)
        _work(tuning.open_study(name, goal, storage=search.storage, seed=choice.seed), goal, search, runs)


def _work(study: optuna.Study, goal: tuning.Objective, search: Search, runs: TrialRuns | None) -> None:
    goal = goal if runs is None else goal.reported_to(runs)
    callbacks = [partial(print_trial, goal.names)]
    tuning.run_study(study, goal, n_trials=search.trials, timeout=search.timeout, callbacks=callbacks)


def print_trial(names: Sequence[str], study: optuna.Study, trial: FrozenTrial) -> None:
    """Print a line on a finished trial; Optuna keeps the last numbers of a pruned one."""
    text = ", ".join(f"{name} {value:.4f}" for name, value in zip(names, trial.values or (), strict=False))
    if trial.state.name != "COMPLETE":
        reasons = [trial.user_attrs[name] for name in (tuning.FAILURE, tuning.ENDED) if name in trial.user_attrs]
        text = ": ".join([trial.state.name.lower(), *reasons]) + (f", {text} so far" if text else "")
    seconds = trial.duration.total_seconds() if trial.duration is not None else 0.0
    tell(f"trial {trial.number}: {text}  ({seconds:.1f} s)")


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The trials of a sweep, and the choice among them."""

    study: optuna.Study
    rows: Rows
    estimator: Any
    log: Log | None
    runs: TrialRuns | None

    def print_trials(self) -> None:
        """Print and log the ends of the trials, and the best."""
        repeated = tuning.repeated_trials(self.study)
        counts = Counter(
            "lost and run again" if trial.number in repeated else trial.state.name.lower()
            for trial in self.study.get_trials(deepcopy=False)
        )
        print(f"\n{', '.join(f'{count} {end}' for end, count in counts.items())}. Best on the validation rows:\n")
        print(f"{lay_out(_best(self.study).head(_SHOWN_TRIALS))}\n", flush=True)
        if self.runs is not None:
            self.runs.end_lost(self.study)
            for end, count in counts.items():
                make_client().log_metric(self.runs.parent, f"trials/{end}", count)
            table = tuning.pareto_front(self.study, dominated=True).write_csv()
            make_client().log_text(self.runs.parent, table, "trials.csv")

    def choose(self, search: Search) -> pl.DataFrame | NoPoint:
        """Return the row of the chosen trial, and log it."""
        front = tuning.pareto_front(self.study)
        if front.is_empty():
            raise ValueError(
                f"no trial of the study {self.study.study_name!r} is complete, so there is nothing to choose: their "
                "lines above give the reasons; give more --trials, or other --set"
            )
        reference = self._single_task() if search.above_single_task else None
        weights = None if reference else search.weights or dict.fromkeys(self.study.metric_names or [], 1.0)
        try:
            point = tuning.choose_point(front, weights=weights, reference=reference)
        except tuning.NoPointError as error:
            print(f"No point is chosen: {error}.")
            print("Give more --trials, or --weight in place of --above-single-task.")
            return NoPoint(str(error))
        self._log_front(point, reference)
        return point

    def fit_chosen(self, point: pl.DataFrame, register: str | None, output: Path | None) -> Fitted:
        """Fit the chosen trial again, unless an earlier call has, and score the test rows."""
        trial = point["trial"].item()
        print(f"Trial {trial} is chosen:")
        for name, value in self.study.get_trials(deepcopy=False)[trial].params.items():
            print(f"  {name} = {value}")
        place = None if output is None else str(output)
        store = None if self.log is None else self.log.uri
        asked = {"trial": trial, "register": register, "output": place, "store": store}
        nothing: tuple[dict[str, Any], None] = {}, None
        before, fitted = self._kept(_REFIT, _read_refit) or nothing
        if fitted is not None and before == asked and (output is None or output.exists()):
            print("An earlier call has fitted it; test rows are scored only once. Their scores were:\n")
            print(lay_out(fitted.scores), "\n")
            return fitted
        if before:
            print(f"An earlier call has scored trial {before['trial']} on test rows: choose by validation rows.")
        model, name, tags = tuning.with_params(self.estimator, point), f"refit of trial {trial}", {REFIT: str(trial)}
        learns_val = isinstance(self.rows, TableRows) and self.rows.learns_val(model)
        on = "train and validation rows." if learns_val else "train rows, and stops on the validation rows."
        tell(f"It is fitted again on the {on}")
        if self.runs is not None:
            self.runs.end_lost_refits()
        fitted = fit_and_report(self.rows, model, self.log, name=name, register=register, output=output, tags=tags)
        kept = {**vars(fitted), "scores": fitted.scores.to_dict(as_series=False)}
        self.study.set_user_attr(_REFIT, {"asked": asked, "fitted": kept})
        return fitted

    def _single_task(self) -> dict[str, float | None]:
        """Return scores of single-task models on the validation rows; fitted once per study."""
        known = self._kept(_SINGLE, lambda scores: {task: float(score) for task, score in scores.items()})
        if known is None:
            known = self.rows.scores(fit_single_tasks(self.rows, self.estimator, judged="val"), "val")
            self.study.set_user_attr(_SINGLE, known)
        scores = ", ".join(f"{task} {score:.4f}" for task, score in known.items())
        tell(f"Scores of IndependentTasks, which learns each task alone, on the validation rows: {scores}")
        return known

    def _kept(self, name: str, read: Callable[[Any], Any]) -> Any:
        """Read an attribute of the study that an earlier call has set; None if none has."""
        known = self.study.user_attrs.get(name)
        try:
            return None if known is None else read(known)
        except (LookupError, TypeError, ValueError, AttributeError, pl.exceptions.PolarsError) as error:
            raise ValueError(
                f"the study {self.study.study_name!r} is damaged: {name} is {known!r:.200}; take another --study, or a "
                "copy of the storage from before"
            ) from error

    def _log_front(self, point: pl.DataFrame, reference: Any) -> None:
        """Log the chosen point, and draw the front if it can be drawn."""
        if self.runs is None:
            return
        make_client().set_tag(self.runs.parent, "tabmtl.chosen_trial", point["trial"].item())
        if 2 <= len(self.study.metric_names or []) <= _SHOWN_TASKS:
            front = tuning.pareto_front(self.study, dominated=True)
            display = tuning.ParetoDisplay.from_front(front, reference=reference, chosen=point)
            make_client().log_figure(self.runs.parent, display.figure_, "pareto.png")
            display.close()


def _read_refit(kept: Any) -> tuple[dict[str, Any], Fitted]:
    asked, fitted = kept["asked"], kept["fitted"]
    return {**asked, "trial": int(asked["trial"])}, Fitted(**fitted | {"scores": pl.DataFrame(fitted["scores"])})


def _best(study: optuna.Study) -> pl.DataFrame:
    """Return the front, or the best trials by one number, best first, with the scores of the tasks if they are few."""
    table = tuning.pareto_front(study, dominated=True)
    numbers = [name for name in table.columns if name.startswith("score/")]
    table = table.filter(~pl.col("dominated")) if len(numbers) > 1 else table
    trials = study.get_trials(deepcopy=False)
    tasks = pl.DataFrame([trials[number].user_attrs.get(tuning.SCORES, {}) for number in table["trial"]])
    shown = table.select("trial", mean=pl.mean_horizontal(numbers))
    if 1 < tasks.width <= _SHOWN_TASKS:
        shown = pl.concat([shown, tasks], how="horizontal")
    return shown.sort("mean", descending=True, nulls_last=True, maintain_order=True)
