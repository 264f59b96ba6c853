"""What candidates answered without having seen the labels: their weights, a guard, and a table of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from tabmtl.base.schema import listed, warn_user
from tabmtl.estimators.mixing.weights import likelihood_weights
from tabmtl.metrics.classes import auc_within
from tabmtl.metrics.intervals import standard_error, task_influences
from tabmtl.metrics.scores import check_metric, counting, is_by_group, score_task, undefined_reason
from tabmtl.targets import Task

#: Labels that judge a task: of each of two classes, or of a regression. Below, the other tasks decide.
LEAST_OF_CLASS, LEAST_VALUES = 5, 10
_N_PARTS = 3  # of the rows, which the guard chooses and judges by in turn
_MOST_ROWS = 50_000


@dataclass(frozen=True, eq=False)
class Judged:
    """Labels of one task, and what every candidate answered without having seen them.

    Attributes
    ----------
    task : Task
    y : ndarray of shape (n,)
        Labels; none is missing.
    weight : ndarray of shape (n,) or None
        Positive weights of scores.
    answers : ndarray of shape (C, n, K) or (C, n)
        Probabilities or values of the C candidates; those of single tasks come first.
    n_single : int
        Number of candidates that learn every task alone.
    fold : ndarray of int, shape (n,), or None
        The models that answered a row, where there are several; ROC AUC compares rows of the same models.
    group : ndarray of int, shape (n,), or None
        Groups of rows that were drawn together; the standard error is that over groups.
    of_class : ndarray of shape (n,) or None
        Factors of the weights by class, in losses; see `tabmtl.encode.class_factors`.
    """

    task: Task
    y: np.ndarray
    weight: np.ndarray | None
    answers: np.ndarray
    n_single: int
    fold: np.ndarray | None = None
    group: np.ndarray | None = None
    of_class: np.ndarray | None = None

    @property
    def loss_weight(self) -> np.ndarray | None:
        """Weights of losses."""
        if self.of_class is None or self.weight is None:
            return self.weight
        return self.weight * self.of_class

    @property
    def has_enough(self) -> bool:
        """Whether there are labels enough to judge by."""
        counts = np.bincount(self.task.kind.strata(self.y), minlength=1)
        in_classes = self.task.is_classification
        has_enough = (counts >= LEAST_OF_CLASS).sum() >= 2 if in_classes else counts[0] >= LEAST_VALUES
        return bool(has_enough) and undefined_reason(self.task, self.y, self.weight, self.group) is None

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
            return score_task(self.task, self.y, answer, self.weight, self.group)
        classes, weight, fold = self._ranked
        return auc_within(classes, answer, weight, fold)[0]

    def estimate(self, answer: np.ndarray, other: np.ndarray | None = None) -> tuple[float | None, float | None]:
        """Score an answer, less the score of another one, with the standard error; None where undefined."""
        if undefined_reason(self.task, self.y, self.weight, self.group) is not None:
            return None, None
        score, influence, part = self._measure(answer)
        if other is not None:
            other_score, other_influence, _ = self._measure(other)
            score, influence = score - other_score, influence - other_influence
        group = None if self.group is None else self.group[counting(self.task, self.y, self.weight, self.group)]
        return score, standard_error(influence, part, group)

    def _measure(self, answer: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the score of an answer, the influences of the rows, and their class as `task_influences` gives it."""
        if self._ranked is None:
            return self.score(answer), *task_influences(self.task, self.y, answer, self.weight, self.group)
        classes, weight, fold = self._ranked
        return *auc_within(classes, answer, weight, fold), np.unique(classes, return_inverse=True)[1]

    def mix(self, weights: np.ndarray) -> np.ndarray:
        """Return the mixture of the answers."""
        return np.tensordot(weights, self.answers, axes=1)

    @property
    def prior(self) -> np.ndarray:
        """Weights (C,) without any label: half to learning alone and half to learning together, if there are both."""
        n = len(self.answers)
        if self.n_single == n:
            return np.full(n, 1 / n)
        return np.repeat([0.5 / self.n_single, 0.5 / (n - self.n_single)], [self.n_single, n - self.n_single])

    def weigh(self) -> np.ndarray:
        """Choose the weights (C,) of the answers by the likelihood of the labels, if there are enough to judge by."""
        if not self.has_enough:
            return self.prior
        return likelihood_weights(self.task, self.y, self.answers, self.loss_weight, self.group, self.prior)

    def choose(self, rng: np.random.Generator) -> Choice:
        """Choose the weights, or the best candidate of single tasks where it is clearly ahead of learning together.

        The rows that judge the mixture are not those that chose it: each third is answered by the weights that the
        others choose.
        """
        some = self.sample(rng)
        mixed, third = np.empty_like(some.answers[0]), some.thirds()
        for k in range(_N_PARTS):
            weights = some.rows(third != k).weigh()
            mixed[third == k] = np.tensordot(weights, some.answers[:, third == k], axes=1)
        weights = some.weigh()
        if self.has_enough and self.n_single < len(self.answers):
            scores = [some.score(answer) for answer in some.answers[: some.n_single]]
            alone = np.eye(len(some.answers))[int(np.argmax(scores))]
            gain, error = some.estimate(mixed, some.mix(alone))
            if gain is not None and error is not None and gain < -error:
                return Choice(alone, self, some, some.mix(alone))
        return Choice(weights, self, some, mixed)

    def sample(self, rng: np.random.Generator) -> Judged:
        """Return at most as many rows as the selection looks at, and of every class the same number, if it has them.

        Weights make up for the classes of which rows are left out. Metrics by group get whole groups.
        """
        if len(self.y) <= _MOST_ROWS:
            return self
        if self.group is not None and is_by_group(self.task):
            sizes = np.bincount(self.group)
            order = rng.permutation(len(sizes))
            return self.rows(np.isin(self.group, order[np.cumsum(sizes[order]) <= _MOST_ROWS]))
        code = self.task.kind.strata(self.y)
        counts = np.bincount(code)
        kept = np.minimum(counts, _MOST_ROWS // np.count_nonzero(counts))
        drawn = [rng.choice(np.flatnonzero(code == k), n, replace=False) for k, n in enumerate(kept) if n]
        rows = np.sort(np.concatenate(drawn))
        weight = (counts / np.maximum(kept, 1))[code[rows]] * (1 if self.weight is None else self.weight[rows])
        return replace(self.rows(rows), weight=weight)

    def rows(self, rows: np.ndarray) -> Judged:
        """Return some rows."""
        names = ("weight", "fold", "group", "of_class")
        given: dict[str, Any] = {name: getattr(self, name) for name in names}
        parts: dict[str, Any] = {name: None if part is None else part[rows] for name, part in given.items()}
        return replace(self, y=self.y[rows], answers=self.answers[:, rows], **parts)

    def thirds(self) -> np.ndarray:
        """Deal the rows to three parts (n,), whole groups of them, each with its share of the classes and values."""
        first = np.arange(len(self.y)) if self.group is None else np.unique(self.group, return_inverse=True)[1]
        size = np.bincount(first)
        order = np.argsort(np.bincount(first, self.y) / size, kind="stable")  # by the mean label of a group
        part = np.empty(len(size), dtype=np.intp)
        part[order] = np.arange(len(size)) % _N_PARTS
        return part[first]


class Choice(NamedTuple):
    """Weights (C,) of a task, all rows, those that chose, and answers to these by weights that other rows chose."""

    weights: np.ndarray
    whole: Judged
    judged: Judged
    mixed: np.ndarray

    def lines(self, names: Sequence[str], seconds: Sequence[float | None]) -> list[tuple[Any, ...]]:
        """Return the lines of the candidates for `leaderboard`, given the seconds of each."""
        several = zip(names, self.whole.answers, self.weights.tolist(), seconds, strict=True)
        return [self._line(name, self.whole, answer, weight, own) for name, answer, weight, own in several]

    def line(self, name: str, mixed: np.ndarray, seconds: float | None) -> tuple[Any, ...]:
        """Return the line of the mixture, given its answers to the rows that chose."""
        return self._line(name, self.judged, mixed, None, seconds)

    def _line(
        self, name: str, judged: Judged, answer: np.ndarray, weight: float | None, seconds: float | None
    ) -> tuple[Any, ...]:
        return name, judged.task.name, *judged.estimate(answer), weight, self.whole.has_enough, seconds, None


def choose_weights(judged: Sequence[Judged], seed: int, cure: str) -> list[Choice]:
    """Choose the weights of all candidates for every task; see `Judged.choose`.

    Tasks with too few judged labels take the mean weights of the others, or those without any label. A warning says so,
    with the cure.
    """
    rng = np.random.default_rng(seed)
    found = {t: each.choose(rng) for t, each in enumerate(judged) if each.has_enough}
    few = [t for t in range(len(judged)) if t not in found]
    if few:
        warn_user(
            f"tasks {listed([repr(judged[t].task.name) for t in few])} have labels too few to judge the candidates by "
            f"(below {LEAST_OF_CLASS} of a second class, or {LEAST_VALUES} of a regression), so they get the mean "
            "weights of the other tasks, whatever single-task models would do (model_weights_ has them); " + cure
        )
        known = [choice.weights for choice in found.values()] or [judged[0].prior]
        weights = np.mean(known, axis=0)
        found |= {t: Choice(weights, judged[t], judged[t], judged[t].mix(weights)) for t in few}
    return [found[t] for t in range(len(judged))]


#: Columns of a table of candidates, and their types.
_COLUMNS: dict[str, Any] = {
    "model": pl.String,
    "task": pl.String,
    "score": pl.Float64,
    "standard_error": pl.Float64,
    "weight": pl.Float64,
    "is_judged": pl.Boolean,
    "seconds": pl.Float64,
    "left_out": pl.String,
}


def leaderboard(lines: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    """Return a table of candidates, by the lines of choices and others."""
    return pl.DataFrame(lines, _COLUMNS, orient="row")
