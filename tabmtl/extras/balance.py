"""Balances of the tasks of a network beyond the sum of their losses: objects that its parameter ``balance`` takes.

L_i is the loss of task i, and g_i its gradient where tasks share. A task without a label in a step, or with loss 0,
takes no part in it. Parameters of a single task, such as its head, follow its part of the balanced loss;
`GradientBalance` and `FlatRegions` leave them the gradient of the sum.

=====================  ==============================================================  =========================
object                 update                                                          passes of a step
=====================  ==============================================================  =========================
`LossBalance`          gradient of a scalarizer of TorchJD of the L_i, such as UW      1 backward (FAMO: 1 more
                       (arXiv 1705.07115), DWA (1803.10704) and FAMO (2306.03792)      forward)
`GradNorm`             of Σ w_i L_i, w_i learned towards norms of w_i g_i in           1 backward, and n down to
                       proportion to (r_i / mean r)^alpha, r_i = L_i / its first       the last shared layer
                       value (1711.02257)
`GradientBalance`      an aggregator of TorchJD of the g_i, such as UPGrad             1 backward, and n to where
                       (2406.16232), PCGrad (2001.06782) and MGDA (1810.04650)         the g_i are taken
`FlatRegions`          g_i at the weights, and where L_i is about the worst within     n forward, 2 n backward
                       a radius (2211.13723)                                           through the whole network
=====================  ==============================================================  =========================

None was ahead of the sum in our tables (docs/lab.md). Fits that several processes share, and those with a checkpoint,
take the sum or weights alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tabmtl.base.params import check_choice, check_nonnegative, check_positive
from tabmtl.base.schema import DivergenceError
from tabmtl.nn.layers import Boundary, StackedLinear
from tabmtl.targets import Task
from tabmtl.training.device import seeded

Forward = Callable[[], Tensor]
#: Input of a boundary, and the leaf that takes its place.
Cut = tuple[Tensor, Tensor]
Level = Literal["auto", "representation", "parameters"]

_EPS = 1e-12
_LEAST_WEIGHT = 1e-3  # of GradNorm


@dataclass(frozen=True, eq=False)
class LossBalance:
    """Balance by one number of all losses.

    A task without a part in a step counts with its last loss, without a gradient; with 1 before it has one.

    Parameters
    ----------
    scalarizer : callable
        Turns losses (T,) into one of shape (), such as an object of `torchjd.scalarization`. Every fit takes a copy,
        which it resets. After a step its method ``update`` gets the new losses of the same rows (FAMO), and its method
        ``step`` is called after an epoch (DWA), where there are such methods.
    learning_rate : float, default=0.025
        Of the Adam that moves the parameters of the scalarizer, such as those of UW. The number is ours.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedBottom
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> geometric_mean = LossBalance(lambda losses: losses.clamp(min=1e-9).log().mean().exp())
    >>> SharedBottom(balance=geometric_mean, epochs=1).fit(X, X[:, :2]).predict(X).shape
    (200, 2)
    """

    scalarizer: Callable[[Tensor], Tensor]
    learning_rate: float = 0.025

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)

    def start(self, network: nn.Module, tasks: Sequence[Task], *, is_long: bool) -> _ByLosses:
        """Return what balances one training; see `tabmtl.training.balance.BalanceMethod`."""
        return _ByLosses(network, tasks, self)


@dataclass(frozen=True, eq=False)
class GradNorm:
    """Weights of the losses that balance the rates at which tasks learn (Chen et al., 2018).

    Parameters
    ----------
    alpha : float, default=1.5
        How much more weight a task gets that is behind; the paper's choice.
    learning_rate : float, default=0.025
        Of the Adam that moves the weights. The number is ours.
    """

    alpha: float = 1.5
    learning_rate: float = 0.025

    def __post_init__(self) -> None:
        check_nonnegative("alpha", self.alpha)
        check_positive("learning_rate", self.learning_rate)

    def start(self, network: nn.Module, tasks: Sequence[Task], *, is_long: bool) -> _ByNorms:
        """Return what balances one training; see `tabmtl.training.balance.BalanceMethod`."""
        return _ByNorms(network, tasks, self)


@dataclass(frozen=True, eq=False)
class GradientBalance:
    """Balance by one gradient of all tasks' gradients.

    Parameters
    ----------
    aggregator : callable
        Turns the gradients (n, P) of the n tasks of a step into one (P,), such as an object of `torchjd.aggregation`.
        Every fit takes a copy. One with a method ``reset`` has a state: it is reset, and gets (T, P), with zeros for a
        task without a part in the step.
    level : {"auto", "representation", "parameters"}, default="auto"
        Where the gradients are taken. "representation": at the `tabmtl.nn.layers.Boundary` modules of the network, from
        where one pass goes on (the upper bound of MGDA's paper); tasks meet only in rows with labels of both.
        "parameters": at all shared parameters. "auto" is the first, but for long tables, and networks without a
        boundary.
    normalize : bool, default=False
        Scale the gradients to the mean of their lengths.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedBottom
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> mean = GradientBalance(lambda gradients: gradients.mean(dim=0), normalize=True)
    >>> SharedBottom(balance=mean, epochs=1).fit(X, X[:, :2]).predict(X).shape
    (200, 2)
    """

    aggregator: Callable[[Tensor], Tensor]
    level: Level = "auto"
    normalize: bool = False

    def __post_init__(self) -> None:
        check_choice("level", self.level, ["auto", "representation", "parameters"])

    def start(self, network: nn.Module, tasks: Sequence[Task], *, is_long: bool) -> _ByGradients:
        """Return what balances one training; see `tabmtl.training.balance.BalanceMethod`."""
        return _ByGradients(network, tasks, self, is_long=is_long)


@dataclass(frozen=True, eq=False)
class FlatRegions:
    """Weights around which the loss of every task is flat, algorithm 1 of Phan et al. (2025), arXiv 2211.13723.

    A step takes every g_i once at the weights, and once where L_i is about the worst within the radius. It joins the
    first and the difference of both separately, adds them up, and gives parameters of single tasks the second. All
    passes of a step have the same dropout masks, and leave running statistics alone.

    Parameters
    ----------
    radius : float, default=0.01
        A length in the parameters. The paper's number is not known to us.
    gradients : GradientBalance, default=GradientBalance(partial(torch.sum, dim=0))
        Joins the gradients, at all shared parameters whatever its level.
    """

    radius: float = 0.01
    gradients: GradientBalance = GradientBalance(partial(torch.sum, dim=0))

    def __post_init__(self) -> None:
        check_positive("radius", self.radius)

    def start(self, network: nn.Module, tasks: Sequence[Task], *, is_long: bool) -> _ByFlatness:
        """Return what balances one training; see `tabmtl.training.balance.BalanceMethod`."""
        return _ByFlatness(network, tasks, self)


class _Balancer:
    """The plain sum, step by step; what it leaves to do is that of the methods."""

    def __init__(self, network: nn.Module, tasks: Sequence[Task]) -> None:
        self.network, self.names = network, [task.name for task in tasks]
        self.shared, self.own = split_parameters(network)
        self.device = next(network.parameters()).device
        self._noise = 0  # the seed that the passes of a step share

    def backward(self, forward: Forward, present: Tensor) -> Tensor:
        """Fill all gradients; see `tabmtl.training.balance.Balancer`."""
        self._noise = int(torch.randint(2**62, ()))
        with seeded(self._noise, self.device):
            losses = self.run(forward)
        self.check_finite(losses, range(len(self.names)), "loss")
        active = present & (losses.detach() != 0)
        self.pass_back(forward, losses, active)
        return losses.detach()

    def run(self, forward: Forward) -> Tensor:
        """Return the losses at the weights."""
        return forward()

    def pass_back(self, forward: Forward, losses: Tensor, active: Tensor) -> None:
        """Fill all gradients, given which tasks (T,) take part."""
        raise NotImplementedError

    def again(self, forward: Forward) -> Tensor:
        """Return the losses of another pass of the same step, which leaves running statistics alone."""
        with seeded(self._noise, self.device), frozen_statistics(self.network):
            return forward()

    def after_step(self, forward: Forward) -> None:
        """Learn from the effect of the step."""

    def end_epoch(self, losses: Tensor) -> None:
        """Learn from the losses of an epoch."""

    def check_finite(self, values: Tensor, tasks: Sequence[int], what: str) -> None:
        """Raise a DivergenceError that names the tasks whose values (n, ...) are not finite."""
        broken = ~values.detach().reshape(len(values), -1).isfinite().all(dim=1)
        names = ", ".join(repr(self.names[t]) for t, bad in zip(tasks, broken.tolist(), strict=True) if bad)
        if names:
            raise DivergenceError(f"training diverged: the {what} of task {names} is not finite; lower learning_rate")


class _ByLosses(_Balancer):
    """Steps of `LossBalance`."""

    def __init__(self, network: nn.Module, tasks: Sequence[Task], method: LossBalance) -> None:
        super().__init__(network, tasks)
        self._scalarizer: Any = _copied(method.scalarizer, self.device)
        self._adam: torch.optim.Adam | None = None
        if isinstance(self._scalarizer, nn.Module) and [*self._scalarizer.parameters()]:
            self._adam = torch.optim.Adam(self._scalarizer.parameters(), lr=method.learning_rate)
        self._last = torch.ones(len(tasks), device=self.device)
        self._active = torch.zeros(len(tasks), dtype=torch.bool, device=self.device)

    def pass_back(self, forward: Forward, losses: Tensor, active: Tensor) -> None:
        """Fill all gradients, and move the parameters of the scalarizer."""
        self._last, self._active = torch.where(active, losses.detach(), self._last), active
        total = self._scalarizer(torch.where(active, losses, self._last))
        if self._adam is None:
            total.backward()
            return
        self._adam.zero_grad()
        total.backward()
        self._adam.step()

    def after_step(self, forward: Forward) -> None:
        """Tell the scalarizer the losses after the step."""
        if hasattr(self._scalarizer, "update"):
            with torch.no_grad():
                losses = self.again(forward)
            self._scalarizer.update(torch.where(self._active, losses, self._last))

    def end_epoch(self, losses: Tensor) -> None:
        """Tell the scalarizer that an epoch is over."""
        if hasattr(self._scalarizer, "step"):
            self._scalarizer.step()


class _ByNorms(_Balancer):
    """Steps of `GradNorm`."""

    def __init__(self, network: nn.Module, tasks: Sequence[Task], method: GradNorm) -> None:
        super().__init__(network, tasks)
        shared = {id(parameter) for parameter in self.shared}
        layers = [module for module in network.modules() if isinstance(module, nn.Linear | StackedLinear)]
        matrices = [layer.weight for layer in layers if id(layer.weight) in shared]
        if not matrices:
            raise ValueError("GradNorm needs a layer that tasks share; balance='sum' needs none")
        self.reference, self._alpha = matrices[-1], method.alpha
        self.weights = torch.ones(len(tasks), device=self.device)
        self._adam = torch.optim.Adam([self.weights], lr=method.learning_rate)
        self._first = torch.full_like(self.weights, torch.nan)

    def pass_back(self, forward: Forward, losses: Tensor, active: Tensor) -> None:
        """Fill all gradients, and move the weights."""
        now, tasks = self.weights.clone(), active.nonzero().flatten().tolist()
        if tasks:
            norms = torch.zeros_like(now)
            norms[tasks] = jacobian(losses, tasks, [self.reference]).norm(dim=1).to(now.dtype)
            self._move(losses.detach().to(now.dtype), norms, active)
        (now * losses).sum().backward()

    def _move(self, losses: Tensor, norms: Tensor, active: Tensor) -> None:
        self._first = torch.where(active & self._first.isnan(), losses, self._first)
        rate, before = torch.where(active, losses / self._first, 0.0), self.weights.clone()
        reached, n = before * norms, int(active.sum())
        target = reached.sum() / n * (rate * n / rate.sum()) ** self._alpha
        self.weights.grad = torch.where(active, (reached - target).sign() * norms, 0.0)
        self._adam.step()
        moved = torch.where(active, self.weights, before).clamp(min=_LEAST_WEIGHT)
        self.weights.copy_(moved * (len(moved) / moved.sum()))


class _ByGradients(_Balancer):
    """Steps of `GradientBalance`."""

    def __init__(self, network: nn.Module, tasks: Sequence[Task], method: GradientBalance, *, is_long: bool) -> None:
        super().__init__(network, tasks)
        if not self.shared:
            raise ValueError("a balance of gradients needs parameters that tasks share; use balance='sum'")
        self._aggregate, self._normalize = _copied(method.aggregator, self.device), method.normalize
        boundaries, level = [module for module in network.modules() if isinstance(module, Boundary)], method.level
        if level == "representation" and not boundaries:
            raise ValueError(
                "level: this network marks no boundary of its shared layers; use level='parameters' or 'auto'"
            )
        if level == "parameters" or (level == "auto" and is_long):
            boundaries = []
        self._boundaries = boundaries
        self._cuts: list[Cut] = []

    def run(self, forward: Forward) -> Tensor:
        """Return the losses, whose graph is cut at the boundaries."""
        with cut_at(self._boundaries) as self._cuts:
            return forward()

    def pass_back(self, forward: Forward, losses: Tensor, active: Tensor) -> None:
        """Fill all gradients: joined ones of the shared parameters, plain sums for the rest."""
        tasks, leaves = active.nonzero().flatten().tolist(), [leaf for _, leaf in self._cuts]
        if not tasks:
            losses.sum().backward()
        elif leaves:
            losses.sum().backward(retain_graph=True)
            for leaf in leaves:
                leaf.grad = None  # the plain sum, which goes no further
            backward_from(self._cuts, self.join(jacobian(losses, tasks, leaves), tasks))
        else:
            fill(self.shared, self.join(jacobian(losses, tasks, self.shared), tasks))
            if self.own:
                losses.sum().backward(inputs=self.own)

    def join(self, rows: Tensor, tasks: Sequence[int]) -> Tensor:
        """Join the gradients (n, P) of the active tasks to one (P,)."""
        self.check_finite(rows, tasks, "gradient")
        if self._normalize:
            norms = rows.norm(dim=1, keepdim=True)
            rows = rows * (norms.mean() / (norms + _EPS))
        if hasattr(self._aggregate, "reset"):
            of_active, rows = rows, rows.new_zeros(len(self.names), rows.shape[1])
            rows[tasks] = of_active
        update = self._aggregate(rows)
        if update.shape != rows.shape[1:]:
            raise ValueError(
                f"aggregator {self._aggregate!r} must turn gradients {tuple(rows.shape)} into one of shape "
                f"{tuple(rows.shape[1:])}, got {tuple(update.shape)}"
            )
        return update


class _ByFlatness(_ByGradients):
    """Steps of `FlatRegions`."""

    def __init__(self, network: nn.Module, tasks: Sequence[Task], method: FlatRegions) -> None:
        super().__init__(network, tasks, method.gradients, is_long=False)
        self._boundaries, self._radius = [], method.radius

    def pass_back(self, forward: Forward, losses: Tensor, active: Tensor) -> None:
        """Fill all gradients by algorithm 1 of the paper."""
        tasks, parameters = active.nonzero().flatten().tolist(), [*self.shared, *self.own]
        if not tasks:
            losses.sum().backward()
            return
        at_weights = jacobian(losses, tasks, parameters)
        groups = self.shared, self.own
        uphill = uphill_jacobian(lambda: self.again(forward), tasks, at_weights, groups, self._radius)
        n_shared = sum(parameter.numel() for parameter in self.shared)
        steeper = (uphill - at_weights)[:, :n_shared]
        update = self.join(at_weights[:, :n_shared], tasks) + self.join(steeper, tasks)
        fill(parameters, torch.cat([update, uphill[:, n_shared:].sum(dim=0)]))


def _copied(given: Any, device: torch.device) -> Any:
    """Return a copy of what balances, on a device and without a state."""
    copied = deepcopy(given)
    if isinstance(copied, nn.Module):
        copied = copied.to(device)
    if hasattr(copied, "reset"):
        copied.reset()
    return copied


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the trainable parameters that tasks share, and those of single tasks, in module order.

    A module whose ``task_specific`` is true has its own and its submodules' parameters for single tasks.
    """
    owners = [module for module in network.modules() if getattr(module, "task_specific", False)]
    own = {id(parameter) for module in owners for parameter in module.parameters()}
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [p for p in parameters if id(p) not in own], [p for p in parameters if id(p) in own]


def jacobian(losses: Tensor, tasks: Sequence[int], sources: Sequence[Tensor]) -> Tensor:
    """Return the gradients (n, P) of some losses (T,) at the sources, flattened and joined; the graph is kept.

    A source that a loss does not reach has zeros. One call of autograd for each loss is faster on a CPU than
    `torch.vmap`.

    Raises
    ------
    ValueError
        If a gradient is sparse.
    """
    rows = []
    for task in tasks:
        found = torch.autograd.grad(losses[task], sources, retain_graph=True, allow_unused=True, materialize_grads=True)
        for gradient, source in zip(found, sources, strict=True):
            if gradient.is_sparse:
                raise ValueError(
                    f"the sparse gradients of a table {tuple(source.shape)} cannot be balanced; use "
                    "GradientBalance(..., level='representation'), or fewer levels (min_frequency)"
                )
        row = torch.cat([gradient.flatten() for gradient in found])
        rows.append(row.to(torch.promote_types(row.dtype, torch.float32)))
    return torch.stack(rows)


def split_like(row: Tensor, sources: Sequence[Tensor]) -> list[Tensor]:
    """Cut a row (P,) into parts of the sources' shapes and types."""
    parts = row.split([source.numel() for source in sources])
    return [part.view_as(source).to(source.dtype) for part, source in zip(parts, sources, strict=True)]


def fill(parameters: Sequence[nn.Parameter], gradient: Tensor) -> None:
    """Set the gradients of parameters to parts of one (P,)."""
    for parameter, part in zip(parameters, split_like(gradient, parameters), strict=True):
        parameter.grad = part


@contextmanager
def cut_at(boundaries: Sequence[Boundary]) -> Iterator[list[Cut]]:
    """Cut the graph wherever one of the boundaries runs inside; yield the cuts in the order they ran."""
    cuts: list[Cut] = []

    def cut(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        cuts.append((output, leaf))
        return leaf

    with ExitStack() as stack:
        for boundary in boundaries:
            stack.callback(boundary.register_forward_hook(cut).remove)
        yield cuts


def backward_from(cuts: Sequence[Cut], update: Tensor) -> None:
    """Pass a gradient (P,) at all leaves on to the layers below, the last cut first.

    A cut may lie below another: a gradient that comes down to its leaf is added to its own part, so that no path counts
    twice.
    """
    parts = split_like(update, [leaf for _, leaf in cuts])
    for (below, leaf), part in zip(reversed(cuts), reversed(parts), strict=True):
        if below.requires_grad:
            below.backward(part if leaf.grad is None else part + leaf.grad, retain_graph=True)


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Freeze the running statistics of batch normalisation inside, by a ``momentum`` of 0."""
    modules: list[Any] = [module for module in network.modules() if hasattr(module, "momentum")]
    momenta = [module.momentum for module in modules]
    for module in modules:
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, momentum in zip(modules, momenta, strict=True):
            module.momentum = momentum


def uphill_jacobian(
    forward: Forward, tasks: Sequence[int], rows: Tensor, groups: Sequence[Sequence[nn.Parameter]], radius: float
) -> Tensor:
    """Return the gradients (n, P) of every task at about its worst loss near the weights.

    For each task every group of parameters moves by the radius along the task's gradient of unit length, one of the
    rows (n, P); the weights are then put back from a copy, to the last bit.
    """
    parameters = [parameter for group in groups for parameter in group]
    sizes = [sum(parameter.numel() for parameter in group) for group in groups]
    kept = [parameter.detach().clone() for parameter in parameters]
    moved = [parameter.detach() for parameter in parameters]  # same memory, unknown to autograd
    uphill = []
    try:
        for task, row in zip(tasks, rows, strict=True):
            shift = torch.cat([part * (radius / (part.norm() + _EPS)) for part in row.split(sizes)])
            torch._foreach_copy_(moved, torch._foreach_add(kept, split_like(shift, parameters)))
            uphill.append(jacobian(forward(), [task], parameters))
    finally:
        torch._foreach_copy_(moved, kept)
    return torch.cat(uphill)
