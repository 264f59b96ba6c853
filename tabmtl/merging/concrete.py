"""Concrete merging: one mask of all task vectors, learned on rows without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

_TEMPERATURE = 0.5


def concrete(
    tau: np.ndarray,
    sizes: Sequence[int],
    entropy: Callable[[Tensor], Tensor],
    scale: np.ndarray | float = 0.3,
    *,
    steps: int = 200,
    learning_rate: float = 0.02,
    seed: int = 0,
) -> np.ndarray:
    """Return sum_k λ_k m τ_k, where the mask m of all tasks makes the merged network sure of its classes.

    A mask is drawn from logits x by uniform u: m = sigmoid((log(u / (1 - u)) + x) / T), with T = 0.5, divided by its
    mean over each tensor. Adam moves x down the entropy of the merged network's answers. Tang et al. (2023), "Concrete
    Subspace Learning based Interference Elimination for Multi-task Model Fusion" (arXiv 2312.06173).

    The formulas, T, x = 0 at the start and λ = 0.3 are those of the authors' code, FusionBench. It takes 2000 steps at
    the rate 0.001, and draws the last mask; fewer and larger steps, and u = 1/2 in the end, are ours.

    Parameters
    ----------
    tau : ndarray of shape (K, d)
        Task vectors.
    sizes : sequence of int
        Numbers of entries of the tensors that a task vector is made of, one after the other.
    entropy : callable
        Entropy of the network whose weights have made the move (d,), as a scalar.
    scale : float or ndarray of shape (K,), default=0.3
        λ.
    steps : int, default=200
        Steps of Adam.
    learning_rate : float, default=0.02
        Rate of Adam.
    seed : int, default=0
        Seed of the masks.

    Returns
    -------
    move : ndarray of shape (d,)
    """
    move = torch.from_numpy((np.reshape(scale, (-1, 1)) * tau).sum(axis=0)).float()
    logits = torch.zeros_like(move, requires_grad=True)
    optimizer, generator = torch.optim.Adam([logits], lr=learning_rate), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        u = torch.rand(move.shape, generator=generator).clamp_(1e-6, 1 - 1e-6)
        loss = entropy(_mask(logits + u.logit(), sizes) * move)
        (logits.grad,) = torch.autograd.grad(loss, logits)
        optimizer.step()
    return (_mask(logits.detach(), sizes) * move).double().numpy()


def _mask(noisy: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the mask of noisy logits (d,), divided by its mean over each tensor."""
    parts = torch.sigmoid(noisy / _TEMPERATURE).split(list(sizes))
    return torch.cat([part / part.mean() for part in parts])
