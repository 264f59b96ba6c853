"""What the leaf values of other tasks tell of those of one."""

from __future__ import annotations

import numpy as np

from tabmtl.models.shared_trees.targets import Targets

_MEMORY = 0.9  # of the moments, from round to round
_RIDGE = 1.0  # in labels: variance of a label over that of a coefficient
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

    @staticmethod
    def suits(targets: Targets) -> bool:
        """Return whether these are several tasks of a wide table, and few enough outputs."""
        n_outputs = len(targets.function)
        return targets.n_functions > 1 and n_outputs == targets.y.shape[1] and n_outputs <= _MOST_OUTPUTS

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
