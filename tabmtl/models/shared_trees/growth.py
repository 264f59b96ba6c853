"""The rounds of shared trees: sketches of the tasks' gradients, leaf values for each task, and their stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import lightgbm as lgb
import numpy as np

from tabmtl.base.schema import Batch
from tabmtl.encode import TableCoder
from tabmtl.estimators.boosted.border import Grown, bin_labelled_rows, small_limits, subset
from tabmtl.models.shared_trees.affinity import affinity_of
from tabmtl.models.shared_trees.stop import Followed, Rounds, Stop
from tabmtl.models.shared_trees.targets import Targets, make_targets
from tabmtl.models.shared_trees.trees import VectorEnsemble

_IDLE = 10  # least rounds without a split that end the growth
_TINY = np.finfo(float).tiny


class Rows(NamedTuple):
    """Binned rows with a label, their labels, and the scores (n, B) that precede the growth, if any."""

    batch: Batch
    data: lgb.Dataset
    targets: Targets
    scores: np.ndarray | None = None

    @classmethod
    def read(
        cls, coder: TableCoder, batch: Batch, params: dict[str, Any], reference: lgb.Dataset | None = None
    ) -> Rows:
        """Bin the rows with a label, given LightGBM's parameters of data."""
        labels = coder.labels
        batch, data = bin_labelled_rows(batch, coder.features.columns, params, reference)
        return cls(batch, data, make_targets(batch, labels.tasks, labels.center, labels.scale))

    def of_task(self, t: int, scores: np.ndarray | None) -> Rows | None:
        """Take the rows with a label of a task of a wide table, and its scores among those of all; None without any."""
        found = None if scores is None else self.targets.of_task(t)
        if found is None or scores is None:
            return None
        index, targets, cells = found
        return Rows(self.batch.rows(index), subset(self.data, index), targets, scores[cells])


