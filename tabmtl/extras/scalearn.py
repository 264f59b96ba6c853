"""A new task that reads the features of each task of a network, each scaled by learned numbers: ScaLearn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tabmtl.training.penalised import PENALTIES, Labels, Weights, constant, learn_by_folds, minimum


@dataclass(frozen=True)
class ScaLearn:
    """Head of `add_task` that scales the features of every task of a network, and adds them up.

    Of the paper, and of its released code, are the numbers ω, one for each feature of a source or, uniform, one for a
    source; that they begin at 2 / S; and the sum over the S sources, whose weights need not add up to 1. There the
    outputs of adapters inside of a language model are scaled, and the rest of the model goes on from the sum; here it
    is what the last layers of heads read, and a linear layer ends it. Ours are the deviations by which features are
    divided first, and a penalty on the distance from the start in place of dropout on ω. It was behind the head that
    `add_task` learns by default in our tables (docs/results.md).

    Parameters
    ----------
    uniform : bool, default=False
        Whether a task has one number, and not one for each of its features.

    References
    ----------
    Frohmann, Holtermann, Masoudian, Lauscher and Rekabsaz (2024), "ScaLearn: Simple and Highly Parameter-Efficient Task
    Transfer by Learning to Scale", Findings of ACL, arXiv 2310.01217.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedBottom
    >>> X = np.random.default_rng(0).normal(size=(300, 4))
    >>> model = SharedBottom(epochs=2, random_state=0).fit(X, X[:, :2])
    >>> model.add_task(X[:50], X[:50, 0] + X[:50, 1], head=ScaLearn(uniform=True)).predict(X).shape
    (300, 3)
    """

    uniform: bool = False

    def learn(self, blocks: Sequence[np.ndarray], labels: Labels, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weights and constants; see `tabmtl.estimators.added.Head`."""
        before, lent, behind = blocks
        _, n_sources, n_features = lent.shape
        found = learn_by_folds(Scaled(self.uniform), lent / n_features**0.5, labels, fold)
        scale = np.full((n_sources, 1), 2 / n_sources) if found.scale is None else found.scale
        weights = (scale[:, :, None] * found.linear / n_features**0.5).reshape(-1, labels.task.width)
        return np.pad(weights, ((before.shape[1], behind.shape[1]), (0, 0))), found.bias


@dataclass(frozen=True)
class Scaled:
    """Scores (sum_s scale_s f_s) W + b of the features (n, S, H) of S sources, after ScaLearn.

    Parameters
    ----------
    is_uniform : bool
        Whether a source has one scale, and not one for each of its features.
    """

    is_uniform: bool

    def path(self, features: np.ndarray, labels: Labels) -> list[Weights]:
        """Return the answers to all penalties, the constant first."""
        (_, n_sources, n_features), width = features.shape, labels.task.width
        places, shape = torch.from_numpy(features), (n_sources, 1 if self.is_uniform else n_features)
        sizes = width, n_features * width

        def parts(theta: Any) -> tuple[Any, Any, Any]:
            bias, linear, scale = theta[: sizes[0]], theta[sizes[0] : sum(sizes)], theta[sum(sizes) :]
            return bias, linear.reshape(-1, width), scale.reshape(shape)

        def scores(theta: Tensor) -> Tensor:
            bias, linear, scale = parts(theta)
            return (places * scale).sum(dim=1) @ linear + bias

        bias = constant(labels)
        start = np.full(shape, 2 / n_sources)
        found = [Weights(np.zeros((n_features, width)), bias, start)]
        origin = np.concatenate([np.zeros(sum(sizes)), start.ravel()])
        theta = np.concatenate([bias, np.zeros(sizes[1]), start.ravel()])
        for penalty in PENALTIES:
            theta = minimum(scores, labels, theta, penalty, origin, np.ones(len(theta)), width)
            bias, linear, scale = parts(theta)
            found.append(Weights(linear, bias, scale))
        return found

    def scores(self, weights: Weights, features: np.ndarray) -> Tensor:
        """Return scores (n, width)."""
        return torch.from_numpy((features * weights.scale).sum(axis=1) @ weights.linear + weights.bias)
