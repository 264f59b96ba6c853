"""
What does a model rely on, by task?
===================================

One model answers several targets, and need not read the same columns for each. Three figures tell: how far a score
falls where a column is shuffled, what the trees took from it, and how far it moves single answers.
"""

# %%
# Flights with four targets, learned together. One model per target, and a guess, which scores one half by ROC AUC and
# zero by R², say whether there is anything to explain.
import numpy as np
import polars as pl

from tabmtl import (
    IndependentTasks,
    SharedTrees,
    gain_importances,
    permutation_importances,
)
from tabmtl.inspection.plots import ImportanceDisplay
from tabmtl.pipelines.datasets import load

flights = load("flights")
X, y = (part.sample(1500, seed=0) for part in flights.part("train"))
X_test, y_test = (part.sample(800, seed=1) for part in flights.part("test"))
model = SharedTrees(tasks=flights.tasks, random_state=0).fit(X, y)
alone = IndependentTasks(tasks=flights.tasks, random_state=0).fit(X, y)
scores = {
    "together": model.score_tasks(X_test, y_test),
    "one model per target": alone.score_tasks(X_test, y_test),
}
scores

# %%
# How far each score falls where a column is shuffled among flights of other days, with 95 % intervals over draws of flights and
# of shuffles. It works for every model of tables, an ensemble or a network too.
falls = permutation_importances(model, X_test, y_test, n_repeats=3, random_state=0)
ImportanceDisplay.from_importances(falls, max_features=6)

# %%
# The time in the air follows from the distance. Delays depend on the hour and the weather, and distance hardly matters.
of = {
    (task, feature): fall
    for task, feature, fall in falls.select("task", "feature", "importance").iter_rows()
}
assert scores["together"]["air_time"] > 0.8
assert of["air_time", "distance"] > 0.5
assert of["dep_del15", "sched_dep_min"] > of["dep_del15", "distance"]

# %%
# Departure and arrival say nearly the same, so that one stands in for the other. Shuffled together, they matter more.
times = ["sched_dep_min", "sched_arr_min"]
by_time = permutation_importances(
    model,
    X_test,
    y_test,
    tasks="dep_del15",
    features=[*times, times],
    n_repeats=3,
    random_state=0,
)
assert by_time["importance"][2] > by_time["importance"][:2].max()
by_time

# %%
# The gain is what the trees took up in ``fit``. All targets share the splits, and yet it differs between them, since
# each has its own values in the leaves. It costs no prediction, and says nothing about other days: what chance did to a
# few cancelled flights was taken up like all else.
ImportanceDisplay.from_estimator(model, max_features=6)

# %%
# SHAP values add up to single answers. ``export_task`` and ``encode`` give a plain LightGBM model and its rows under
# their names; the mean of the absolute values is a third figure, in units of the target or in log odds. A target of
# more than two classes has a block of such columns for each class: see :ref:`sphx_glr_examples_plot_shap.py`.
encoded = model.encode(X_test)
parts = []
for task in y.columns:
    values = model.export_task(task).predict(encoded, pred_contrib=True, num_threads=1)
    mean = np.abs(values[:, :-1]).mean(axis=0)  # the last column is the expected value
    columns = {"feature": encoded.columns, "importance": mean}
    parts.append(pl.DataFrame(columns).with_columns(task=pl.lit(task)))
shap = pl.concat(parts)
ImportanceDisplay.from_importances(shap, max_features=6, label="mean |SHAP value|")

# %%
# All three agree on what is strong. See :ref:`sphx_glr_examples_plot_shap.py` for the values of single rows.
first = shap.sort("importance", descending=True).group_by("task").first()
assert first.filter(task="air_time")["feature"].item() == "distance"
gain = gain_importances(model).filter(task="air_time").sort("importance")
assert gain["feature"][-1] == "distance"
