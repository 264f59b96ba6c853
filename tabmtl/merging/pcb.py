"""PCB merging: weights compete within a task and between tasks, and the balance of both weighs each change."""

from __future__ import annotations

import numpy as np

_CLIPPED = 1e-4  # share of the sizes that count as the next ones, at both ends


def pcb(tau: np.ndarray, scale: np.ndarray | float = 1.0, *, keep: float = 0.1) -> np.ndarray:
    """Return sum_k λ_k β_k τ_k / sum_k β_k, where β_k says how far weights matter to task k and agree with the others.

    With N tasks, and "norm" for the span of a task vector as 0 to 1,

    - within a task: β_within = exp(N norm(|τ_k|)²),
    - between tasks: β_between = tanh(τ_k sum_j τ_j),
    - β_k = norm of the product, where all but its largest ``keep`` d entries are 0.

    A weight that no task keeps stays as it was. Du et al. (2024), "Parameter Competition Balancing for Model Merging"
    (arXiv 2410.02396).

    The formulas are those of the authors' code, over all tensors as one vector; the smallest and largest 0.01 % of the
    sizes are clipped there too. It writes softmax as the exponential alone, since "norm" follows. λ is 1 there where
    nothing chooses it, and ``keep`` 0.05 to 0.1.

    Parameters
    ----------
    tau : ndarray of shape (K, d)
        Task vectors.
    scale : float or ndarray of shape (K,), default=1.0
        λ.
    keep : float, default=0.1
        Share of the weights that a task keeps.

    Returns
    -------
    move : ndarray of shape (d,)
    """
    clipped, beta = balance(tau, keep)
    total = np.maximum(beta.sum(axis=0), 1e-12)
    return (np.reshape(scale, (-1, 1)) * beta * clipped).sum(axis=0) / total


def balance(tau: np.ndarray, keep: float) -> tuple[np.ndarray, np.ndarray]:
    """Return task vectors with clipped sizes, and the balance β from 0 to 1, both (K, d)."""
    n, d = tau.shape
    ranked = np.sort(np.abs(tau), axis=1)
    low, high = ranked[:, int(d * _CLIPPED)], ranked[:, max(int(d * (1 - _CLIPPED)) - 1, 0)]
    sizes = np.clip(np.abs(tau), low[:, None], high[:, None])
    product = np.exp(n * _norm(sizes, low, high) ** 2) * np.tanh(tau * tau.sum(axis=0))
    least = np.sort(product, axis=1)[:, d - max(int(keep * d), 1)]
    beta = np.where(product >= least[:, None], _norm(product, least, product.max(axis=1)), 0.0)
    return np.sign(tau) * sizes, beta


def _norm(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return values (K, d) with low and high (K,) as 0 and 1; where both are equal, all are 1."""
    span = (high - low)[:, None]
    return np.where(span > 0, (values - low[:, None]) / np.where(span > 0, span, 1.0), 1.0)
