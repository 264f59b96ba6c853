"""Intervals and sets that hold the labels of new rows as often as they promise: split conformal prediction.

A model answers rows that its fit has not seen, and every label has a score: how far it lies from the answer. Of n rows,
the score of a new one is among the ``ceil((n + 1) level)`` least with at least the probability ``level``, whatever the
model and the data are, if the rows and the new one come in no order that matters. An interval holds the labels with
such scores. What is promised is a share of all rows, not of those that look alike; ``groups`` make it one of each
group.

===========================  =========================================================================================
kind of a task               score of a label y
===========================  =========================================================================================
quantiles                    ``max(q_low - y, y - q_high)`` of the pair of levels whose share is nearest to the level
                             asked: conformalized quantiles (Romano, Patterson and Candès, NeurIPS 2019)
other numbers                ``|y - answer|``, over the standard deviation that the kind gives an answer: its power
                             p / 2, of the variance function of Poisson (p = 1), gamma (2) and Tweedie targets
classes                      the probability of all classes before y, by falling probability: adaptive prediction sets
                             (APS; Romano, Sesia and Candès, NeurIPS 2020)
===========================  =========================================================================================

The sets differ from the paper's in one thing: its score adds a random part of the probability of y itself. Without it
sets are the same in each call and never empty, as the first class has the score 0, and the promise is kept. Where the
first class is right more often than the level asks, they hold it alone, and so the label more often than promised.

All numbers of a row are covered together by the largest of their scores, each over its mean. Means of the n rows given
alone would tell these from the new one, and few rows would hold less than they promise. So the new row counts in the
means too, as full conformal prediction has it (Vovk, Gammerman and Shafer, 2005): the n + 1 rows have no order again.
Its scores s are unknown, and all of them that would be held are covered. Beside a mean m of n rows, v is the largest
score of one of these rows in the other tasks, over their means. The row does as much as s = m v / (1 - v / n) in this
task, if that is more than its own score. The intervals of one task are thus its own, and those of many rows the ones by
plain means. No fit has to tell scales: by those of its labels, intervals of targets that it answers well would be
several times as wide.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, NamedTuple, Self

import numpy as np

from tabmtl.base.schema import listed, warn_user
from tabmtl.base.storage.stored import Stored
from tabmtl.metrics.scores import Answered
from tabmtl.targets import Task
from tabmtl.targets.kind import RARE

_ROUNDING = 1e-9  # of (n + 1) level


class Span(NamedTuple):
    """What holds the labels of rows: bounds (n,) of numbers, or a mask (n, K) of classes."""

    low: np.ndarray
    high: np.ndarray

    @property
    def classes(self) -> np.ndarray:
        """The mask (n, K)."""
        return self.low


class Reach(NamedTuple):
    """Scores up to which labels are held, of every group and at last of all rows; infinity where rows are too few."""

    scores: np.ndarray
    counts: list[int]
    names: list[str]
    level: float

    def of(self, group: np.ndarray) -> np.ndarray:
        """Return the scores (n,) of rows by the numbers of their groups; raise a ValueError if one is infinite."""
        found = self.scores[group]
        if np.isinf(found).any():
            place = int(group[np.argmax(found)])
            n, level = self.counts[place], self.level
            least = max(needed(level), n + 1)
            cure = ", or join groups" if place < len(self.scores) - 1 else ""
            raise ValueError(
                f"level={level} needs at least {least} labelled rows of {self.names[place]}, and conformalize was "
                f"given {n}; give it more rows{cure}, or ask for a level of at most "
                f"{math.floor(1_000 * n / (n + 1)) / 1_000}"
            )
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Misses:
    """Scores of the labels of one task.

    Attributes
    ----------
    scores : ndarray of shape (n, P)
        By rows and by pairs of levels, of which all but quantiles have one; NaN where a row has no label.
    """

    scores: Annotated[np.ndarray, Stored("f8", "conformal P", missing=True)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Conformal:
    """Scores of labels that the fit of a model has not seen.

    Attributes
    ----------
    group : ndarray of int, shape (n,)
        Of every row, its number among `groups`; 0 without groups.
    groups : tuple of str
        What groups are called; empty without groups.
    column : str or None
        The column of X that holds the groups, if it was named.
    tasks : tuple of Misses or None
    """

    group: Annotated[np.ndarray, Stored("i8", "conformal", low=0)]
    groups: Annotated[tuple[str, ...], Stored(distinct=True)] = ()
    column: str | None = None
    tasks: tuple[Misses | None, ...]

    @classmethod
    def learn(cls, answered: Answered, places: Sequence[int], groups: Sequence[Any] | None, column: str | None) -> Self:
        """Learn from answers and labels of rows that the fit has not seen.

        Parameters
        ----------
        answered : Answered
        places : sequence of int
            Of the tasks to learn.
        groups : sequence of length n, optional
        column : str, optional
            That holds the groups.

        Raises
        ------
        ValueError
            If a task has no labels, or a group has one label of a task.
        """
        tasks, labels, outputs, _, own_task, _ = answered
        called = [_name(each) for each in groups or ()]
        names = list(dict.fromkeys(called))
        number = {name: place for place, name in enumerate(names)}
        group = np.array([number[name] for name in called] or np.zeros(len(labels)), dtype=np.int64)
        found: list[Misses | None] = [None] * len(tasks)
        short: dict[str, None] = {}
        for t in places:
            j, rows = (t, slice(None)) if own_task is None else (0, own_task == t)
            own = np.full((len(labels), _n_pairs(tasks[t])), np.nan)
            own[rows] = misses(tasks[t], labels[rows, j], outputs[j][rows])
            counts = np.bincount(group[~np.isnan(own[:, 0])], minlength=max(1, len(names)))
            if not counts.sum():
                raise ValueError(f"task {tasks[t].name!r} has no labels among these rows; leave it out of tasks")
            if names and counts.min() < 2:
                few = [repr(names[g]) for g in np.flatnonzero(counts < 2)]
                raise ValueError(
                    f"task {tasks[t].name!r} has fewer than 2 labels in the groups {listed(few)}, and an interval of "
                    f"level 0.9 needs {needed(0.9)} of each; join groups, or leave groups out"
                )
            short |= dict.fromkeys(names[g] for g in np.flatnonzero(counts < needed(0.9)) if names)
            found[t] = Misses(scores=own)
        if short:
            warn_user(
                f"the groups {listed([repr(name) for name in short])} have fewer than the {needed(0.9)} labels of each "
                "task that intervals of level 0.9 need, so that such intervals are refused for their rows; join "
                "groups, or leave groups out"
            )
        return cls(group=group, groups=tuple(names), column=column, tasks=tuple(found))

    def without(self, places: Collection[int]) -> Self:
        """Return the scores of the other tasks."""
        return replace(self, tasks=tuple(None if t in places else own for t, own in enumerate(self.tasks)))

    def of(self, places: Sequence[int | None]) -> Self:
        """Return the scores of tasks by their places among these; None is a task without any."""
        return replace(self, tasks=tuple(None if t is None else self.tasks[t] for t in places))

    def check(self, tasks: Sequence[Task]) -> None:
        """Raise a ValueError unless there are scores for tasks as these; files are held against it."""
        if len(self.tasks) != len(tasks):
            raise ValueError(f"there are intervals of {len(self.tasks)} tasks, expected {len(tasks)}")
        if self.group.max(initial=-1) >= max(1, len(self.groups)):
            raise ValueError(f"a row is of the group {self.group.max()}, and there are {len(self.groups)}")
        for task, misses in zip(tasks, self.tasks, strict=True):
            if misses is not None and misses.scores.shape[1] != _n_pairs(task):
                raise ValueError(f"task {task.name!r} has scores of {misses.scores.shape[1]} pairs of levels")

    def numbers(self, groups: Sequence[Any]) -> np.ndarray:
        """Return the number of the group (n,) of every row; one that is new has a number behind the others."""
        if not self.groups:
            raise ValueError("groups have no effect: conformalize was given none; leave them out, or give it some too")
        known = {name: number for number, name in enumerate(self.groups)}
        called = [_name(group) for group in groups]
        found = np.array([known.get(name, len(known)) for name in called], dtype=np.intp)
        new = list(dict.fromkeys(name for name in called if name not in known))
        if new:
            warn_user(
                f"{(found == len(known)).sum()} rows are of groups that conformalize has not seen, "
                f"{listed([*map(repr, new)])}; their intervals come from the rows of all groups"
            )
        return found

    def spans(
        self,
        tasks: Sequence[Task],
        outputs: Sequence[np.ndarray],
        level: float,
        places: Sequence[int] | None = None,
        *,
        group: np.ndarray | None = None,
        own_task: np.ndarray | None = None,
        joint: bool = False,
    ) -> list[Span | None]:
        """Return what holds the labels of rows, for some columns of y; None where a task has no scores.

        Rows of a long table whose own task has none have NaN as bounds, or no class.

        Parameters
        ----------
        tasks : sequence of Task
        outputs : sequence of ndarray
            Answers to these columns.
        level : float
        places : sequence of int, optional
            Wide layout: numbers of the columns; all by default.
        group : ndarray of int, shape (n,), optional
            As `numbers` gives them; needed if there are groups.
        own_task : ndarray of int, shape (n,), optional
            Long layout: the task of every row.
        joint : bool, default=False
            Whether the numbers of a row are all in their intervals, and sets of classes are left out.

        Raises
        ------
        ValueError
            If a task or a group has too few labels for the level; the message says how many it needs.
        """
        if group is None and self.groups:
            raise ValueError(
                f"intervals are by group, of {listed([*map(repr, self.groups)], 5)}; give the groups of the rows"
            )
        reach = self._joint_reach(tasks, level) if joint else None
        group = np.zeros(len(outputs[0]), dtype=np.intp) if group is None else group
        whole = None if own_task is None else _unheld(tasks[0], outputs[0])
        found = [whole] * len(outputs)
        places = range(len(tasks)) if places is None else places
        for t in places:
            task = tasks[t]
            if self.tasks[t] is None or (joint and task.is_classification):
                continue
            own = self._reach(task, t, level) if reach is None else reach[t]
            if whole is None:
                column = places.index(t)
                found[column] = span(task, outputs[column], own.of(group), level)
            elif len(rows := np.flatnonzero(own_task == t)):
                part = span(task, outputs[0][rows], own.of(group[rows]), level)
                for bounds, values in zip(whole, part, strict=True):
                    bounds[rows] = values
        return found

    def _reach(self, task: Task, t: int, level: float) -> Reach:
        """Return the score up to which labels are held."""
        if (t, level) not in self._known:
            scores = self._scores(t)[:, _pair(task, level)]
            self._known[t, level] = self._by_group(scores, level, f"task {task.name!r}")
        return self._known[t, level]

    def _joint_reach(self, tasks: Sequence[Task], level: float) -> dict[int, Reach]:
        """Return what `_reach` does for tasks of numbers, by their place, so that all hold together."""
        if level in self._known_jointly:
            return self._known_jointly[level]
        places = [t for t, own in enumerate(self.tasks) if own is not None and not tasks[t].is_classification]
        scores = np.column_stack([self._scores(t)[:, _pair(tasks[t], level)] for t in places])
        scores = np.where(np.isnan(scores).any(axis=1, keepdims=True), np.nan, scores)
        what = f"the tasks {[tasks[t].name for t in places]} together"
        parts = {t: self._by_group(own, level, what) for t, own in zip(places, _together(scores).T, strict=True)}
        self._known_jointly[level] = parts
        return parts

    def _scores(self, t: int) -> np.ndarray:
        misses = self.tasks[t]
        assert misses is not None
        return misses.scores

    def _by_group(self, scores: np.ndarray, level: float, what: str) -> Reach:
        """Return the least score that is large enough in every group, and in all rows."""
        labelled = ~np.isnan(scores)
        parts = [scores[labelled & (self.group == g)] for g in range(len(self.groups))]
        parts.append(scores[labelled])
        names = [*(f"{what} of the group {name!r}" for name in self.groups), what]
        return Reach(np.array([_nth(own, level) for own in parts]), [*map(len, parts)], names, level)

    @cached_property
    def _known(self) -> dict[tuple[int, float], Reach]:
        """By task and level, what was asked before."""
        return {}

    @cached_property
    def _known_jointly(self) -> dict[float, dict[int, Reach]]:
        """By level, what was asked before of all numbers together."""
        return {}


def _name(group: Any) -> str:
    """Return what a group is called; 1.0 is 1, which pandas and servers make floats of."""
    return str(int(group)) if isinstance(group, float) and group.is_integer() else str(group)


def misses(task: Task, y: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Return the scores (n, P) of labels (n,) beside the answers to their rows."""
    if task.is_classification:
        scores = _mass_before(output)[np.arange(len(y)), np.nan_to_num(y).astype(np.intp)]
        return np.where(np.isnan(y), np.nan, scores)[:, None]
    if task.kind.levels:
        n = _n_pairs(task)
        return np.maximum(output[:, :n] - y[:, None], y[:, None] - output[:, ::-1][:, :n])
    return (np.abs(y - output) / _spread(task, output))[:, None]


