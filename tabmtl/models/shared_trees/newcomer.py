"""A new task on shared trees that stand: a mix of the scores of others, leaf values beside it, and trees after them.

Scores are sums of leaf values, so a linear model of the scores of other tasks is one of their leaf values too: no tree
is added for it, and none is asked twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from tabmtl.base.schema import Batch
from tabmtl.estimators.boosted.border import subset
from tabmtl.model_selection.stratify import deal
from tabmtl.models.shared_trees.growth import Growth, LeafValues, Rows, Schedule
from tabmtl.models.shared_trees.targets import Targets
from tabmtl.targets import Task
from tabmtl.targets.kind import SURE

_FOLDS = 10
_PENALTIES = (300.0, 30.0, 3.0, 0.3)  # of the mix, in labels
_MOST_STEPS = 100


class Settled(NamedTuple):
    """What a new task has learned: constants (K,), values (leaves, K) of its first trees, trees of its own, labels."""

    start: np.ndarray
    values: list[np.ndarray]
    own: Growth | None
    n_labels: int


class Mix(NamedTuple):
    """Weights (C, K) of the scores of other tasks, standardised, and constants (K,)."""

    weights: np.ndarray
    constant: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Newcomer:
    """A new task of one table.

    Parameters
    ----------
    targets : Targets
        Its labels alone.
    leaves : sequence of ndarray of int32, shape (n,)
        Leaf of every row, for every tree that stands.
    sizes : sequence of int
        Number of the leaves of every tree.
    offset : ndarray of shape (n, K)
        Scores that it begins at; constants are added to them.
    others : ndarray of shape (n, C)
        Scores of other tasks, which it mixes.
    hold : float
        Penalty of the constants, in labels.
    schedule : Schedule
        Options of the fit.
    """

    targets: Targets
    leaves: Sequence[np.ndarray]
    sizes: Sequence[int]
    offset: np.ndarray
    others: np.ndarray
    hold: float
    schedule: Schedule

    @cached_property
    def center(self) -> np.ndarray:
        """Means of the scores of other tasks, (C,)."""
        return self.others.mean(axis=0)

    @cached_property
    def scale(self) -> np.ndarray:
        """Standard deviations of the scores of other tasks, (C,)."""
        return np.maximum(self.others.std(axis=0), SURE)

    def settle(self, batch: Batch, task: Task, seed: int) -> tuple[Mix, list[np.ndarray]]:
        """Choose by folds the penalty of the mix and how many trees have leaf values beside it; learn both of all rows.

        Return the mix, and values (leaves, K) of the first trees.
        """
        can_deal = len(batch) > 1 if batch.group is None else bool(np.ptp(batch.group))
        fold = deal(batch.y, (task,), batch.task, batch.group, _FOLDS, seed) if can_deal else None
        parts = [] if fold is None else [_masked(self.targets, fold != k) for k in range(int(fold.max()) + 1)]
        judges = [] if fold is None else [_masked(self.targets, fold == k) for k in range(int(fold.max()) + 1)]
        tried: list[tuple[float, float, list[np.ndarray]]] = []
        for penalty in _PENALTIES if self.others.shape[1] else _PENALTIES[:1]:
            begun = [self.mixed(self.mix(part, penalty)) for part in parts]
            losses = [judge.total_losses(scores).sum() for judge, scores in zip(judges, begun, strict=True)]
            tried.append((float(sum(losses)), penalty, begun))
        _, penalty, begun = min(tried, key=lambda each: each[0])
        losses_by_tree = np.zeros(1)
        if parts:
            triples = zip(parts, judges, begun, strict=True)
            losses_by_tree = np.sum([self.replay(part, own, judge)[2] for part, judge, own in triples], axis=0)
        mix, n_trees = self.mix(self.targets, penalty), int(np.argmin(losses_by_tree))
        return mix, self.replay(self.targets, self.mixed(mix), n_trees=n_trees)[0]

    def mix(self, targets: Targets, penalty: float) -> Mix:
        """Fit the mix by the loss of the task and a ridge penalty."""
        others, width = (self.others - self.center) / self.scale, self.offset.shape[1]
        curvature, n_weights = targets.curvature, others.shape[1] * width
        pull = np.append(np.repeat(penalty * curvature[None], others.shape[1], axis=0).ravel(), self.hold * curvature)

        def loss(params: np.ndarray) -> tuple[float, np.ndarray]:
            weights, constant = params[:n_weights].reshape(-1, width), params[n_weights:]
            scores = (self.offset + others @ weights + constant).astype(np.float32)
            gradient = targets.derivatives(scores)[0].astype(np.float64)
            slope = np.append((others.T @ gradient).ravel(), gradient.sum(axis=0)) + pull * params
            return float(targets.total_losses(scores).sum() + (pull * params**2).sum() / 2), slope

        begun = np.zeros(n_weights + width)
        found = minimize(loss, begun, jac=True, method="L-BFGS-B", options={"maxiter": _MOST_STEPS}).x
        return Mix(found[:n_weights].reshape(-1, width), found[n_weights:])

    def mixed(self, mix: Mix) -> np.ndarray:
        """Return the scores (n, K) of a mix at all rows, float32."""
        others = (self.others - self.center) / self.scale
        return (self.offset + others @ mix.weights + mix.constant).astype(np.float32)

    def replay(
        self, targets: Targets, scores: np.ndarray, judged: Targets | None = None, n_trees: int | None = None
    ) -> tuple[list[np.ndarray], np.ndarray, list[float]]:
        """Learn leaf values of the first trees from scores (n, K) on, one tree after the other.

        The task leads no round, so that it takes ``rho`` of every Newton step. Return the values, the scores of all
        rows behind them, and the loss of the judged labels before and after every tree.
        """
        find, scores = LeafValues(targets, self.schedule).find, scores.copy()
        values: list[np.ndarray] = []
        losses = [] if judged is None else [float(judged.total_losses(scores).sum())]
        for leaf, size in zip(self.leaves[:n_trees], self.sizes, strict=False):
            values.append(self.schedule.rho * find(leaf, size, targets.derivatives(scores), -1))
            targets.sums.add_leaves(scores, values[-1], leaf)
            if judged is not None:
                losses.append(float(judged.total_losses(scores).sum()))
        return values, scores, losses

    def finish(self, rows: Rows, mix: Mix, n_trees: int, kept: np.ndarray, held: np.ndarray) -> Growth | None:
        """Grow trees of the task alone after its first trees; None if they do not lower the loss of the rows held.

        Parameters
        ----------
        rows : Rows
            All of its rows.
        mix : Mix
        n_trees : int
        kept, held : ndarray of int
            Numbers of the rows that find the rounds, and of those that stop them.
        """
        learns = np.zeros(len(self.targets), dtype=bool)
        learns[kept] = True
        scores = self.replay(_masked(self.targets, learns), self.mixed(mix), n_trees=n_trees)[1]
        first, watched = (
            Rows(rows.batch.rows(index), subset(rows.data, index), self.targets.rows(index), scores[index])
            for index in (kept, held)
        )
        found = self.schedule.finish_task(first, watched, None)
        if found is None:
            return None
        whole = rows._replace(scores=self.replay(self.targets, self.mixed(mix), n_trees=n_trees)[1])
        return replace(self.schedule, patience=None).finish_task(whole, None, found)


def _masked(targets: Targets, chosen: np.ndarray) -> Targets:
    """Return labels of which those of other rows than the chosen ones (n,) have no weight."""
    return replace(targets, weight=targets.weight * chosen[:, None].astype(np.float32))
