"""Fit several models on the same rows, and judge them by the same other rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from sklearn.base import clone

from tabmtl.base.cpu import cpu_seconds
from tabmtl.base.lazy import exported
from tabmtl.base.params import check_at_least, check_count, check_positive
from tabmtl.base.schema import RandomSplitWarning, TimeLimitWarning, describe_error, listed, warn_user
from tabmtl.columns.declared import Category
from tabmtl.ensemble import MultiTaskEnsemble
from tabmtl.estimators.base import draw_seed
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.inspection.comparison.clock import Clock, duration
from tabmtl.inspection.comparison.given import as_estimator, check_kinds, check_reads_text, named_models, with_params
from tabmtl.inspection.comparison.judging import (
    CALIBRATION,
    COLUMNS,
    FURTHER,
    constant_scores,
    differences_at_once,
    differences_of,
    scores_of,
    standings_of,
    warn_of_unjudged,
)
from tabmtl.inspection.comparison.result import SEEDS, Comparison
from tabmtl.inspection.comparison.rows import ComparedRows, as_read
from tabmtl.metrics.calibration import calibration_of
from tabmtl.metrics.intervals import Estimate
from tabmtl.metrics.scores import Answered, mean_score, refuse_without_groups
from tabmtl.models.independent import IndependentTasks
from tabmtl.models.rmtgb import RMTGB
from tabmtl.models.shared_trees import SharedTrees

#: Rows up to which a model is worth its time in a first comparison.
_ROWS_OF_ATTENTION, _ROWS_OF_ALL = 20_000, 200_000
#: Parameters of the comparison itself, and their defaults.
_OWN_PARAMS = {"seeds": None, "time_limit": None, "time": None, "margin": 0.01, "verbose": None}


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
    models["MMoE"] = exported("MMoE")()
    if n_rows <= _ROWS_OF_ATTENTION:
        models["MultiTabNet"] = exported("MultiTabNet")()
    several: Any = "best" if n_rows <= _ROWS_OF_ALL else dict(models)
    return models | {"MultiTaskEnsemble": MultiTaskEnsemble(models=several)}


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
        `IndependentTasks`, learns them like those of X: to it, labels that only judge are lost.
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
        Parameters of every model, such as ``tasks``, ``task_column``, ``columns``, ``n_jobs`` and ``random_state``.
        ``random_state`` also draws the rows to test. ``verbose=1`` shows a line for every model, ``verbose=2`` the fits
        too.

        ``seeds`` is for the comparison itself. By default, every model is fitted once; if the rows tell one of the
        first two from the reference, these two and the reference are fitted by two further seeds before any is named.
        Without the time for it, the verdict says so. ``seeds=1`` fits every model once, and ``seeds=3`` every model by
        three seeds, from ``random_state`` up. Scores, differences and times are means over the seeds of a model, and
        their errors hold the spread over seeds. Two or three seeds say little of this spread, so intervals are wide:
        see :class:`Comparison`. ``models`` and ``calibration`` are those of the first seed.

        ``margin=0.01`` is for it too, in units of the mean score: a model is level with the one to train if the
        interval of its difference lies above -margin, and no single task is clearly behind.

        ``time="day"`` is for it too: a column of X, or an array, with the date, datetime or number of every row. The
        rows to test are then the newest quarter, and fits get the times, see ``fit``. With X_val, it names a column.

        ``time_limit=1800`` is for the comparison too: seconds for all models together, as an estimator's are for its
        fit (``--time-limit`` of the command is minutes). The reference is always fitted. Each other model begins
        only if it is expected to end in time, judged by the times of those before it. If not, it becomes a row with
        this reason, there is a `TimeLimitWarning`, and a quicker one behind it may still begin. AutoGluon would shorten
        fits; here none is, so that each model is judged as you would train it. One that takes longer than expected
        therefore ends late. A `MultiTaskEnsemble` alone may be: it gets the time that is left as its own
        ``time_limit``, where that is enough for its first candidate. Fits by further seeds need time that it leaves, so
        set its ``time_limit`` to keep some back for them. The models that are left out depend on the machine.

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
    seeds, limit, time, margin, verbose = (params.pop(name, default) for name, default in _OWN_PARAMS.items())
    check_at_least("margin", margin, 0)
    check_count("seeds", 1 if seeds is None else seeds)
    if limit is not None:
        check_positive("time_limit", limit)
    clock = Clock(limit, seeds or 1)
    params |= {} if verbose is None else {"verbose": int(verbose > 1)}
    X, X_val, X_test = map(as_read, (X, X_val, X_test))
    given = default_models(len(X)) if models is None else named_models(models)
    prepared = {
        name: with_params(name, as_estimator(name, model), params, (*_OWN_PARAMS,)) for name, model in given.items()
    }
    reference = next(iter(prepared.values()))
    fit = {"X": X, "y": y, "groups": groups, "X_val": X_val, "y_val": y_val} | ({} if time is None else {"time": time})
    rows = ComparedRows.read(reference, fit, X_test, y_test)
    for name, model in prepared.items():
        check_kinds(name, given[name], rows.coder.labels.tasks)
        _check_tasks(name, model, reference, rows, y)
        if any(isinstance(own, Category) for own in rows.coder.features.declared.values()):
            check_reads_text(model, X, y)
        rows.fit_arguments(model)  # refuses rows that cannot be learned together
    refuse_without_groups(rows.coder.labels.tasks, rows.n_groups, "the rows to test")
    warn_of_unjudged(rows.coder.labels.tasks, rows.batch.y, rows.batch.task, rows.batch.group)
    return _Trials(rows, clock, seeds, margin, verbose=bool(verbose)).run(prepared)


@dataclass(kw_only=True, eq=False)
class _Fits:
    """Fits of one model by one or several seeds, and what they answered to the rows to test.

    Parameters
    ----------
    model : MultiTaskEstimator
        Not fitted.
    first : MultiTaskEstimator or None
        The first fit.
    answered : list of Answered
        Of every fit.
    seconds : ndarray of shape (3,)
        Sums over the fits: to fit by the clock and in CPU time, and to answer.
    """

    model: MultiTaskEstimator
    first: MultiTaskEstimator | None = None
    answered: list[Answered] = field(default_factory=list)
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(3))

    @cached_property
    def seed(self) -> int:
        """First seed of several fits; a draw moves a random state that models share, so that one fit takes none."""
        return draw_seed(self.model.random_state)

    def add(self, rows: ComparedRows, *, given: bool = False) -> None:
        """Fit once more, by the next seed, or as the model is given, and answer the rows to test."""
        fit = self.model if given else clone(self.model).set_params(random_state=self.seed + len(self.answered))
        cpu, start = cpu_seconds(), perf_counter()
        with warnings.catch_warnings(action="ignore", category=RandomSplitWarning):  # said before
            fit.fit(**rows.fit_arguments(fit))
        fitted, cpu = perf_counter(), cpu_seconds() - cpu
        answering = perf_counter()
        outputs = fit.__answers__(rows.X)
        self.seconds = self.seconds + np.array([fitted - start, cpu, perf_counter() - answering])
        tasks, batch = rows.coder.labels.tasks, rows.batch
        _check_learned(fit, tasks)
        y = fit.coder_.labels.encode(rows.y)[0]  # of a funnel, labels mean "this step and all before it"
        self.answered.append(Answered(tasks, y, outputs, own_task=batch.task, group=batch.group))
        self.first = self.first or fit


class _Trials:
    """The fits of a comparison, one after the other, and what they gave."""

    def __init__(self, rows: ComparedRows, clock: Clock, seeds: int | None, margin: float, *, verbose: bool) -> None:
        self.rows, self.clock, self.seeds, self.margin, self.verbose = rows, clock, seeds, margin, verbose
        self.frames: dict[str, pl.DataFrame] = {}
        self.further: dict[str, pl.DataFrame] = {}
        self.fits: dict[str, _Fits] = {}
        self.refitted: tuple[str, ...] = ()
        self.unseeded = ""

    def run(self, models: Mapping[str, MultiTaskEstimator]) -> Comparison:
        """Fit and judge all models, the reference first, and those that come first by further seeds."""
        late: list[str] = []
        is_interrupted = False
        try:
            for place, (name, model) in enumerate(models.items()):
                to_come = [*models.values()][place + 1 :]
                timed = self.clock.in_time(model, to_come) if place else model
                reason = self.clock.too_late(timed) if place else None
                late += [] if reason is None else [name]
                found = self._try(name, timed) if reason is None else self._failed(reason)
                self._add(name, found)
                self._tell(name, to_come)
            if self.seeds is None:
                self._seed(next(iter(models)))
        except KeyboardInterrupt:
            if not self.fits:
                raise
            is_interrupted = True
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
        return self._compared(next(iter(models)), is_interrupted)

    def _compared(self, reference: str, is_interrupted: bool) -> Comparison:
        """Return the result."""
        differences, overall = differences_at_once(self._differences(reference, warn=True))
        frame = pl.concat(self.frames.values()).drop(differences.columns[2:])
        tasks, batch = self.rows.coder.labels.tasks, self.rows.batch
        calibration = [
            calibration_of(own.answered[0]).select(pl.lit(name).alias("model"), pl.all())
            for name, own in self.fits.items()
        ]
        found = Comparison(
            frame=frame.join(differences, on=["model", "task"], how="left", maintain_order="left").select(*COLUMNS),
            models={name: own.first for name, own in self.fits.items() if own.first is not None},
            calibration=pl.concat([pl.DataFrame(schema=CALIBRATION), *calibration]),
            overall=overall,
            further=pl.concat([pl.DataFrame(schema=FURTHER), *self.further.values()]),
            tasks=tasks,
            reference=reference,
            n_fit=self.rows.n_fit,
            n_val=self.rows.n_val,
            n_test=len(batch),
            n_groups=self.rows.n_groups,
            how=self.rows.how,
            is_interrupted=is_interrupted,
            seeds=self.clock.n_fits,
            refitted=self.refitted,
            unseeded=self.unseeded,
            margin=self.margin,
            constant=constant_scores(tasks, self.rows.learned, batch),
        )
        if found.leader is None:
            return found
        return replace(found, standings=standings_of(self._differences(found.leader), self.margin))

    def _try(self, name: str, model: MultiTaskEstimator) -> pl.DataFrame:
        """Fit and judge a model, and return its rows of the frame; an error becomes these."""
        own, n_fits = _Fits(model=model), self.clock.n_fits
        try:
            for _ in range(n_fits):
                own.add(self.rows, given=n_fits == 1)
            self.clock.note(model, own.seconds[0] + own.seconds[2])
            found = self._scored(name, own)
        except Exception as error:
            return self._failed(" ".join(describe_error(error).split()))
        self.fits[name] = own
        return found

    def _scored(self, name: str, own: _Fits) -> pl.DataFrame:
        """Return the rows of a model in the frame, and keep its scores by further metrics."""
        scores = scores_of(own.answered)
        frame = scores.unique("task", keep="first", maintain_order=True)  # by the metrics that are watched
        further = scores.join(frame, on=["task", "metric"], how="anti", maintain_order="left")
        self.further[name] = further.select(pl.lit(name).alias("model"), pl.all())
        fit_seconds, fit_cpu_seconds, predict_seconds = own.seconds / len(own.answered)
        return frame.with_columns(
            fit_seconds=fit_seconds, fit_cpu_seconds=fit_cpu_seconds, predict_ms=1e3 * predict_seconds
        )

    def _differences(self, base: str, *, warn: bool = False) -> dict[str, dict[str, Estimate]]:
        """Return the differences of all models to one, but where a funnel gives the rows other labels."""
        if base not in self.fits:
            return {}
        found, theirs = {}, self.fits[base].answered
        for name, own in self.fits.items():
            if name == base:
                continue
            n = max(len(own.answered), len(theirs))  # a single fit stands beside each of several
            sides = ((each * n)[:n] for each in (own.answered, theirs))
            found[name], others = differences_of(*sides)
            if others and warn:
                warn_user(
                    f"{name} scores {', '.join(others)} by other labels than the reference, those of its funnel, so "
                    "there is no difference; set the labels of a later step to 0 where an earlier one is 0"
                )
        return found

    def _seed(self, reference: str) -> None:
        """Fit the first two models and the reference by further seeds, if the rows tell any of them apart."""
        if reference not in self.fits:
            return
        scores = pl.concat([self.frames[name] for name in self.fits])
        means = scores.group_by("model").agg(pl.col("score").mean()).drop_nulls()
        first = means.top_k(2, by="score")["model"]
        names = [name for name in self.fits if name in first or name == reference]
        tables = differences_at_once(self._differences(reference))
        if not any(_tell_apart(table, names) for table in tables):
            return
        seconds = sum(self.fits[name].seconds[[0, 2]].sum() for name in names)
        if (SEEDS - 1) * seconds >= self.clock.left:
            self.unseeded = "there was no time"
            return
        self.unseeded = "interrupted"  # until all are done
        again = {name: replace(self.fits[name], answered=[*self.fits[name].answered]) for name in names}
        for name, own in again.items():
            try:
                for _ in range(SEEDS - 1):
                    own.add(self.rows)
            except Exception as error:
                self.unseeded = f"{name} raised {' '.join(describe_error(error).split())}"
                return
            if self.verbose:
                print(f"{name}: fitted by {SEEDS} seeds", flush=True)
        self.fits |= again
        self.refitted, self.unseeded = (*names,), ""
        for name, own in again.items():
            self._add(name, self._scored(name, own))

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


def _tell_apart(differences: pl.DataFrame, names: Sequence[str]) -> bool:
    """Return whether some difference of the named models has an interval that leaves 0 out."""
    own = differences.filter(pl.col("model").is_in(names))
    low, high = (own.select(f"^.*difference_{end}$").to_series() for end in ("low", "high"))
    return bool(((low > 0) | (high < 0)).any())


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
    own = model.__learner__().labels(y, labels.task_levels).tasks
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
