"""Judge the answers of a model to the rows to test: scores, differences to the reference, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from tabmtl.base.schema import Batch, unsaid, warn_user
from tabmtl.metrics.intervals import (
    Estimate,
    estimate_tasks,
    fit_intervals,
    joint_level,
    mean_estimate,
    no_interval_reason,
)
from tabmtl.metrics.scores import Answered, check_metric, each_task, metric_of, score_task, undefined_reason
from tabmtl.targets import Task

#: Columns of a comparison, and their types.
COLUMNS: dict[str, Any] = {"model": pl.String, "task": pl.String, "metric": pl.String}
COLUMNS |= dict.fromkeys(("score", "standard_error", "low", "high"), pl.Float64)
COLUMNS |= dict.fromkeys(("difference", "difference_error", "difference_low", "difference_high"), pl.Float64)
COLUMNS |= {"difference_spread": pl.Float64}
COLUMNS |= {"n_labelled": pl.Int64, "fit_seconds": pl.Float64, "fit_cpu_seconds": pl.Float64, "predict_ms": pl.Float64}
COLUMNS |= {"error": pl.String}

#: Columns of scores by further metrics.
FURTHER: dict[str, Any] = {"model": pl.String, "task": pl.String, "metric": pl.String}
FURTHER |= dict.fromkeys(("score", "standard_error", "low", "high"), pl.Float64) | {"n_labelled": pl.Int64}

#: Columns of `calibration_of`, and the model.
CALIBRATION: dict[str, Any] = {"model": pl.String, "task": pl.String}
CALIBRATION |= dict.fromkeys(("predicted", "observed", "standard_error"), pl.Float64) | {"n": pl.Int64}

#: Columns of `Comparison.overall`.
OVERALL: dict[str, Any] = {"model": pl.String}
OVERALL |= dict.fromkeys((f"mean_{name}" for name in COLUMNS if name.startswith("difference")), pl.Float64)


#: Columns of `Comparison.standings`.
STANDINGS: dict[str, Any] = {"model": pl.String}
STANDINGS |= dict.fromkeys(("mean_difference", "mean_difference_low", "mean_difference_high"), pl.Float64)
STANDINGS |= {"behind_on": pl.List(pl.String), "standing": pl.String}

#: Differences of models to a reference, by model and task.
Differences = Mapping[str, Mapping[str, Estimate]]


def scores_of(fits: Sequence[Answered]) -> pl.DataFrame:
    """Score every task by all fits of a model, a row for each metric: the columns "task" to "high" and "n_labelled"."""
    # the same warnings for every model: `warn_of_unjudged` gives them once
    with unsaid():
        return fit_intervals(fits).select([name for name in FURTHER if name != "model"])


def differences_of(fits: Sequence[Answered], references: Sequence[Answered]) -> tuple[dict[str, Estimate], list[str]]:
    """Subtract the scores of a reference, paired row by row.

    Parameters
    ----------
    fits, references : sequence of Answered
        Answers of the fits of both models to the same rows, one for every seed.

    Returns
    -------
    differences : dict of str to Estimate
        By task.
    others : list of str
        Tasks without a difference because the two models read other labels: those of a funnel.
    """
    tasks, labels, _, _, own, group = fits[0]
    same = [np.array_equal(a, b, equal_nan=True) for a, b in zip(labels.T, references[0].labels.T, strict=True)]
    kept = np.flatnonzero(same).tolist()
    # a long table has one column, which all tasks share
    judged = [*tasks] if own is not None else [tasks[t] for t in kept]
    if not kept:
        return {}, [task.name for task in tasks]
    ours, theirs = (
        [Answered(judged, labels[:, kept], [fit.outputs[t] for t in kept], None, own, group) for fit in side]
        for side in (fits, references)
    )
    with unsaid():
        found = estimate_tasks(ours, theirs)
    named = {task.name: each for task, each in zip(judged, found, strict=True) if each is not None}
    names = {task.name for task in judged}
    return named, [task.name for task in tasks if task.name not in names]


def differences_at_once(found: Differences) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Give all differences intervals that hold together, and likewise their means over the tasks.

    Returns
    -------
    by_task : polars.DataFrame
        "model", "task", and the columns of a comparison that begin with "difference".
    overall : polars.DataFrame
        As `Comparison` has it: of every model the mean over the tasks that have an interval.
    """
    by_task = {(model, task): each for model, own in found.items() for task, each in own.items()}
    judged = {model: [each for each in own.values() if each.freedom] for model, own in found.items()}
    overall = {(model,): mean_estimate(judged[model] or [*own.values()]) for model, own in found.items() if own}
    names = [name for name in COLUMNS if name.startswith("difference")]
    types = {"model": pl.String, "task": pl.String} | dict.fromkeys(names, pl.Float64)
    return _table(by_task, types), _table(overall, OVERALL)