def span(task: Task, output: np.ndarray, reach: np.ndarray, level: float) -> Span:
    """Return what holds the labels of rows whose scores are at most `reach` (n,)."""
    if task.is_classification:
        held = _mass_before(output) <= reach[:, None]
        return Span(held, held)
    if task.kind.levels:
        pair = _pair(task, level)
        low, high = output[:, pair] - reach, output[:, -1 - pair] + reach
        # where labels lie far inside of the quantiles, their interval would end before it began
        middle = (low + high) / 2
        return Span(np.minimum(low, middle), np.maximum(high, middle))
    half = reach * _spread(task, output)
    low = output - half
    return Span(np.maximum(low, 0.0) if task.kind.variance_power else low, output + half)


def check_level(level: Any) -> None:
    """Raise a ValueError unless a level is a share of rows."""
    if not isinstance(level, numbers.Real) or not 0 < float(level) < 1:
        raise ValueError(f"level must be between 0 and 1, such as 0.9, got {level!r}")


def needed(level: float) -> int:
    """Return the number of labels from which there is an interval that is not endless."""
    return math.ceil(level / (1 - level) - _ROUNDING)


def _nth(scores: np.ndarray, level: float) -> float:
    """Return the least score that is large enough, infinity if there are too few."""
    place = math.ceil((len(scores) + 1) * level - _ROUNDING)
    return math.inf if place > len(scores) else float(np.partition(scores, place - 1)[place - 1])


