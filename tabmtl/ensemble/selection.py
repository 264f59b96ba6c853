"""Weights of the candidates, for each task: greedy selection with replacement, and a guard against chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tabmtl.metrics.classes import auc_within
from tabmtl.metrics.intervals import standard_error, task_influences
from tabmtl.metrics.scores import check_metric, score_task, undefined_reason
from tabmtl.schema import listed, warn_user
from tabmtl.targets import Task

#: Labels that judge a task: of each of two classes, or of a regression. Below, the other tasks decide.
LEAST_OF_CLASS, LEAST_VALUES = 5, 10
_MOST_PICKS, _PATIENCE = 30, 5
_N_PARTS = 3  # of the rows, which the guard chooses and judges by in turn
_MOST_ROWS = 50_000
_MOST_POOLED = 32  # tasks


@dataclass(frozen=True, eq=False)
class Judged:
    """Labels of one task, and what every candidate answered without having seen them.

    Attributes
    ----------
    task : Task
    y : ndarray of shape (n,)
        Labels; none is missing.
    weight : ndarray of shape (n,) or None
        Positive weights.
    answers : ndarray of shape (C, n, K) or (C, n)
        Probabilities or values of the C candidates; those of single tasks come first.
    n_single : int
        Number of candidates that learn every task alone.
    fold : ndarray of int, shape (n,), or None
        The models that answered a row, where there are several; ROC AUC compares rows of the same models.
    group : ndarray of int, shape (n,), or None
        Groups of rows that were drawn together; the standard error is that over groups.
    """

    task: Task
    y: np.ndarray
    weight: np.ndarray | None
    answers: np.ndarray
    n_single: int
    fold: np.ndarray | None = None
    group: np.ndarray | None = None

    @property
    def has_enough(self) -> bool:
        """Whether there are labels enough to judge by."""
        counts = np.bincount(self.task.kind.strata(self.y), minlength=1)
        in_classes = self.task.is_classification
        has_enough = (counts >= LEAST_OF_CLASS).sum() >= 2 if in_classes else counts[0] >= LEAST_VALUES
        return bool(has_enough) and undefined_reason(self.task, self.y, self.weight) is None

    @cached_property
    def _ranked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Classes, weights and folds of the rows where these are compared inside the folds, else None."""
        if self.fold is None or check_metric(self.task) != "roc_auc":
            return None
        weight = np.ones(len(self.y)) if self.weight is None else self.weight.astype(np.float64)
        ranked = self.y.astype(np.intp), weight, self.fold
        # folds of one class each have no pair to compare
        return ranked if np.isfinite(auc_within(ranked[0], self.answers[0], *ranked[1:])[0]) else None

    def score(self, answer: np.ndarray) -> float:
        """Score an answer by the metric of the task."""
        if self._ranked is None:
            return score_task(self.task, self.y, answer, self.weight)
        classes, weight, fold = self._ranked
        return auc_within(classes, answer, weight, fold)[0]

    def estimate(self, answer: np.ndarray, other: np.ndarray | None = None) -> tuple[float | None, float | None]:
        """Score an answer, less the score of another one, with the standard error; None where undefined."""
        if undefined_reason(self.task, self.y, self.weight) is not None:
            return None, None
        score, influence, part = self._measure(answer)
        if other is not None:
            other_score, other_influence, _ = self._measure(other)
            score, influence = score - other_score, influence - other_influence
        return score, standard_error(influence, part, self.group)

    def _measure(self, answer: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the score of an answer, the influences of the rows, and their class as `task_influences` gives it."""
        if self._ranked is None:
            return self.score(answer), *task_influences(self.task, self.y, answer, self.weight)
        classes, weight, fold = self._ranked
        return *auc_within(classes, answer, weight, fold), np.unique(classes, return_inverse=True)[1]

    def mix(self, weights: np.ndarray) -> np.ndarray:
        """Return the mixture of the answers."""
        return np.tensordot(weights, self.answers, axes=1)

    def sample(self, rng: np.random.Generator) -> Judged:
        """Return at most as many rows as the selection looks at, and of every class the same number, if it has them.

        Weights make up for the classes of which rows are left out.
        """
        if len(self.y) <= _MOST_ROWS:
            return self
        code = self.task.kind.strata(self.y)
        counts = np.bincount(code)
        kept = np.minimum(counts, _MOST_ROWS // np.count_nonzero(counts))
        drawn = [rng.choice(np.flatnonzero(code == k), n, replace=False) for k, n in enumerate(kept) if n]
        rows = np.sort(np.concatenate(drawn))
        weight = (counts / np.maximum(kept, 1))[code[rows]] * (1 if self.weight is None else self.weight[rows])
        return replace(self.rows(rows), weight=weight)

    def rows(self, rows: np.ndarray) -> Judged:
        """Return some rows."""
        weight, fold, group = (None if each is None else each[rows] for each in (self.weight, self.fold, self.group))
        return replace(self, y=self.y[rows], weight=weight, answers=self.answers[:, rows], fold=fold, group=group)

    def thirds(self) -> np.ndarray:
        """Deal the rows to three parts (n,), whole groups of them, each with its share of the classes and values."""
        first = np.arange(len(self.y)) if self.group is None else np.unique(self.group, return_inverse=True)[1]
        size = np.bincount(first)
        order = np.argsort(np.bincount(first, self.y) / size, kind="stable")  # by the mean label of a group
        part = np.empty(len(size), dtype=np.intp)
        part[order] = np.arange(len(size)) % _N_PARTS
        return part[first]


def choose_weights(judged: Sequence[Judged], seed: int) -> np.ndarray:
    """Choose the weights (C, T) of all candidates for every task.

    A task takes a mixture of candidates only where it gains more than a paired standard error on the best candidate
    that learns it alone. Tasks with too few judged labels take the mixture that suits the other tasks.
    """
    rng = np.random.default_rng(seed)
    judged = [each.sample(rng) for each in judged]
    few = [t for t, each in enumerate(judged) if not each.has_enough]
    weights = np.empty((len(judged[0].answers), len(judged)))
    for t, each in enumerate(judged):
        if t not in few:
            weights[:, t] = _guarded(each)
    if few:
        weights[:, few] = _pooled([each for t, each in enumerate(judged) if t not in few], len(weights))[:, None]
        _warn_of_few([judged[t].task for t in few])
    return weights


def _guarded(judged: Judged) -> np.ndarray:
    """Return the weights of a task: the mixture, or the best single-task candidate where the gain may be chance.

    The rows that judge the mixture are not those that chose it: each third is answered by the weights that the others
    choose.
    """
    n = len(judged.answers)
    alone = np.eye(n)[int(np.argmax([judged.score(answer) for answer in judged.answers[: judged.n_single]]))]
    mixed, third = np.empty_like(judged.answers[0]), judged.thirds()
    for k in range(_N_PARTS):
        rest = judged.rows(third != k)
        if undefined_reason(rest.task, rest.y, rest.weight) is not None:
            return alone
        mixed[third == k] = np.tensordot(_pick_greedily([rest]), judged.answers[:, third == k], axes=1)
    gain, error = judged.estimate(mixed, judged.mix(alone))
    return _pick_greedily([judged]) if gain is not None and error is not None and gain > error else alone


def _pooled(judged: Sequence[Judged], n_candidates: int) -> np.ndarray:
    """Return the weights that are best in the mean over tasks, all equal where no task can be judged.

    Scores count in standard errors, because those of the tasks may be of any size.
    """
    if not judged:
        return np.full(n_candidates, 1 / n_candidates)
    judged = sorted(judged, key=lambda each: -len(each.y))[:_MOST_POOLED]
    return _pick_greedily(judged, [each.estimate(each.answers[0])[1] or 1.0 for each in judged])


def _pick_greedily(judged: Sequence[Judged], scales: Sequence[float] = (1.0,)) -> np.ndarray:
    """Pick candidates with replacement, each time the one that lifts the mean score most (Caruana et al. 2004).

    The weights are the shares of the picks up to the best score.
    """
    n, totals = len(judged[0].answers), [np.zeros_like(each.answers[0]) for each in judged]
    picks: list[int] = []
    scores: list[float] = []
    while len(picks) < _MOST_PICKS and (len(scores) < _PATIENCE or max(scores[-_PATIENCE:]) >= max(scores)):
        scored = []
        for c in range(n):
            mixed = zip(judged, totals, scales, strict=True)
            gains = [each.score((total + each.answers[c]) / (len(picks) + 1)) / scale for each, total, scale in mixed]
            scored.append(float(np.mean(gains)))
        picks.append(int(np.argmax(scored)))
        scores.append(max(scored))
        for total, each in zip(totals, judged, strict=True):
            total += each.answers[picks[-1]]
    best = int(np.argmax(scores)) + 1
    return np.bincount(picks[:best], minlength=n) / best


def _warn_of_few(tasks: Sequence[Task]) -> None:
    warn_user(
        f"tasks {listed([repr(task.name) for task in tasks])} have labels too few to judge the candidates by (below "
        f"{LEAST_OF_CLASS} of a second class, or {LEAST_VALUES} of a regression), so they get weights that suit the "
        "other tasks, whatever single-task models would do (model_weights_ has them); label more rows of them, or give "
        "smaller groups"
    )
