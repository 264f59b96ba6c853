"""The balancer: the backward passes of one training, by the methods of `tabmtl.training.balance`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from functools import partial
from typing import Annotated, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from tabmtl.nn.layers import Boundary, Towers
from tabmtl.params import check_choice, is_number
from tabmtl.processes.ranks import ALONE, Ranks
from tabmtl.schema import DivergenceError
from tabmtl.targets import Task
from tabmtl.training.balance.gradient_joins import GRADIENT_JOINS, Aggregate, join_all, normalize_rows
from tabmtl.training.balance.gradients import (
    Forward,
    TaskGradients,
    balanced_backward,
    cut_at,
    flat_backward,
    frozen_statistics,
    split_parameters,
)
from tabmtl.training.balance.loss_weights import LOSS_WEIGHTS, Weighting, given_weights
from tabmtl.training.checkpoint import check_like
from tabmtl.training.device import seed_of, seeded

_NAMES = [*LOSS_WEIGHTS, *GRADIENT_JOINS]

GradLevel = Literal["auto", "representation", "parameters"]


def check_balance(name: str, value: Any) -> None:
    """Raise a ValueError for a value that is not a balance for any tasks and any network."""
    if isinstance(value, str):
        check_choice(name, value, _NAMES)
    elif isinstance(value, Mapping | Sequence):
        for weight in value.values() if isinstance(value, Mapping) else value:
            if not is_number(weight) or not 0 <= weight < math.inf:
                raise ValueError(f"a weight in {name} must be a finite number >= 0, got {weight!r}")
    elif isinstance(value, type) or not callable(value):
        raise ValueError(
            f"{name} must be one of {_NAMES}, weights by task name or in task order, or an instance of an "
            f"aggregator (a callable of the gradients), got {value!r}"
        )


Balance = Annotated[str | Mapping[str, float] | Sequence[float] | Aggregate, check_balance]


class BalanceOptions(Protocol):
    """Parameters of balancing; see :class:`tabmtl.estimators.network.NetworkEstimator`."""

    balance: Balance
    grad_level: GradLevel
    normalize_gradients: bool
    flat: bool
    flat_radius: float
    task_column: str | None


def check_grad_level(options: BalanceOptions) -> None:
    """Raise a ValueError for options of gradients that do not fit the balance."""
    balance = options.balance
    if options.flat and options.grad_level == "representation":
        raise ValueError("flat=True moves parameters, so that grad_level must be 'parameters' or 'auto'")
    of_losses = balance in LOSS_WEIGHTS if isinstance(balance, str) else not callable(balance)
    leveled = options.grad_level != "auto" and not options.flat
    for name, is_set in (("normalize_gradients", options.normalize_gradients), ("grad_level", leveled)):
        if of_losses and is_set:
            raise ValueError(f"{name} needs a balance of gradients such as 'pcgrad', got {balance!r}; leave it out")


class Balancer:
    """Backward passes of one training run.

    In a group of processes, each passes back through its own rows, and the gradients that they fill sum up to those of
    one process: losses are those of all, and weights and joins follow from inner products over all rows.

    Parameters
    ----------
    options : BalanceOptions
        Such as an estimator with checked parameters.

        - ``balance``: an aggregator is copied. A method ``reset`` marks one with a state: it is reset, and gets (T, P),
          zero where a task is not active.
        - ``grad_level``: "representation" takes the g_i at the network's `tabmtl.nn.layers.Boundary` modules, and one
          backward pass goes on from there (the upper bound of MGDA's paper). It is cheap, and safe for sparse
          embeddings, but tasks meet only in rows with labels of both. "parameters" takes the g_i at all shared
          parameters. "auto" does so without boundaries, with ``flat``, and with ``task_column``.
        - ``normalize_gradients`` scales the g_i to the mean of their lengths, so that the step keeps its size.
        - ``flat`` takes every g_i once at the weights, and once where the task's own loss is about the worst within
          ``flat_radius``. It balances the first and the difference of both separately, adds them up, and gives own
          parameters of tasks the second. All passes of a step have the same dropout masks, and leave running statistics
          alone. Loss-level methods weigh both by the losses at the weights.
    tasks : sequence of Task
    network : torch.nn.Module
        On the device of the losses. Parameters outside of modules with ``task_specific = True`` are shared.
    group : Ranks, optional
        Processes that take the same steps.
    seed : int, optional
        Seed of the draws of joins, such as the orders of "pcgrad": a step draws the same in any process, whatever was
        drawn there before. By default they come from torch's global generator.

    Raises
    ------
    ValueError
        If weights do not fit the tasks, or the network lacks a layer that the method needs.

    Examples
    --------
    >>> import torch
    >>> from tabmtl import MMoE
    >>> network = torch.nn.Linear(3, 2)
    >>> tasks = [Task(name="a", kind="regression"), Task(name="b", kind="regression")]
    >>> balancer = Balancer(MMoE(balance={"a": 1.0, "b": 2.0}), tasks, network)
    >>> balancer.backward(lambda: network(torch.ones(5, 3)).square().mean(dim=0), torch.tensor([True, True])).shape
    torch.Size([2])
    """

    def __init__(
        self,
        options: BalanceOptions,
        tasks: Sequence[Task],
        network: nn.Module,
        group: Ranks = ALONE,
        seed: int | None = None,
    ) -> None:
        self._names, self._group = [task.name for task in tasks], group
        self._join_seed, self._n_joins = seed, 0
        self._network, self._normalize = network, options.normalize_gradients
        self._rho = options.flat_radius if options.flat else None
        self._weighting, self._aggregate = _methods(options.balance, tasks, network)
        self._groups = split_parameters(network)
        if self._aggregate is not None and not self._groups[0]:
            raise ValueError("a balance of gradients needs parameters that tasks share; use balance='sum'")
        cuts = [module for module in network.modules() if isinstance(module, Boundary)]
        level = options.grad_level
        if level == "representation" and not cuts:
            raise ValueError(
                "grad_level: this network marks no boundary of its shared layers; use 'parameters' or 'auto'"
            )
        at_parameters = level == "parameters" or (level == "auto" and options.task_column is not None)
        self._cuts = [] if self._aggregate is None or options.flat or at_parameters else cuts
        by_task = [m for m in network.modules() if isinstance(m, Towers) and m.n_tasks == len(tasks)]
        towers = by_task if self._aggregate is not None or self._weighting.per_task else []
        self._gradients = TaskGradients(towers, group)
        # at parameters the rows of all ranks are summed, at representations each has its part
        self._parts = group if self._cuts else ALONE
        self._of_parts = GRADIENT_JOINS.get(options.balance) if isinstance(options.balance, str) else None
        self._device = next(network.parameters()).device
        self._seed: int | None = None  # of the noise, where passes of a step share it

    @property
    def weights(self) -> Tensor:
        """Weights (T,) of the losses in the next step; for "gls" and "famo" in the last one."""
        return self._weighting.weights

    def backward(self, forward: Forward, present: Tensor) -> Tensor:
        """Fill ``.grad`` of all parameters, which has to be None before.

        Parameters
        ----------
        forward : callable
            Runs network and loss on the step's rows, gives losses (T,) with their graph, in a group those of all
            ranks. May be called often.
        present : Tensor of bool, shape (T,)
            Whether a task has a label in these rows.

        Returns
        -------
        losses : Tensor of shape (T,)
            Those of the weights as they are, without graph.

        Raises
        ------
        ValueError
            If a loss or a gradient is not finite, or an aggregator's answer has not the form of a gradient.
        """
        if self._weighting.looks_back or self._rho is not None:
            self._seed = int(torch.randint(2**62, ()))
        with cut_at(self._cuts) as cuts, self._gradients.watch(), self._noise():
            losses = forward()
        self._refuse(~losses.detach().isfinite(), "loss")
        active = present & (losses.detach() != 0)
        tasks = active.nonzero().flatten().tolist()
        weights = self._weighting.weigh(losses, active, self._summed_gradients).to(losses.dtype)
        if tasks and self._rho is not None:
            passes = partial(self._again, forward)
            flat_backward(passes, losses, weights, tasks, self._groups, self._rho, self._join, self._group)
        elif tasks and self._aggregate is not None:
            balanced_backward(losses, tasks, cuts, self._groups, self._gradients, self._join, self._group)
        else:
            (weights * losses).sum().backward()
        return losses.detach()

    def after_step(self, forward: Forward) -> None:
        """Learn from the effect of the step ("famo" only): ``forward`` as in `backward`, on the same rows."""
        if self._weighting.looks_back:
            with torch.no_grad():
                self._weighting.after_step(self._again(forward))

    def end_epoch(self, losses: Tensor) -> None:
        """Learn from the mean training losses (T,) of an epoch, NaN = none ("dwa" only)."""
        self._weighting.end_epoch(losses.to(self._device))

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on.

        Raises
        ------
        ValueError
            If an aggregator has a state of its own, which no file can hold.
        """
        if hasattr(self._aggregate, "reset"):
            raise ValueError(
                f"balance {self._aggregate!r} has a state of its own, which a checkpoint cannot hold; choose a balance "
                "without one, such as 'pcgrad', or fit without checkpoint"
            )
        return {"weighting": self._weighting.state(), "n_joins": self._n_joins, "gradients": self._gradients.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, whose arrays are of numpy."""
        self._weighting.restore(state["weighting"])
        self._gradients.restore(state["gradients"])
        check_like(state["n_joins"], 0, "its joins of the balance")
        self._n_joins = state["n_joins"]

    def _summed_gradients(self, losses: Tensor, tasks: Sequence[int], sources: Sequence[Tensor]) -> Tensor:
        return self._group.sum(self._gradients(losses, tasks, sources))

    def _noise(self) -> AbstractContextManager[None]:
        return nullcontext() if self._seed is None else seeded(self._seed, self._device)

    def _again(self, forward: Forward) -> Tensor:
        """Return losses of another pass of the same step."""
        with self._noise(), frozen_statistics(self._network):
            return forward()

    def _join(self, rows: Tensor, tasks: Sequence[int]) -> Tensor:
        """Join the active tasks' gradients (n, P) to one (P,)."""
        broken = torch.zeros(len(self._names), dtype=torch.bool)
        broken[tasks] = ~rows.sum(dim=1).isfinite().cpu()
        self._refuse(self._group.sum(broken.int()) > 0, "gradient")
        if self._aggregate is None:
            return rows.sum(dim=0)
        if self._normalize:
            rows = normalize_rows(rows, self._parts)
        if hasattr(self._aggregate, "reset"):
            of_active, rows = rows, rows.new_zeros(len(self._names), rows.shape[1])
            rows[tasks] = of_active
        with self._draws():
            if self._of_parts is None:
                update = join_all(self._aggregate, rows, self._parts)
            else:
                update = self._of_parts(rows, self._parts)
        if update.shape != rows.shape[1:]:
            raise ValueError(
                f"balance {self._aggregate!r} must turn gradients {tuple(rows.shape)} into one of shape "
                f"{tuple(rows.shape[1:])}, got {tuple(update.shape)}"
            )
        return update

    def _draws(self) -> AbstractContextManager[None]:
        """Let the draws inside come from the seed of this join, if there is one."""
        if self._join_seed is None:
            return nullcontext()
        self._n_joins += 1
        return seeded(seed_of(self._join_seed, self._n_joins), self._device)

    def _refuse(self, broken: Tensor, what: str) -> None:
        names = ", ".join(repr(name) for name, bad in zip(self._names, broken.tolist(), strict=True) if bad)
        if names:
            raise DivergenceError(f"training diverged: the {what} of task {names} is not finite; lower learning_rate")


def _methods(balance: Balance, tasks: Sequence[Task], network: nn.Module) -> tuple[Weighting, Aggregate | None]:
    """Return the weights of the losses, and the join of gradients if the balance is one."""
    weighting = Weighting(len(tasks), network)
    if isinstance(balance, Mapping) or (isinstance(balance, Sequence) and not isinstance(balance, str)):
        weighting.weights = weighting.weights.new_tensor(given_weights(balance, tasks))
        return weighting, None
    if not isinstance(balance, str):
        aggregate = deepcopy(balance)
        if hasattr(aggregate, "reset"):
            aggregate.reset()
        return weighting, aggregate
    if balance in LOSS_WEIGHTS:
        return LOSS_WEIGHTS[balance](len(tasks), network), None
    return weighting, GRADIENT_JOINS[balance]