def _together(scores: np.ndarray) -> np.ndarray:
    """Return scores (n, T) in which rows are as far out in every task as in the one where they are farthest out."""
    if scores.shape[1] == 1:
        return scores
    n = max(1, int((~np.isnan(scores[:, 0])).sum()))
    mean = np.nansum(np.abs(scores), axis=0) / n
    ratio = np.maximum(np.divide(scores, mean, out=np.zeros_like(scores), where=mean > 0), 0.0)
    found = np.maximum(scores, 0.0)
    for t in np.flatnonzero(mean > 0):
        others = np.delete(ratio, t, axis=1).max(axis=1)
        with np.errstate(divide="ignore"):  # a row that alone has a score leaves no end
            found[:, t] = np.maximum(found[:, t], mean[t] * others / np.maximum(1 - others / n, 0.0))
    return found


def _n_pairs(task: Task) -> int:
    return max(1, len(task.kind.levels) // 2)


def _pair(task: Task, level: float) -> int:
    """Return the place of the lower of the two levels whose share is nearest to a level; 0 for other kinds."""
    levels = task.kind.levels
    shares = [levels[-1 - pair] - levels[pair] for pair in range(_n_pairs(task))] if levels else [level]
    return int(np.argmin(np.abs(np.subtract(shares, level))))


def _spread(task: Task, output: np.ndarray) -> np.ndarray:
    """Return the standard deviation (n,) of labels with these means, up to a factor."""
    power = task.kind.variance_power
    return np.ones(len(output)) if power == 0 else np.maximum(output, RARE) ** (power / 2)


def _mass_before(p: np.ndarray) -> np.ndarray:
    """Return the probability (n, K) of all classes that are more probable than each; the first of equal ones counts."""
    order = np.argsort(-p, axis=1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=1)
    before = np.zeros_like(ranked)
    np.cumsum(ranked[:, :-1], axis=1, out=before[:, 1:])
    found = np.empty_like(before)
    np.put_along_axis(found, order, before, axis=1)
    return found


def _unheld(task: Task, output: np.ndarray) -> Span:
    """Return what holds no label of any row."""
    if task.is_classification:
        return Span(*np.zeros((2, *output.shape), dtype=bool))
    return Span(*np.full((2, len(output)), np.nan))
