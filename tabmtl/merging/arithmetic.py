"""The mean of task vectors, and their weighted sum."""

from __future__ import annotations

import numpy as np


def average(tau: np.ndarray) -> np.ndarray:
    """Return the mean of the task vectors: (1 / K) sum_k τ_k.

    The merged weights are then the mean of the models' weights (Wortsman et al. 2022, "Model soups", arXiv 2203.05482).

    Parameters
    ----------
    tau : ndarray of shape (K, d)
        Task vectors.

    Returns
    -------
    move : ndarray of shape (d,)
    """
    return tau.mean(axis=0)


def task_arithmetic(tau: np.ndarray, scale: np.ndarray | float = 0.4) -> np.ndarray:
    """Return the weighted sum of the task vectors: sum_k λ_k τ_k.

    Ilharco et al. (2023), "Editing Models with Task Arithmetic" (arXiv 2212.04089), have one λ for all, chosen on
    validation rows (abstract read). The default of 0.4 is ours. A λ for every model is that of MAP, see `merge_front`.

    Parameters
    ----------
    tau : ndarray of shape (K, d)
        Task vectors.
    scale : float or ndarray of shape (K,), default=0.4
        λ.

    Returns
    -------
    move : ndarray of shape (d,)
    """
    return (np.reshape(scale, (-1, 1)) * tau).sum(axis=0)
