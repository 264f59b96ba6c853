"""
Many small tasks in one long table
==================================

Pupils of schools, patients of hospitals, customers of shops: one row has one label, of its own task, and a task has
few rows. ``task_column`` names the column that holds it.
"""

# %%
# Eight tasks with 40 rows each. Their functions are nine parts the same and one part their own.
from tabmtl import IndependentTasks, SharedTrees, multitask_gain
from tabmtl.synth import make_outlier_tasks

schools = make_outlier_tasks(
    40, 300, n_tasks=8, n_outliers=0, noise=0.2, random_state=0
)
schools.X.head()

# %%
# One model learns all tasks, and every row is answered for its own.
together = SharedTrees(task_column="task", random_state=0).fit(schools.X, schools.y)
alone = IndependentTasks(task_column="task", random_state=0).fit(schools.X, schools.y)
gain = multitask_gain(
    *(model.score_tasks(schools.X_test, schools.y_test) for model in (together, alone))
)
gain.table

# %%
# R² of every task: 0 is the mean of the task, 1 is perfect.
import matplotlib.pyplot as plt

from tabmtl.inspection.plots import GainDisplay

_, ax = plt.subplots(figsize=(9, 4), layout="constrained")
GainDisplay.from_gain(gain, names=("all tasks together", "one model per task"), ax=ax)
assert gain.table["difference"].mean() > 0

# %%
# A task that was not there at fit gets the answer of what all tasks share.
import polars as pl

together.predict(schools.X_test.head(3).with_columns(task=pl.lit("a new school")))
