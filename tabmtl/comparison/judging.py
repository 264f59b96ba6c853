"""Judge the answers of a model to the rows to test: scores, differences to the reference, calibration."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from tabmtl.metrics.intervals import ScoreInterval, mean_difference, score_difference, score_intervals
from tabmtl.metrics.scores import counted, each_task, undefined_reason
from tabmtl.schema import TabmtlWarning, Task, warn_user

#: Columns of a comparison, and their types.
COLUMNS: dict[str, Any] = {"model": pl.String, "task": pl.String, "metric": pl.String}
COLUMNS |= dict.fromkeys(("score", "standard_error", "low", "high"), pl.Float64)
COLUMNS |= dict.fromkeys(("difference", "difference_error", "difference_low", "difference_high"), pl.Float64)
COLUMNS |= {"n_labelled": pl.Int64, "fit_seconds": pl.Float64, "predict_ms": pl.Float64, "error": pl.String}

#: Columns of `calibration_of`, and the model.
CALIBRATION: dict[str, Any] = {"model": pl.String, "task": pl.String}
CALIBRATION |= dict.fromkeys(("predicted", "observed", "standard_error"), pl.Float64) | {"n": pl.Int64}

#: Columns of `Comparison.overall`.
OVERALL: dict[str, Any] = {"model": pl.String}
OVERALL |= dict.fromkeys((f"mean_{name}" for name in COLUMNS if name.startswith("difference")), pl.Float64)

_MOST_BINS, _ROWS_PER_BIN = 10, 20

Answers = Sequence[np.ndarray]


def scores_of(tasks: Sequence[Task], y: np.ndarray, outputs: Answers, own: np.ndarray | None) -> pl.DataFrame:
    """Score every task, a row each, with the columns from "task" to "high" and "n_labelled"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TabmtlWarning)  # the same for every model: `warn_of_undefined` gives them once
        return score_intervals(tasks, y, outputs, own_task=own).drop("n_positive")


class Differences(NamedTuple):
    """Scores of a model minus those of a reference on the same rows, paired row by row.

    Parameters
    ----------
    table : polars.DataFrame
        A row for every task: the columns of a comparison that begin with "difference".
    overall : ScoreInterval
        Their mean over the tasks.
    others : list of str
        Tasks without a difference, because the two models read other labels: those of a funnel.
    """

    table: pl.DataFrame
    overall: ScoreInterval
    others: list[str]


def differences_of(
    tasks: Sequence[Task],
    model: tuple[np.ndarray, Answers],
    reference: tuple[np.ndarray, Answers],
    own: np.ndarray | None,
) -> Differences:
    """Subtract the scores of a reference; both models come as their labels and answers."""
    (y, outputs), (labels, others) = model, reference
    same = [np.array_equal(a, b, equal_nan=True) for a, b in zip(labels.T, y.T, strict=True)]
    kept = np.flatnonzero(same).tolist()
    # a long table has one column, which all tasks share
    judged = [*tasks] if own is not None else [tasks[t] for t in kept]
    labels, own_answers, other_answers = labels[:, kept], [outputs[t] for t in kept], [others[t] for t in kept]
    found: dict[str, ScoreInterval] = {}
    none = overall = ScoreInterval(None, None, None, None)
    if kept:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TabmtlWarning)
            overall = mean_difference(judged, labels, own_answers, other_answers, own)
            both = (each_task(judged, labels, each, None, own) for each in (own_answers, other_answers))
            for (task, own_labels, output, _), (_, _, other, _) in zip(*both, strict=True):
                found[task.name] = score_difference(task, own_labels, output, other)
    names = [name for name in COLUMNS if name.startswith("difference")]
    table = pl.DataFrame([found.get(task.name, none) for task in tasks], dict.fromkeys(names, pl.Float64), orient="row")
    return Differences(table, overall, [task.name for task in tasks if task.name not in found])


def warn_of_undefined(tasks: Sequence[Task], y: np.ndarray, own: np.ndarray | None) -> None:
    """Warn of tasks that the labels of the rows to test give no score."""
    for task, labels, _, _ in each_task(tasks, y, list(y.T), None, own):
        reason = undefined_reason(task, labels)
        if reason is not None:
            warn_user(f"task {task.name!r}: {task.metric} is undefined on the rows to test: {reason}")


def calibration_of(tasks: Sequence[Task], y: np.ndarray, outputs: Answers, own: np.ndarray | None) -> pl.DataFrame:
    """Compare answers with what came, in up to ten bins of equally many rows.

    Parameters
    ----------
    tasks, y, outputs, own
        As for `score_tasks`.

    Returns
    -------
    polars.DataFrame
        One row per task and bin: "task"; "predicted", the mean answer; "observed", the mean of what came, and its
        "standard_error"; "n", the number of rows. A binary task has the probability of its second class, one of more
        classes that of the most probable class, and a regression its values.
    """
    found = [_bins(task, labels, output) for task, labels, output, _ in each_task(tasks, y, outputs, None, own)]
    return pl.concat(found)


def _bins(task: Task, y: np.ndarray, output: np.ndarray) -> pl.DataFrame:
    rows = counted(y, None)
    labels, answers = y[rows], output[rows]
    if task.kind == "binary":
        predicted = answers[:, 1]
    elif task.is_classification:
        predicted, labels = answers.max(axis=1), labels == answers.argmax(axis=1)
    else:
        predicted = answers
    n_bins = min(_MOST_BINS, max(1, len(labels) // _ROWS_PER_BIN))
    edges = np.unique(np.quantile(predicted, np.arange(1, n_bins) / n_bins)) if len(labels) else np.empty(0)
    columns = {"predicted": predicted, "observed": labels, "bin": np.searchsorted(edges, predicted, side="right")}
    frame = pl.DataFrame(columns, {"predicted": pl.Float64, "observed": pl.Float64, "bin": pl.Int64})
    found = frame.group_by("bin", maintain_order=True).agg(
        pl.lit(task.name).alias("task"),
        pl.col("predicted").mean(),
        pl.col("observed").mean(),
        standard_error=pl.col("observed").std() / pl.len().sqrt(),
        n=pl.len().cast(pl.Int64),
    )
    return found.sort("bin").drop("bin")
