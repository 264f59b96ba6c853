"""
Five minutes: several targets at once
=====================================

Flights from New York have four targets: was the flight cancelled, was it late, how late did it arrive, how long was
it in the air? Suppose that only 500 flights are known to be cancelled or not, while the other targets have all their
labels. One model learns all four.

You need ``pip install 'tabmtl[plot]'``. The data ship with the package.
"""

# %%
# The data: features ``X`` and targets ``y``, as polars frames. pandas, pyarrow and numpy work too.
import polars as pl

from tabmtl.pipelines.datasets import load

flights = load("flights")
X, y = (part.sample(3000, seed=0, shuffle=True) for part in flights.part("train"))
X_test, y_test = (part.sample(6000, seed=1) for part in flights.part("test"))
y.head()

# %%
# A null in ``y`` is an unlabelled cell, and it costs nothing to have many. A cancelled flight has no delay, and all
# except 500 rows lose their label of ``cancelled``.
scarce = y.with_columns(
    pl.when(pl.int_range(pl.len()) < 500).then("cancelled").alias("cancelled")
)
scarce.count()

# %%
# One model for all targets, with its defaults. What kind of target a column is, follows from its labels or is declared.
from tabmtl import SharedTrees

model = SharedTrees(tasks=flights.tasks, random_state=0).fit(X, scarce)
model.predict(X_test).head()

# %%
# Probabilities, for the targets that are classes:
model.predict_proba(X_test)["cancelled"][:3].round(3)

# %%
# Did it help to learn them together? The bar is a LightGBM for each target, all of one configuration: the best of four
# by the mean score. Scores are ROC AUC of the two classes, where guessing has 0.5, and R² of the two numbers, where the
# mean has 0.
from tabmtl import IndependentTasks, multitask_gain

single = IndependentTasks(
    tune="all", families=("lightgbm",), tasks=flights.tasks, random_state=0
).fit(X, scarce)
gain = multitask_gain(
    model.score_tasks(X_test, y_test), single.score_tasks(X_test, y_test)
)
gain.table

# %%
# The target with few labels gains. Read every row of the table all the same: a mean can hide a loss.
from tabmtl.inspection.plots import GainDisplay

GainDisplay.from_gain(gain, names=("SharedTrees", "LightGBM per target"))
assert (
    gain.table.row(by_predicate=pl.col("task") == "cancelled", named=True)["difference"]
    > 0
)

# %%
# One draw of 500 labels is an anecdote: ``score_intervals`` says how uncertain a score is, and the page of results
# has many draws of many tables.
model.score_intervals(X_test, y_test).select("task", "score", "low", "high")

# %%
# A model is a folder of JSON and plain arrays or trees, without pickle.
import tempfile

import tabmtl

with tempfile.TemporaryDirectory() as folder:
    model.save(f"{folder}/model")
    assert tabmtl.load(f"{folder}/model").predict(X_test).equals(model.predict(X_test))
