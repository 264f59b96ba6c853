"""
Let the data choose, target by target
=====================================

Which model is best differs from target to target. ``MultiTaskEnsemble`` lets its candidates answer rows that they
have not seen, and mixes them for each target. It falls back on single-task models where a mixture is behind them by
more than a standard error.
"""

# %%
# Three candidates, quick ones; without ``models`` there are four. ``male`` keeps 200 labels.
import polars as pl

from tabmtl import IndependentTasks, MultiTaskEnsemble, SharedBottom, SharedTrees
from tabmtl.pipelines.datasets import load

portal = load("portal")
X, y = (part.sample(700, seed=0, shuffle=True) for part in portal.part("train"))
X_test, y_test = (part.sample(3000, seed=1) for part in portal.part("test"))
y = y.with_columns(pl.when(pl.int_range(pl.len()) < 200).then("male").alias("male"))

candidates = {
    "LightGBM per target": IndependentTasks(families=("lightgbm",)),
    "SharedTrees": SharedTrees(n_estimators_task=0),
    "SharedBottom": SharedBottom(hidden=(64,), epochs=10),
}
model = MultiTaskEnsemble(
    models=candidates, n_folds=2, tasks=portal.tasks, random_state=0
).fit(X, y)
model.leaderboard_

# %%
# Out-of-fold scores with their standard errors, and the weights of the candidates.
from tabmtl.inspection.plots import LeaderboardDisplay

LeaderboardDisplay.from_estimator(model)

# %%
# On rows that neither the candidates nor the weights have seen, beside the single-task candidate and a constant answer:
alone = (
    IndependentTasks(families=("lightgbm",), tasks=portal.tasks, random_state=0)
    .fit(X, y)
    .score_tasks(X_test, y_test)
)
pl.DataFrame(
    [
        {
            "task": task,
            "ensemble": score,
            "LightGBM alone": alone[task],
            "constant": 0.5 if task == "male" else 0.0,
        }
        for task, score in model.score_tasks(X_test, y_test).items()
    ]
)
