"""Fit several models on the same rows, and judge them by the same other rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from sklearn.base import clone

from tabmtl.comparison.clock import Clock, duration
from tabmtl.comparison.given import as_estimator, check_kinds, check_reads_text, named_models, with_params
from tabmtl.comparison.judging import (
    CALIBRATION,
    COLUMNS,
    FURTHER,
    differences_at_once,
    differences_of,
    scores_of,
    warn_of_unjudged,
)
from tabmtl.comparison.result import Comparison
from tabmtl.comparison.rows import ComparedRows, as_read
from tabmtl.ensemble import MultiTaskEnsemble
from tabmtl.estimators.base import draw_seed
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.metrics.calibration import calibration_of
from tabmtl.metrics.intervals import Estimate
from tabmtl.metrics.scores import Answered, mean_score, refuse_without_groups
from tabmtl.models.independent import IndependentTasks
from tabmtl.models.mmoe import MMoE
from tabmtl.models.multitabnet import MultiTabNet
from tabmtl.models.rmtgb import RMTGB
from tabmtl.models.shared_trees import SharedTrees
from tabmtl.params import check_count, check_positive
from tabmtl.processes.cpu import cpu_seconds
from tabmtl.schema import RandomSplitWarning, TimeLimitWarning, describe_error, listed, warn_user

#: Rows up to which a model is worth its time in a first comparison.
_ROWS_OF_ATTENTION, _ROWS_OF_ALL = 20_000, 200_000
#: Parameters of the comparison itself, and their defaults.
_OWN_PARAMS = {"seeds": 1, "time_limit": None, "time": None}


def default_models(n_rows: int) -> dict[str, MultiTaskEstimator]:
    """Return the models that `compare` takes by default, unfitted.

    Parameters
    ----------
    n_rows : int
        Number of rows of the table. More than 20 000 rows leave out `MultiTabNet`, the slowest. More than 200 000 rows
        leave out `RMTGB` too, also from the ensemble.

    Returns
    -------
    dict of str to estimator
        Models by name; the first is the reference, ``IndependentTasks(tune="all")``: each task alone, by LightGBM, a
        forest and curves, as suits its labels.

    Examples
    --------
    >>> from tabmtl import default_models
    >>> list(default_models(2_000_000))
    ['IndependentTasks', 'SharedTrees', 'MMoE', 'MultiTaskEnsemble']
    """
    models: dict[str, MultiTaskEstimator] = {"IndependentTasks": IndependentTasks(tune="all")}
    models["SharedTrees"] = SharedTrees()
    if n_rows <= _ROWS_OF_ALL:
        models["RMTGB"] = RMTGB()
    models["MMoE"] = MMoE()
    if n_rows <= _ROWS_OF_ATTENTION:
        models["MultiTabNet"] = MultiTabNet()
    candidates = None if n_rows <= _ROWS_OF_ALL else dict(models)
    return models | {"MultiTaskEnsemble": MultiTaskEnsemble(models=candidates)}


def compare(
    models: Mapping[str, Any] | Sequence[Any] | None,
    X: Any,
    y: Any = None,
    *,
    X_val: Any = None,
    y_val: Any = None,
    X_test: Any = None,
    y_test: Any = None,
    groups: Any = None,
    **params: Any,
) -> Comparison:
    """Fit models on the same rows, and judge them by the same other rows.

    Differences are to the first model, the reference. They are paired: what is hard for both models cancels row by row.
    A model that fails becomes a row with its error. Ctrl-C keeps the models that are done.

    Parameters
    ----------
    models : mapping of str to estimator, sequence of estimators, or None
        Estimators of the package, or derived from one; `compare` fits copies. In a sequence, a model is called by its
        class. None takes `default_models`, whose reference is tuned. Printed tables say "untuned" beside an
        `IndependentTasks` of LightGBM alone without ``tune``; ``tune="all"``, and other families, make a stronger one.

        A classifier, regressor or Pipeline of scikit-learn learns every task alone, as if it was given as
        ``IndependentTasks(classifier=...)`` or ``IndependentTasks(regressor=...)``. Targets of both sorts need one of
        each: ``IndependentTasks(classifier=..., regressor=...)``.
    X, y : frames or arrays
        Features and targets, as ``fit`` takes them.
    X_val, y_val : frames or arrays, optional
        Rows for early stopping. A model that chooses by folds of its own, such as `MultiTaskEnsemble` and
        `IndependentTasks` (``learns_all_rows``), learns them like those of X: to it, labels that only judge are lost.
        By default, each model sets rows of X aside by itself.
    X_test, y_test : frames or arrays, optional
        Rows that judge the models. By default, a random quarter of the rows is held out, with labels of every task and
        class.
    groups : array of shape (n,), str, or a tuple of arrays, optional
        Group of every row of X, such as a patient, or the name of a column that holds it. No split divides a group, and
        intervals are over draws of groups. The groups of X_val and X_test stand in their columns of this name, or in a
        tuple: (those of X, of X_test), or (those of X, of X_val, of X_test). Rows of X_val without groups are one group
        to the models that learn them.
    **params
        Parameters of every model, such as ``tasks``, ``task_column``, ``drop``, ``n_jobs`` and ``random_state``.
        ``random_state`` also draws the rows to test. ``verbose=1`` shows the fits, and a line for every model.

        ``seeds=3`` is for the comparison itself: it fits every model by three seeds, from ``random_state`` up. Scores,
        differences and times are then means over the seeds, and their errors hold the spread over seeds. Two or three
        seeds say little of this spread, so intervals are wide: see :class:`Comparison`. ``models`` and ``calibration``
        are those of the first seed.

        ``time="day"`` is for it too: a column of X, or an array, with the date, datetime or number of every row. The
        rows to test are then the newest quarter, and fits get the times, see ``fit``. With X_val, it names a column.

        ``time_limit=1800`` is for the comparison too: seconds for all models together, as an estimator's are for its
        fit (``--time-limit`` of the command is minutes). The reference is always fitted. Each other model begins
        only if it is expected to end in time, judged by the times of those before it. If not, it becomes a row with
        this reason, there is a `TimeLimitWarning`, and a quicker one behind it may still begin. AutoGluon would shorten
        fits; here none is, so that each model is judged as you would train it. One that takes longer than expected
        therefore ends late. The models that are left out depend on the machine.

    Returns
    -------
    Comparison
        Result to print, with ``verdict``, ``frame``, ``models``, ``plot`` and ``report``.

    Raises
    ------
    ValueError, TypeError
        If models, parameters or rows do not fit; raised before any fit.
    KeyboardInterrupt
        If Ctrl-C comes before the first model is done.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import IndependentTasks, SharedTrees, compare
    >>> X, noise = np.random.default_rng(0).normal(size=(2, 400, 3))
    >>> models = {"alone": IndependentTasks(families=("lightgbm",)), "together": SharedTrees(n_estimators=50)}
    >>> comparison = compare(models, X, X[:, :2] + noise[:, :2], random_state=0)
    >>> comparison.frame.select("model", "task").rows()
    [('alone', 'y0'), ('alone', 'y1'), ('together', 'y0'), ('together', 'y1')]
    >>> comparison.n_fit, comparison.n_test
    (300, 100)
    """
    if y is None:
        raise TypeError("compare takes (models, X, y), and y is missing; models=None takes the default models")
    if (X_test is None) != (y_test is None):
        raise ValueError("X_test and y_test belong together; got only one of them")
    seeds, limit, time = (params.pop(name, default) for name, default in _OWN_PARAMS.items())
    check_count("seeds", seeds)
    if limit is not None:
        check_positive("time_limit", limit)
    clock = Clock(limit, seeds)
    X, X_val, X_test = (as_read(*pair) for pair in ((X, "X"), (X_val, "X_val"), (X_test, "X_test")))
    given = default_models(len(X)) if models is None else named_models(models)
    prepared = {
        name: with_params(name, as_estimator(name, model), params, (*_OWN_PARAMS,)) for name, model in given.items()
    }
    reference = next(iter(prepared.values()))
    fit = {"X": X, "y": y, "groups": groups, "X_val": X_val, "y_val": y_val}
    fit |= {} if time is None else {"time": time}
    rows = ComparedRows.read(reference, fit, X_test, y_test)
    for name, model in prepared.items():
        check_kinds(name, given[name], rows.coder.labels.tasks)
        _check_tasks(name, model, reference, rows, y)
        if rows.coder.features.declared["categorical"]:
            check_reads_text(model, X, y)
        rows.fit_arguments(model)  # refuses rows that cannot be learned together
    refuse_without_groups(rows.coder.labels.tasks, rows.n_groups, "the rows to test")
    warn_of_unjudged(rows.coder.labels.tasks, rows.batch.y, rows.batch.task, rows.batch.group)
    return _Trials(rows, clock, verbose=bool(params.get("verbose"))).run(prepared)


class _Trials:
    """The fits of a comparison, one after the other, and what they gave."""

    def __init__(self, rows: ComparedRows, clock: Clock, *, verbose: bool) -> None:
        self.rows, self.clock, self.verbose = rows, clock, verbose
        self.frames: dict[str, pl.DataFrame] = {}
        self.further: list[pl.DataFrame] = []
        self.calibration: list[pl.DataFrame] = []
        self.differences: dict[str, dict[str, Estimate]] = {}
        self.fitted: dict[str, MultiTaskEstimator] = {}
        self._reference: list[Answered] | None = None

    def run(self, models: Mapping[str, MultiTaskEstimator]) -> Comparison:
        """Fit and judge all models, the reference first."""
        late: list[str] = []
        try:
            for place, (name, model) in enumerate(models.items()):
                reason = self.clock.too_late(model) if place else None
                late += [] if reason is None else [name]
                found = self._try(name, model) if reason is None else self._failed(reason)
                self._add(name, found)
                self._tell(name, [*models.values()][place + 1 :])
        except KeyboardInterrupt:
            if not self.fitted:
                raise
        waiting = [name for name in models if name not in self.frames]
        for name in waiting:
            self._add(name, self._failed("interrupted"))
        if waiting:
            warn_user(f"interrupted: {', '.join(waiting)} are not compared")
        if late:
            warn_user(
                f"the time limit of {duration(self.clock.limit)} left out {', '.join(late)}; set a longer one, or none",
                TimeLimitWarning,
            )
        differences, overall = differences_at_once(self.differences)
        frame = pl.concat(self.frames.values()).drop(differences.columns[2:])
        return Comparison(
            frame=frame.join(differences, on=["model", "task"], how="left", maintain_order="left").select(*COLUMNS),
            models=self.fitted,
            calibration=pl.concat([pl.DataFrame(schema=CALIBRATION), *self.calibration]),
            overall=overall,
            further=pl.concat([pl.DataFrame(schema=FURTHER), *self.further]),
            tasks=self.rows.coder.labels.tasks,
            reference=next(iter(models)),
            n_fit=self.rows.n_fit,
            n_val=self.rows.n_val,
            n_test=len(self.rows.batch),
            n_groups=self.rows.n_groups,
            how=self.rows.how,
            is_interrupted=bool(waiting),
            seeds=self.clock.n_fits,
        )

    def _try(self, name: str, model: MultiTaskEstimator) -> pl.DataFrame:
        """Fit and judge a model, and return its rows of the frame; an error becomes these."""
        try:
            return self._judge(name, model)
        except Exception as error:
            return self._failed(" ".join(describe_error(error).split()))

    def _judge(self, name: str, model: MultiTaskEstimator) -> pl.DataFrame:
        """Fit a model, and return its rows of the frame."""
        rows, fits, seconds = self.rows, self._fits(model), np.zeros(3)
        outputs: list[list[np.ndarray]] = []
        for fit in fits:
            cpu, start = cpu_seconds(), perf_counter()
            with warnings.catch_warnings(action="ignore", category=RandomSplitWarning):  # said before
                fit.fit(**rows.fit_arguments(model))
            fitted = perf_counter()
            seconds[1] += cpu_seconds() - cpu
            answering = perf_counter()
            outputs.append(fit.answer(rows.X))
            seconds += fitted - start, 0, perf_counter() - answering
        self.clock.note(model, seconds[0] + seconds[2])
        tasks = rows.coder.labels.tasks
        _check_learned(fits[0], tasks)
        y = fits[0].coder_.labels.encode(rows.y)[0]  # of a funnel, labels mean "this step and all before it"
        batch = rows.batch
        answered = [Answered(tasks, y, each, own_task=batch.task, group=batch.group) for each in outputs]
        scores = scores_of(answered)
        frame = scores.unique("task", keep="first", maintain_order=True)  # by the metrics that are watched
        further = scores.join(frame, on=["task", "metric"], how="anti", maintain_order="left")
        calibration = calibration_of(answered[0]).select(pl.lit(name).alias("model"), pl.all())
        if not self.frames:
            self._reference = answered
        elif self._reference is not None:
            self._subtract(name, answered)
        self.fitted[name] = fits[0]
        self.calibration.append(calibration)
        self.further.append(further.select(pl.lit(name).alias("model"), pl.all()))
        fit_seconds, fit_cpu_seconds, predict_seconds = seconds / len(fits)
        return frame.with_columns(
            fit_seconds=fit_seconds, fit_cpu_seconds=fit_cpu_seconds, predict_ms=1e3 * predict_seconds
        )

    def _fits(self, model: MultiTaskEstimator) -> list[MultiTaskEstimator]:
        """Return the model, or copies of it by several seeds."""
        if self.clock.n_fits == 1:
            return [model]
        first = draw_seed(model.random_state)
        return [clone(model).set_params(random_state=first + s) for s in range(self.clock.n_fits)]

    def _subtract(self, name: str, answered: list[Answered]) -> None:
        """Keep the differences to the reference, but where a funnel gives the rows other labels."""
        assert self._reference is not None
        self.differences[name], others = differences_of(answered, self._reference)
        if others:
            warn_user(
                f"{name} scores {', '.join(others)} by other labels than the reference, those of its funnel, so "
                "there is no difference; set the labels of a later step to 0 where an earlier one is 0"
            )

    def _failed(self, error: str) -> pl.DataFrame:
        """Return the rows of a model without scores."""
        tasks = self.rows.coder.labels.tasks
        names = {"task": [task.name for task in tasks], "metric": [task.metric for task in tasks]}
        return pl.DataFrame(names).with_columns(error=pl.lit(error))

    def _add(self, name: str, found: pl.DataFrame) -> None:
        named = found.with_columns(model=pl.lit(name))
        self.frames[name] = pl.concat([pl.DataFrame(schema=COLUMNS), named], how="diagonal")

    def _tell(self, name: str, to_come: Sequence[MultiTaskEstimator]) -> None:
        """Print a line on a model that is done, with the models to come and their time, if asked to."""
        if not self.verbose:
            return
        expected = self.clock.expect_all(to_come)
        after = f"; {len(to_come)} to go" if to_come else ""
        after += f", about {duration(expected)}" if to_come and expected is not None else ""
        print(f"{name}: {_described_row(self.frames[name])}{after}", flush=True)


def _described_row(frame: pl.DataFrame) -> str:
    """Say how a model did."""
    row = frame.row(0, named=True)
    if row["error"] is not None:
        return str(row["error"])
    mean = mean_score(dict(frame.select("task", "score").iter_rows()))
    score = "no score is defined" if math.isnan(mean) else f"mean score {mean:.4f}"
    return f"fitted in {row['fit_seconds']:.1f} s ({row['fit_cpu_seconds']:.1f} s of CPU), {score}"


def _check_tasks(
    name: str, model: MultiTaskEstimator, reference: MultiTaskEstimator, rows: ComparedRows, y: Any
) -> None:
    """Declare the tasks of the reference to a model.

    Raises
    ------
    ValueError
        If the model has parameters by which it would learn others.
    """
    labels = rows.coder.labels
    own = model.learner().labels(y, labels.task_levels).tasks
    if model.task_column != reference.task_column or own != labels.tasks:
        raise ValueError(
            f"{name} would learn other tasks than the reference, {_described(own)} in place of "
            f"{_described(labels.tasks)}; give all models the same by tasks= and task_column= of compare"
        )
    model.set_params(tasks={task.name: task for task in labels.column_tasks})


def _check_learned(model: MultiTaskEstimator, tasks: Sequence[Any]) -> None:
    """Raise an error if a fit found other tasks than all rows have: its scores would be of other tasks."""
    if [task.name for task in model.tasks_] != [task.name for task in tasks]:
        lost = [task.name for task in tasks if task.name not in {own.name for own in model.tasks_}]
        raise ValueError(f"no row to fit has the tasks {lost}: give more rows of them, or X_test and y_test")


def _described(tasks: Sequence[Any]) -> str:
    return listed([f"{task.name} ({task.kind}, {task.metric})" for task in tasks], 5)
