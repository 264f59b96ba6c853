"""Gradients of several tasks, one row each: how they are taken, and how they are joined into one update.

Shapes: T tasks, n of them active in a step, P numbers in a row. `tabmtl.balance` says which method does what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tabmtl.blocks import Boundary

Forward = Callable[[], Tensor]
Join = Callable[[Tensor, Sequence[int]], Tensor]
Cut = tuple[Tensor, Tensor]

_EPS = 1e-12


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters that tasks share, and those that belong to single tasks, in module order.

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


def gradient_row(loss: Tensor, sources: Sequence[Tensor]) -> Tensor:
    """Gradient of one loss, flattened and joined, zero where a source plays no part; the graph is kept.

    Parameters
    ----------
    loss : Tensor of shape ()
    sources : sequence of Tensor
        P numbers together.

    Returns
    -------
    row : Tensor of shape (P,)
        In the loss's type.

    Raises
    ------
    ValueError
        If a gradient is sparse.
    """
    gradients = torch.autograd.grad(loss, sources, retain_graph=True, allow_unused=True, materialize_grads=True)
    for gradient, source in zip(gradients, sources, strict=True):
        if gradient.is_sparse:
            raise ValueError(
                f"a parameter of shape {tuple(source.shape)} has sparse gradients, of which tasks' gradients cannot be "
                "balanced; use grad_level='representation' with flat=False, or torch.nn.Embedding(sparse=False)"
            )
    return torch.cat([gradient.flatten() for gradient in gradients]).to(loss.dtype)


def jacobian(losses: Tensor, tasks: Sequence[int], sources: Sequence[Tensor]) -> Tensor:
    """Gradients (n, P) of some of the losses (T,), see `gradient_row`.

    One call of autograd a task: on a CPU faster than one batched by `torch.vmap`.
    """
    return torch.stack([gradient_row(losses[task], sources) for task in tasks])


@contextmanager
def cut_at(boundaries: Sequence[Boundary]) -> Iterator[list[Cut]]:
    """Cut the graph wherever one of the boundaries runs inside; gives the (below, leaf) in the order they ran."""
    cuts: list[Cut] = []

    def record(module: nn.Module, inputs: tuple, leaf: Tensor) -> None:
        cuts.append((inputs[0], leaf))

    hooks = [boundary.register_forward_hook(record) for boundary in boundaries]
    for boundary in boundaries:
        boundary.cut = True
    try:
        yield cuts
    finally:
        for boundary, hook in zip(boundaries, hooks, strict=True):
            hook.remove()
            boundary.cut, boundary.below, boundary.leaf = False, None, None


def balanced_backward(
    losses: Tensor,
    tasks: Sequence[int],
    cuts: Sequence[Cut],
    groups: tuple[Sequence[nn.Parameter], Sequence[nn.Parameter]],
    join: Join,
) -> None:
    """Fill ``.grad``: with joined gradients of what tasks share, with plain sums for the rest.

    Parameters
    ----------
    losses : Tensor of shape (T,)
    tasks : sequence of int
        The n active ones.
    cuts : sequence of (below, leaf)
        Where the graph of the losses was cut; empty takes the gradients at the shared parameters.
    groups : (shared, own) sequences of Parameter
    join : callable
        ``join(J, tasks)`` makes one gradient (P,) of the tasks' (n, P).
    """
    leaves = [leaf for _, leaf in cuts]
    shared, own = groups
    update = join(jacobian(losses, tasks, leaves or shared), tasks)
    if leaves:
        losses.sum().backward()
        for leaf in leaves:
            leaf.grad = None  # the plain sum, which goes no further
        _backward_from(cuts, update)
        return
    if own:
        losses.sum().backward(inputs=own)
    _fill(shared, update)


def _backward_from(cuts: Sequence[Cut], update: Tensor) -> None:
    """Send a gradient (P,) at all leaves on to what lies below, the last cut first.

    A cut may lie below another: what comes down to its leaf is added to its own part, so that no path counts twice.
    """
    parts = split_like(update, [leaf for _, leaf in cuts])
    for (below, leaf), part in zip(reversed(cuts), reversed(parts), strict=True):
        if below.requires_grad:
            below.backward(part if leaf.grad is None else part + leaf.grad, retain_graph=True)


@contextmanager
def repeated_noise(device: torch.device, seed: int) -> Iterator[None]:
    """Dropout masks inside are those of every other pass with this seed; torch's generators are as before outside."""
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Batch normalisation keeps its running statistics inside: every ``momentum`` is 0."""
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
    """Gradients of every task where its own loss is about the worst near the weights.

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
            uphill.append(gradient_row(forward()[task], parameters))
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
) -> None:
    """Fill ``.grad`` by algorithm 1 of Phan et al. (2025), with the tasks' gradients times their weights (T,).

    ``forward`` gives the losses again; the rest is as in `balanced_backward` and `uphill_jacobian`.
    """
    parameters = [*groups[0], *groups[1]]
    at_weights = jacobian(losses, tasks, parameters)
    uphill = uphill_jacobian(forward, tasks, at_weights, groups, rho)
    at_weights, uphill = at_weights * weights[tasks, None], uphill * weights[tasks, None]
    n_shared = sum(parameter.numel() for parameter in groups[0])
    steeper = (uphill - at_weights)[:, :n_shared]
    update = join(at_weights[:, :n_shared], tasks) + join(steeper, tasks)
    _fill(parameters, torch.cat([update, uphill[:, n_shared:].sum(dim=0)]))


def _fill(parameters: Sequence[nn.Parameter], gradient: Tensor) -> None:
    for parameter, part in zip(parameters, split_like(gradient, parameters), strict=True):
        parameter.grad = part
