"""The rounds of shared trees: sketches of the tasks' gradients, leaf values for each task, and their stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import lightgbm as lgb
import numpy as np

from tabmtl.estimators.boosted.border import Grown, small_limits, subset
from tabmtl.estimators.boosted.rounds import BestRounds
from tabmtl.models.shared_trees.affinity import affinity_of
from tabmtl.models.shared_trees.targets import Targets
from tabmtl.models.shared_trees.trees import VectorEnsemble
from tabmtl.schema import Batch

Sketch = Literal["soft", "task", "random"]

_NOISE = 0.3  # of the tasks that do not lead, in a soft sketch
_PRIOR_LABELS = 100  # weight, in labels, of the loss of all functions in the stop of each
_UNIT_LABELS = 20  # weight, in labels, of the unit of all functions in that of each
#: Rounds of a function whose loss no round lowers, if they rank its labels beyond chance. Other days or places than
#: those of fit make answers too sure: their loss rises from the first round on, while they tell the classes apart.
_LEAST_ROUNDS = 20
_IDLE = 10  # least rounds without a split that end the growth
_TINY = np.finfo(float).tiny


class Rows(NamedTuple):
    """Binned rows with a label, their labels, and the scores (n, B) that precede the growth, if any."""

    batch: Batch
    data: lgb.Dataset
    targets: Targets
    scores: np.ndarray | None = None

    def of_task(self, t: int, scores: np.ndarray) -> Rows | None:
        """Take the rows with a label of a task of a wide table, and its scores among those of all; None without any."""
        found = self.targets.of_task(t)
        if found is None:
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
        The task that led the round of each tree, T for all together, -1 without one.
    scores, valid_scores : ndarray of shape (n, B)
        Scores of the rows grown on, and of the followed ones, at the rounds of each function.
    """

    trees: Grown
    values: list[np.ndarray]
    start: np.ndarray
    rounds: np.ndarray
    leaders: list[int]
    scores: np.ndarray
    valid_scores: np.ndarray | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """Options of the growth.

    Attributes
    ----------
    params : dict
        LightGBM's parameters of trees.
    sketch, rho, prior_labels
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
    sketch: Sketch
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
        targets, sums = rows.targets, rows.targets.sums
        start = np.zeros(len(sums.function)) if rows.scores is not None else targets.start(self.params["reg_lambda"])
        scores = sums.at_rows(start) if rows.scores is None else rows.scores.copy()
        watched = None if self.patience is None else valid
        stop = _Rounds(scores, targets, self) if watched is None else _Stop(scores, targets, self, watched, start)
        followed = () if watched is None else (watched.data, watched.batch)
        trees = VectorEnsemble(small_limits(self.params, targets.n_rows), rows.data, rows.batch, *followed)
        leaf_values = LeafValues(targets, self)
        rng, leaders, values, idle = np.random.default_rng(self.seed), _Leaders(self, targets), [], 0
        n_moves, whole = 0, np.zeros(len(targets), dtype=np.int32)
        most_idle = max(_IDLE, 2 * len(self.importance))
        while trees.rounds + n_moves < self.n_rounds and idle < most_idle and stop.active.any():
            leader = leaders.choose(stop.active)
            derivatives = targets.derivatives(scores)
            found = trees.grow(*targets.sketch(derivatives[0], self._factors(targets, leader, rng)))
            if found is None and self.shares is None:
                idle += 1
                continue
            if found is None:  # nobody leads
                step = leaf_values.find(whole, 1, derivatives, -1)
                sums.add_leaves(scores, step, whole)
                start, n_moves = start + step[0], n_moves + 1
            else:
                idle = 0
                leaders.past.append(leader)
                n_leaves, (leaf, *followed_leaf) = found
                values.append(leaf_values.find(leaf, n_leaves, derivatives, leader))
                sums.add_leaves(scores, values[-1], leaf)
                stop.judge(values[-1], followed_leaf, leader)
            if self.on_round is not None and self.on_round(stop.loss):
                break
        rounds = stop.close()
        for number, own in enumerate(values):
            own[:, rounds[sums.function] <= number] = 0
        return Growth(trees.finish(), values, start, rounds, leaders.past, stop.scores, stop.valid_scores)

    def finish(
        self, rows: Rows, valid: Rows | None, shared: Growth, found: list[Growth | None] | None
    ) -> list[Growth | None]:
        """Grow trees for each task of a wide table alone, from the shared trees on; None where they do not pay.

        They pay if they lower the losses of the validation labels by more than two standard errors. With the growth
        that found the rounds, these are grown again.
        """
        grown: list[Growth | None] = []
        for t in range(len(self.importance)):
            own = rows.of_task(t, shared.scores)
            watched = None if valid is None or shared.valid_scores is None else valid.of_task(t, shared.valid_scores)
            known = None if found is None else found[t]
            if own is None or (known is None and (found is not None or (watched is None and valid is not None))):
                grown.append(None)
                continue
            grown.append(self.finish_task(own, watched, known))
        return grown

    def finish_task(self, rows: Rows, valid: Rows | None, known: Growth | None) -> Growth | None:
        """Grow trees for one task from the scores of its rows on, as `finish` does for each."""
        n_rounds = self.n_rounds if known is None else int(known.rounds[0])
        params = _fine_params(self.params)
        alone = replace(self, params=params, sketch="task", importance=np.ones(1), found=known, n_rounds=n_rounds)
        growth = alone.grow(rows, valid)
        pays = valid is None or self.patience is None or _pays(valid, growth)
        return growth if pays else None

    def _factors(self, targets: Targets, leader: int, rng: np.random.Generator) -> np.ndarray:
        """Draw a factor of every output: (C,), given the task that leads."""
        n_tasks, function = len(self.importance), targets.sums.function
        noise = rng.standard_normal(n_tasks)
        factors = noise if self.sketch == "random" else _NOISE * noise * (self.sketch == "soft")
        unit = _unit_by_group(rng, function)
        if leader == n_tasks:
            factors += 1
            unit = np.tile(unit[function == leader], targets.sums.n_functions)  # classes of all tasks alike
        elif leader >= 0:
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

    def mean_pace(self, n_functions: int) -> np.ndarray:
        """Return the mean factor of the leaf values of every function, over the tasks that lead in turn."""
        leaders = range(len(self.importance)) if self.sketch != "random" else [-1]
        return np.mean([self.pace(leader, n_functions) for leader in leaders], axis=0)


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
    """Tasks that lead the rounds, in turn and as often as their weight says; none in random sketches.

    In a long table that shares, every second round is led by all tasks together, that is by the pooled function.
    Leaders of the growth that found the rounds are repeated, tree by tree; where one finds no split, others follow in
    turn. ``past`` has the leaders of the trees grown so far.
    """

    def __init__(self, schedule: Schedule, targets: Targets) -> None:
        importance = schedule.importance
        self.past: list[int] = []
        self._attempts, self._repeated = 0, 0
        self._known = [] if schedule.found is None else schedule.found.leaders
        self._weight = None if schedule.sketch == "random" else importance
        self._credit = np.zeros(len(importance))
        self._has_pooled = targets.sums.n_functions > len(importance) and schedule.rho > 0

    def choose(self, active: np.ndarray) -> int:
        """Choose the leader of the next attempt to grow a tree, among the tasks that are active."""
        number, self._attempts = self._attempts, self._attempts + 1
        if self._weight is None:
            return -1
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


class _Rounds:
    """Rounds that the functions keep, known from the beginning, and the scores (n, B) at these."""

    def __init__(self, scores: np.ndarray, targets: Targets, schedule: Schedule) -> None:
        self.rounds, self.active = 0, np.ones(len(schedule.importance), dtype=bool)
        self.loss: float | None = None
        self.valid_scores: np.ndarray | None = None
        self.scores, self._now = scores.copy() if schedule.keeps_scores else scores, scores
        self._schedule, self._function = schedule, targets.sums.function
        self.kept = np.full(targets.sums.n_functions, schedule.n_rounds)
        if schedule.found is not None:
            self.kept = schedule.found.rounds

    def judge(self, values: np.ndarray, followed: Sequence[np.ndarray], leader: int) -> None:
        """Take a round into account, given its leaf values, the leaf of every followed row, and the task that led."""
        self.rounds += 1
        self._keep(self.kept == self.rounds)

    def close(self) -> np.ndarray:
        """Return the rounds of the functions, now that no more are grown."""
        self._keep(self.kept > self.rounds)
        return np.minimum(self.kept, self.rounds)

    def _keep(self, improved: np.ndarray) -> None:
        """Keep the scores of some functions."""
        if self._schedule.keeps_scores and improved.any():
            np.copyto(self.scores, self._now, where=improved[self._function])


class _Stop(_Rounds):
    """Best rounds of the functions, by the loss of validation labels; functions without a better one are not active.

    The unit of a function is its loss per label at the start. It is averaged with that of all labels, as if of
    `_UNIT_LABELS` more: one label that the start happens to hit would outweigh all.
    """

    def __init__(
        self, scores: np.ndarray, targets: Targets, schedule: Schedule, valid: Rows, start: np.ndarray
    ) -> None:
        super().__init__(scores, targets, schedule)
        self._targets = valid.targets
        self._valid = valid.targets.sums.at_rows(start) if valid.scores is None else valid.scores.copy()
        self.valid_scores = self._valid.copy()
        sizes, starts = valid.targets.sizes, valid.targets.total_losses(self._valid)
        mean = float(starts.sum() / sizes.sum()) or 1.0
        self._best = BestRounds(starts, sizes, (starts + _UNIT_LABELS * mean) / (sizes + _UNIT_LABELS), _PRIOR_LABELS)
        self.kept, self._idle = self._best.kept, np.zeros(len(sizes))
        self._starts_constant = valid.scores is None
        self._early: tuple[np.ndarray, np.ndarray] | None = None

    def judge(self, values: np.ndarray, followed: Sequence[np.ndarray], leader: int) -> None:
        self.rounds += 1
        self._targets.sums.add_leaves(self._valid, values, followed[0])
        improved = self._best.judge(self._targets.total_losses(self._valid), self.rounds)
        self.loss = self._best.loss
        self._keep(improved)
        if self._starts_constant and self.rounds == _LEAST_ROUNDS and not self.kept.all():
            self._early = self._now.copy(), self._valid.copy()
        self._idle += self._schedule.pace(leader, len(improved))
        self._idle[improved] = 0
        n_tasks, patience = len(self.active), self._schedule.patience
        assert patience is not None  # without it, nothing is watched
        self.active = ((self._idle < patience) | (self.rounds - self.kept < 2 * n_tasks))[:n_tasks]

    def close(self) -> np.ndarray:
        if self._early is not None:
            scores, valid = self._early
            ranked = [f for f in np.flatnonzero(self.kept == 0).tolist() if self._targets.are_ranked(f, valid)]
            self.kept[ranked] = _LEAST_ROUNDS
            where = np.isin(self._function, ranked)
            if self.valid_scores is not None and self._schedule.keeps_scores:
                np.copyto(self.scores, scores, where=where)
                np.copyto(self.valid_scores, valid, where=where)
        return super().close()

    def _keep(self, improved: np.ndarray) -> None:
        super()._keep(improved)
        if self.valid_scores is not None and self._schedule.keeps_scores and improved.any():
            np.copyto(self.valid_scores, self._valid, where=improved[self._function])


def _fine_params(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of trees of a task alone, of smaller leaves and longer steps than those of shared trees.

    They pay where labels have next to no noise, so that few rows tell.
    """
    return params | {
        "min_child_samples": max(1, params["min_child_samples"] // 10),
        "learning_rate": min(1.0, 2 * params["learning_rate"]),
        "reg_lambda": params["reg_lambda"] / 5,
    }


def _pays(valid: Rows, growth: Growth) -> bool:
    """Return whether a growth lowers the losses of validation labels beyond chance.

    The same labels chose its round, so that the gain is biased upwards; the margin of two standard errors allows for
    that.
    """
    assert valid.scores is not None and growth.valid_scores is not None
    before, after = (np.concatenate(valid.targets.losses(scores)) for scores in (valid.scores, growth.valid_scores))
    gain = before - after
    return bool(gain.sum() > 2 * np.sqrt(np.square(gain).sum()))


def _unit_by_group(rng: np.random.Generator, group: np.ndarray) -> np.ndarray:
    """Draw a random vector of length 1 for the outputs of every task; of a single output 1: (C,)."""
    counts = np.bincount(group)
    if counts.max() == 1:
        return np.ones(len(group))
    drawn = np.where(counts[group] > 1, rng.standard_normal(len(group)), 1)
    return drawn / np.sqrt(np.bincount(group, drawn**2))[group]
