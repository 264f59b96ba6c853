"""Three ways to boost several tasks with plain LightGBM: pooled, pooled with the task's id, and one model per task.

Tables of both layouts are treated alike: the unit is a labelled cell (row, task), and a wide table is melted to its
labelled cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np

from tabmtl.base.schema import Batch
from tabmtl.encode import TableCoder
from tabmtl.estimators.boosted.border import tree_matrix

BASELINES = ("pooled", "task_id", "per_task")

#: How far the means of two neighbouring tasks are apart, in standard deviations, where models see the task.
_APART = 0.01
_METRICS = {"binary": "binary_logloss", "regression": "rmse"}


@dataclass(frozen=True, kw_only=True)
class Coded:
    """Encoded rows to fit on and to stop on, kinds of the tasks, and how many features are numeric: the first ones."""

    train: Batch
    val: Batch
    kinds: tuple[str, ...]
    n_numeric: int


def learn_coder(X: Any, y: Any, tasks: Any, task_column: str | None = None) -> TableCoder:
    """Learn the columns as they are: numbers without a scale, and every level."""
    encoding = {"transform": "none", "min_frequency": 1, "flat": True}
    options: dict[str, Any] = {"force": None, "columns": {}, "encoding": encoding}
    return TableCoder.fit(X, y, None, tasks=tasks, task_column=task_column, **options)


@dataclass(frozen=True, kw_only=True, eq=False)
class Boosted:
    """A fitted baseline: one LightGBM model per group of tasks; labels were standardised by center and scale (T,)."""

    groups: list[list[int]]
    boosters: list[lgb.Booster]
    with_id: bool
    center: np.ndarray
    scale: np.ndarray

    def predict(self, batch: Batch, n_threads: int = 1) -> np.ndarray:
        """Predict values, or probabilities of the second class (n, T); in a long table NaN except for the own task."""
        matrix, answer = tree_matrix(batch), np.full((len(batch), len(self.scale)), np.nan)
        for group, booster in zip(self.groups, self.boosters, strict=True):
            asked = np.ones((len(batch), len(group))) if batch.task is None else batch.task[:, None] == group
            cell, row = np.nonzero(asked.T)
            task = np.array(group)[cell]
            values = booster.predict(_features(matrix, row, task, self.with_id), num_threads=n_threads)
            answer[row, task] = values * self.scale[task] + self.center[task]
        return answer


def fit_baseline(method: str, data: Coded, params: Mapping[str, Any]) -> Boosted:
    """Fit a baseline; every model stops early on the loss of its own validation cells.

    One model for all tasks of one kind ("pooled"), the same with the task as one more categorical feature ("task_id"),
    or one per task ("per_task"). In a wide table, regression targets are standardised per task on the train rows; where
    the model sees the task, their means are left a little apart. The parameters are LightGBM's.
    """
    n_tasks = len(data.kinds)
    groups = group_tasks(data.kinds, alone=method == "per_task")
    with_id = method == "task_id"
    labels = data.train.wide_labels(n_tasks)
    center, scale = np.zeros(n_tasks), np.ones(n_tasks)
    if data.train.task is None:
        for t in np.flatnonzero(np.array(data.kinds) == "regression"):
            center[t], scale[t] = np.nanmean(labels[:, t]), np.nanstd(labels[:, t])
            if with_id:
                # With equal means, the task has no gain at the root, and then LightGBM tries it nowhere in the tree.
                center[t] -= _APART * t * scale[t]
    train = (tree_matrix(data.train), (labels - center) / scale)
    val = (tree_matrix(data.val), (data.val.wide_labels(n_tasks) - center) / scale)
    boosters = []
    for group in groups:
        kind = data.kinds[group[0]]
        fixed = {"objective": kind, "metric": _METRICS[kind], "verbosity": -1, "deterministic": True}
        categorical = list(range(data.n_numeric, train[0].shape[1] + with_id))
        cells = lgb.Dataset(*_melt(*train, group, with_id), categorical_feature=categorical)
        watched = cells.create_valid(*_melt(*val, group, with_id))
        boosters.append(lgb.train({**fixed, "force_col_wise": True, **params}, cells, valid_sets=[watched]))
    return Boosted(groups=groups, boosters=boosters, with_id=with_id, center=center, scale=scale)


def group_tasks(kinds: Sequence[str], *, alone: bool) -> list[list[int]]:
    """Return the tasks of every model: one task each, or all tasks of a kind."""
    if alone:
        return [[t] for t in range(len(kinds))]
    return [[t for t, each in enumerate(kinds) if each == kind] for kind in dict.fromkeys(kinds)]


def _melt(matrix: np.ndarray, labels: np.ndarray, group: list[int], with_id: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return features and labels of all labelled cells of a group of tasks."""
    cell, row = np.nonzero(~np.isnan(labels[:, group].T))
    task = np.array(group)[cell]
    return _features(matrix, row, task, with_id), labels[row, task]


def _features(matrix: np.ndarray, row: np.ndarray, task: np.ndarray, with_id: bool) -> np.ndarray:
    """Return features of cells, with the task as the last one if models see it."""
    return np.column_stack([matrix[row], task.astype(np.float32)]) if with_id else matrix[row]
