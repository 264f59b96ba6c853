"""A network as it was fitted: how it is built, its weights, and what it answers to encoded rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import torch

from tabmtl.encode import LabelCoder, TableCoder
from tabmtl.estimators.asked import part_of
from tabmtl.estimators.lineage import Lineage
from tabmtl.nn.grown import GrownNetwork
from tabmtl.nn.task_network import TaskNetwork
from tabmtl.nn.units import Form
from tabmtl.schema import Batch, Columns
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
    """Network of a table as it was fitted; module 0 is that of ``weights``, and k that of ``of_tasks[k - 1]``.

    Attributes
    ----------
    maker, weights, moments
        As of `TrainedNetwork`; the maker builds losses, too.
    columns : Columns
    tasks : sequence of Task
    is_long : bool
    batch_size : int
        Rows of a step, by which rows to answer are cut where they depend on each other.
    n_features_out : int
    of_tasks : tuple of mapping of str to ndarray
        Other weights, from which some tasks answer.
    snapshot : ndarray of int, shape (T,) or (0,)
        Weights of every task: 0 is ``weights``, and k is ``of_tasks[k - 1]``.
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
    of_tasks: tuple[Weights, ...] = ()
    snapshot: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    lineage: Lineage | None = None
    removed_units: Form | None = None

    def with_weights(self, weights: Weights, form: Form | None = None) -> FittedNetwork:
        """Return the network with other weights for all tasks; with a form, with those of units that are left."""
        none = np.zeros(0, dtype=np.int64)
        found = replace(self, weights=weights, of_tasks=(), snapshot=none, moments={})
        if form is None:
            return found
        found = replace(found, removed_units=form)
        n_features = self.n_features_out * found.module().heads.d_in // self.module().heads.d_in
        return replace(found, n_features_out=n_features)

    def with_task_weights(self, of_tasks: tuple[Weights, ...], snapshot: np.ndarray, batch_size: int) -> FittedNetwork:
        """Return the network with other weights, from which some tasks answer, and with a batch size."""
        found = replace(self, of_tasks=of_tasks, snapshot=snapshot, batch_size=batch_size)
        return found.holding(self.module())

    def with_module_weights(self) -> FittedNetwork:
        """Return the network whose weights are those of its module, which was changed in place."""
        network = self.module()
        return replace(self, weights=weight_arrays(network.state_dict())).holding(network)

    def with_tasks(
        self, heads: Sequence[torch.nn.Module], tasks: Sequence[Task], method: Any, device: torch.device
    ) -> FittedNetwork:
        """Return the network with heads of new tasks behind the others, given all tasks."""
        grown, lineage = self.grown(device), (self.lineage or Lineage.of(self.tasks)).with_tasks((method,) * len(heads))
        network = GrownNetwork(grown.base, [*grown.added, *heads], lineage.kept)
        snapshot = self.snapshot
        if len(snapshot):
            snapshot = np.append(snapshot, np.zeros(len(heads), dtype=snapshot.dtype))
        return self._regrown(network, tasks, lineage, snapshot)

    def without(self, t: int, coder: TableCoder) -> FittedNetwork:
        """Return the network without the task at a place, which the coder lacks already."""
        grown, before = self.grown(), self.lineage or Lineage.of(self.tasks)
        gone, lineage = before.kept[t] - len(before.base), before.without(t)
        heads = [head for number, head in enumerate(grown.added) if number != gone]
        network = GrownNetwork(grown.base, heads, lineage.kept)
        snapshot = np.delete(self.snapshot, t) if len(self.snapshot) else self.snapshot
        return self._regrown(network, coder.labels.tasks, lineage, snapshot, gone)

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

    def check_one(self, verb: str) -> None:
        """Raise a ValueError if some tasks answer from weights of their own."""
        if len(self.of_tasks):
            own = [task.name for task, k in zip(self.tasks, self.snapshot, strict=True) if k]
            raise ValueError(
                f"{verb} one network, and by keep='task' {own} answer from weights of other epochs; fit with "
                "keep='mean', or take one epoch for all tasks by model.with_weights(model.weights_)"
            )

    def answer(
        self, rows: Batch, labels: LabelCoder, how: Machine, X: Any = None, places: Places | None = None
    ) -> list[np.ndarray]:
        """Return answers, each by its own weights; see `tabmtl.estimators.model.Fitted`."""
        if places is not None:
            found = self._answer_some(rows, how, places)
        elif len(self.of_tasks):
            found = self._answer_apart(rows, how)
        else:
            found = self._linked(rows, how)
        return labels.outputs([score.cpu().numpy() for score in found])

    def run(self, function: Callable[..., Any], rows: Batch, machine: Machine, snapshot: int = 0) -> Any:
        """Return the result of `predict_scores`, `represent_rows` or `weigh_sequences` on encoded rows."""
        return self._run_by(self.module(find_device(machine.device), snapshot), function, rows, machine)

    @property
    def link(self) -> Link:
        """What turns the scores of all tasks into those that the kinds of targets take."""
        return part_of(self, "link", lambda: self.loss().link_rows)

    def loss(self) -> MultiTaskLoss:
        """Return the loss of its training."""
        return self.maker._loss(self.tasks)

    def _rebuilt(self, number: int) -> Any:
        if number:
            return load_weights(copy.deepcopy(self.module()), self.of_tasks[number - 1])
        return load_weights(self.built(self.maker, self.columns, self.tasks), self.weights)

    def _regrown(
        self,
        network: GrownNetwork,
        tasks: Sequence[Task],
        lineage: Lineage,
        snapshot: np.ndarray,
        gone: int = -1,
    ) -> FittedNetwork:
        """Return the network of a module around the base of this one, which lacks one of its added heads."""
        weights = weight_arrays(network.state_dict())
        of_heads = {name: array for name, array in weights.items() if name.startswith("added.")}
        found = replace(
            self,
            tasks=tasks,
            weights=weights,
            of_tasks=tuple(of_heads | self._inside(own, gone) for own in self.of_tasks),
            snapshot=snapshot,
            moments=self._inside(self.moments, gone),
            lineage=lineage,
        )
        return found.holding(network)

    def _inside(self, arrays: Weights, gone: int) -> dict[str, np.ndarray]:
        """Return weights, or moments of them, by their names in a grown network that lacks one of the added heads."""
        found = {}
        for name, array in arrays.items():
            kind, slash, own = name.rpartition("/")
            if self.lineage is None:
                own = f"base.{own}"
            elif own.startswith("added."):
                _, number, parameter = own.split(".", 2)
                if int(number) == gone:
                    continue
                own = f"added.{int(number) - (int(number) > gone >= 0)}.{parameter}"
            found[f"{kind}{slash}{own}"] = array
        return found

    def _run_by(self, network: Any, function: Callable[..., Any], rows: Batch, machine: Machine) -> Any:
        with threads(machine.n_jobs, network):
            data = on_device(rows, next(network.parameters()).device)
            return function(network, data, machine.precision, batch_size=self.batch_size)

    def _linked(self, rows: Batch, machine: Machine, snapshot: int = 0) -> list[torch.Tensor]:
        return self.run(partial(predict_scores, link=self.link), rows, machine, snapshot)

    def _answer_apart(self, rows: Batch, machine: Machine) -> list[torch.Tensor]:
        """Return the linked scores of rows, each task's by its own weights."""
        if rows.task is None:
            scores = {k: self._linked(rows, machine, k) for k in np.unique(self.snapshot).tolist()}
            return [scores[k][t] for t, k in enumerate(self.snapshot.tolist())]
        place = self.snapshot[rows.task]
        parts = [np.flatnonzero(place == k) for k in np.unique(place)]
        answers = [self._linked(rows.rows(own), machine, int(place[own[0]]))[0] for own in parts]
        return [torch.cat(answers)[np.argsort(np.concatenate(parts))]]

    def _answer_some(self, rows: Batch, machine: Machine, places: Places) -> list[torch.Tensor]:
        snapshot = self.snapshot.tolist() if len(self.of_tasks) else [0] * len(self.tasks)
        scores: dict[int, torch.Tensor] = {}
        for k in sorted({snapshot[t] for t in places}):
            own = tuple(t for t in places if snapshot[t] == k)
            scores |= zip(own, self._linked_of(rows, machine, own, k), strict=True)
        return [scores[t] for t in places]

    def _linked_of(self, rows: Batch, machine: Machine, places: Places, snapshot: int) -> list[torch.Tensor]:
        """Return the linked scores of some tasks, by a network of these and of what their link takes."""
        whole = self.module(find_device(machine.device), snapshot)
        needed, link = part_of(self, ("link", places), lambda: self._link_of(places))
        network = _restricted(whole, needed)
        if network is None:
            linked = self._linked(rows, machine, snapshot)
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
