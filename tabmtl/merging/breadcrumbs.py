"""Model Breadcrumbs: task vectors without their outliers and without negligible changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tabmtl.merging.arithmetic import task_arithmetic


def breadcrumbs(
    tau: np.ndarray,
    sizes: Sequence[int],
    scale: np.ndarray | float = 0.4,
    *,
    keep: float = 0.15,
    cut: float = 0.007,
) -> np.ndarray:
    """Return sum_k λ_k m_k τ_k, where the mask m_k of a tensor drops its largest changes, and all but the next largest.

    Of the n changes of a tensor, sorted by size, the first ``cut`` n are dropped, the next ``keep`` n stay, and all
    others are dropped. Davari and Belilovsky (2024), "Model Breadcrumbs" (arXiv 2312.06795).

    Read were the abstract of the paper and the authors' code, which removes the top first, as here, and begins its
    search at keep 0.15, cut 0.006 and λ 0.2. It masks along the last axis of a tensor; the whole tensor is ours, since
    rows of tables are short. At least one change of a tensor stays.

    Parameters
    ----------
    tau : ndarray of shape (K, d)
        Task vectors.
    sizes : sequence of int
        Numbers of entries of the tensors that a task vector is made of, one after the other.
    scale : float or ndarray of shape (K,), default=0.4
        λ.
    keep, cut : float, default=0.15, 0.007
        Shares of a tensor that stay, and that are dropped before.

    Returns
    -------
    move : ndarray of shape (d,)
    """
    parts = np.split(tau, np.cumsum(sizes)[:-1], axis=1)
    return task_arithmetic(np.concatenate([_masked(part, keep, cut) for part in parts], axis=1), scale)


def _masked(part: np.ndarray, keep: float, cut: float) -> np.ndarray:
    """Return the changes of one tensor (K, n), without those that are dropped."""
    n = part.shape[1]
    first = int(cut * n)
    kept = np.argsort(-np.abs(part), axis=1, kind="stable")[:, first : first + max(int(keep * n), 1)]
    masked = np.zeros_like(part)
    np.put_along_axis(masked, kept, np.take_along_axis(part, kept, axis=1), axis=1)
    return masked
