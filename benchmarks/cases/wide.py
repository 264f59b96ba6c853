"""Wide tables: memory of fits and predictions, each in a process of its own.

Nothing heavy is imported here: the memory of a side would count it.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable
from itertools import islice
from typing import Any, Literal
from unittest.mock import patch

from benchmarks.harness import Measures, Sides, alone

NETWORKS = ("SharedBottom", "MMoE", "PLE", "AdaTT", "STEM", "HoME", "ESMM", "AITM")
FUNNELS = ("ESMM", "AITM")
#: Short trainings, which take the memory of long ones.
SHORT: dict[str, dict[str, Any]] = {
    **{name: {"epochs": 1, "device": "cpu"} for name in NETWORKS},
    "SharedTrees": {"n_estimators": 5},
    "RMTGB": dict.fromkeys(("n_estimators_shared", "n_estimators_outlier", "n_estimators_task"), 2),
    "IndependentTasks": {"families": ("lightgbm",)},
}
#: Steps of the epoch of a network, and rows that are answered; all rows are encoded.
STEPS, ANSWERED = 3, 1_000
Table = Literal["float32", "float64", "codes"]


def fit_alone(name: str, rows: int, columns: int, table: Table) -> Measures:
    """Measure the peak of resident memory of a process that fits two targets, and answers."""
    import numpy as np
    import polars as pl
    import torch

    import tabmtl
    from tabmtl.training.rows import MemoryRows

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    if table == "codes":
        codes = (rng.integers(5, size=rows) for _ in range(columns))
        X: Any = pl.DataFrame({f"x{j}": pl.Series(own).cast(pl.String) for j, own in enumerate(codes)})
        numbers = X[:, :20].cast(pl.Float64).to_numpy() - 2
    else:
        X = rng.standard_normal((rows, columns), dtype=np.dtype(table).type)
        numbers = X[:, :20].astype(np.float64)
    first, second = numbers[:, 0] + numbers[:, 1] > 0, numbers[:, 2] + numbers[:, 3] > 0
    y = pl.DataFrame({"sum": numbers.sum(axis=1), "sign": first.astype(str)})
    options = {**SHORT[name], "n_jobs": 1, "random_state": 0}
    if name in FUNNELS:
        y = pl.DataFrame({"click": first, "sale": first & second})
        options["task_chain"] = ("click", "sale")
    all_steps = MemoryRows.steps

    def few_steps(self: MemoryRows, *arguments: Any, **more: Any) -> tuple[int, Iterable[Any]]:
        n, steps = all_steps(self, *arguments, **more)
        return min(n, STEPS), islice(steps, STEPS)

    with patch.object(MemoryRows, "steps", few_steps):
        model = getattr(tabmtl, name)(**options).fit(X, y)
    model.coder_.read(X)
    model.predict(X[:ANSWERED])
    return {"GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def fits(rows: int = 20_000, columns: int = 5_000, table: Table = "float32", models: str = ",".join(SHORT)) -> Sides:
    """Measure the peak of memory of estimators, the table among it."""
    return {name: alone(fit_alone, name, rows, columns, table) for name in models.split(",")}
