"""Answers beside what came: bins of rows, the calibration error, and the ratio of what was predicted to what came."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from tabmtl.metrics.scores import Answered, counted, each_task

if TYPE_CHECKING:
    from tabmtl.targets import Task

_MOST_BINS, _ROWS_PER_BIN = 10, 20


def calibration_of(fit: Answered) -> pl.DataFrame:
    """Compare answers with what came, in up to ten bins of equally many rows.

    Returns
    -------
    polars.DataFrame
        One row per task and bin: "task"; "predicted", the mean answer; "observed", the mean of what came, and its
        "standard_error"; "n", the number of rows. A binary task has the probability of its second class, one of more
        classes that of the most probable class, a quantile the share of labels up to it, and other numbers have values.
    """
    each = each_task(fit.tasks, fit.labels, fit.outputs, None, fit.own_task)
    return pl.concat([_bins(task, labels, output) for task, labels, output, *_ in each])


def _bins(task: Task, y: np.ndarray, output: np.ndarray) -> pl.DataFrame:
    rows = counted(y, None)
    predicted, labels = task.kind.calibration(output[rows], y[rows])
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
