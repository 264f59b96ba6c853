"""Linear models of ordered classes: one slope a column, which moves all classes, and a gap for each."""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin

from tabmtl.targets.kind import Kind

_MOST_STEPS, _TOLERANCE = 300, 1e-5


class CumulativeRegression(ClassifierMixin, BaseEstimator):
    """Regression of McCullagh's cumulative logits, with a ridge penalty, for labels 0 to K - 1.

    Parameters
    ----------
    kind : Kind
        Of which columns move the first score, and no other.
    width : int
        Number of scores.
    C : float, default=1.0
        One over the penalty of half of the squared slopes, as `sklearn.linear_model.LogisticRegression` has it.

    Attributes
    ----------
    classes_ : ndarray of int
        Labels that occur.
    coef_ : ndarray of shape (width, d)
        0 but for the first score.
    intercept_ : ndarray of shape (width,)
    """

    def __init__(self, *, kind: Kind, width: int, C: float = 1.0) -> None:
        self.kind, self.width, self.C = kind, width, C

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Self:
        """Fit rows (n, d) and labels (n,)."""
        n_columns = X.shape[1]
        weight = np.ones(len(y)) if sample_weight is None else sample_weight / np.mean(sample_weight)
        means = self.kind.means(np.asarray(y, dtype=np.float64), self.width)
        start = self.kind.start(np.average(means, axis=0, weights=weight))
        gradient = np.empty_like(means)

        def loss(params: np.ndarray) -> tuple[float, np.ndarray]:
            slope, scores = params[:n_columns], np.tile(params[n_columns:], (len(y), 1))
            scores[:, 0] += X @ slope
            self.kind.derivatives(scores, means, gradient, None)
            weighed = gradient * weight[:, None]
            by_params = np.append(weighed[:, 0] @ X + slope / self.C, weighed.sum(axis=0))
            total = self.kind.losses(scores, means)[:, 0] @ weight + slope @ slope / (2 * self.C)
            return total / len(y), by_params / len(y)

        options = {"maxiter": _MOST_STEPS, "gtol": _TOLERANCE}
        found = minimize(loss, np.append(np.zeros(n_columns), start), jac=True, method="L-BFGS-B", options=options).x
        self.classes_, self.intercept_ = np.unique(y).astype(np.intp), found[n_columns:]
        self.coef_ = np.zeros((self.width, n_columns))
        self.coef_[0] = found[:n_columns]
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the probabilities of the classes that occurred."""
        shares = self.kind.link(X @ self.coef_.T + self.intercept_, np)[:, self.classes_]
        return shares / shares.sum(axis=1, keepdims=True)
