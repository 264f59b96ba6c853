"""Gradients of several tasks, one row each: how to take them, and how to join them to one update.

Shapes: T tasks, n of them active in a step, P numbers in a row. `tabmtl.training.balance` describes the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tabmtl.nn.layers import Boundary, RowOwners, Towers
from tabmtl.processes.ranks import ALONE, Ranks
from tabmtl.training.checkpoint import check_like

Forward = Callable[[], Tensor]
Jacobian = Callable[[Tensor, Sequence[int], Sequence[Tensor]], Tensor]
Join = Callable[[Tensor, Sequence[int]], Tensor]
Cut = tuple[Tensor, Tensor]

_EPS = 1e-12
_TRUSTED = 1e-2  # relative difference of two ways to one gradient, in any precision


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the trainable parameters that tasks share, and those of single tasks, in module order.

    A module whose ``task_specific`` is true has its own and its submodules' parameters for single tasks.
    """
    owners = [module for module in network.modules() if getattr(module, "task_specific", False)]
    own = {id(parameter) for module in owners for parameter in module.parameters()}
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [p for p in parameters if id(p) not in own], [p for p in parameters if id(p) in own]


def split_like(row: Tensor, sources: Sequence[Tensor]) -> list[Tensor]:
    """Cut a row (P,) into parts of the sources' shapes and types."""
    parts = row.split([source.numel() for source in sources])
    return [part.view_as(source).to(source.dtype) for part, source in zip(parts, sources, strict=True)]