class Growth(NamedTuple):
    """Grown trees.

    Attributes
    ----------
    trees : Grown
    values : list of ndarray
        Leaf values (leaves, C) of every tree.
    start : ndarray of shape (C,)
        Constants of the outputs, to be added to the scores that precede the growth, if any.
    rounds : ndarray of int, shape (n_functions,)
        Trees that each function has.
    leaders : list of int
        The task that led the round of each tree, T for all together.
    scores, valid_scores : ndarray of shape (n, B)
        Scores of the rows grown on, and of the followed ones, at the rounds of each function.
    params : dict
        LightGBM's parameters of the trees.
    """

    trees: Grown
    values: list[np.ndarray]
    start: np.ndarray
    rounds: np.ndarray
    leaders: list[int]
    scores: np.ndarray
    valid_scores: np.ndarray | None
    params: dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """Options of the growth.

    Attributes
    ----------
    params : dict
        LightGBM's parameters of trees.
    noise : float
        Of the weights of the tasks in a sketch.
    rho, prior_labels
        Those of `SharedTrees`.
    importance : ndarray of shape (T,)
        Weights of the tasks.
    seed : int
    n_rounds : int
        The most rounds.
    keeps_scores : bool
        Whether the scores are needed; of a wide table only.
    patience : int or None
        Rounds without a lower validation loss after which a function stops. A round led by another task counts as
        ``rho`` rounds; every function gets at least 2 T rounds. None = all rounds.
    found : Growth, optional
        Growth that found the rounds; they are grown again, with the same leaders.
    shares : ndarray of shape (n_functions,), optional
        Factors of the leaf values of the functions, where the rows are a share of all that a model has learned from.
        A round without a split then moves the constants: a shift that all rows share gives no split.
    on_round : callable, optional
        Called after every round with the loss of all validation labels, as a share of it at the start, or None; a true
        answer ends the growth.
    """

    params: dict[str, Any]
    noise: float
    rho: float
    prior_labels: float
    importance: np.ndarray
    seed: int
    n_rounds: int
    patience: int | None
    keeps_scores: bool
    found: Growth | None = None
    shares: np.ndarray | None = None
    on_round: Callable[[float | None], bool] | None = None

    def grow(self, rows: Rows, valid: Rows | None) -> Growth:
        """Grow the trees of all tasks."""
        watched = None if self.patience is None else valid
        growing = Growing(self, rows, watched)
        grow_together(self, [growing])
        return growing.finish()

    def finish(
        self, rows: Rows, valid: Rows | None, shared: Growth, found: list[Growth | None] | None
    ) -> list[Growth | None]:
        """Grow trees for each task of a wide table alone, from the shared trees on; None where they do not pay.

        They pay if they lower the losses of the validation labels by more than two standard errors. With the growth
        that found the rounds, these are grown again.
        """
        known: list[Growth | None] = [None] * len(self.importance) if found is None else found
        return [
            None if found is not None and each is None else self.finish_one(rows, valid, shared, t, each)
            for t, each in enumerate(known)
        ]

    def finish_one(
        self, rows: Rows, valid: Rows | None, shared: Growth, t: int, known: Growth | None = None
    ) -> Growth | None:
        """Grow trees for one task, as `finish` does for each."""
        own = rows.of_task(t, shared.scores)
        watched = None if valid is None else valid.of_task(t, shared.valid_scores)
        if own is None or (known is None and watched is None and valid is not None):
            return None
        return self.finish_task(own, watched, known)

    def finish_task(self, rows: Rows, valid: Rows | None, known: Growth | None) -> Growth | None:
        """Grow trees for one task from the scores of its rows on, as `finish` does for each."""
        growth = self.of_one_task(known).grow(rows, valid)
        return growth if valid is None or self.patience is None or pays(gains(valid, growth)) else None

    def of_one_task(self, known: Growth | None = None) -> Schedule:
        """Return the options of trees of a task alone, given the growth that found their rounds, if any."""
        n_rounds = self.n_rounds if known is None else int(known.rounds[0])
        params = _fine_params(self.params) if known is None else known.params
        return replace(self, params=params, noise=0.0, importance=np.ones(1), found=known, n_rounds=n_rounds)

    def factors(self, targets: Targets, leader: int, rng: np.random.Generator) -> np.ndarray:
        """Draw a factor of every output: (C,), given the task that leads."""
        n_tasks, function = len(self.importance), targets.sums.function
        factors = self.noise * rng.standard_normal(n_tasks)
        unit = _unit_by_group(rng, function)
        if leader == n_tasks:
            factors += 1
            unit = np.tile(unit[function == leader], targets.sums.n_functions)  # classes of all tasks alike
        else:
            factors[leader] += 1
        factors = np.append(factors * np.sqrt(self.importance), 0)  # the pooled function, where there is one
        factors = factors[function] * unit
        return targets.sums.normalise(factors)

    def pace(self, leader: int, n_functions: int) -> np.ndarray:
        """Return the factor of the leaf values of every function, given the task that leads."""
        pace = np.ones(n_functions)
        if 0 <= leader < len(self.importance):
            pace[: len(self.importance)] = self.rho
            pace[leader] = 1
        return pace if self.shares is None else pace * self.shares


