"""Weights of the answers of several models, by the likelihood of labels that the models have not seen."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from tabmtl.targets import Task

#: Nats that weights far from equal ones must gain, in units of their Kullback-Leibler divergence from these. So few
#: labels mix all models, and many choose.
PULL = 5.0
_LEAST = 0.01  # of a weight that is kept
_TINY = 1e-300  # mean loss of answers without any error


def likelihood_weights(
    task: Task,
    y: np.ndarray,
    answers: np.ndarray,
    weight: np.ndarray | None = None,
    group: np.ndarray | None = None,
) -> np.ndarray:
    """Choose the weights (C,) of answers by the likelihood of the labels, pulled to equal weights.

    Losses of numbers have the likelihood of errors of one spread. Where few rows have most of the weight, or, as of
    labels with a long tail, of the losses, the others tell as little as if they were fewer.

    Parameters
    ----------
    task : Task
    y : ndarray of shape (n,)
        Labels; none is missing.
    answers : ndarray of shape (C, n) or (C, n, K)
        Values or probabilities.
    weight : ndarray of shape (n,), optional
        Weights of the rows.
    group : ndarray of shape (n,), optional
        Groups of the rows; those of a group count as one.
    """
    n = len(answers)
    if n == 1 or not len(y):
        return np.full(n, 1 / n)
    row_weight = np.ones(len(y)) if weight is None else weight

    def losses(weights: np.ndarray) -> np.ndarray:
        return task.kind.answer_losses(np.tensordot(weights, answers, axes=1), y) * row_weight

    # squares of normal errors have three times the square of their mean as the mean of theirs
    most, tail = (1, row_weight) if task.is_classification else (3, losses(np.full(n, 1 / n)))
    n_units = len(y) if group is None else len(np.unique(group))
    n_units *= min(1.0, most * tail.mean() ** 2 / max(np.square(tail).mean(), _TINY))

    def nats(scores: np.ndarray) -> float:
        weights = _softmax(scores)
        likelihood = nats_of_label(task, losses(weights).sum() / row_weight.sum())
        return n_units * likelihood + PULL * (weights * np.log(np.maximum(weights, _TINY) * n)).sum()

    weights = _softmax(minimize(nats, np.zeros(n), method="L-BFGS-B").x)
    weights[weights < _LEAST] = 0.0
    return weights / weights.sum()


def nats_of_label(task: Task, mean_loss: float) -> float:
    """Return the nats of a label at a mean loss, up to a constant; numbers have errors of one spread, fitted to it."""
    mean = max(mean_loss, _TINY)
    return mean if task.is_classification else float(np.log(mean) / 2)


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()
