"""A network as it was fitted: how it is built, its weights, and what it answers to encoded rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import torch

from tabmtl.base.schema import Batch, Columns
from tabmtl.encode import LabelCoder, TableCoder
from tabmtl.estimators.asked import part_of
from tabmtl.estimators.lineage import Lineage
from tabmtl.nn.grown import GrownNetwork
from tabmtl.nn.task_network import TaskNetwork
from tabmtl.nn.units import Form
from tabmtl.targets import Task
from tabmtl.training.device import find_device, on_device, threads
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.predict import predict_scores
from tabmtl.training.weights import TrainedNetwork, Weights, load_weights, weight_arrays

Places = tuple[int, ...]
Link = Callable[[list[torch.Tensor]], list[torch.Tensor]]


class Machine(Protocol):
    """Parameters that say how a fitted network computes, which may change after fit; an estimator has them."""

    device: str
    precision: Literal["float32", "bf16"]
    n_jobs: int | None


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedNetwork(TrainedNetwork):
    """Network of a table as it was fitted.

    Attributes
    ----------
    maker, weights
        As of `TrainedNetwork`; the maker builds losses, too.
    columns : Columns
    tasks : sequence of Task
    is_long : bool
    batch_size : int
        Rows of a step, by which rows to answer are cut where they depend on each other.
    n_features_out : int
    lineage : Lineage or None
        Of a network whose tasks have changed since fit.
    removed_units : Form or None
        Of a network that has lost units.
    """

    columns: Columns
    tasks: Sequence[Task]
    is_long: bool
    batch_size: int
    n_features_out: int
    lineage: Lineage | None = None
    removed_units: Form | None = None

    def with_weights(self, weights: Weights, form: Form | None = None) -> FittedNetwork:
        """Return the network with other weights; with a form, with those of units that are left."""
        found = replace(self, weights=weights)
        if form is None:
            return found
        found = replace(found, removed_units=form)
        n_features = self.n_features_out * found.module().heads.d_in // self.module().heads.d_in
        return replace(found, n_features_out=n_features)

    def with_module_weights(self) -> FittedNetwork:
        """Return the network whose weights are those of its module, which was changed in place."""
        network = self.module()
        return replace(self, weights=weight_arrays(network.state_dict())).holding(network)

    def with_tasks(
        self, heads: Sequence[torch.nn.Module], tasks: Sequence[Task], device: torch.device
    ) -> FittedNetwork:
        """Return the network with heads of new tasks behind the others, given all tasks."""
        grown, lineage = self.grown(device), (self.lineage or Lineage.of(self.tasks)).with_tasks(len(heads))
        return self._regrown(GrownNetwork(grown.base, [*grown.added, *heads], lineage.kept), tasks, lineage)

    def without(self, t: int, coder: TableCoder) -> FittedNetwork:
        """Return the network without the task at a place, which the coder lacks already."""
        grown, before = self.grown(), self.lineage or Lineage.of(self.tasks)
        gone, lineage = before.kept[t] - len(before.base), before.without(t)
        heads = [head for number, head in enumerate(grown.added) if number != gone]
        return self._regrown(GrownNetwork(grown.base, heads, lineage.kept), coder.labels.tasks, lineage)

    def built(self, maker: Any, columns: Columns, tasks: Sequence[Task]) -> Any:
        """Build the network untrained: by parameters, for columns and tasks that may have more levels and classes."""
        lineage = self.lineage_of(tasks)
        base = maker._network(columns, tasks if lineage is None else lineage.base)
        base = base if self.removed_units is None else self.removed_units.of_whole(base)
        return base if lineage is None else lineage.grow(base, self.weights, tasks)

    def lineage_of(self, tasks: Sequence[Task]) -> Lineage | None:
        """Return the lineage of tasks that may have more classes."""
        return self.lineage and replace(self.lineage, base=self.lineage.base_tasks(tasks, is_long=self.is_long))

    def grown(self, device: torch.device | None = None) -> GrownNetwork:
        """Return the module as one that may grow.

        Raises
        ------
        ValueError
            If it has no heads.
        """
        network = self.module(device)
        if isinstance(network, GrownNetwork):
            return network
        if not isinstance(network, TaskNetwork):
            raise ValueError(
                f"the network of {type(self.maker).__name__} has no heads that tasks could join or leave; derive it "
                "from tabmtl.nn.task_network.TaskNetwork"
            )
        return GrownNetwork(network, [], range(len(self.tasks)))

    def answer(
        self, rows: Batch, labels: LabelCoder, how: Machine, X: Any = None, places: Places | None = None
    ) -> list[np.ndarray]:
        """Return answers; see `tabmtl.estimators.model.Fitted`."""
        return labels.outputs([score.cpu().numpy() for score in self._linked(rows, how, places)])

    def run(self, function: Callable[..., Any], rows: Batch, machine: Machine) -> Any:
        """Return the result of `predict_scores`, `represent_rows` or `weigh_sequences` on encoded rows."""
        return self._run_by(self.module(find_device(machine.device)), function, rows, machine)

    @property
    def link(self) -> Link:
        """What turns the scores of all tasks into those that the kinds of targets take."""
        return part_of(self, "link", lambda: self.loss().link_rows)

    def loss(self) -> MultiTaskLoss:
        """Return the loss of its training."""
        return self.maker._loss(self.tasks)

    def _rebuilt(self) -> Any:
        return load_weights(self.built(self.maker, self.columns, self.tasks), self.weights)

    def _regrown(self, network: GrownNetwork, tasks: Sequence[Task], lineage: Lineage) -> FittedNetwork:
        """Return the network of a module around the base of this one."""
        weights = weight_arrays(network.state_dict())
        return replace(self, tasks=tasks, weights=weights, lineage=lineage).holding(network)

    def _run_by(self, network: Any, function: Callable[..., Any], rows: Batch, machine: Machine) -> Any:
        with threads(machine.n_jobs, network):
            data = on_device(rows, next(network.parameters()).device)
            return function(network, data, machine.precision, batch_size=self.batch_size)

    def _linked(self, rows: Batch, machine: Machine, places: Places | None = None) -> list[torch.Tensor]:
        """Return the linked scores of all tasks, or of some by a network of these and of what their link takes."""
        if places is None:
            return self.run(partial(predict_scores, link=self.link), rows, machine)
        needed, link = part_of(self, ("link", places), lambda: self._link_of(places))
        network = _restricted(self.module(find_device(machine.device)), needed)
        if network is None:
            linked = self._linked(rows, machine)
            return [linked[t] for t in places]
        return self._run_by(network, partial(predict_scores, link=link), rows, machine)[: len(places)]

    def _link_of(self, places: Places) -> tuple[Places, Link]:
        """Return the numbers of some tasks and of those that their link takes too, and this link."""
        loss = self.loss()
        needed = loss.needed(places)
        return needed, loss.restricted(needed).link_rows


def _restricted(network: Any, places: Places) -> torch.nn.Module | None:
    """Return the network of some tasks, made once of the whole one; None if its class cannot."""
    if not hasattr(network, "restricted"):
        return None
    return part_of(network, places, lambda: network.restricted(places).eval())
