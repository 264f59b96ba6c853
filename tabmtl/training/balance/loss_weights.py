"""Weights of the losses: the weight of every task in a step.

Shapes: T tasks, some of them active (with a label in the batch and a loss other than 0).
`tabmtl.training.balance` has the formulas and their sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tabmtl.nn.layers import StackedLinear
from tabmtl.targets import Task
from tabmtl.training.balance.gradients import Jacobian, jacobian, split_parameters
from tabmtl.training.checkpoint import check_like
from tabmtl.training.optimizer import copy_arrays

_RATE = 0.025  # of the Adam that moves learned weights
_DWA_TEMPERATURE = 2.0
_GRADNORM_ALPHA, _GRADNORM_MIN = 1.5, 1e-3
_FAMO_DECAY = 1e-3
_EPS = 1e-12


class Weighting:
    """Weights w_i of the losses; here they stay constant."""

    per_task = False  # whether `weigh` takes gradients
    looks_back = False  # whether `after_step` wants the losses after the step

    _kept: ClassVar[tuple[str, ...]] = ("weights",)  # tensors that a step leaves for the next one

    def __init__(self, n_tasks: int, network: nn.Module) -> None:
        self.weights = torch.ones(n_tasks, device=next(network.parameters()).device)

    def weigh(self, losses: Tensor, active: Tensor, gradients: Jacobian = jacobian) -> Tensor:
        """Return weights (T,) for this step's losses (T,) with their graph; finite for inactive tasks (T,)."""
        return self.weights

    def after_step(self, losses: Tensor) -> None:
        """Learn from the same batch's losses after the step."""

    def end_epoch(self, losses: Tensor) -> None:
        """Learn from the mean losses of an epoch, NaN = none."""

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        return {name: getattr(self, name) for name in self._kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, whose arrays are of numpy."""
        for name in self._kept:
            array = state[name]
            if array is not None or name == "weights":
                check_like(array, self.weights, f"its {name.strip('_')} of the balance")
            setattr(self, name, None if array is None else torch.tensor(array, device=self.weights.device))


class _Learned(Weighting):
    """Weights from one number per task, which Adam moves."""

    start, decay = 0.0, 0.0

    def __init__(self, n_tasks: int, network: nn.Module) -> None:
        super().__init__(n_tasks, network)
        self._value = torch.full_like(self.weights, self.start)
        self._adam = torch.optim.Adam([self._value], lr=_RATE, weight_decay=self.decay)

    def state(self) -> dict[str, Any]:
        moments = {str(i): each for i, each in self._adam.state_dict()["state"].items()}
        return super().state() | {"value": self._value, "adam": moments}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        own = {"step": self._value.new_zeros(()), "exp_avg": self._value, "exp_avg_sq": self._value}
        check_like(state["value"], self._value, "its numbers of the balance")
        check_like(state["adam"], {"0": own} if state["adam"] else {}, "its moments of the balance")
        copy_arrays([self._value], [state["value"]])
        of_torch = {int(i): {name: torch.tensor(a) for name, a in each.items()} for i, each in state["adam"].items()}
        self._adam.load_state_dict(self._adam.state_dict() | {"state": of_torch})

    def _move(self, gradient: Tensor, active: Tensor) -> None:
        """Take one step of Adam; tasks that are not active stay."""
        before = self._value.clone()
        self._value.grad = torch.where(active, gradient, 0.0).to(self._value.dtype)
        self._adam.step()
        self._value.copy_(torch.where(active, self._value, before))


class ImtlL(_Learned):
    """IMTL-L: weights exp(s_i)."""

    factor = 1.0

    def __init__(self, n_tasks: int, network: nn.Module) -> None:
        super().__init__(n_tasks, network)
        self.weights = self.factor * self._value.exp()

    def weigh(self, losses: Tensor, active: Tensor, gradients: Jacobian = jacobian) -> Tensor:
        now = self.weights
        self._move(now * losses.detach() - self.factor, active)
        self.weights = self.factor * self._value.exp()
        return now


class Uncertainty(ImtlL):
    """Weights ½ exp(-s_i)."""

    factor = 0.5  # and the learned number is -s


class Dwa(Weighting):
    """Dynamic weight average, by the recent fall of the losses over two epochs."""

    _kept = "weights", "_last"
    _last: Tensor | None = None

    def end_epoch(self, losses: Tensor) -> None:
        if self._last is not None:
            ratio = (losses / self._last).nan_to_num(1.0, posinf=1.0)
            self.weights = len(losses) * torch.softmax(ratio / _DWA_TEMPERATURE, dim=0)
        self._last = losses


class Gls(Weighting):
    """Geometric mean of the losses."""

    def weigh(self, losses: Tensor, active: Tensor, gradients: Jacobian = jacobian) -> Tensor:
        losses = losses.detach().clamp(min=_EPS)
        mean = losses[active].log().mean().exp()
        self.weights = torch.where(active, mean / losses / active.sum(), 0.0)
        return self.weights


class Famo(_Learned):
    """FAMO: weights that balance the rates at which the logarithms of the losses fall."""

    looks_back, decay = True, _FAMO_DECAY

    def weigh(self, losses: Tensor, active: Tensor, gradients: Jacobian = jacobian) -> Tensor:
        self._before, self._active = losses.detach().clamp(min=_EPS), active
        self._share = torch.where(active, torch.softmax(self._value.masked_fill(~active, -math.inf), dim=0), 0.0)
        by_loss = self._share / self._before
        self.weights = by_loss / by_loss.sum().clamp(min=_EPS)
        return self.weights

    def after_step(self, losses: Tensor) -> None:
        gain = self._before.log() - losses.clamp(min=_EPS).log()
        self._move(self._share * (gain - (self._share * gain).sum()), self._active)


class GradNorm(_Learned):
    """GradNorm: weights that balance the tasks' rates of training, by gradients at the last shared layer."""

    per_task, start = True, 1.0
    _kept = "weights", "_first"

    def __init__(self, n_tasks: int, network: nn.Module) -> None:
        super().__init__(n_tasks, network)
        shared = {id(parameter) for parameter in split_parameters(network)[0]}
        layers = [module for module in network.modules() if isinstance(module, nn.Linear | StackedLinear)]
        weights = [layer.weight for layer in layers if id(layer.weight) in shared]
        if not weights:
            raise ValueError("balance='gradnorm' needs a layer that tasks share; use 'uncertainty' or another one")
        self.reference = weights[-1]
        self._first = torch.full_like(self.weights, math.nan)

    def weigh(self, losses: Tensor, active: Tensor, gradients: Jacobian = jacobian) -> Tensor:
        now, tasks = self.weights, active.nonzero().flatten().tolist()
        if not tasks:
            return now
        norms = torch.zeros_like(now)
        norms[tasks] = gradients(losses, tasks, [self.reference]).norm(dim=1).to(norms.dtype)
        current = losses.detach().to(now.dtype)
        self._first = torch.where(active & self._first.isnan(), current, self._first)
        rate = torch.where(active, current / self._first, 0.0)
        reached, n = now * norms, len(tasks)
        target = reached.sum() / n * (rate * n / rate.sum()) ** _GRADNORM_ALPHA
        self._move((reached - target).sign() * norms, active)
        self._value.clamp_(min=_GRADNORM_MIN)
        self._value.mul_(len(now) / self._value.sum())
        self.weights = self._value.clone()
        return now


def given_weights(balance: Mapping[str, float] | Sequence[float], tasks: Sequence[Task]) -> list[float]:
    """Return the weights from a user, in task order; raise a ValueError if they do not fit the tasks."""
    names = [task.name for task in tasks]
    if isinstance(balance, Mapping):
        missing, unknown = sorted(set(names) - set(balance)), sorted(set(balance) - set(names))
        if missing or unknown:
            raise ValueError(
                f"balance must give a weight to every task of {names} and to no other; missing are {missing}, "
                f"unknown are {unknown}"
            )
        return [float(balance[name]) for name in names]
    if len(balance) != len(names):
        raise ValueError(f"balance must give {len(names)} weights, one for each of {names}, got {len(balance)}")
    return [float(weight) for weight in balance]


#: Weights of losses, by the name of their method.
LOSS_WEIGHTS: dict[str, type[Weighting]] = {
    "sum": Weighting,
    "uncertainty": Uncertainty,
    "imtl_l": ImtlL,
    "dwa": Dwa,
    "gls": Gls,
    "famo": Famo,
    "gradnorm": GradNorm,
}
