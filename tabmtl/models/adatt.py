"""AdaTT: experts of every task, and fusion units that add a gated mixture of all experts to a task's own.

Li et al., 2023, "AdaTT: Adaptive Task-to-Task Fusion Network for Multitask Learning in Recommendations", KDD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tabmtl.base.params import Count, CountOrZero, Widths
from tabmtl.base.schema import Columns
from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.mixture import ExpertEstimator
from tabmtl.nn.experts import Gates, mix
from tabmtl.nn.layers import Boundary, RowOwners, take_rows
from tabmtl.nn.task_network import StackedNetwork, UnitLevel
from tabmtl.targets import Task


class FusionLevel(UnitLevel):
    """One level: every unit (a task, or the shared one) has experts, and fuses its own with those of all units.

    Parameters
    ----------
    d_in, d_out : int
        Widths of the inputs and of an expert.
    units : sequence of (str, int)
        Name and number of experts of each unit; the tasks come first.
    options : AdaTT
    last : bool
        Whether heads read this level. Only tasks give an output then.
    """

    own: Tensor
    alone: Tensor

    def __init__(self, d_in: int, d_out: int, units: Sequence[tuple[str, int]], options: AdaTT, *, last: bool) -> None:
        super().__init__()
        names, counts = zip(*units, strict=True)
        n_tasks = len(units) - (options.n_shared_experts > 0)
        n_fused = n_tasks if last else len(units)
        self.asking = [*range(n_fused)]
        self.experts = options._experts(counts, d_in, [d_out])
        unit = self.experts.bucket
        own = unit == torch.arange(n_fused)[:, None]  # (G, E)
        sees, has = torch.ones_like(own), own[:n_tasks] | (unit >= n_tasks)
        if options.task_column is not None:
            sees[:n_tasks] = has
        shared = n_tasks if n_fused > n_tasks else None
        names_of = (names[:n_fused], self.experts.names(names))
        self.gates = Gates(d_in, *names_of, sees, has=has, shared=shared, task_specific=last)
        size = torch.tensor(counts)[unit]  # (E,), of an expert's unit
        self.register_buffer("own", own.float(), persistent=False)
        self.register_buffer("alone", size == 1, persistent=False)
        start = (2 * torch.rand(len(size)) - 1) / size.sqrt()
        self.residual = nn.Parameter(start) if max(counts[:n_fused]) > 1 else None  # v, one per expert
        self.output = Boundary()

    def forward(self, inputs: Sequence[Tensor], own: RowOwners | None = None) -> tuple[Tensor, ...]:
        """Take inputs (B, D) of all units to outputs (B, H) of the fused ones; with ``own`` those of a row's units."""
        owners = None if own is None else [own, own.shared][: len(inputs)]
        experts = self.output(self.experts(inputs, owners))
        asking = [inputs[i] for i in self.asking] if own is None else inputs[: self.gates.own.shape[1]]
        weights = self.gates(asking, own)
        static = self.own if self.residual is None else self.own * torch.where(self.alone, 1.0, self.residual)
        if own is not None:
            static = static.flatten()[self.gates.own].index_select(0, own.owner)
        return mix(weights + static, experts).unbind(dim=1)

    def restrict(self, gates: Sequence[int]) -> list[int]:
        """Leave some fused units only, and all experts, which they see."""
        take_rows(self, gates, "own")
        return super().restrict(gates)


class AdaTTNetwork(StackedNetwork):
    """Levels of fusion units.

    Parameters
    ----------
    columns : Columns
    tasks : sequence of Task
    options : AdaTT
        The hyper-parameters.
    """

    gates_decide = False  # an expert that no gate uses still has its fixed weight

    def __init__(self, columns: Columns, tasks: Sequence[Task], options: AdaTT) -> None:
        vector, units = options._vector(columns), [(task.name, options.n_task_experts) for task in tasks]
        if options.n_shared_experts:
            units.append(("(shared)", options.n_shared_experts))
        widths = [vector.width, *options.expert_hidden]
        stack = [
            FusionLevel(before, after, units, options, last=i == len(widths) - 2)
            for i, (before, after) in enumerate(pairwise(widths))
        ]
        super().__init__(vector, stack, len(units), options._heads(widths[-1], tasks))


@dataclass(kw_only=True, eq=False, repr=False)
class AdaTT(ExpertEstimator):
    """AdaTT: adaptive task-to-task fusion; AdaTT-sp if there are no shared experts.

    At every level, each task t has experts that read its x_t; at the first level, x_t is the row's vector. The fusion
    unit of a task adds two mixtures, a gated one of all experts and a fixed one of its own,

        x_t <- softmax(W_t x_t) · (all experts) + sum over own e of v_{t,e} e,

    with v learned, from U(-1/sqrt(E_t), 1/sqrt(E_t)). A task with a single expert, E_t = 1, adds its output unchanged.
    Shared experts form one more unit, which no head reads.

    A row of a long table (``task_column``) computes its own task's unit and the shared unit only. Both then fuse the
    experts of these two units. Without shared experts, tasks share the embeddings alone.

    Parameters
    ----------
    n_task_experts : int, default=2
        Number of experts of every task, at every level.
    n_shared_experts : int, default=0
        Number of experts of the shared unit; 0 is AdaTT-sp.
    expert_hidden : sequence of int, default=(128, 64)
        Width of the experts of each level. An expert is one layer.

    Notes
    -----
    The formula of AdaTT-sp is the published one. We fuse the shared unit like a task, which is our reading of the
    paper.

    References
    ----------
    Li et al. (2023), "AdaTT: Adaptive Task-to-Task Fusion Network for Multitask Learning in Recommendations", KDD.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import AdaTT
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> y = X @ np.ones((4, 2))
    >>> AdaTT(epochs=2, random_state=0).fit(X, y).predict(X).shape
    (200, 2)
    """

    n_task_experts: Count = 2
    n_shared_experts: CountOrZero = 0
    expert_hidden: Widths = (128, 64)

    search_space: ClassVar[dict[str, Any]] = ExpertEstimator.search_space | {
        "n_task_experts": {"low": 1, "high": 4},
        "n_shared_experts": {"low": 0, "high": 4},
        "expert_hidden": {"choices": ((64,), (128,), (128, 64), (256, 128))},
    }

    def _network(self, columns: Columns, tasks: Sequence[Task]) -> AdaTTNetwork:
        return AdaTTNetwork(columns, tasks, self)


class AdaTTClassifier(ClassifierFace, AdaTT):
    """`AdaTT` whose every task is a classification."""


class AdaTTRegressor(RegressorFace, AdaTT):
    """`AdaTT` whose every task is a regression."""
