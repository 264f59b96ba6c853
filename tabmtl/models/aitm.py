"""AITM: a tower per step of a funnel, which takes over information from the step before by attention.

Xi et al., 2021, "Modeling the Sequential Dependence among Audience Multi-step Conversions with Multi-task Learning in
Targeted Display Advertising", KDD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tabmtl.base.params import NonNegative
from tabmtl.base.schema import Columns
from tabmtl.columns import Features
from tabmtl.estimators.funnel import TowerEstimator
from tabmtl.nn.experts import Experts
from tabmtl.nn.layers import Boundary, RowOwners
from tabmtl.nn.task_network import TaskNetwork
from tabmtl.targets import Task
from tabmtl.targets.funnel import with_steps_before
from tabmtl.training.losses import FunnelLoss


class AITMNetwork(TaskNetwork):
    """Towers q_t, and along the chain the adaptive transfer of information.

    Parameters
    ----------
    columns : Columns
    tasks : sequence of Task
    chain : sequence of int
        Indices of the steps among the tasks, in order.
    options : AITM
        The hyper-parameters.
    """

    def __init__(self, columns: Columns, tasks: Sequence[Task], chain: Sequence[int], options: AITM) -> None:
        super().__init__()
        self.vector, self.input, self.chain = options._vector(columns), Boundary(), list(chain)
        self.towers = Experts([1] * len(tasks), self.vector.width, options.tower_hidden, dropout=options.dropout)
        k = self.towers.width
        self.passed_on = nn.ModuleList(nn.Sequential(nn.Linear(k, k), nn.ReLU()) for _ in self.chain[1:])  # g
        self.value_key_query = nn.Linear(k, 3 * k)  # h1, h2, h3
        self.heads = options._heads(k, tasks)

    def task_features(self, x: Features, own: RowOwners | None = None) -> Tensor:
        """Return features (B, T, H); the steps of a funnel are labels of one row, which has no task of its own."""
        features = list(self.towers([self.input(self.vector(x))]).unbind(dim=1))
        for step, (before, t) in enumerate(pairwise(self.chain)):
            features[t] = self.transfer(self.passed_on[step](features[before]), features[t])
        return torch.stack(features[: self.heads.n_tasks], dim=1)

    def restrict(self, tasks: list[int]) -> None:
        """Leave the heads of some tasks only, and their towers with those of the steps before them."""
        needed = with_steps_before(tasks, self.chain)
        self.chain = [needed.index(t) for t in self.chain if t in needed]
        self.passed_on = self.passed_on[: max(len(self.chain) - 1, 0)]
        self.towers.restrict(needed)
        self.heads.restrict(tasks)

    def transfer(self, p: Tensor, q: Tensor) -> Tensor:
        """Attend to the information passed on and to the step's own tower, each (B, H); return (B, H)."""
        value, key, query = self.value_key_query(torch.stack([p, q], dim=1)).chunk(3, dim=2)  # (B, 2, H) each
        weights = ((key * query).sum(dim=2) / key.shape[2] ** 0.5).softmax(dim=1)
        return (weights[:, :, None] * value).sum(dim=1)


@dataclass(kw_only=True, eq=False, repr=False)
class AITM(TowerEstimator):
    """AITM: adaptive information transfer along the steps of a funnel.

    Tower t gives q_t = f_t(v) from the row's vector v. The first step's features are z_1 = q_1; each later step joins
    its q_t with r_{t-1} = g_{t-1}(z_{t-1}) from the step before,

        z_t = sum over u in {r_{t-1}, q_t} of w_u h1(u),    w_u = softmax_u(<h2(u), h3(u)> / sqrt(k)),

    with h1 to h3 shared by all steps. With p_t = sigmoid(Head_t(z_t)), the loss of a row is

        sum_t BCE(y_t, p_t) + calibrator sum_{t>1} max(p_t - p_{t-1}, 0).

    Labels never increase along the funnel, and the second term asks the same of the probabilities.

    Parameters
    ----------
    task_chain : sequence of str
        Names of the steps; required. Other tasks of y may be of any kind, and have a tower of their own.
    calibrator : float, default=0.6
        Weight of the second term. The default is the authors' value.

    References
    ----------
    Xi et al. (2021), "Modeling the Sequential Dependence among Audience Multi-step Conversions with Multi-task
    Learning in Targeted Display Advertising", KDD.

    Examples
    --------
    >>> from tabmtl import AITM
    >>> from tabmtl.synth import make_funnel
    >>> log = make_funnel(500, random_state=0)
    >>> model = AITM(task_chain=["click", "conversion"], epochs=1, random_state=0).fit(log.X, log.y)
    >>> model.predict_proba(log.X)["conversion"].shape
    (500, 2)
    """

    calibrator: NonNegative = 0.6

    search_space: ClassVar[dict[str, Any]] = TowerEstimator.search_space | {"calibrator": {"low": 0.0, "high": 2.0}}

    def _loss(self, tasks: Sequence[Task]) -> FunnelLoss:
        return FunnelLoss(tasks, self._chain(tasks), space="independent", calibrator=self.calibrator)

    def _network(self, columns: Columns, tasks: Sequence[Task]) -> AITMNetwork:
        return AITMNetwork(columns, tasks, self._chain(tasks), self)
