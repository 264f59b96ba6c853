"""Consensus merging: only weights that several tasks need are moved."""

from __future__ import annotations

import numpy as np

from tabmtl.merging.arithmetic import task_arithmetic


def consensus(
    tau: np.ndarray, scale: np.ndarray | float = 0.4, *, threshold: float = 0.4, at_least: int = 2
) -> np.ndarray:
    """Return m sum_k λ_k τ_k, where the mask m holds the weights that at least two tasks need.

    Task k needs a weight if its own change is not far from that of all, its TALL mask:
    |τ_k| > ``threshold`` |sum_j τ_j - τ_k|. Weights that one task needs are "selfish", those that none needs
    "catastrophic". Wang et al. (2024), "Localizing Task Information for Improved Model Merging and Compression"
    (arXiv 2405.07813).

    The formulas and the number of two are those of the authors' code. It chooses the threshold for each task on
    validation rows, from 0.2 to 0.6, and λ too; the same one in the middle is ours. Of a single model, its own mask is
    taken.

    Parameters
    ----------
    tau : ndarray of shape (K, d)
        Task vectors.
    scale : float or ndarray of shape (K,), default=0.4
        λ.
    threshold : float, default=0.4
        Share of the others' change that the own one must exceed.
    at_least : int, default=2
        Tasks that need a weight.

    Returns
    -------
    move : ndarray of shape (d,)
    """
    needed = np.abs(tau) > threshold * np.abs(tau.sum(axis=0) - tau)
    return np.where(needed.sum(axis=0) >= min(at_least, len(tau)), task_arithmetic(tau, scale), 0.0)
