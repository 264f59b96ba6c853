"""CatBoost on several tasks: one model per task, with its defaults."""

from __future__ import annotations

from typing import Any

import catboost
import numpy as np

from benchmarks.peers.lightgbm import Coded
from tabmtl.base.schema import Batch

_LOSSES = {"binary": "Logloss", "regression": "RMSE"}
_STOPPING = ("early_stopping_rounds", "od_wait", "od_type")


def fit_catboost(data: Coded, params: dict[str, Any]) -> list[catboost.CatBoost]:
    """Fit with CatBoost's defaults, but for some parameters, stopped on the validation rows."""
    models = []
    for t, kind in enumerate(data.kinds):
        train, val = (_pool(batch, batch.y[:, t]) for batch in (data.train, data.val))
        fixed = {"loss_function": _LOSSES[kind], "logging_level": "Silent", "allow_writing_files": False}
        models.append(catboost.CatBoost({**fixed, **params}).fit(train, eval_set=val))
    return models


def refit_catboost(fitted: list[catboost.CatBoost], rows: Batch) -> list[catboost.CatBoost]:
    """Fit every model again on all rows, with as many trees as were kept, at the same learning rate."""
    models = []
    for t, first in enumerate(fitted):
        chosen = {"iterations": max(first.tree_count_, 1), "learning_rate": first.learning_rate_}
        params = {name: value for name, value in first.get_params().items() if name not in _STOPPING}
        models.append(catboost.CatBoost(params | chosen).fit(_pool(rows, rows.y[:, t])))
    return models


def predict_catboost(models: list[catboost.CatBoost], batch: Batch) -> np.ndarray:
    """Predict values, or probabilities of the second class (n, T)."""
    columns = []
    for model in models:
        is_binary = model.get_param("loss_function") == "Logloss"
        kind = "Probability" if is_binary else "RawFormulaVal"
        values = model.predict(_pool(batch), prediction_type=kind, thread_count=1)
        columns.append(values[:, 1] if is_binary else values)
    return np.column_stack(columns)


def _pool(batch: Batch, labels: np.ndarray | None = None) -> catboost.Pool:
    """Return rows as CatBoost takes them: those with a label; without labels, all rows."""
    if labels is not None:
        known = np.flatnonzero(~np.isnan(labels))
        batch, labels = batch.rows(known), labels[known]
    numbers, codes = batch.x.numbers, np.char.encode(batch.x.codes.astype(str)).astype(object)
    features = catboost.FeaturesData(
        num_feature_data=np.ascontiguousarray(numbers, dtype=np.float32) if numbers.shape[1] else None,
        cat_feature_data=codes if codes.shape[1] else None,
    )
    return catboost.Pool(features, labels)
