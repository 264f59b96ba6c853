"""Search the parameters of a model, fit the chosen point again, and log and register it: ``tabmtl sweep``.

A sweep is a study of Optuna, kept in a
journal file or a database, and a run of MLflow with a nested run for every trial. The same command again goes on with
it until it has all its trials, also if it was killed; other machines join it with ``--no-refit``.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl

from tabmtl.pipelines.data import ClickColumns, DataSource, Rows
from tabmtl.pipelines.model_choice import ModelChoice
from tabmtl.pipelines.search import Job, Search, make_goal, open_search, run_trials
from tabmtl.pipelines.terminal import lay_out
from tabmtl.pipelines.tracking import REFIT, Log, Tracking, open_log
from tabmtl.pipelines.train import (
    Fitted,
    check_output,
    fit_and_report,
    fit_single_tasks,
    open_rows_and_model,
    print_places,
)

if TYPE_CHECKING:
    import optuna

#: User attributes of a study: its run of MLflow, the chosen fit, and the scores of single-task models.
_RUN, _REFIT, _SINGLE = "tabmtl:run", "tabmtl:refit", "tabmtl:single_task"
_SHOWN_TRIALS, _SHOWN_TASKS = 5, 6


@dataclass(frozen=True)
class NoPoint:
    """What a sweep gives where no point of its front is good enough.

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

    Every trial learns from train rows, and is stopped and judged on validation rows. The chosen one is fitted again in
    the same way, scored on test rows once, logged and registered. The same command again goes on, also after a kill.
    The exit code is 1 where no point is chosen, as all have a task below one LightGBM per task.

    Parameters
    ----------
    source, clicks : DataSource, ClickColumns
        Where the rows come from.
    choice : ModelChoice
        The estimator; parameters that it sets are not searched.
    search : Search
        The trials.
    tracking : Tracking
        Where they are logged.
    output : Path, optional
        Save the chosen model to this folder.

    Returns
    -------
    Fitted, NoPoint or None
        None with ``no_refit``.

    Raises
    ------
    ValueError, OSError, ImportError
        If an option does not fit, or no trial is complete; what was done is kept.
    """
    if output is not None:
        check_output(output)
    rows, estimator = open_rows_and_model(source, clicks, choice)
    goal = make_goal(rows, estimator, choice, search)
    search.check_weights(goal.names)
    name = search.study or f"{rows.name}-{choice.model}-{search.objective}"
    facts = {**rows.identity, "set": choice.params, "seed": choice.seed}
    study = open_search(name, goal, search, facts, choice.seed)
    print(rows.describe())
    print(f"Study {name}: {search.trials} trials of {choice.model} over {', '.join(goal.search_space)}", flush=True)
    with open_log(tracking) as log, _run_of_sweep(log, study, search) as parent:
        job = Job(
            source=source,
            clicks=clicks,
            choice=choice,
            tracking=tracking,
            search=search,
            study=name,
            experiment_id=None if log is None else log.experiment_id,
            parent=parent,
        )
        try:
            run_trials(job, study, goal)
        except KeyboardInterrupt:
            print("Interrupted: the same command goes on from here.", file=sys.stderr)
            raise
        found = _Found(study=study, rows=rows, estimator=estimator, log=log, parent=parent)
        found.say_trials()
        if search.no_refit:
            return None
        point = found.choose(search)
        if isinstance(point, NoPoint):
            print(f"No point is chosen: {point.reason}.")
            print("The options for that are more --trials, or --weight in place of --above-single-task.")
            return point
        fitted = found.fit_chosen(point, tracking.register, output)
        if log is not None:
            print_places(log, fitted, tracking.register, rows.origin)
    return fitted


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The trials of a sweep, and what is made of them."""

    study: optuna.Study
    rows: Rows
    estimator: Any
    log: Log | None
    parent: str | None

    def say_trials(self) -> None:
        """Print how the trials ended, and the best; and log that."""
        from tabmtl.pipelines.trials import end_lost_runs
        from tabmtl.tuning import pareto_front

        counts = _count(self.study)
        table = _best(self.study)
        print(f"\n{', '.join(f'{count} {state}' for state, count in counts.items())}. Best on the validation rows:\n")
        print(f"{lay_out(table.head(_SHOWN_TRIALS))}\n", flush=True)
        if self.log is None or self.parent is None:
            return
        end_lost_runs(self.study, self.log.experiment_id, self.parent)
        for state, count in counts.items():
            self.log.client.log_metric(self.parent, f"trials/{state}", count)
        self.log.client.log_text(self.parent, pareto_front(self.study, dominated=True).write_csv(), "trials.csv")

    def choose(self, search: Search) -> pl.DataFrame | NoPoint:
        """The row of the chosen trial."""
        from tabmtl.tuning import choose_point, pareto_front
        from tabmtl.tuning.front import NoPointError

        front = pareto_front(self.study)
        if front.is_empty():
            raise ValueError(
                f"no trial of the study {self.study.study_name!r} is complete, so there is nothing to choose: their "
                "lines above say why; give more --trials, or other --set"
            )
        reference = self._single_task() if search.above_single_task else None
        names = self.study.metric_names or []
        weights = None if reference else search.weights or dict.fromkeys(names, 1.0)
        try:
            point = choose_point(front, weights=weights, reference=reference)
        except NoPointError as error:
            return NoPoint(str(error))
        self._log_front(point, reference)
        return point

    def fit_chosen(self, point: pl.DataFrame, register: str | None, output: Path | None) -> Fitted:
        """Fit the chosen trial again, unless a former call has, and score the test rows."""
        from tabmtl.pipelines.trials import end_lost_refits
        from tabmtl.tuning import with_params

        trial = point["trial"].item()
        print(f"Trial {trial} is chosen:")
        for name, value in self.study.get_trials(deepcopy=False)[trial].params.items():
            print(f"  {name} = {value}")
        asked = {"trial": trial, "register": register, "output": None if output is None else str(output)}
        asked |= {"store": None if self.log is None else self.log.shown}
        before = self.study.user_attrs.get(_REFIT, {})
        if before.get("asked") == asked and (output is None or output.exists()):
            print("It was fitted again before; the test rows are not scored twice. Their scores were:\n")
            scores = pl.DataFrame(before["scores"])
            print(lay_out(scores), "\n")
            return Fitted(scores=scores, **before["fitted"])
        if before:
            print(f"The test rows were scored before, for trial {before['asked']['trial']}: choose by validation rows.")
        print("It is fitted again on the train rows, and stops on the validation rows.", flush=True)
        model = with_params(self.estimator, point)
        if self.log is not None and self.parent is not None:
            end_lost_refits(self.log.experiment_id, self.parent)
        fitted = fit_and_report(
            self.rows,
            model,
            self.log,
            name=f"refit of trial {trial}",
            register=register,
            output=output,
            tags={REFIT: str(trial)},
        )
        kept = {"run_id": fitted.run_id, "version": fitted.version, "alias": fitted.alias}
        self.study.set_user_attr(
            _REFIT, {"asked": asked, "fitted": kept, "scores": fitted.scores.to_dict(as_series=False)}
        )
        return fitted

    def _single_task(self) -> dict[str, float | None]:
        """Scores of one LightGBM per task on the validation rows; fitted once a study."""
        known = self.study.user_attrs.get(_SINGLE)
        if known is None:
            known = self.rows.scores(fit_single_tasks(self.rows, self.estimator), "val")
            self.study.set_user_attr(_SINGLE, known)
        scores = ", ".join(f"{task} {score:.4f}" for task, score in known.items())
        print(f"One LightGBM per task, with its defaults, has on the validation rows: {scores}")
        return known

    def _log_front(self, point: pl.DataFrame, reference: Any) -> None:
        """Log the chosen point, and draw the front where it has a picture."""
        from tabmtl.tuning import pareto_front

        if self.log is None or self.parent is None:
            return
        self.log.client.set_tag(self.parent, "tabmtl.chosen_trial", point["trial"].item())
        names = self.study.metric_names or []
        if 2 <= len(names) <= _SHOWN_TASKS:
            from tabmtl.plots import ParetoDisplay

            front = pareto_front(self.study, dominated=True)
            display = ParetoDisplay.from_front(front, reference=reference, chosen=point)
            self.log.client.log_figure(self.parent, display.figure_, "pareto.png")
            display.close()


