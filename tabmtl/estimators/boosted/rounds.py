"""Rounds of trees: rows set aside to find them, the round at which each function stops, and the fit of all rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tabmtl.base.schema import warn_user
from tabmtl.training.watch import Watch

#: With fewer rows, none are set aside for early stopping.
ROWS_TO_SPLIT = 50
#: Least penalty of the leaf values of rounds that `partial_fit` appends: the rows of a day know a rare class by chance.
LEAST_PENALTY = 5.0

_ASTRAY = 0.25  # share by which the loss of a refit must be higher before it is dropped


class Split(NamedTuple):
    """Rows of a fit.

    Attributes
    ----------
    all : rows
    watched : rows, optional
        Those that stop the fit.
    keep : callable, optional
        Takes the rows that find the rounds, where those to stop on are set aside; None = all rows at once.
    folds : sequence of pair of ndarray of int
        Numbers of the rows to fit and to judge, by fold, where folds find the rounds; the first has the rows above.
    """

    all: Any
    watched: Any = None
    keep: Callable[[], Any] | None = None
    folds: Sequence[tuple[np.ndarray, np.ndarray]] = ()

    @property
    def first(self) -> Any:
        """The rows of the first fit."""
        return self.all if self.keep is None else self.keep()


class BestRounds:
    """Best rounds of functions that grow together, each by its own loss of validation labels and that of all.

    That of all counts as if it had ``prior`` labels more. So a few labels, or none, stop with the others, and not by
    chance.

    Parameters
    ----------
    starts, sizes : ndarray of shape (F,)
        Summed losses of the functions before the first round, and the weights of their labels.
    units : ndarray of shape (F,)
        Units of the losses.
    prior : float

    Attributes
    ----------
    kept : ndarray of int, shape (F,)
        The best round of every function so far; 0 is none.
    loss : float
        The loss of all labels, as a share of it at the start.
    lowest : ndarray of shape (F,)
        What each was judged by in its best round: its change since the start, in its unit, and that of all.
    """

    def __init__(self, starts: np.ndarray, sizes: np.ndarray, units: np.ndarray, prior: float) -> None:
        self.kept, self.loss = np.zeros(len(starts), dtype=np.int64), 1.0
        self._starts, self._units, self._prior = starts, units, prior
        self._size = sizes.sum()
        self._changes, self.lowest = np.zeros((2, len(starts)))

    def judge(
        self, losses: np.ndarray, rounds: np.ndarray | int, functions: np.ndarray | slice = slice(None)
    ) -> np.ndarray:
        """Judge functions after a round by their summed losses, and find those that are better than ever: (F,).

        Functions that are not judged contribute their last loss to that of all. Their best one would be biased, because
        it was chosen.
        """
        changes = (losses - self._starts[functions]) / self._units[functions]
        self._changes[functions] = changes
        total = self._changes.sum()
        self.loss = 1 + float(total / self._size)
        judged = np.zeros(len(self.kept))
        judged[functions] = changes + self._prior * total / self._size
        improved = judged < self.lowest
        self.lowest[improved], self.kept[improved] = judged[improved], np.broadcast_to(rounds, len(judged))[improved]
        return improved


def refit(
    found: Sequence[Any], grow: Callable[[Watch], Sequence[Any]], watch: Watch, what: str, task: str | None = None
) -> list[Any]:
    """Fit all rows by the rounds found, and keep each fit that found them where there is no time or the new one is bad.

    Parameters
    ----------
    found : sequence of fits
    grow : callable
        Grows the same fits on all rows, given a watch of its own.
    watch : Watch
    what : str
        What the time limit leaves out, for its warning.
    task : str, optional
        The task of the fits, for the warning that one was dropped.
    """
    if watch.cuts(what):
        return [*found]
    part = watch.part(1)
    whole = grow(part)
    if part.was_cut:
        watch.end(what)
        return [*found]
    return [old if _is_astray(new, old, task) else new for new, old in zip(whole, found, strict=True)]


def is_worse(losses: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    """Return whether the losses of all labels sum to a quarter more than the others, and that beyond a standard error.

    It judges a refit by the labels that chose its rounds: beside the fit without them, only one that went astray is so.
    """
    before = np.concatenate(others)
    excess = np.concatenate(losses) - before
    return bool(excess.sum() > max(_ASTRAY * before.sum(), np.sqrt(np.square(excess).sum())))


def _is_astray(fit: Any, found: Any, task: str | None) -> bool:
    """Return whether a fit of all rows is to be dropped, with a warning, given the fit without the validation rows."""
    if not is_worse(fit.valid_losses, found.valid_losses):
        return False
    after, before = np.concatenate(fit.valid_losses), np.concatenate(found.valid_losses)
    warn_user(
        f"{'' if task is None else f'task {task!r}: '}the fit of all rows has the mean loss {after.mean():.3g} on the "
        f"{len(after)} labels that chose its rounds, and the fit without their rows has {before.mean():.3g}; the "
        "latter is kept, which has not learned from these labels. With a larger reg_lambda or a smaller "
        "learning_rate the former may hold"
    )
    return True
