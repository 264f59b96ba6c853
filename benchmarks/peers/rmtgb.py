"""R-MTGB for regressions written the obvious way.

The method of arXiv 2507.11411 as its released code trains it (GAA-UAM/R-MTGB), in our own words: a scikit-learn tree
for every step, grown on the raw numbers, one ``predict`` call per tree and step, and a boolean mask over all rows for
every task wherever tasks differ. One thing is changed: the release starts at 0 and spends its first iterations on the
level of y; this one, like ours, starts at the mean of y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeRegressor

Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    """Return the logistic function of x, elementwise."""
    return 1.0 / (1.0 + np.exp(-x))


@dataclass
class PlainRMTGB:
    """F(x, t) = start + F1(x) + (1 - s_t) B(x) + s_t A(x) + G_t(x), with s_t the logistic function of theta_t.

    ``n_shared`` trees of F1, ``n_outlier`` pairs of trees of A and B, ``n_task`` trees of every G_t; 0 leaves a block
    out. The release knows stumps only. The loss is half the squared error. The gradient of theta is a sum over the
    rows of the task; theta starts at 0.1 N(0, 1).
    """

    n_shared: int
    n_outlier: int
    n_task: int
    _: KW_ONLY
    learning_rate: float = 0.1
    max_leaf_nodes: int = 2
    random_state: int = 0

    def fit(self, X: Array, tasks: NDArray, y: Array) -> PlainRMTGB:
        """Train the three blocks one after the other on rows X (n, d), task ids (n,) and targets y (n,)."""
        self.task_ids = np.unique(tasks)
        self.theta = 0.1 * np.random.default_rng(self.random_state).standard_normal(len(self.task_ids))
        self.start = y.mean()
        scores = np.full(len(y), self.start)
        self.shared: list[DecisionTreeRegressor] = []
        for _ in range(self.n_shared):
            scores += self._grow(self.shared, X, y - scores)
        scores = self._fit_outlier(X, tasks, y, scores)
        self._fit_tasks(X, tasks, y, scores)
        return self

    def predict(self, X: Array, tasks: NDArray) -> Array:
        """Predict rows of known tasks."""
        weights = self._weights(tasks)
        scores = self.start + self._sum(self.shared, X)
        scores += weights * self._sum(self.outlier, X) + (1.0 - weights) * self._sum(self.non_outlier, X)
        for task, trees in zip(self.task_ids, self.per_task, strict=True):
            rows = tasks == task
            if rows.any():
                scores[rows] += self._sum(trees, X[rows])
        return scores

    def _fit_outlier(self, X: Array, tasks: NDArray, y: Array, before: Array) -> Array:
        """Fit block 2: both trees and theta of an iteration see the same scores."""
        self.outlier: list[DecisionTreeRegressor] = []
        self.non_outlier: list[DecisionTreeRegressor] = []
        outlier, non_outlier = np.zeros(len(y)), np.zeros(len(y))
        scores = before
        for _ in range(self.n_outlier):
            weights = self._weights(tasks)
            residual = y - scores
            more_outlier = self._grow(self.outlier, X, weights * residual)
            more_non_outlier = self._grow(self.non_outlier, X, (1.0 - weights) * residual)
            for t, task in enumerate(self.task_ids):
                rows = tasks == task
                s = sigmoid(self.theta[t])
                gradient = -s * (1.0 - s) * np.sum(residual[rows] * (outlier[rows] - non_outlier[rows]))
                self.theta[t] -= self.learning_rate * gradient
            outlier += more_outlier
            non_outlier += more_non_outlier
            weights = self._weights(tasks)
            scores = before + weights * outlier + (1.0 - weights) * non_outlier
        return scores

    def _fit_tasks(self, X: Array, tasks: NDArray, y: Array, scores: Array) -> None:
        self.per_task: list[list[DecisionTreeRegressor]] = [[] for _ in self.task_ids]
        for _ in range(self.n_task):
            residual = y - scores
            for t, task in enumerate(self.task_ids):
                rows = tasks == task
                scores[rows] += self._grow(self.per_task[t], X[rows], residual[rows])

    def _weights(self, tasks: NDArray) -> Array:
        """Return s_t of every row's task (n,)."""
        weights = np.empty(len(tasks))
        for t, task in enumerate(self.task_ids):
            weights[tasks == task] = sigmoid(self.theta[t])
        return weights

    def _grow(self, trees: list[DecisionTreeRegressor], X: Array, target: Array) -> Array:
        """Add a tree that is fitted to the target, and return what it adds to the scores."""
        tree = DecisionTreeRegressor(max_leaf_nodes=self.max_leaf_nodes, random_state=self.random_state)
        trees.append(tree.fit(X, target))
        return self.learning_rate * tree.predict(X)

    def _sum(self, trees: Sequence[DecisionTreeRegressor], X: Array) -> Array:
        total = np.zeros(len(X))
        for tree in trees:
            total += self.learning_rate * tree.predict(X)
        return total
