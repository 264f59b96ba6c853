"""Tasks of unlike kinds and units, learned together: none drowns the others."""

from functools import cache

import numpy as np
import polars as pl
import pytest

import tabmtl

pytestmark = pytest.mark.all_faces  # slow: make test-all

N, KEPT = 6000, 1500
TASKS = {"visits": "poisson", "late": "binary", "delay": "quantile:0.8"}
rng = np.random.default_rng(0)
X = pl.DataFrame(rng.normal(size=(N, 4)), schema=list("abcd"))
RATE = np.exp(0.5 + 0.8 * X["a"].to_numpy() + 0.3 * X["b"].to_numpy())
Y = pl.DataFrame(
    {
        "visits": 1000 * rng.poisson(RATE),
        "late": 1.5 * X["b"] + X["c"] + rng.logistic(size=N) > 0,
        "delay": (X["a"] - X["c"] + rng.normal(size=N)) / 1000,
    }
)
OPTIONS = {"SharedBottom": {"epochs": 12, "learning_rate": 0.02, "hidden": (16,), "batch_size": 128}}


@cache
def scores(name: str, tasks: tuple[str, ...], **params: str) -> dict[str, float]:
    """Return the scores of a model on rows that it has not seen, given the tasks that it learns together."""
    of_tasks = {task: TASKS[task] for task in tasks}
    model = getattr(tabmtl, name)(tasks=of_tasks, random_state=0, **OPTIONS.get(name, {}), **params)
    return model.fit(X[:KEPT], Y[:KEPT, list(tasks)]).score_tasks(X[KEPT:], Y[KEPT:, list(tasks)])


@pytest.mark.parametrize(
    ("name", "tasks", "params"),
    [(name, tuple(TASKS), {}) for name in ("SharedTrees", "RMTGB", "SharedBottom")],
    ids=str,
)
def test_a_task_scores_beside_others_of_any_unit_as_alone(name, tasks, params):
    together = scores(name, tasks, **params)
    for task in tasks:
        assert together[task] > scores(name, (task,))[task] - 0.02
