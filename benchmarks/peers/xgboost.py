"""XGBoost with vector leaves: one model for all tasks of a kind, ``multi_strategy="multi_output_tree"``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost

from benchmarks.peers.lightgbm import Coded, group_tasks
from tabmtl.schema import FIRST_LEVEL, Batch

_OBJECTIVES = {"binary": "binary:logistic", "regression": "reg:squarederror"}


@dataclass(frozen=True, kw_only=True, eq=False)
class XGBoosted:
    """Fitted models, each of a group of tasks; labels were standardised by center and scale (T,).

    Each of the known ``levels`` of a category is a column.
    """

    groups: list[list[int]]
    boosters: list[xgboost.Booster]
    center: np.ndarray
    scale: np.ndarray
    levels: list[np.ndarray]

    def predict(self, batch: Batch, n_threads: int = 1) -> np.ndarray:
        """Predict values, or probabilities of the second class (n, T)."""
        answer = np.empty((len(batch), len(self.scale)))
        for group, booster in zip(self.groups, self.boosters, strict=True):
            booster.set_param({"nthread": n_threads})
            values = booster.predict(_matrix(batch, self.levels), iteration_range=(0, booster.best_iteration + 1))
            answer[:, group] = values.reshape(len(batch), -1)
        return answer * self.scale + self.center


def fit_xgboost(data: Coded, params: dict[str, Any], *, n_trees: int, patience: int) -> XGBoosted:
    """Fit with XGBoost's defaults, stopped on the validation rows.

    Vector leaves know no missing label: a model learns from the rows that have all labels of its tasks. Nor do they
    know categories yet: each level becomes a column. Regression targets are standardised, because one loss sums over
    them.
    """
    n_tasks, groups, boosters = len(data.kinds), group_tasks(data.kinds, alone=False), []
    levels = [np.unique(codes[codes >= FIRST_LEVEL]) for codes in data.train.x.codes.T]
    labels = data.train.wide_labels(n_tasks)
    regression = np.array(data.kinds) == "regression"
    center = np.where(regression, np.nanmean(labels, axis=0), 0.0)
    scale = np.where(regression, np.nanstd(labels, axis=0), 1.0)
    for group in groups:
        train, val = (
            _matrix(batch, levels, ((batch.wide_labels(n_tasks) - center) / scale)[:, group])
            for batch in (data.train, data.val)
        )
        fixed = {"objective": _OBJECTIVES[data.kinds[group[0]]], "multi_strategy": "multi_output_tree", "verbosity": 0}
        boosters.append(
            xgboost.train(
                {**fixed, "tree_method": "hist", **params},
                train,
                n_trees,
                evals=[(val, "val")],
                early_stopping_rounds=patience,
                verbose_eval=False,
            )
        )
    return XGBoosted(groups=groups, boosters=boosters, center=center, scale=scale, levels=levels)


def _matrix(batch: Batch, levels: list[np.ndarray], labels: np.ndarray | None = None) -> xgboost.DMatrix:
    """Return rows as XGBoost takes them: those with all labels; without labels, all rows."""
    if labels is not None:
        rows = np.flatnonzero(~np.isnan(labels).any(axis=1))
        if not len(rows):
            raise ValueError("no row has labels of all tasks, which vector leaves need: take a wide table")
        batch, labels = batch.rows(rows), labels[rows]
    columns = [
        batch.x.numbers,
        *(codes[:, None] == known for codes, known in zip(batch.x.codes.T, levels, strict=True)),
    ]
    return xgboost.DMatrix(np.column_stack(columns).astype(np.float32), labels)
