"""Memory that a training step takes: what a network keeps for its gradients, and what a wide one takes at least."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from tabmtl.base.memory import free_memory
from tabmtl.base.schema import Batch, Columns
from tabmtl.columns import Features
from tabmtl.nn.embeddings import count_tokens
from tabmtl.training.predict import autocast

LEAST_MICRO = 64  # rows of a step whose activations are in memory at once, at least
_WIDE = 200  # columns; networks of fewer are small on any machine
_STEP = 24  # columns by which the probed networks differ: whole numbers of most divisors
_PROBED_ROWS = 8
#: Weights, gradients, two moments of AdamW, and the average of the weights.
_COPIES = 5
_BYTES = 4  # of a float32


def saved_bytes(network: nn.Module, probe: Batch) -> int:
    """Return the bytes that a forward pass of some rows keeps for the gradients, parameters left out."""
    parameters = {parameter.data_ptr() for parameter in network.parameters()}
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a graph that holds an output of its own is never freed

    with torch.random.fork_rng(devices=[]), saved_tensors_hooks(count, lambda tensor: tensor):
        scores = network(probe.x, probe.task)
    del scores  # only now: a freed activation's address would be counted again
    return sum(saved.values())


def steps_whole(network: Any, device: torch.device) -> bool:
    """Return whether a step has all its rows in memory at once, as on a GPU, or where rows look at each other."""
    return network.batch_dependent or bool(batch_norms(network)) or device.type != "cpu"


def batch_norms(network: nn.Module) -> list[Any]:
    """Return the modules that keep statistics of batches."""
    return [module for module in network.modules() if getattr(module, "running_mean", None) is not None]


def least_bytes(
    build: Callable[[Columns], nn.Module],
    n_columns: int,
    device: torch.device,
    *,
    n_rows: int,
    precision: str,
    is_long: bool,
) -> int:
    """Return the bytes that a network of very many columns takes at least in a training step, without building it.

    Both parameters and activations grow at most with the square of the columns. Three small networks therefore tell
    those of any number of columns. Their columns are categories of one level, whose tokens are the cheapest.

    Parameters
    ----------
    build : callable
        ``build(columns)`` -> the network of these columns.
    n_columns : int
    device : torch.device
        Of the training.
    n_rows : int
        Rows of a step.
    precision : str
        As in `tabmtl.training.predict.autocast`.
    is_long : bool
        Whether the network is asked for the own task of every row.

    Returns
    -------
    n_bytes : int
    """
    sizes = []
    for n in (_STEP, 2 * _STEP, 3 * _STEP):
        names = tuple(f"c{j}" for j in range(n))
        columns = Columns(numeric=(), categorical=names, levels=(("a",),) * n, has_missing=(), bins=())
        x = Features(numbers=torch.empty(_PROBED_ROWS, 0), codes=torch.full((_PROBED_ROWS, n), 2, dtype=torch.int32))
        task = torch.zeros(_PROBED_ROWS, dtype=torch.int64) if is_long else None
        network, probe = build(columns).train(), Batch(x=x, task=task)
        weights = sum(parameter.numel() for parameter in network.parameters()) * _BYTES * _COPIES
        with autocast(probe, precision):
            rows = n_rows if steps_whole(network, device) else min(n_rows, LEAST_MICRO)
            sizes.append(weights + saved_bytes(network, probe) * rows // _PROBED_ROWS)
    steps = n_columns / _STEP - 1
    first, second = sizes[1] - sizes[0], sizes[2] - 2 * sizes[1] + sizes[0]
    return round(sizes[0] + steps * first + steps * (steps - 1) / 2 * second)


def check_memory(
    name: str, build: Callable[[Columns], nn.Module], columns: Columns, device: torch.device, *, cure: str, **step: Any
) -> None:
    """Raise a ValueError if a network with a token for every column takes more memory than the device has free.

    The estimate is a lower bound, so a network that could be trained is not refused.

    Parameters
    ----------
    name : str
        Of the estimator.
    build : callable
        As in `least_bytes`.
    columns : Columns
        All columns; up to 200 are not looked at.
    device : torch.device
    cure : str
        Parameters that make the network smaller.
    **step : int, str and bool
        Other arguments of `least_bytes`.
    """
    n = count_tokens(columns)
    if n <= _WIDE:
        return
    free = _free_of(device)
    needed = 0 if free is None else least_bytes(build, n, device, **step)
    if free is not None and needed > free:
        raise ValueError(
            f"{name} makes a token of every column, so that {n} columns and steps of {step['n_rows']} rows take at "
            f"least {needed / 1e9:.3g} GB of memory, and {free / 1e9:.3g} GB are free; leave columns out by "
            f"columns={{NAME: 'ignore'}}, set a smaller {cure}, or take an estimator that joins its columns to one "
            "vector, such as SharedBottom, or SharedTrees"
        )


def _free_of(device: torch.device) -> int | None:
    """Return the free bytes of a device, those among it that torch keeps for itself; None where nobody says."""
    if device.type == "cpu":
        return free_memory()
    if device.type != "cuda":
        return None
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
