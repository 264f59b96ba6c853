"""Networks of departments, which go on with a common one on a task of their own."""

from __future__ import annotations

import copy
from typing import Any

import torch

from tabmtl.training.losses import MultiTaskLoss


def fine_tuned(base: Any, X: Any, *tasks: int, rate: float = 0.05) -> Any:
    """A copy of a network after a few steps of gradient descent on the tasks, whose labels are all 0."""
    network, batch = copy.deepcopy(base.fitted_network()[0]), base.encoded(X)
    network.requires_grad_(True)
    loss_of, y = MultiTaskLoss(base.tasks_), torch.zeros(len(batch), len(base.tasks_))
    for _ in range(3):
        losses = loss_of(network(batch.x), y)[list(tasks)].sum() / len(batch)
        gradients = torch.autograd.grad(losses, [*network.parameters()], allow_unused=True)
        with torch.no_grad():
            for weight, gradient in zip(network.parameters(), gradients, strict=True):
                weight -= 0.0 if gradient is None else rate * gradient.clamp(-1, 1)
    return base.with_weights({name: weight.detach().numpy() for name, weight in network.state_dict().items()})
