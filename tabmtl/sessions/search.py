"""The best items of every session: exactly, or by an approximate index."""

from __future__ import annotations

import numpy as np
import torch


def top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best items of every row, best first; of equal ones the first in the catalogue.

    A score that is not a number counts, and is returned, as minus infinity.

    Parameters
    ----------
    scores : ndarray of float32, shape (m, N)
    k : int
        At most N are returned.

    Returns
    -------
    items : ndarray of int64, shape (m, min(k, N))
    scores : ndarray of float32, shape (m, min(k, N))
    """
    k = min(k, scores.shape[1])
    values, found = (part.numpy() for part in torch.topk(torch.from_numpy(scores), k, dim=1))
    if np.isnan(values[:, :1]).any():  # torch takes what is no number for the greatest one
        return top_k(np.where(np.isnan(scores), np.float32(-np.inf), scores), k)
    least = values[:, -1:]
    # which of several equal items comes last is for the catalogue to say, not for the number of rows
    for row in np.flatnonzero(np.count_nonzero(scores >= least, axis=1) > k):
        better = np.count_nonzero(values[row] > least[row])
        found[row, better:] = np.flatnonzero(scores[row] == least[row])[: k - better]
    order = np.lexsort((found, -values), axis=1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(values, order, axis=1)
