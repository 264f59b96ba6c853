"""How the losses of several tasks become one step: their sum, weighted or not, or an object that makes the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol

from torch import Tensor, nn

from tabmtl.base.params import is_number
from tabmtl.targets import Task


class Balancer(Protocol):
    """The backward passes of one training.

    ``forward()`` runs network and loss on the rows of a step, and returns the losses (T,) with their graph; it may be
    called often.
    """

    def backward(self, forward: Callable[[], Tensor], present: Tensor) -> Tensor:
        """Fill ``.grad`` of all parameters, which is None before, and return the losses (T,) without their graph.

        ``present`` (T,) tells which tasks have a label in the rows.
        """
        ...

    def after_step(self, forward: Callable[[], Tensor]) -> None:
        """Learn from the effect of the step on the same rows."""
        ...

    def end_epoch(self, losses: Tensor) -> None:
        """Learn from the mean training losses (T,) of an epoch; NaN is none."""
        ...


class BalanceMethod(Protocol):
    """A way to balance tasks, which keeps nothing of a training."""

    def start(self, network: nn.Module, tasks: Sequence[Task], *, is_long: bool) -> Balancer:
        """Return what balances one training.

        Parameters
        ----------
        network : torch.nn.Module
            On the device of the losses. Parameters outside of modules with ``task_specific = True`` are shared.
        tasks : sequence of Task
        is_long : bool
            Whether a row has the label of one task only.
        """
        ...


def check_balance(name: str, value: Any) -> None:
    """Raise a ValueError for a value that balances no tasks of any network."""
    weights = [*value.values()] if isinstance(value, Mapping) else value
    if isinstance(weights, Sequence) and not isinstance(weights, str):
        for weight in weights:
            if not is_number(weight) or not 0 <= weight < math.inf:
                raise ValueError(f"a weight in {name} must be a finite number >= 0, got {weight!r}")
    elif str(value) != "sum" and (isinstance(value, type) or not hasattr(value, "start")):
        raise ValueError(
            f"{name} must be 'sum', weights by task name or in task order, or an object with a method 'start', such as "
            f"GradientBalance of a TorchJD aggregator, got {value!r}"
        )


Balance = Annotated[str | Mapping[str, float] | Sequence[float] | BalanceMethod, check_balance]


def weights_of(balance: Balance, tasks: Sequence[Task]) -> list[float]:
    """Return the weights of the losses in task order: ones for the sum, and for an object.

    Raises
    ------
    ValueError
        If the weights do not fit the tasks.
    """
    names = [task.name for task in tasks]
    if isinstance(balance, Mapping):
        missing, unknown = sorted(set(names) - set(balance)), sorted(set(balance) - set(names))
        if missing or unknown:
            raise ValueError(
                f"balance must give a weight to every task of {names} and to no other; missing are {missing}, "
                f"unknown are {unknown}"
            )
        return [float(balance[name]) for name in names]
    if isinstance(balance, str) or not isinstance(balance, Sequence):
        return [1.0] * len(names)
    if len(balance) != len(names):
        raise ValueError(f"balance must give {len(names)} weights, one for each of {names}, got {len(balance)}")
    return [float(weight) for weight in balance]
