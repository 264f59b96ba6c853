"""The fitted functions of tasks that share some, and what they say for one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import lightgbm as lgb
import numpy as np
import polars as pl
from scipy.special import expit

from tabmtl.storage.stored import Stored
from tabmtl.trees import Forest

_LEAST_TASKS = 3  # of which most can be normal


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedGroup:
    """The fitted blocks of R-MTGB for the T tasks of one loss, of K outputs each.

    Attributes
    ----------
    members : ndarray of int, shape (T,)
        Which tasks of the estimator.
    rounds : ndarray of int, shape (2 + T,)
        Of block 1, block 2, and block 3 of every task.
    alone : ndarray of bool, shape (T,)
        Tasks that do without the shared part.
    start, own_start : ndarray of shape (T, K)
        Constants: F before block 1, and what block 3 adds before its trees.
    theta : ndarray of shape (T,)
        Most are not above 0.
    checks : ndarray of shape (T, 3)
        Validation labels, and their mean loss after block 2 with the task's own s and with the normal one.
    importances : ndarray of shape (3, n_features)
        Total gain of the trees of each block.
    forest : Forest
        The shared function, B, A, and one ensemble per task.
    """

    members: Annotated[np.ndarray, Stored("i", "T", low=0)]
    rounds: Annotated[np.ndarray, Stored("i", "T+2", low=0)]
    goes_alone: Annotated[np.ndarray, Stored("b", "T")]
    start: Annotated[np.ndarray, Stored("f8", "T K")]
    own_start: Annotated[np.ndarray, Stored("f8", "T K")]
    theta: Annotated[np.ndarray, Stored("f8", "T")]
    side_losses: Annotated[np.ndarray, Stored("f8", "T 3", missing=True)]
    importances: Annotated[np.ndarray, Stored("f8", "3 F", low=0)]
    forest: Forest

    def __post_init__(self) -> None:
        if len(self.forest) != 3 + len(self.members):
            raise ValueError(f"there are {len(self.forest)} ensembles, expected {3 + len(self.members)}")

    def factors(self, t: int | None) -> np.ndarray:
        """By what the shared function, B and A enter F of a member; None = a task that is none."""
        if t is not None and self.goes_alone[t]:
            return np.zeros(3)
        s = expit(normal_theta(self.theta) if t is None else self.theta[t])
        return np.array([1.0, 1 - s, s])

    def shared(self, matrix: np.ndarray, n_threads: int) -> np.ndarray:
        """The shared function, B and A (3, K, n) of rows."""
        return np.stack([self.forest.predict(ensemble, matrix, n_threads) for ensemble in range(3)])

    def scores(self, shared: np.ndarray, matrix: np.ndarray, t: int | None, n_threads: int) -> np.ndarray:
        """Raw scores (n, K) of rows for a member; for a task that is none, the shared part with a normal task's s."""
        return self._sum(shared, None if t is None else self.forest.predict(3 + t, matrix, n_threads), t)

    def all_scores(self, matrix: np.ndarray, n_threads: int) -> list[np.ndarray]:
        """Raw scores (n, K) of rows for every member."""
        if len(matrix) > 1:
            shared = self.shared(matrix, n_threads)
            return [self.scores(shared, matrix, t, n_threads) for t in range(len(self.members))]
        found = self.forest.predict_row(matrix)
        return [self._sum(found[:3], own, t) for t, own in enumerate(found[3:])]

    def _sum(self, shared: np.ndarray, own: np.ndarray | None, t: int | None) -> np.ndarray:
        start = self.start[0] if t is None else self.start[t] + self.own_start[t]
        one, B, A = (factor * f for factor, f in zip(self.factors(t), shared, strict=True))
        scores = start[:, None] + one + B + A
        return (scores if own is None else scores + own).T

    def export(self, t: int, objective: str, scale: float = 1.0, center: float = 0.0) -> lgb.Booster:
        """All of a member as one model, whose raw scores are ours times scale plus center."""
        factors = {ensemble: scale * factor for ensemble, factor in enumerate(self.factors(t)) if factor}
        start = scale * (self.start[t] + self.own_start[t]) + center
        return self.forest.export(factors | {3 + t: scale}, start.tolist(), objective)

    def table(self, names: Sequence[str]) -> pl.DataFrame:
        """A row for every member, given their names: side, check, and rounds."""
        shares, has_sides = ~self.goes_alone, self.rounds[1] > 0 and len(names) >= _LEAST_TASKS
        labels, loss, normal_loss = (self.side_losses if has_sides else np.full_like(self.side_losses, np.nan)).T
        columns = {
            "task": list(names),
            "outlier_score": expit(self.theta) if has_sides else np.full(len(names), np.nan),
            "shares": shares,
            "check_labels": pl.Series(labels, nan_to_null=True).cast(pl.Int64),
            "check_loss": loss,
            "check_loss_if_normal": normal_loss,
            "shared": self.rounds[0] * shares,
            "outlier": self.rounds[1] * shares,
            "own": self.rounds[2:],
        }
        return pl.DataFrame(columns, nan_to_null=True)


def normal_theta(theta: np.ndarray) -> float:
    """The parameter of a normal task: the median of those on the side of the majority, which is below 0."""
    return float(np.median(theta[theta <= 0]))
