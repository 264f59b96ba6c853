"""
A search with two goals
=======================

One setting is best for one target, another for the other. A search with an objective per task keeps the points that
no other beats in every task: the Pareto front. You choose from it.
"""

# %%
# Two targets of the rodents, and a few trials. Every estimator brings the space that is searched.
import logging

import optuna

from tabmtl import IndependentTasks, MMoE
from tabmtl.pipelines.datasets import load
from tabmtl.tuning import choose_point, objective, open_study, pareto_front, run_study

optuna.logging.set_verbosity(logging.WARNING)
portal = load("portal")
names = ["weight", "male"]
tasks = {name: portal.tasks[name] for name in names}
X, y = (part.sample(500, seed=0) for part in portal.part("train"))
X_val, y_val = (part.sample(1000, seed=0) for part in portal.part("val"))
y, y_val = y.select(names), y_val.select(names)

model = MMoE(tasks=tasks, epochs=4, random_state=0)
goal = objective(model, X, y, X_val=X_val, y_val=y_val, per_task=True)
import tempfile

folder = tempfile.TemporaryDirectory()
study = open_study("portal", goal, storage=f"{folder.name}/sweep.db", seed=0)
run_study(study, goal, n_trials=8)

# %%
# The front, on validation rows: R² of the weight, ROC AUC of the sex. Constant answers have 0 and 0.5.
front = pareto_front(study, dominated=True)
front.select("trial", "dominated", "score/weight", "score/male")

# %%
# Dotted lines are the scores of one LightGBM per target. The marked point is chosen by weights.
from tabmtl.tuning import ParetoDisplay

alone = (
    IndependentTasks(families=("lightgbm",), tasks=tasks, random_state=0)
    .fit(X, y)
    .score_tasks(X_val, y_val)
)
chosen = choose_point(pareto_front(study), weights={"weight": 1, "male": 2})
ParetoDisplay.from_front(front, reference=alone, chosen=chosen)

# %%
# Chosen by validation rows, so these scores are too good: judge the chosen point by test rows, once.
from tabmtl.tuning import with_params

X_test, y_test = (part.sample(2000, seed=0) for part in portal.part("test"))
best = with_params(model, chosen).fit(X, y, X_val=X_val, y_val=y_val)
scores = best.score_tasks(X_test, y_test.select(names))
folder.cleanup()
scores
