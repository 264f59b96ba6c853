"""Independent tasks: one single-task model per target, the reference of every multi-task gain."""

from tabmtl.models.independent.choice import CONFIGURATIONS
from tabmtl.models.independent.estimator import IndependentTasks, IndependentTasksClassifier, IndependentTasksRegressor

__all__ = ["CONFIGURATIONS", "IndependentTasks", "IndependentTasksClassifier", "IndependentTasksRegressor"]