def standings_of(found: Differences, margin: float) -> pl.DataFrame:
    """Tell which models are level with the one that differences are to, behind it, or not told apart from it.

    Level are those whose mean difference has an interval above ``-margin`` and that are behind on no task, all by joint
    intervals. Behind are others whose mean difference has an interval below 0, or that are behind on some task.
    """
    by_task, overall = differences_at_once(found)
    behind = by_task.filter(pl.col("difference_high") < 0).group_by("model").agg(behind_on="task")
    joined = overall.join(behind, on="model", how="left", maintain_order="left")
    low, high, is_behind = (
        pl.col("mean_difference_low"),
        pl.col("mean_difference_high"),
        pl.col("behind_on").is_not_null(),
    )
    level, lost, open_ = map(pl.lit, ("level", "behind", "not told apart"))
    standing = (
        pl.when((low > -margin) & ~is_behind).then(level).when((high < 0) | is_behind).then(lost).otherwise(open_)
    )
    return joined.with_columns(standing=standing).select(*STANDINGS)


def constant_scores(tasks: Sequence[Task], learned: Batch, tested: Batch) -> dict[str, float]:
    """Score the best constant answers of the rows to fit at the rows to test, by task, without undefined ones."""
    y = learned.wide_labels(len(tasks))
    answers = []
    for t, task in enumerate(tasks):
        labels = y[~np.isnan(y[:, t]), t]
        answers.append(task.kind.constant(labels, None, task.classes) if len(labels) else None)
    found = {}
    own = tested.wide_labels(len(tasks))
    with unsaid():
        for t, (task, answer) in enumerate(zip(tasks, answers, strict=True)):
            if answer is not None:
                output = np.repeat(answer, len(tested), axis=0)
                found[task.name] = score_task(task, own[:, t], output, None, tested.group)
    return {name: score for name, score in found.items() if not np.isnan(score)}


def _table(estimates: Mapping[Any, Estimate], types: Mapping[str, Any]) -> pl.DataFrame:
    level = joint_level([*estimates.values()])
    rows = [(*names, *each.interval(level), each.spread) for names, each in estimates.items()]
    return pl.DataFrame(rows, types, orient="row")


def warn_of_unjudged(tasks: Sequence[Task], y: np.ndarray, own: np.ndarray | None, group: np.ndarray | None) -> None:
    """Warn of tasks that the labels of the rows to test give no score, or no interval."""
    for task, labels, _, _, unit in each_task(tasks, y, list(y.T), None, own, group):
        reason = undefined_reason(task, labels, None, unit)
        if reason is not None:
            warn_user(f"task {task.name!r}: {check_metric(task)} is undefined on the rows to test: {reason}")
            continue
        reason = no_interval_reason(task, labels, None, unit)
        if reason is not None:
            why = f"among the rows to test, {reason}; test on more rows of it"
            if metric_of(task).influence is None:
                why = f"{reason}; name another metric first"
            warn_user(
                f"task {task.name!r}: {check_metric(task)} will have no interval, and no part in the verdict: {why}"
            )
