"""Stretch the answers of a mixture: means of several models vary less than what they predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from scipy.optimize import minimize_scalar

from tabmtl.base.storage.stored import POSITIVE, Stored
from tabmtl.estimators.mixing.weights import nats_of_label
from tabmtl.targets import Task

#: Factor that answers have without any evidence, and the standard deviation of its logarithm.
_USUAL, _SPREAD = 1.15, 0.15
_MOST = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Stretch:
    """Factors by which the scores of answers to a task lie farther from those of its best constant.

    Attributes
    ----------
    center : ndarray of shape (O,)
        Scores of the constants of all tasks: log odds, log probabilities, values.
    factor : ndarray of shape (T,)
    """

    center: Annotated[np.ndarray, Stored("f8", "O")]
    factor: Annotated[np.ndarray, Stored("f8", "T", low=POSITIVE)]

    @classmethod
    def fit(cls, tasks: Sequence[Task], labels: Sequence[tuple[np.ndarray, np.ndarray | None, np.ndarray]]) -> Self:
        """Fit the factors by likelihood, pulled to what mixtures usually need.

        Parameters
        ----------
        tasks : sequence of T Task
        labels : sequence of T tuples
            Of every task labels (n,), weights (n,) or None, and answers (n, K) or (n,) by models that have not seen
            them.
        """
        found = [_find(task, *own) for task, own in zip(tasks, labels, strict=True)]
        centers, factors = zip(*found, strict=True)
        return cls(center=np.concatenate(centers), factor=np.array(factors))

    def answer(self, tasks: Sequence[Task], t: int, answers: np.ndarray) -> np.ndarray:
        """Return the answers (n, K) or (n,) to task t, stretched."""
        start = sum(task.width for task in tasks[:t])
        return _stretched(tasks[t], answers, self.center[start : start + tasks[t].width], self.factor[t])


def _find(task: Task, y: np.ndarray, weight: np.ndarray | None, answers: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the scores (width,) of the constant of a task, and its factor."""
    if not len(y):
        return np.zeros(task.width), 1.0
    center = _scores(task, task.kind.constant(y, weight, task.classes))[0]
    row_weight = np.ones(len(y)) if weight is None else weight

    def nats(log: float) -> float:
        losses = task.kind.answer_losses(_stretched(task, answers, center, np.exp(log)), y)
        likelihood = nats_of_label(task, np.average(losses, weights=row_weight))
        return len(y) * likelihood + ((log - np.log(_USUAL)) / _SPREAD) ** 2 / 2

    limit = np.log(_MOST)
    return center, float(np.exp(minimize_scalar(nats, bounds=(-limit, limit), method="bounded").x))


def _scores(task: Task, answers: np.ndarray) -> np.ndarray:
    return task.kind.unlink(task.kind.answered_means(answers, 0.0, 1.0), np)


def _stretched(task: Task, answers: np.ndarray, center: np.ndarray, factor: float) -> np.ndarray:
    return task.kind.answers(center + factor * (_scores(task, answers) - center), 0.0, 1.0, np)