@contextmanager
def _run_of_sweep(log: Log | None, study: optuna.Study, search: Search) -> Iterator[str | None]:
    """The run that holds those of the trials: a new one, or that of the study, which goes on."""
    if log is None:
        yield None
        return
    from tabmtl.pipelines.trials import go_on

    known = go_on(log, study.user_attrs.get(_RUN))
    if known is not None and search.no_refit and log.client.get_run(known).info.status == "RUNNING":
        yield known  # of another machine, which will end it
        return
    with log.run(study.study_name, run_id=known) as parent:
        study.set_user_attr(_RUN, parent)
        log.client.log_param(parent, "study", study.study_name)
        log.client.log_param(parent, "objective", search.objective)
        yield parent


def _count(study: optuna.Study) -> dict[str, int]:
    """Trials by how they ended."""
    from tabmtl.tuning.lost import REPEATS

    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get(REPEATS) for trial in trials}
    return dict(
        Counter("lost and run again" if trial.number in repeated else trial.state.name.lower() for trial in trials)
    )


def _best(study: optuna.Study) -> pl.DataFrame:
    """The front, or the best trials by one number, best first, with the scores of the tasks where they are few."""
    from tabmtl.tuning import pareto_front
    from tabmtl.tuning.trial import SCORES

    table = pareto_front(study, dominated=True)
    numbers = [name for name in table.columns if name.startswith("score/")]
    table = table.filter(~pl.col("dominated")) if len(numbers) > 1 else table
    trials = study.get_trials(deepcopy=False)
    tasks = pl.DataFrame([trials[number].user_attrs.get(SCORES, {}) for number in table["trial"]])
    shown = table.select("trial", mean=pl.mean_horizontal(numbers))
    if 1 < tasks.width <= _SHOWN_TASKS:
        shown = pl.concat([shown, tasks], how="horizontal")
    return shown.sort("mean", descending=True, nulls_last=True, maintain_order=True)


if __name__ == "__main__":
    from tabmtl.pipelines.cli import main

    raise SystemExit(main(["sweep", *sys.argv[1:]]))
