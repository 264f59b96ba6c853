"""MMoE: experts that all tasks share, and a gate per task that weighs them.

Ma et al., 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from tabmtl.base.params import Count, Widths
from tabmtl.base.schema import Columns
from tabmtl.columns import Features
from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.mixture import ExpertEstimator
from tabmtl.nn.experts import Gates, mix, restrict_level
from tabmtl.nn.layers import Boundary, RowOwners
from tabmtl.nn.task_network import TaskNetwork
from tabmtl.nn.units import Group, head_units, level_units, readers_in_heads
from tabmtl.targets import Task


class MMoENetwork(TaskNetwork):
    """Features of task t: h_t = sum_i softmax(W_t x)_i e_i(x).

    Parameters
    ----------
    columns : Columns
    tasks : sequence of Task
    options : MMoE
        The hyper-parameters.
    """

    is_joinable = True

    def __init__(self, columns: Columns, tasks: Sequence[Task], options: MMoE) -> None:
        super().__init__()
        names, self.vector = [task.name for task in tasks], options._vector(columns)
        self.input, self.output = Boundary(), Boundary()
        self.experts = options._experts([options.n_experts], self.vector.width, options.expert_hidden)
        self.gates = Gates(self.vector.width, names, self.experts.names(["expert"]))
        self.heads = options._heads(self.experts.width, tasks)
        self.levels = [(self.experts, [self.gates])]

    def task_features(self, x: Features, own: RowOwners | None = None) -> Tensor:
        """Return features (B, T, H)."""
        vector = self.input(self.vector(x))
        return mix(self.gates(vector, own), self.output(self.experts([vector])), self.experts.n_networks)

    def units(self) -> list[Group]:
        """Return the groups of the experts' layers, of the experts, and of the heads."""
        readers = readers_in_heads("heads", self.heads)
        return [*level_units("experts", ("experts", self.experts), "gates", readers), *head_units("heads", self.heads)]

    def restrict(self, tasks: list[int]) -> None:
        """Leave the gates and heads of some tasks only."""
        restrict_level(self.experts, [self.gates], tasks)
        self.heads.restrict(tasks)


@dataclass(kw_only=True, eq=False, repr=False)
class MMoE(ExpertEstimator):
    """MMoE: multi-gate mixture of experts.

    All tasks share E experts e_i, small MLPs on the row's vector x. The gate of a task weighs them for every row, and
    the head of the task reads the sum,

        h_t = sum_i softmax(W_t x)_i e_i(x),    o_t = Head_t(h_t).

    Parameters
    ----------
    n_experts : int, default=8
        Number E of experts.
    expert_hidden : sequence of int, default=(128, 64)
        Widths of an expert's layers.

    References
    ----------
    Ma et al. (2018), "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import MMoE
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> y = X @ np.ones((4, 2))
    >>> model = MMoE(epochs=2, n_experts=3, random_state=0).fit(X, y)
    >>> model.expert_utilisation_["gate"].unique().sort().to_list()
    ['y0', 'y1']
    """

    n_experts: Count = 8
    expert_hidden: Widths = (128, 64)

    search_space: ClassVar[dict[str, Any]] = ExpertEstimator.search_space | {
        "n_experts": {"low": 2, "high": 16, "log": True},
        "expert_hidden": {"choices": ((64,), (128,), (128, 64), (256, 128))},
    }

    def _network(self, columns: Columns, tasks: Sequence[Task]) -> MMoENetwork:
        return MMoENetwork(columns, tasks, self)


class MMoEClassifier(ClassifierFace, MMoE):
    """`MMoE` whose every task is a classification."""


class MMoERegressor(RegressorFace, MMoE):
    """`MMoE` whose every task is a regression."""
