"""The rounds of shared trees: sketches of the tasks' gradients, leaf values for each task, and their stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import lightgbm as lgb
import numpy as np

from tabmtl.models.shared_trees.targets import Targets
from tabmtl.schema import Batch
from tabmtl.trees import LONGEST_STEP, Grown, VectorEnsemble

Sketch = Literal["soft", "task", "random"]

_NOISE = 0.3  # of the tasks that do not lead, in a soft sketch
_PRIOR_LABELS = 100  # weight, in labels, of the loss of all functions in the stop of each
_IDLE = 10  # least rounds without a split that end the growth
_TINY = np.finfo(float).tiny


class Rows(NamedTuple):
    """Binned rows with a label, and their labels."""

    batch: Batch
    data: lgb.Dataset
    targets: Targets


class Growth(NamedTuple):
    """Grown trees.

    Attributes
    ----------
    trees : Grown
    values : list of ndarray
        Leaf values (leaves, C) of every tree.
    start : ndarray of shape (C,)
    rounds : ndarray of int, shape (n_functions,)
        Trees that each function has.
    leaders : list of int
        The task that led each round, -1 without one.
    """

    trees: Grown
    values: list[np.ndarray]
    start: np.ndarray
    rounds: np.ndarray
    leaders: list[int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """Options of the growth.

    Attributes
    ----------
    params : dict
        LightGBM's parameters of trees.
    sketch, rho
        Those of `SharedTrees`.
    importance : ndarray of shape (T,)
        Weights of the tasks.
    seed : int
    n_rounds : int
        The most rounds.
    patience : int or None
        Rounds without a lower validation loss after which a function stops; None = all rounds.
    found : Growth, optional
        Growth that found the rounds; they are grown again, with the same leaders.
    """

    params: dict[str, Any]
    sketch: Sketch
    rho: float
    importance: np.ndarray
    seed: int
    n_rounds: int
    patience: int | None
    found: Growth | None = None

    def grow(self, rows: Rows, valid: Rows | None) -> Growth:
        """Grow the trees of all tasks."""
        targets = rows.targets
        start = targets.start(self.params["reg_lambda"])
        scores = targets.at_rows(start)
        stop = _Stop(None if self.patience is None or valid is None else valid.targets, start, self)
        followed = () if stop.targets is None or valid is None else (valid.data, valid.batch)
        trees = VectorEnsemble(self.params, rows.data, rows.batch, *followed)
        rng, leaders, values, idle = np.random.default_rng(self.seed), _Leaders(self), [], 0
        while trees.rounds < self.n_rounds and idle < max(_IDLE, 2 * len(self.importance)):
            leader = leaders.choose(stop.active)
            gradient, hessian = targets.derivatives(scores)
            found = trees.grow(*targets.sketch(gradient, self._factors(targets, leader, rng)))
            idle = idle + 1 if found is None else 0
            if found is None:
                continue
            n_leaves, (leaf, *followed_leaf) = found
            values.append(self._leaf_values(targets, leaf, n_leaves, gradient, hessian, leader))
            targets.add_leaves(scores, values[-1], leaf)
            if followed_leaf and not stop.goes_on(values[-1], *followed_leaf):
                break
        rounds = stop.kept if stop.targets is not None else np.full(targets.n_functions, trees.rounds)
        if self.found is not None:
            rounds = np.minimum(self.found.rounds, trees.rounds)
        for number, own in enumerate(values):
            own[:, rounds[targets.function] <= number] = 0
        return Growth(trees.finish(), values, start, rounds, leaders.past)

    def _factors(self, targets: Targets, leader: int, rng: np.random.Generator) -> np.ndarray:
        """Draw a factor of every output: (C,), given the task that leads."""
        n_tasks = len(self.importance)
        noise = rng.standard_normal(n_tasks)
        factors = noise if self.sketch == "random" else _NOISE * noise * (self.sketch == "soft")
        if leader >= 0:
            factors[leader] += 1
        factors = np.append(factors * np.sqrt(self.importance), 0)  # the pooled function, where there is one
        factors = factors[targets.function] * _unit_by_group(rng, targets.function)
        return targets.normalise(factors)

    def _leaf_values(
        self,
        targets: Targets,
        leaf: np.ndarray,
        n_leaves: int,
        gradient: np.ndarray,
        hessian: np.ndarray,
        leader: int,
    ) -> np.ndarray:
        """Return a Newton step of every output in every leaf: (L, C)."""
        rate, penalty = self.params["learning_rate"], self.params["reg_lambda"]
        sums = targets.per_leaf(leaf, n_leaves, gradient)
        weights = targets.curvature_per_leaf(leaf, n_leaves, hessian)
        step = sums / np.maximum(weights + penalty * targets.curvature, _TINY)
        limit = np.where(targets.is_bounded, LONGEST_STEP, np.inf)
        step = -rate * np.clip(step, -limit, limit)
        if leader >= 0:
            step[:, (targets.function != leader) & (targets.function < len(self.importance))] *= self.rho
        return step


class _Leaders:
    """Tasks that lead the rounds, in turn and as often as their weight says; none in random sketches."""

    def __init__(self, schedule: Schedule) -> None:
        importance = schedule.importance
        self.past: list[int] = []
        self._known = [] if schedule.found is None else schedule.found.leaders
        self._weight = None if schedule.sketch == "random" else importance
        self._credit = np.zeros(len(importance))

    def choose(self, active: np.ndarray) -> int:
        """Choose the leader of the next round among the tasks that are active."""
        if self._weight is None:
            leader = -1
        elif len(self.past) < len(self._known):
            leader = self._known[len(self.past)]
        else:
            weight = self._weight * active
            self._credit += weight
            leader = int(np.argmax(np.where(weight > 0, self._credit, -np.inf)))
            self._credit[leader] -= weight.sum()
        self.past.append(leader)
        return leader


class _Stop:
    """Best rounds of the functions by the loss of validation labels.

    The loss that judges a function is its own plus that of all, as if it had `_PRIOR_LABELS` labels more, in units of a
    function's loss per label at the start. So a few labels, or none, stop with the others.
    """

    def __init__(self, targets: Targets | None, start: np.ndarray, schedule: Schedule) -> None:
        self.targets, self._patience, self.rounds = targets, schedule.patience, 0
        self.active = np.ones(len(schedule.importance), dtype=bool)
        if targets is None:
            return
        self._scores = targets.at_rows(start)
        self._sizes, self._starts = targets.sizes, targets.total_losses(self._scores)
        self._units = np.where(self._starts > 0, self._starts, 1) / np.maximum(self._sizes, _TINY)
        self.kept, self._best = np.zeros(targets.n_functions, dtype=np.int64), np.zeros(targets.n_functions)

    def goes_on(self, values: np.ndarray, leaf: np.ndarray) -> bool:
        """Take a round into account; return whether any function has improved of late."""
        assert self.targets is not None and self._patience is not None
        self.rounds += 1
        self.targets.add_leaves(self._scores, values, leaf)
        changes = (self.targets.total_losses(self._scores) - self._starts) / self._units
        judged = changes + _PRIOR_LABELS * changes.sum() / self._sizes.sum()
        improved = judged < self._best
        self._best[improved], self.kept[improved] = judged[improved], self.rounds
        active = self.rounds - self.kept < self._patience
        self.active = active[: len(self.active)]
        return bool(active.any())


def _unit_by_group(rng: np.random.Generator, group: np.ndarray) -> np.ndarray:
    """Draw a random vector of length 1 for the outputs of every task; of a single output 1: (C,)."""
    counts = np.bincount(group)
    if counts.max() == 1:
        return np.ones(len(group))
    drawn = np.where(counts[group] > 1, rng.standard_normal(len(group)), 1)
    return drawn / np.sqrt(np.bincount(group, drawn**2))[group]
