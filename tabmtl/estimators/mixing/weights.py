"""Weights of the answers of several models, by the likelihood of labels that the models have not seen."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from tabmtl.targets import Task

#: Nats that weights far from their prior must gain, in units of their Kullback-Leibler divergence from it. So few
#: labels mix all models, and many choose.
PULL = 5.0
_LEAST = 0.01  # of a weight that is kept
_TINY = 1e-300  # mean loss of answers without any error
#: Share of all losses that a label may have at the prior weights, and how many times that is looked for.
_MOST_OF_LOSS, _STEPS = 0.1, 20


def likelihood_weights(
    task: Task,
    y: np.ndarray,
    answers: np.ndarray,
    weight: np.ndarray | None = None,
    group: np.ndarray | None = None,
    prior: np.ndarray | None = None,
) -> np.ndarray:
    """Choose the weights (C,) of answers by the likelihood of the labels, pulled to their prior.

    Losses of numbers have the likelihood of errors of one spread. A far label does not decide: no loss counts as more
    than a tenth of all. Where few rows have most of the weight, or, as of labels with a long tail, of the losses, the
    others tell as little as if they were fewer.

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
    prior : ndarray of shape (C,), optional
        Positive weights without any label; equal ones by default.
    """
    n = len(answers)
    prior = np.full(n, 1 / n) if prior is None else prior
    if n == 1 or not len(y):
        return prior
    row_weight = np.ones(len(y)) if weight is None else weight

    def losses(weights: np.ndarray) -> np.ndarray:
        return task.kind.answer_losses(np.tensordot(weights, answers, axes=1), y) * row_weight

    begun = losses(prior)
    most = np.inf if task.is_classification else _most_loss(begun)
    tail = row_weight if task.is_classification else np.minimum(begun, most)
    n_units = len(y) if group is None else len(np.unique(group))
    # of normal errors, the mean square of squares is three times the square of their mean
    usual = 1 if task.is_classification else task.kind.loss_power + 1
    n_units *= min(1.0, usual * tail.mean() ** 2 / max(np.square(tail).mean(), _TINY))

    def nats(scores: np.ndarray) -> float:
        weights = _softmax(scores)
        likelihood = nats_of_label(task, np.minimum(losses(weights), most).sum() / row_weight.sum())
        return n_units * likelihood + PULL * (weights * np.log(np.maximum(weights, _TINY) / prior)).sum()

    weights = _softmax(minimize(nats, np.log(prior), method="L-BFGS-B").x)
    weights[weights < _LEAST] = 0.0
    return weights / weights.sum()


def nats_of_label(task: Task, mean_loss: float) -> float:
    """Return the nats of a label at a mean loss, up to a constant; numbers have errors of one spread, fitted to it."""
    mean = max(mean_loss, _TINY)
    return mean if task.is_classification else float(np.log(mean) / task.kind.loss_power)


def _most_loss(losses: np.ndarray) -> float:
    """Return the loss that one row may count as at most, by its share in all."""
    most, share = losses.max(), max(_MOST_OF_LOSS, 2 / len(losses))
    for _ in range(_STEPS):
        most = min(most, share * np.minimum(losses, most).sum())
    return float(most)


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()
