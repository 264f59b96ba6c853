"""A task's scores as a linear function of fixed features, for the loss of any kind, with a penalty that folds choose.

Of n labels y with weights w (mean 1), features f and scores s(f), both forms minimise

    1/n sum_i w_i loss(s(f_i), y_i) + penalty / 2 |theta - theta_0|²

by L-BFGS, from a large penalty to small ones, each from the answer to the one before. The constant stands before all of
them. Rows of a fold are judged by what the others teach. Of the answers whose loss is within a quarter of a standard
error of the least one, paired by rows, the simplest is taken: where few labels tell nothing, that is the constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from tabmtl.targets import Task

#: Penalties from the largest, as shares of the curvature of features whose squares sum to about 1.
PENALTIES = tuple(10.0 ** np.arange(0.5, -4.1, -0.75))
_MOST_STEPS = 30
_SPARE_ERROR = 0.25  # standard errors of the least loss within which a simpler answer is taken


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """Labels of one task in units of training, without a missing one, and their weights, (n,) each."""

    task: Task
    y: np.ndarray
    weight: np.ndarray

    def rows(self, index: np.ndarray) -> Labels:
        """Return those of some rows."""
        return replace(self, y=self.y[index], weight=self.weight[index])

    def losses(self, scores: Tensor) -> Tensor:
        """Return the weighted losses (n,) of scores (n, width)."""
        rows = self.task.kind.loss(scores, torch.from_numpy(self.y)[:, None])[:, 0]
        return rows * torch.from_numpy(self.weight / max(self.weight.mean(), 1e-12))


class Weights(NamedTuple):
    """Learned numbers: of the features (p, width) and the constants (width,), and the scales (S, 1) or (S, H)."""

    linear: np.ndarray
    bias: np.ndarray
    scale: np.ndarray | None = None


class Form(Protocol):
    """Function of features that is learned."""

    def path(self, features: np.ndarray, labels: Labels) -> list[Weights]:
        """Return the answers to all penalties, the constant first."""

    def scores(self, weights: Weights, features: np.ndarray) -> Tensor:
        """Return scores (n, width)."""


class Linear:
    """Scores f W + b of features (n, p)."""

    def path(self, features: np.ndarray, labels: Labels) -> list[Weights]:
        """Return the answers to all penalties, the constant first."""
        center = features.mean(axis=0)
        inner, axes = _turned(features - center)
        width, places, spread = labels.task.width, torch.from_numpy(inner), np.square(inner).mean(axis=0)

        def scores(theta: Tensor) -> Tensor:
            return places @ theta[width:].view(-1, width) + theta[:width]

        found, theta = [], constant(labels)
        found.append(Weights(np.zeros((features.shape[1], width)), theta))
        theta = np.append(theta, np.zeros(inner.shape[1] * width))
        for penalty in PENALTIES:
            # so that steps along all axes are of one size
            pace = np.append(np.ones(width), np.repeat((spread + penalty) ** -0.5, width))
            theta = minimum(scores, labels, theta, penalty, np.zeros(len(theta)), pace, width)
            linear = axes @ theta[width:].reshape(-1, width)
            found.append(Weights(linear, theta[:width] - center @ linear))
        return found

    def scores(self, weights: Weights, features: np.ndarray) -> Tensor:
        """Return scores (n, width)."""
        return torch.from_numpy(features @ weights.linear + weights.bias)


def learn_by_folds(form: Form, features: np.ndarray, labels: Labels, fold: np.ndarray) -> Weights:
    """Learn a form of all rows, with the penalty that folds choose.

    Parameters
    ----------
    form : Form
    features : ndarray of shape (n, ...)
        Whose squares sum to about 1 in the mean row.
    labels : Labels
    fold : ndarray of int, shape (n,)
        Number of the fold that judges each row; of a single fold, the constant is taken.
    """
    folds = np.unique(fold)
    if len(folds) < 2:
        return Weights(np.zeros((features.shape[-1], labels.task.width)), constant(labels))
    losses = np.empty((len(PENALTIES) + 1, len(fold)))
    for f in folds:
        kept, judged = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        path = form.path(features[kept], labels.rows(kept))
        own = labels.rows(judged)
        losses[:, judged] = [own.losses(form.scores(weights, features[judged])).numpy() for weights in path]
    return form.path(features, labels)[simplest(losses)]


def simplest(losses: np.ndarray) -> int:
    """Return the first of answers whose losses (P, n) are hardly above the least ones, by paired errors."""
    behind = losses - losses[losses.mean(axis=1).argmin()]
    error = behind.std(axis=1) / len(losses[0]) ** 0.5
    return int(np.argmax(behind.mean(axis=1) <= _SPARE_ERROR * error))


def constant(labels: Labels) -> np.ndarray:
    """Return the best constant scores (width,)."""
    width, kind = labels.task.width, labels.task.kind
    start = np.reshape(kind.start(np.average(kind.means(labels.y, width), axis=0, weights=labels.weight)), width)
    nothing = torch.zeros(len(labels.y), 1, dtype=torch.float64)
    return minimum(lambda theta: nothing + theta, labels, start, 0.0, start, np.ones(width), width)


def _turned(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, r) along their own axes, and these (p, r), without those of no length."""
    n, p = features.shape
    values, vectors = np.linalg.eigh(features.T @ features if p <= n else features @ features.T)
    kept = values > 1e-12 * max(float(values.max(initial=0.0)), 1e-300)
    lengths, vectors = values[kept] ** 0.5, vectors[:, kept]
    return (features @ vectors, vectors) if p <= n else (vectors * lengths, features.T @ vectors / lengths)


def minimum(
    scores: Callable[[Tensor], Tensor],
    labels: Labels,
    start: np.ndarray,
    penalty: float,
    origin: np.ndarray,
    pace: np.ndarray,
    n_free: int,
) -> np.ndarray:
    """Return the numbers of the least loss with a penalty on all behind the first ones, from a start."""
    from scipy.optimize import minimize

    is_bound = np.arange(len(start)) >= n_free

    def objective(steps: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.from_numpy(steps * pace).requires_grad_()
        loss = labels.losses(scores(theta)).mean()
        loss.backward()
        away = np.where(is_bound, steps * pace - origin, 0.0)
        assert theta.grad is not None
        return loss.item() + penalty / 2 * float(away @ away), (theta.grad.numpy() + penalty * away) * pace

    options = {"maxiter": _MOST_STEPS, "ftol": 1e-7, "gtol": 1e-6}
    return minimize(objective, start / pace, jac=True, method="L-BFGS-B", options=options).x * pace
