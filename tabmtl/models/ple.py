"""PLE and CGC: experts that all tasks share beside experts of every task, in one level or several.

Tang et al., 2020, "Progressive Layered Extraction (PLE)", RecSys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tabmtl.base.params import Count, Widths
from tabmtl.base.schema import Columns
from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.mixture import ExpertEstimator
from tabmtl.nn.experts import Gates, mix
from tabmtl.nn.layers import Boundary, RowOwners
from tabmtl.nn.task_network import StackedNetwork, UnitLevel
from tabmtl.nn.units import Group, Slot, head_units, level_units, readers_in_heads
from tabmtl.targets import Task


class PLELevel(UnitLevel):
    """One level: buckets of experts, the shared one first, and a gate per task; below the last one a shared gate too.

    Parameters
    ----------
    d_in : int
        Width of the inputs.
    names : sequence of str
        Names of the T tasks.
    options : PLE
    last : bool
        Whether heads read this level: it has no shared gate.
    """

    def __init__(self, d_in: int, names: Sequence[str], options: PLE, *, last: bool) -> None:
        super().__init__()
        counts = [options.n_shared_experts, *[options.n_task_experts] * len(names)]
        self.experts = options._experts(counts, d_in, options.expert_hidden)
        bucket, owners = self.experts.bucket, ["(shared)", *names]
        own = torch.arange(1, len(counts))[:, None]
        sees = has = (bucket == 0) | (bucket == own)  # (T, E): a task sees the shared and its own experts
        if not last:
            sees = torch.cat([torch.ones(1, len(bucket), dtype=torch.bool), sees])
        shared, experts = None if last else 0, self.experts.names(owners)
        self.gates = Gates(d_in, owners[last:], experts, sees, has=has, shared=shared, task_specific=last)
        self.output, self.last, self.asking = Boundary(), last, [*range(last, len(owners))]

    def forward(self, inputs: Sequence[Tensor], own: RowOwners | None = None) -> tuple[Tensor, ...]:
        """Take inputs (B, D), the shared one first, to outputs (B, H) of the gates; with ``own`` of a row's gates."""
        asking = [inputs[i] for i in self.asking] if own is None else inputs[self.last :]
        # experts before gates, whose order the sums of gradients depend on in their last bits
        experts = self.output(self.experts(inputs, None if own is None else [own.shared, own]))
        return mix(self.gates(asking, own), experts).unbind(dim=1)


class PLENetwork(StackedNetwork):
    """Levels of shared and own experts.

    Parameters
    ----------
    columns : Columns
    tasks : sequence of Task
    options : PLE
        The hyper-parameters.
    """

    def __init__(self, columns: Columns, tasks: Sequence[Task], options: PLE) -> None:
        names, vector = [task.name for task in tasks], options._vector(columns)
        h, n = options.expert_hidden[-1], options.n_levels
        stack = [PLELevel(h if i else vector.width, names, options, last=i == n - 1) for i in range(n)]
        super().__init__(vector, stack, 1 + len(names), options._heads(h, tasks))

    def units(self) -> list[Group]:
        """Return the groups of every level's layers and experts, and of the heads."""
        found: list[Group] = []
        for i, (experts, _) in enumerate(self.levels):
            after = f"stack.{i + 1}"
            readers = [Slot(f"{after}.experts.first.weight", 1), Slot(f"{after}.gates.linear.weight", 1)]
            if i + 1 == len(self.levels):
                readers = readers_in_heads("heads", self.heads)
            found += level_units(f"levels.{i}", (f"stack.{i}.experts", experts), f"stack.{i}.gates", readers)
        return [*found, *head_units("heads", self.heads)]


@dataclass(kw_only=True, eq=False, repr=False)
class PLE(ExpertEstimator):
    """PLE: progressive layered extraction; with one level, CGC (customised gate control).

    Every level has experts S that all tasks share and experts O_t of every task. Let x_t and x_s be the outputs of the
    level below; at the first level, all are the row's vector x. Expert e_i reads x_s if i is in S, and x_t if i is in
    O_t,

        x_t <- sum over i in S and O_t of softmax(W_t x_t)_i e_i,
        x_s <- sum over all i of softmax(W_s x_s)_i e_i;

    the last level has no x_s. The head of task t reads its x_t.

    A row of a long table (``task_column``) computes the parts of its own task only: the second sum is then over S and
    the O_t of the row's task t. One level has no second sum, so its rows are as in a wide table.

    Parameters
    ----------
    n_levels : int, default=2
        Number of levels; 1 is CGC.
    n_shared_experts, n_task_experts : int, default=2
        Number of experts of a level that all tasks share, and of experts of each task.
    expert_hidden : sequence of int, default=(128, 64)
        Widths of an expert's layers, at every level.

    References
    ----------
    Tang et al. (2020), "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for
    Personalized Recommendations", RecSys.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import PLE
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> y = X @ np.ones((4, 2))
    >>> PLE(epochs=2, n_levels=1, random_state=0).fit(X, y).predict(X).shape
    (200, 2)
    """

    n_levels: Count = 2
    n_shared_experts: Count = 2
    n_task_experts: Count = 2
    expert_hidden: Widths = (128, 64)

    search_space: ClassVar[dict[str, Any]] = ExpertEstimator.search_space | {
        "n_levels": {"low": 1, "high": 3},
        "n_shared_experts": {"low": 1, "high": 4},
        "n_task_experts": {"low": 1, "high": 4},
        "expert_hidden": {"choices": ((64,), (128,), (128, 64), (256, 128))},
    }

    def _network(self, columns: Columns, tasks: Sequence[Task]) -> PLENetwork:
        return PLENetwork(columns, tasks, self)


class PLEClassifier(ClassifierFace, PLE):
    """`PLE` whose every task is a classification."""


class PLERegressor(RegressorFace, PLE):
    """`PLE` whose every task is a regression."""
