"""
A network of your own
=====================

Write how a row becomes features of each task, and get all the rest: kinds, missing labels, long tables, balancing,
early stopping, files, ONNX. This is a residual trunk with a small head per task, in thirty lines.
"""

# %%
# A network gives ``task_features``, and an estimator states its parameters as fields.
from dataclasses import dataclass

from torch import nn

from tabmtl import IndependentTasks, SharedBottom
from tabmtl.base.params import Count
from tabmtl.estimators.network import VectorEstimator
from tabmtl.nn.layers import Boundary, Towers
from tabmtl.nn.task_network import TaskNetwork
from tabmtl.synth import make_multitab_bench


class ResidualNetwork(TaskNetwork):
    """Blocks that add to the vector of a row."""

    def __init__(self, columns, tasks, options):
        super().__init__()
        self.vector = options._vector(columns)
        width = self.vector.width
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, width),
                nn.ReLU(),
                nn.Linear(width, width),
            )
            for _ in range(options.n_blocks)
        )
        self.shared = Boundary()  # all tasks share the layers up to here
        self.heads = Towers(
            width,
            [task.width for task in tasks],
            hidden=32,
            n_members=options.n_members,
        )

    def task_features(self, x, own=None):
        """Return features (B, width), which all tasks read; features of each task are (B, T, width)."""
        x = self.vector(x)
        for block in self.blocks:
            x = x + block(x)
        return self.shared(x)


@dataclass(kw_only=True, eq=False, repr=False)
class ResidualNet(VectorEstimator):
    """A residual trunk for all tasks."""

    n_blocks: Count = 2

    def _network(self, columns, tasks):
        return ResidualNetwork(columns, tasks, self)


# %%
# A number, a yes or no with half of its labels, and three classes, learned by one object:
kinds = ["regression", "binary", "multiclass"]
bench = make_multitab_bench(
    800, 6, 3, task_kinds=kinds, missing=[0, 0.5, 0], random_state=0
)
test = bench.draw(2000, random_state=1)
model = ResidualNet(n_blocks=2, epochs=20, random_state=0).fit(bench.X, bench.y)

# %%
from tabmtl.inspection.plots import HistoryDisplay

HistoryDisplay.from_estimator(model)

# %%
# Beside the simplest network and one LightGBM per target. A constant answer has R² 0, and AUC 0.5 twice.
scores = {
    type(each).__name__: each.score_tasks(test.X, test.y)
    for each in (
        model,
        SharedBottom(epochs=20, random_state=0).fit(bench.X, bench.y),
        IndependentTasks(families=("lightgbm",), random_state=0).fit(bench.X, bench.y),
    )
}
scores

# %%
# ``check_multitask_estimator(ResidualNet(epochs=1))`` of ``tabmtl.testing`` checks everything that an estimator of
# this package promises, in half a minute.
