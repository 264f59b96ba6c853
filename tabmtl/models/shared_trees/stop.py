"""Rounds that the functions of shared trees keep, known from the beginning or found by the losses of followed rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tabmtl.estimators.boosted.rounds import BestRounds
from tabmtl.models.shared_trees.targets import Targets, are_ranked

_PRIOR_LABELS = 100  # weight, in labels, of the loss of all functions in the stop of each
_UNIT_LABELS = 20  # weight, in labels, of the unit of all functions in that of each
#: Rounds of a function whose loss no round lowers, if they rank its labels beyond chance. Other days or places than
#: those of fit make answers too sure: their loss rises from the first round on, while they tell the classes apart.
_LEAST_ROUNDS = 20
#: Share of what a function has gained by which it must gain more within its patience, where all rows judge: the sum of
#: many labels falls by next to nothing for hundreds of rounds.
_LEAST_GAIN = 0.002


class Rounds:
    """Rounds that the functions keep, known from the beginning, and the scores (n, B) at these.

    Parameters
    ----------
    scores : ndarray of shape (n, B)
        Those that the growth changes.
    keeps_scores : bool
    function : ndarray of int, shape (C,)
    kept : ndarray of int, shape (n_functions,)
    """

    def __init__(self, scores: np.ndarray, keeps_scores: bool, function: np.ndarray, kept: np.ndarray) -> None:
        self.rounds, self.kept = 0, kept
        self.valid_scores: np.ndarray | None = None
        self.scores, self._now = scores.copy() if keeps_scores else scores, scores
        self._keeps_scores, self._function = keeps_scores, function

    def add(self, values: np.ndarray, followed: Sequence[np.ndarray]) -> None:
        """Take a tree into account, given its leaf values and the leaf of every followed row."""
        self.rounds += 1
        self.keep(self.kept == self.rounds)

    def close(self) -> np.ndarray:
        """Return the rounds of the functions, now that no more are grown."""
        self.keep(self.kept > self.rounds)
        return np.minimum(self.kept, self.rounds)

    def keep(self, improved: np.ndarray) -> None:
        """Keep the scores of some functions."""
        if self._keeps_scores and improved.any():
            np.copyto(self.scores, self._now, where=improved[self._function])


class Followed(Rounds):
    """Losses of followed rows after every tree; a `Stop` tells the rounds of the functions by them."""

    def __init__(
        self,
        scores: np.ndarray,
        keeps_scores: bool,
        function: np.ndarray,
        targets: Targets,
        start: np.ndarray,
        valid_scores: np.ndarray | None,
    ) -> None:
        super().__init__(scores, keeps_scores, function, np.zeros(targets.sums.n_functions, dtype=np.int64))
        self.targets, self._starts_constant = targets, valid_scores is None
        self._valid = targets.sums.at_rows(start) if valid_scores is None else valid_scores.copy()
        self.valid_scores = self._valid.copy()
        self.losses = targets.total_losses(self._valid)
        self.early: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, values: np.ndarray, followed: Sequence[np.ndarray]) -> None:
        self.rounds += 1
        self.targets.sums.add_leaves(self._valid, values, followed[0])
        self.losses = self.targets.total_losses(self._valid)

    def keep(self, improved: np.ndarray) -> None:
        super().keep(improved)
        self.kept[improved] = self.rounds
        if self._keeps_scores and improved.any() and self.valid_scores is not None:
            np.copyto(self.valid_scores, self._valid, where=improved[self._function])

    def keep_early(self) -> None:
        """Keep the scores of the functions without rounds, should these take `_LEAST_ROUNDS` in the end."""
        if self._starts_constant and self.rounds == _LEAST_ROUNDS and self.early is None and not self.kept.all():
            self.early = self._now.copy(), self._valid.copy()

    def take_early(self, functions: Sequence[int]) -> None:
        """Let functions take `_LEAST_ROUNDS`."""
        assert self.early is not None and self.valid_scores is not None
        self.kept[functions] = _LEAST_ROUNDS
        if self._keeps_scores:
            where = np.isin(self._function, functions)
            np.copyto(self.scores, self.early[0], where=where)
            np.copyto(self.valid_scores, self.early[1], where=where)

    def close(self) -> np.ndarray:
        return self.kept


class Stop:
    """Best rounds of the functions, by the losses of followed rows; functions without a better one are not active.

    Of one growth they are those of its own followed rows. Of several in folds, each takes the rounds that suit the rows
    of all others, so that no row has chosen the rounds of the trees that answer it.

    The unit of a function is its loss per label at the start. It is averaged with that of all labels, as if of
    `_UNIT_LABELS` more: one label that the start happens to hit would outweigh all.

    Parameters
    ----------
    folds : sequence of Followed
    n_tasks : int
    patience : int
        That of `SharedTrees`.
    pace : callable
        Tells how much a round counts for every function, given the task that led and the number of functions.

    Attributes
    ----------
    rounds : int
        Rounds so far.
    kept : ndarray of int, shape (n_functions,)
        The best round of every function by all rows.
    """

    def __init__(
        self, folds: Sequence[Followed], n_tasks: int, patience: int | None, pace: Callable[[int, int], np.ndarray]
    ) -> None:
        assert patience is not None  # without it, nothing is followed
        self._folds, self._n_tasks, self._patience, self._pace, self.rounds = folds, n_tasks, patience, pace, 0
        starts, sizes = (np.array(own) for own in zip(*((f.losses, f.targets.sizes) for f in folds), strict=True))
        self._whole = _best(starts.sum(axis=0), sizes.sum(axis=0))
        others = [(starts.sum(axis=0) - own, sizes.sum(axis=0) - size) for own, size in zip(starts, sizes, strict=True)]
        self._others = [] if len(folds) == 1 else [_best(*own) for own in others]
        self.kept, self._idle = self._whole.kept, np.zeros(starts.shape[1])
        self._reached = np.zeros(starts.shape[1])

    @property
    def loss(self) -> float:
        """The loss of all followed labels, as a share of it at the start."""
        return self._whole.loss

    def judge(self, leader: int) -> np.ndarray:
        """Take a round into account, given the task that led; return which tasks are active, (T,)."""
        self.rounds += 1
        losses = np.array([fold.losses for fold in self._folds])
        total = losses.sum(axis=0)
        improved = self._whole.judge(total, self.rounds)
        if not self._others:
            self._folds[0].keep(improved)
        for fold, others, own in zip(self._folds, self._others, losses, strict=False):
            fold.keep(others.judge(total - own, self.rounds))
        for fold in self._folds:
            fold.keep_early()
        self._idle += self._pace(leader, len(improved))
        if self._others:
            improved = self._whole.lowest < (1 + _LEAST_GAIN) * self._reached
            self._reached[improved] = self._whole.lowest[improved]
        self._idle[improved] = 0
        return ((self._idle < self._patience) | (self.rounds - self.kept < 2 * self._n_tasks))[: self._n_tasks]

    def close(self) -> np.ndarray:
        """Give functions without a round some that rank the labels beyond chance, and return the rounds by all rows."""
        parts = [(fold.targets, fold.early[1]) for fold in self._folds if fold.early is not None]
        for fold in self._folds:
            others = [part for part in parts if part[0] is not fold.targets] or parts
            if fold.early is not None:
                none = np.flatnonzero(fold.kept == 0).tolist()
                fold.take_early([f for f in none if are_ranked(f, others)])
        ranked = [f for f in np.flatnonzero(self.kept == 0).tolist() if are_ranked(f, parts)]
        self.kept[ranked] = _LEAST_ROUNDS
        return self.kept


def _best(starts: np.ndarray, sizes: np.ndarray) -> BestRounds:
    mean = float(starts.sum() / sizes.sum()) or 1.0
    return BestRounds(starts, sizes, (starts + _UNIT_LABELS * mean) / (sizes + _UNIT_LABELS), _PRIOR_LABELS)