class Growing:
    """Trees of all tasks while they grow.

    Parameters
    ----------
    schedule : Schedule
    rows : Rows
    valid : Rows, optional
        Rows whose losses are followed.

    Attributes
    ----------
    kept : Rounds
        The rounds of the functions, and their scores at these.
    """

    def __init__(self, schedule: Schedule, rows: Rows, valid: Rows | None) -> None:
        targets, sums = rows.targets, rows.targets.sums
        has_scores = rows.scores is not None
        self._start = np.zeros(len(sums.function)) if has_scores else targets.start(schedule.params["reg_lambda"])
        self._scores = sums.at_rows(self._start) if rows.scores is None else rows.scores.copy()
        rounds = np.full(sums.n_functions, schedule.n_rounds) if schedule.found is None else schedule.found.rounds
        scores = self._scores, schedule.keeps_scores
        if valid is None:
            self.kept = Rounds(*scores, sums.function, rounds)
        else:
            self.kept = Followed(*scores, sums.function, valid.targets, self._start, valid.scores)
        followed = () if valid is None else (valid.data, valid.batch)
        params = small_limits(schedule.params, len(targets))
        self._schedule, self._targets = schedule, targets
        self._trees = VectorEnsemble(params, rows.data, rows.batch, *followed)
        self._leaf_values, self._leaders = LeafValues(targets, schedule), _Leaders(schedule, targets)
        self._rng, self._idle, self._n_moves = np.random.default_rng(schedule.seed), 0, 0
        self._values: list[np.ndarray] = []
        self._whole = np.zeros(len(targets), dtype=np.int32)

    @property
    def goes_on(self) -> bool:
        """Whether there may be another tree."""
        most_idle = max(_IDLE, 2 * len(self._schedule.importance))
        return self._trees.rounds + self._n_moves < self._schedule.n_rounds and self._idle < most_idle

    def attempt(self, active: np.ndarray) -> int | None:
        """Try to grow a tree, led by one of the active tasks (T,).

        Return which task has led, as `Growth.leaders` has it; None if the scores are as they were.
        """
        targets, schedule = self._targets, self._schedule
        leader = self._leaders.choose(active)
        derivatives = targets.derivatives(self._scores)
        factors = schedule.factors(targets, leader, self._rng)
        found = self._trees.grow(*targets.sketch(derivatives[0], factors))
        if found is None and schedule.shares is None:
            self._idle += 1
            return None
        if found is None:  # nobody leads
            step = self._leaf_values.find(self._whole, 1, derivatives, -1)
            targets.sums.add_leaves(self._scores, step, self._whole)
            self._start, self._n_moves = self._start + step[0], self._n_moves + 1
            return -1
        self._idle = 0
        self._leaders.past.append(leader)
        n_leaves, (leaf, *followed_leaf) = found
        self._values.append(self._leaf_values.find(leaf, n_leaves, derivatives, leader))
        targets.sums.add_leaves(self._scores, self._values[-1], leaf)
        self.kept.add(self._values[-1], followed_leaf)
        return leader

    def finish(self) -> Growth:
        """Return the trees, with the values of the functions up to their rounds."""
        rounds = self.kept.close()
        for number, own in enumerate(self._values):
            own[:, rounds[self._targets.sums.function] <= number] = 0
        leaders, kept = self._leaders.past, self.kept
        scores, params = (kept.scores, kept.valid_scores), self._schedule.params
        return Growth(self._trees.finish(), self._values, self._start, rounds, leaders, *scores, params)


def grow_together(schedule: Schedule, growths: Sequence[Growing]) -> np.ndarray | None:
    """Grow trees of one schedule on several sets of rows, round by round, until it ends or their stop ends all.

    Return the best rounds (n_functions,) by the followed rows of all, if there are any.
    """
    followed = [each.kept for each in growths if isinstance(each.kept, Followed)]
    n_tasks = len(schedule.importance)
    stop = Stop(followed, n_tasks, schedule.patience, schedule.pace) if followed else None
    active = np.ones(n_tasks, dtype=bool)
    while active.any():
        leaders = [each.attempt(active) for each in growths if each.goes_on]
        if not leaders:
            break
        grown = [leader for leader in leaders if leader is not None]
        if not grown:
            continue
        if stop is not None:
            active = stop.judge(grown[0])
        if schedule.on_round is not None and schedule.on_round(None if stop is None else stop.loss):
            break
    return None if stop is None else stop.close()


