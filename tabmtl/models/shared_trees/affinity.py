"""Predict the leaf values of one task from those of the others."""

from __future__ import annotations

import numpy as np

from tabmtl.models.shared_trees.sums import LongSums, Sums

_MEMORY = 0.9  # of the moments, from round to round
_RIDGE = 1.0  # in labels: variance of a label over that of a coefficient
_SHRINKAGE = 5.0  # labels that shrink the mean of all other tasks
_ROUNDS = 5  # between two regressions
_MOST_OUTPUTS = 64  # their regressions take time by the fourth power


class Affinity:
    """Regressions of the mean gradients of each output on those of the other tasks, over the leaves of the rounds.

    Gradients are in units in which they have the variance 1 at the start, and leaves weigh as many labels as the output
    has in them. So a task of few labels, or without any in common with others, relies on others as far as its labels
    say that it may.

    Parameters
    ----------
    function : ndarray of int, shape (C,)
        The task of every output; outputs of one task tell each other nothing.
    """

    def __init__(self, function: np.ndarray) -> None:
        n_outputs = len(function)
        self._others = function[:, None] != function
        self._moments = np.zeros((n_outputs, n_outputs, n_outputs))
        self._coefficients = np.zeros((n_outputs, n_outputs))
        self._rounds = 0

    def predict(self, means: np.ndarray, n_labels: np.ndarray) -> np.ndarray:
        """Take the leaves of a round into account, and predict them: (L, C).

        Parameters
        ----------
        means : ndarray of shape (L, C)
            Mean gradients of the leaves, shrunk to 0 where there are few labels.
        n_labels : ndarray of shape (L, C)
            Weight of their labels.
        """
        n_outputs = means.shape[1]
        products = (means[:, :, None] * means[:, None, :]).reshape(len(means), -1)
        newest = (n_labels.T @ products).reshape(self._moments.shape)
        self._moments += (1 - _MEMORY) * (newest - self._moments)
        if self._rounds % _ROUNDS == 0:
            for c in range(n_outputs):
                others = np.flatnonzero(self._others[c])
                among = self._moments[c][np.ix_(others, others)] + _RIDGE * np.eye(len(others))
                self._coefficients[others, c] = np.linalg.solve(among, self._moments[c][others, c])
        self._rounds += 1
        return means @ self._coefficients


class PooledAffinity:
    """Regressions of the mean gradients of each task of a long table on those of all other tasks together.

    Parameters
    ----------
    n_functions : int
        Tasks, and the pooled function, which comes last and is predicted by nobody.
    width : int
        Outputs of a function.
    """

    def __init__(self, n_functions: int, width: int) -> None:
        self._shape = -1, n_functions, width
        self._square, self._product = np.zeros((2, n_functions - 1, width))

    def predict(self, means: np.ndarray, n_labels: np.ndarray) -> np.ndarray:
        """Take the leaves of a round into account, and predict them, as `Affinity.predict`."""
        own, labels = (part.reshape(self._shape)[:, :-1] for part in (means, n_labels))
        sums = own * labels
        others = (sums.sum(axis=1, keepdims=True) - sums) / (labels.sum(axis=1, keepdims=True) - labels + _SHRINKAGE)
        self._square += (1 - _MEMORY) * ((labels * others**2).sum(axis=0) - self._square)
        self._product += (1 - _MEMORY) * ((labels * others * own).sum(axis=0) - self._product)
        found = np.zeros_like(means).reshape(self._shape)
        found[:, :-1] = others * self._product / (self._square + _RIDGE)
        return found.reshape(means.shape)


def affinity_of(sums: Sums) -> Affinity | PooledAffinity | None:
    """Return the regressions that suit a table; None of a single task, or of too many outputs of a wide one."""
    if isinstance(sums, LongSums):
        return PooledAffinity(sums.n_functions, sums.width) if sums.n_functions > 2 else None
    return Affinity(sums.function) if sums.n_functions > 1 and len(sums.function) <= _MOST_OUTPUTS else None
