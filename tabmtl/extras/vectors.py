"""Weights of networks that were fine-tuned from one base, as task vectors."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tabmtl.estimators.network import NetworkEstimator

Weights = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskVectors:
    """How far each of K models has moved the weights that tasks share, and what becomes of all others.

    Attributes
    ----------
    trainers : tuple of tuple of int
        By task, the models that have trained it.
    settled : dict of str to ndarray
        Merged weights as if the shared ones had not moved: those of single tasks are of the models that trained them,
        and buffers, such as the statistics of batch normalisation, are means over the models.
    shared : dict of str to ndarray of float64, shape (K, ...)
        Task vectors by parameter; 0 for the entries that one task alone reads.
    """

    trainers: tuple[tuple[int, ...], ...]
    settled: Weights
    shared: Weights

    @classmethod
    def of(cls, base: NetworkEstimator, models: Sequence[NetworkEstimator]) -> TaskVectors:
        """Take apart the weights of models that fit the base."""
        network, _ = base.fitted_network()
        owners = owners_of(network, len(base.tasks_))
        of_base = base.weights_.items()
        moved = {k: np.stack([own.weights_[k].astype(np.float64) - weight for own in models]) for k, weight in of_base}
        trainers = []
        for t, task in enumerate(base.tasks_):
            own = {name: owner == t for name, owner in owners.items() if (owner == t).any()}
            parts = [moved[name][:, mask] for name, mask in own.items()] or [*moved.values()]
            has_moved = [any(part[k].any() for part in parts) for k in range(len(models))]
            found = [k for k, model in enumerate(models) if has_moved[k] and _had_labels(base, model, task.name)]
            trainers.append(tuple(found))
        settled = {}
        for name, weight in base.weights_.items():
            move = moved[name].mean(axis=0) if name not in owners else np.zeros(weight.shape)
            for t, those in enumerate(trainers):
                if name in owners and those:
                    move = np.where(owners[name] == t, moved[name][list(those)].mean(axis=0), move)
            settled[name] = _add(weight, move)
        shared = {name: np.where(owner < 0, moved[name], 0.0) for name, owner in owners.items()}
        return cls(trainers=tuple(trainers), settled=settled, shared=shared)

    def added(self, scales: np.ndarray) -> Weights:
        """Return the merged weights, whose shared ones have moved by the task vectors times scales (K,)."""
        moves = {name: np.tensordot(scales, vectors, axes=1) for name, vectors in self.shared.items()}
        return self.settled | {name: _add(self.settled[name], move) for name, move in moves.items()}


def owners_of(network: Any, n_tasks: int) -> dict[str, np.ndarray]:
    """Return by parameter the task that alone reads each entry; -1 where several read it, or none.

    Entries are numbered, and the network that is left for one task holds the numbers of those that it reads.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    if not hasattr(network, "restricted"):
        return {name: np.full(tuple(weight.shape), -1) for name, weight in parameters.items()}
    numbered, start, first = copy.deepcopy(network).double(), 0, {}
    with torch.no_grad():
        for name, weight in numbered.named_parameters():
            weight.copy_(torch.arange(start, start + weight.numel(), dtype=weight.dtype).view_as(weight))
            first[name], start = start, start + weight.numel()
    n_readers, owner = np.zeros(start, dtype=int), np.full(start, -1)
    for t in range(n_tasks):
        left = numbered.restricted([t]).parameters()
        read = np.unique(np.concatenate([weight.detach().numpy().ravel() for weight in left])).astype(int)
        n_readers[read] += 1
        owner[read] = t
    owner[n_readers != 1] = -1
    if n_tasks == 1:
        owner[:] = -1
    numbers = dict(numbered.named_parameters(remove_duplicate=False))
    return {name: owner[numbers[name].detach().numpy().astype(int)] for name in parameters}


def _had_labels(base: NetworkEstimator, model: NetworkEstimator, task: str) -> bool:
    """Tell whether a model has a loss of a task in the epochs that the base lacks; True where it has none at all."""
    history, before, loss = model.history_, base.history_, f"train/{task}/loss"
    new = history[len(before) :] if history[: len(before)].equals(before) else history
    return loss not in new.columns or not len(new) or not new[loss].is_null().all()


def _add(weight: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Return a weight, in its own precision, that has moved; whole numbers, such as counts, stay."""
    return (weight + move).astype(weight.dtype) if weight.dtype.kind == "f" else weight
