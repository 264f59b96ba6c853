"""Wide tables: memory of fits and predictions, each in a process of its own.

Nothing heavy is imported here: the memory of a side would count it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.harness import Measures, Sides, alone, gauged

#: Short trainings, which take the memory of long ones.
SHORT: dict[str, dict[str, Any]] = {
    **{name: {"epochs": 1, "device": "cpu"} for name in ("SharedBottom", "MMoE", "STEM")},
    "SharedTrees": {"n_estimators": 5},
    "RMTGB": dict.fromkeys(("n_estimators_shared", "n_estimators_outlier", "n_estimators_task"), 2),
    "IndependentTasks": {"families": ("lightgbm",)},
}


def fit_alone(name: str, rows: int, columns: int) -> Measures:
    """Measure a fit and a prediction of two targets, of numbers in float32."""
    import numpy as np
    import polars as pl
    import torch

    import tabmtl

    torch.set_num_threads(1)
    X = np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)
    y = pl.DataFrame({"sum": X[:, :20].sum(axis=1).astype(float), "sign": (X[:, 0] + X[:, 1] > 0).astype(str)})
    model, found = getattr(tabmtl, name)(**SHORT[name], n_jobs=1, random_state=0), Measures()
    with gauged(found):
        model.fit(X, y).predict(X)
    return {"GB": found.pop("GB"), **found}


def fits(rows: int = 20_000, columns: int = 5_000, models: Sequence[str] = tuple(SHORT)) -> Sides:
    """Measure the peak of memory of estimators, the table among it."""
    return {name: alone(fit_alone, name, rows, columns) for name in models}