class LeafValues:
    """Newton steps of the outputs in the leaves of a tree, given labels and options."""

    def __init__(self, targets: Targets, schedule: Schedule) -> None:
        self._targets, self._schedule = targets, schedule
        self._limit = targets.limits
        prior = schedule.prior_labels * schedule.rho
        self._affinity = affinity_of(targets.sums) if prior else None
        self._prior = prior * targets.curvature * (targets.sums.function < len(schedule.importance))

    def find(
        self, leaf: np.ndarray, n_leaves: int, derivatives: tuple[np.ndarray, np.ndarray], leader: int
    ) -> np.ndarray:
        """Return the values (L, C), given the leaf (n,) of every row, gradient and hessian, and the task that leads."""
        targets, params = self._targets, self._schedule.params
        gradient, hessian = derivatives
        sums = targets.sums.per_leaf(leaf, n_leaves, gradient)
        weights = targets.curvature_per_leaf(leaf, n_leaves, hessian)
        penalised = np.maximum(weights + params["reg_lambda"] * targets.curvature, _TINY)
        step = sums / penalised
        if self._affinity is not None:
            unit = np.sqrt(targets.curvature)
            labels = np.broadcast_to(weights / targets.curvature, sums.shape)
            expected = self._affinity.predict(step * unit, labels) / unit
            step = (sums + self._prior * expected) / (penalised + self._prior)
        step = -params["learning_rate"] * np.clip(step, -self._limit, self._limit)
        return step * self._schedule.pace(leader, targets.sums.n_functions)[targets.sums.function]


class _Leaders:
    """Tasks that lead the rounds, in turn and as often as their weight says.

    In a long table that shares, every second round is led by all tasks together, that is by the pooled function.
    Leaders of the growth that found the rounds are repeated, tree by tree; where one finds no split, others follow in
    turn. ``past`` has the leaders of the trees grown so far.
    """

    def __init__(self, schedule: Schedule, targets: Targets) -> None:
        self.past: list[int] = []
        self._attempts, self._repeated = 0, 0
        self._known = [] if schedule.found is None else schedule.found.leaders
        self._weight = schedule.importance
        self._credit = np.zeros(len(self._weight))
        self._has_pooled = targets.sums.n_functions > len(self._weight) and schedule.rho > 0

    def choose(self, active: np.ndarray) -> int:
        """Choose the leader of the next attempt to grow a tree, among the tasks that are active."""
        number, self._attempts = self._attempts, self._attempts + 1
        if self._repeated <= len(self.past) < len(self._known):
            self._repeated = len(self.past) + 1
            return self._known[len(self.past)]
        if self._has_pooled and number % 2 == 0:
            return len(self._credit)
        weight = self._weight * active
        self._credit += weight
        leader = int(np.argmax(np.where(weight > 0, self._credit, -np.inf)))
        self._credit[leader] -= weight.sum()
        return leader


def _fine_params(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of trees of a task alone, of smaller leaves and longer steps than those of shared trees.

    They pay where labels have next to no noise, so that few rows tell.
    """
    return params | {
        "min_child_samples": max(1, params["min_child_samples"] // 10),
        "learning_rate": min(1.0, 2 * params["learning_rate"]),
        "reg_lambda": params["reg_lambda"] / 5,
    }


def gains(valid: Rows, growth: Growth) -> np.ndarray:
    """Return how much a growth lowers the losses of followed labels, (n,)."""
    assert valid.scores is not None and growth.valid_scores is not None
    before, after = (np.concatenate(valid.targets.losses(scores)) for scores in (valid.scores, growth.valid_scores))
    return before - after


def pays(gain: np.ndarray) -> bool:
    """Return whether gains are beyond chance.

    Where the same labels have chosen the round, gains are biased upwards; the margin of two standard errors allows for
    that.
    """
    return bool(gain.sum() > 2 * np.sqrt(np.square(gain).sum()))


def _unit_by_group(rng: np.random.Generator, group: np.ndarray) -> np.ndarray:
    """Draw a random vector of length 1 for the outputs of every task; of a single output 1: (C,)."""
    counts = np.bincount(group)
    if counts.max() == 1:
        return np.ones(len(group))
    drawn = np.where(counts[group] > 1, rng.standard_normal(len(group)), 1)
    return drawn / np.sqrt(np.bincount(group, drawn**2))[group]
