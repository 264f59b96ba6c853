"""ESMM: a tower per step of a funnel on shared embeddings, trained over all impressions by products of probabilities.

Ma et al., 2018, "Entire Space Multi-Task Model", SIGIR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from tabmtl.base.schema import Columns
from tabmtl.columns import Features
from tabmtl.estimators.funnel import TowerEstimator
from tabmtl.nn.experts import Experts
from tabmtl.nn.layers import Boundary, RowOwners
from tabmtl.nn.task_network import TaskNetwork
from tabmtl.targets import Task
from tabmtl.training.losses import FunnelLoss


class ESMMNetwork(TaskNetwork):
    """Own MLP for every task, on embeddings that all tasks share.

    Parameters
    ----------
    columns : Columns
    tasks : sequence of Task
    options : ESMM
        The hyper-parameters.
    """

    def __init__(self, columns: Columns, tasks: Sequence[Task], options: ESMM) -> None:
        super().__init__()
        self.vector, self.input = options._vector(columns), Boundary()
        counts = [1] * len(tasks)
        self.towers = Experts(counts, self.vector.width, options.tower_hidden, dropout=options.dropout)
        self.heads = options._heads(self.towers.width, tasks)

    def task_features(self, x: Features, own: RowOwners | None = None) -> Tensor:
        """Return features (B, T, H); the steps of a funnel are labels of one row, which has no task of its own."""
        return self.towers([self.input(self.vector(x))])

    def restrict(self, tasks: list[int]) -> None:
        """Leave the towers and heads of some tasks only."""
        self.towers.restrict(tasks)
        self.heads.restrict(tasks)


@dataclass(kw_only=True, eq=False, repr=False)
class ESMM(TowerEstimator):
    """ESMM: entire space multi-task model of a funnel, for any number of steps.

    Every step has a tower on embeddings that all steps share. Tower k scores step k among rows that took the steps
    before it. The probability of a label is the product of the steps,

        p_k = sigmoid(s_1) ... sigmoid(s_k),    loss = sum_k BCE(y_k, p_k) over all rows.

    With ``task_chain=["click", "conversion"]``, p_1 is the click rate and sigmoid(s_2) the conversion rate of clicks.
    Their product p_2 is compared with the label «click and conversion». The conversion tower is thus trained over all
    impressions, by the product alone, and not biased by the selection of clicked rows.

    Parameters
    ----------
    task_chain : sequence of str
        Names of the steps; required. Other tasks of y may be of any kind, and have a tower too.

    References
    ----------
    Ma et al. (2018), "Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion
    Rate", SIGIR.

    Examples
    --------
    >>> from tabmtl import ESMM
    >>> from tabmtl.synth import make_funnel
    >>> log = make_funnel(500, random_state=0)
    >>> model = ESMM(task_chain=["click", "conversion"], epochs=1, random_state=0).fit(log.X, log.y)
    >>> p = model.predict_proba(log.X)
    >>> bool((p["conversion"][:, 1] <= p["click"][:, 1]).all())
    True
    """

    def _loss(self, tasks: Sequence[Task]) -> FunnelLoss:
        return FunnelLoss(tasks, self._chain(tasks))

    def _network(self, columns: Columns, tasks: Sequence[Task]) -> ESMMNetwork:
        return ESMMNetwork(columns, tasks, self)
