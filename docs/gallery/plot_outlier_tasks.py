"""
Tasks that are not like the others
==================================

Ten tasks, and two of them follow another function. Sharing with them would hurt the others, and them. ``RMTGB``
learns for each task on which side it stands, and checks on validation rows what that is worth.
"""

# %%
# The last two tasks are the outliers; the model is not told.
from tabmtl import RMTGB, IndependentTasks
from tabmtl.synth import make_outlier_tasks

plants = make_outlier_tasks(100, 300, n_tasks=10, n_outliers=2, random_state=0)
model = RMTGB(task_column="task", random_state=0).fit(plants.X, plants.y)
model.outlier_score_.sort("outlier_score", descending=True).head(4)

# %%
# ``check_loss`` is the validation loss of a task with its own weight, ``check_loss_if_normal`` that with the weight
# of a normal task.
from matplotlib import pyplot

outliers = model.outlier_score_.sort("outlier_score")
bars = pyplot.barh(outliers["task"], outliers["outlier_score"])

# %%
# It found them:
found = (
    model.outlier_score_.sort("outlier_score", descending=True)["task"]
    .head(2)
    .to_list()
)
assert sorted(found) == sorted(plants.outliers)
found

# %%
# Mean R² over the tasks, beside one LightGBM per task; the mean of a task has 0.
alone = IndependentTasks(
    families=("lightgbm",), task_column="task", random_state=0
).fit(plants.X, plants.y)
scores = {
    type(m).__name__: m.score(plants.X_test, plants.y_test) for m in (model, alone)
}
assert scores["RMTGB"] > scores["IndependentTasks"]
scores