def gradient_row(
    outputs: Sequence[Tensor], sources: Sequence[Tensor], arrived: Sequence[Tensor] | None = None
) -> Tensor:
    """Return the gradient (P,) at the sources, flattened and joined, zero for unused sources; the graph is kept.

    ``outputs`` is one loss of shape (), or the tensors of the gradients ``arrived``.

    Raises
    ------
    ValueError
        If a gradient is sparse.
    """
    gradients = torch.autograd.grad(
        outputs, sources, arrived, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    for gradient, source in zip(gradients, sources, strict=True):
        if gradient.is_sparse:
            raise ValueError(
                f"the sparse gradients of a table {tuple(source.shape)} cannot be balanced; use "
                "grad_level='representation' and flat=False, or fewer levels (min_frequency)"
            )
    row = torch.cat([gradient.flatten() for gradient in gradients])
    return row.to(torch.promote_types(row.dtype, torch.float32))


def jacobian(losses: Tensor, tasks: Sequence[int], sources: Sequence[Tensor]) -> Tensor:
    """Return gradients (n, P) of some losses (T,): one call of autograd each, on a CPU faster than `torch.vmap`."""
    return torch.stack([gradient_row([losses[task]], sources) for task in tasks])


class TaskGradients:
    """Faster `jacobian` for losses that each read their own head alone.

    The heads are one batched product, whose backward pass for one task costs as much as for all. So it runs once for
    the sum of the losses, down to inputs of each head's own, at which the tasks' gradients come apart. Whether heads
    are read alone shows on a task's first row, which is also taken by `jacobian`: if both differ, all rows are.

    Parameters
    ----------
    towers : sequence of Towers
        The heads of all T tasks; empty leaves everything to `jacobian`.
    group : Ranks, optional
        Processes that hold the rows of a step together. Each takes the gradients of its own; whether heads are read
        alone they find together, since a backward pass of one is a pass of all.
    """

    def __init__(self, towers: Sequence[Towers], group: Ranks = ALONE) -> None:
        self._towers, self._group = towers, group
        self._trusted: set[int] = set()
        self._inputs: list[tuple[Tensor, Tensor, RowOwners | None]] = []

    def state(self) -> dict[str, Any]:
        """Return what was found out about the heads."""
        return {"trusted": sorted(self._trusted), "has_towers": bool(self._towers)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        check_like(state, {"trusted": len(state["trusted"]) * [0], "has_towers": True}, "its balance")
        self._trusted = set(state["trusted"])
        self._towers = self._towers if state["has_towers"] else []

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch the forward pass inside, which gives the losses."""
        self._inputs = []
        with ExitStack() as hooks:
            for towers in self._towers:
                hooks.enter_context(towers.register_forward_pre_hook(self._part_inputs))
            yield

    def _part_inputs(self, towers: nn.Module, args: tuple) -> tuple | None:
        z, rows = args if len(args) == 2 else (args[0], None)
        if not z.requires_grad:
            return None
        own = z[:, None].expand(-1, towers.n_tasks, -1) if z.ndim == 2 and rows is None else z.view_as(z)
        own.retain_grad()
        self._inputs.append((z, own, rows))
        return own, rows

    def __call__(self, losses: Tensor, tasks: Sequence[int], sources: Sequence[Tensor]) -> Tensor:
        """Return gradients (n, P) of n of the losses (T,) that were computed last."""
        if not self._inputs:
            return jacobian(losses, tasks, sources)
        inputs, owns, _ = zip(*self._inputs, strict=True)
        arrived: Sequence[Any] = [own.grad for own in owns]  # from a backward pass of the sum, if there was one
        if not all(gradient is not None for gradient in arrived):
            arrived = torch.autograd.grad(
                losses.sum(), owns, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        rows = torch.stack([gradient_row(inputs, sources, self._parts(arrived, task)) for task in tasks])
        for k, task in enumerate(tasks):
            if task not in self._trusted:
                alone = gradient_row([losses[task]], sources)
                differs = not (rows[k] - alone).norm() <= _TRUSTED * alone.norm()
                differ, told = self._group.sum(torch.tensor([differs, alone.any()], dtype=torch.int64)).tolist()
                if differ:
                    self._towers, self._inputs = [], []
                    return jacobian(losses, tasks, sources)
                self._trusted |= {task} if told else set()
        return rows

    def _parts(self, arrived: Sequence[Tensor], task: int) -> list[Tensor]:
        """Return each task's part of the gradients at the heads' inputs, in the shapes of the common inputs."""
        parts = []
        for gradient, (z, _, rows) in zip(arrived, self._inputs, strict=True):
            if rows is not None:
                part = gradient * (rows.owner == task)[:, None]
            elif z.ndim == 2:
                part = gradient[:, task]
            else:
                part = torch.zeros_like(gradient)
                part[:, task] = gradient[:, task]
            parts.append(part)
        return parts


@contextmanager
def cut_at(boundaries: Sequence[Boundary]) -> Iterator[list[Cut]]:
    """Cut the graph wherever one of the boundaries runs inside; yield the (below, leaf) in the order they ran."""
    cuts: list[Cut] = []
    for boundary in boundaries:
        boundary.cuts = cuts
    try:
        yield cuts
    finally:
        for boundary in boundaries:
            boundary.cuts = None


def balanced_backward(
    losses: Tensor,
    tasks: Sequence[int],
    cuts: Sequence[Cut],
    groups: tuple[Sequence[nn.Parameter], Sequence[nn.Parameter]],
    gradients: Jacobian,
    join: Join,
    process_group: Ranks = ALONE,
) -> None:
    """Fill ``.grad``: with joined gradients of the shared parameters, with plain sums for the rest.

    In a group of processes, what all ranks fill sums up to that.

    Parameters
    ----------
    losses : Tensor of shape (T,)
    tasks : sequence of int
        The n active ones.
    cuts : sequence of (below, leaf)
        Where the graph of the losses was cut; empty takes the gradients at the shared parameters.
    groups : (shared, own) sequences of Parameter
    gradients : callable
        `jacobian` or its like.
    join : callable
        ``join(J, tasks)`` makes one gradient (P,) of the tasks' (n, P).
    process_group : Ranks, optional
    """
    leaves = [leaf for _, leaf in cuts]
    shared, own = groups
    if leaves:
        losses.sum().backward(retain_graph=True)
        for leaf in leaves:
            leaf.grad = None  # the plain sum, which goes no further
        _backward_from(cuts, join(gradients(losses, tasks, leaves), tasks))
        return
    rows = process_group.sum(gradients(losses, tasks, shared))
    _fill(shared, join(rows, tasks) / process_group.size)
    if own:
        losses.sum().backward(inputs=own)


def _backward_from(cuts: Sequence[Cut], update: Tensor) -> None:
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
    forward: Forward, tasks: Sequence[int], rows: Tensor, groups: Sequence[Sequence[nn.Parameter]], rho: float
) -> Tensor:
    """Return the gradients of every task at about its worst loss near the weights.

    For each task every group of parameters moves by ``rho`` along the task's gradient of unit length; the weights
    are then put back from a copy, to the last bit.

    Parameters
    ----------
    forward : callable
        Gives the losses (T,).
    tasks : sequence of int
        The n tasks that rows belong to.
    rows : Tensor of shape (n, P)
        The tasks' gradients at the weights.
    groups : sequence of sequence of Parameter
        P numbers together.
    rho : float
        Length of a move.

    Returns
    -------
    rows : Tensor of shape (n, P)
    """
    parameters = [parameter for group in groups for parameter in group]
    sizes = [sum(parameter.numel() for parameter in group) for group in groups]
    kept = [parameter.detach().clone() for parameter in parameters]
    moved = [parameter.detach() for parameter in parameters]  # same memory, unknown to autograd
    uphill = []
    try:
        for task, row in zip(tasks, rows, strict=True):
            shift = torch.cat([part * (rho / (part.norm() + _EPS)) for part in row.split(sizes)])
            torch._foreach_copy_(moved, torch._foreach_add(kept, split_like(shift, parameters)))
            uphill.append(gradient_row([forward()[task]], parameters))
    finally:
        torch._foreach_copy_(moved, kept)
    return torch.stack(uphill)


def flat_backward(
    forward: Forward,
    losses: Tensor,
    weights: Tensor,
    tasks: Sequence[int],
    groups: tuple[Sequence[nn.Parameter], Sequence[nn.Parameter]],
    rho: float,
    join: Join,
    process_group: Ranks = ALONE,
) -> None:
    """Fill ``.grad`` by algorithm 1 of Phan et al. (2025), with the tasks' gradients times their weights (T,).

    ``forward`` gives the losses again; the rest is as in `balanced_backward` and `uphill_jacobian`.
    """
    parameters = [*groups[0], *groups[1]]
    at_weights = process_group.sum(jacobian(losses, tasks, parameters))
    uphill = process_group.sum(uphill_jacobian(forward, tasks, at_weights, groups, rho))
    at_weights, uphill = at_weights * weights[tasks, None], uphill * weights[tasks, None]
    n_shared = sum(parameter.numel() for parameter in groups[0])
    steeper = (uphill - at_weights)[:, :n_shared]
    update = join(at_weights[:, :n_shared], tasks) + join(steeper, tasks)
    _fill(parameters, torch.cat([update, uphill[:, n_shared:].sum(dim=0)]) / process_group.size)


def _fill(parameters: Sequence[nn.Parameter], gradient: Tensor) -> None:
    for parameter, part in zip(parameters, split_like(gradient, parameters), strict=True):
        parameter.grad = part
