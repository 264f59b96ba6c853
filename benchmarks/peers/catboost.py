"""CatBoost on several tasks: one model per task, or one of vector leaves for all tasks of a kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import catboost
import numpy as np

from benchmarks.peers.lightgbm import Coded, group_tasks
from tabmtl.schema import Batch

_LOSSES = {"binary": "Logloss", "regression": "RMSE"}


@dataclass(frozen=True, kw_only=True, eq=False)
class CatBoosted:
    """Fitted models, each of a group of tasks; labels were standardised by center and scale (T,)."""

    groups: list[list[int]]
    models: list[catboost.CatBoost]
    center: np.ndarray
    scale: np.ndarray

    def predict(self, batch: Batch, n_threads: int = 1) -> np.ndarray:
        """Predict values, or probabilities of the second class (n, T)."""
        answer = np.empty((len(batch), sum(map(len, self.groups))))
        for group, model in zip(self.groups, self.models, strict=True):
            loss = model.get_param("loss_function")
            kind = "Probability" if loss.endswith("Logloss") else "RawFormulaVal"
            values = model.predict(_pool(batch), prediction_type=kind, thread_count=n_threads)
            answer[:, group] = values[:, -1:] if loss == "Logloss" else values.reshape(len(batch), -1)
        return answer * self.scale + self.center


def fit_catboost(data: Coded, params: dict[str, Any], *, jointly: bool) -> CatBoosted:
    """Fit with CatBoost's defaults, stopped on the validation rows.

    A joint model of regressions has the loss MultiRMSE, or MultiRMSEWithMissingValues where labels are missing; their
    targets are standardised, because one loss sums over them. That of binary tasks, MultiLogloss, knows no missing
    label: it learns from the rows that have all.

    Parameters
    ----------
    data : Coded
    params : dict
        CatBoost's parameters, such as ``iterations`` and ``thread_count``.
    jointly : bool
        One model for all tasks of a kind, in place of one per task.
    """
    n_tasks, groups, models = len(data.kinds), group_tasks(data.kinds, alone=not jointly), []
    labels = data.train.wide_labels(n_tasks)
    is_joined = jointly & (np.array(data.kinds) == "regression")
    center = np.where(is_joined, np.nanmean(labels, axis=0), 0.0)
    scale = np.where(is_joined, np.nanstd(labels, axis=0), 1.0)
    for group in groups:
        train, val = (((batch.wide_labels(n_tasks) - center) / scale)[:, group] for batch in (data.train, data.val))
        loss = _LOSSES[data.kinds[group[0]]]
        if len(group) > 1:
            loss = f"Multi{'Logloss' if loss == 'Logloss' else loss}"
            if loss == "MultiRMSE" and np.isnan([*train, *val]).any():
                loss += "WithMissingValues"
        pools = [
            _pool(batch, labels, partly=loss.endswith("Values"))
            for batch, labels in ((data.train, train), (data.val, val))
        ]
        model = catboost.CatBoost(
            {"loss_function": loss, "logging_level": "Silent", "allow_writing_files": False, **params}
        )
        models.append(model.fit(pools[0], eval_set=pools[1]))
    return CatBoosted(groups=groups, models=models, center=center, scale=scale)


def refit_catboost(fitted: CatBoosted, rows: Batch) -> CatBoosted:
    """Fit every model again on all rows, with as many trees as were kept, at the same learning rate."""
    labels = (rows.wide_labels(len(fitted.scale)) - fitted.center) / fitted.scale
    models = []
    for group, first in zip(fitted.groups, fitted.models, strict=True):
        chosen = {"iterations": max(first.tree_count_, 1), "learning_rate": first.learning_rate_}
        stopping = ("early_stopping_rounds", "od_wait", "od_type")
        params = {name: value for name, value in first.get_params().items() if name not in stopping}
        partly = params["loss_function"].endswith("Values")
        models.append(catboost.CatBoost(params | chosen).fit(_pool(rows, labels[:, group], partly=partly)))
    return replace(fitted, models=models)


def _pool(batch: Batch, labels: np.ndarray | None = None, *, partly: bool = False) -> catboost.Pool:
    """Return rows as CatBoost takes them: those with all labels, or ``partly`` with any; without labels, all rows."""
    if labels is not None:
        known = ~np.isnan(labels)
        rows = np.flatnonzero(known.any(axis=1) if partly else known.all(axis=1))
        batch, labels = batch.rows(rows), labels[rows]
    codes = np.char.encode(batch.x.codes.astype(str)).astype(object)
    features = catboost.FeaturesData(
        num_feature_data=np.ascontiguousarray(batch.x.numbers, dtype=np.float32) if batch.x.numbers.shape[1] else None,
        cat_feature_data=codes if codes.shape[1] else None,
    )
    return catboost.Pool(features, labels)
