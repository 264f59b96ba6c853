"""All that a model learns after its fit, by task, and how it learns it of labelled answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import polars as pl

from tabmtl.base.params import check_known, listed_names
from tabmtl.base.schema import warn_user
from tabmtl.metrics.scores import Answered, counted, each_task, metrics_of_positive
from tabmtl.targets import Task
from tabmtl.targets.decisions.calibrators import Calibrator
from tabmtl.targets.decisions.conformal import Conformal
from tabmtl.targets.decisions.goals import BY_COSTS, Goal, goal_of, goals_of
from tabmtl.targets.decisions.thresholds import Rows, Tuned, tune


@dataclass(frozen=True, kw_only=True, eq=False)
class Decisions:
    """What a model has learned of answers to rows that its fit has not seen.

    A field holds one item per task, in their order; None where a task has learned nothing.

    Attributes
    ----------
    calibrators : tuple of Calibrator or None
    tuned : tuple of Tuned or None
        Where the thresholds of a task come from; they themselves are of the Task.
    conformal : Conformal or None
        What intervals are made of, for all tasks.
    """

    calibrators: tuple[Calibrator | None, ...]
    tuned: tuple[Tuned | None, ...]
    conformal: Conformal | None = None

    @classmethod
    def none(cls, n_tasks: int) -> Self:
        """Return the decisions of a model that has learned none."""
        return cls(calibrators=(None,) * n_tasks, tuned=(None,) * n_tasks)

    def check(self, tasks: Sequence[Task]) -> None:
        """Raise a ValueError unless the items fit the tasks; files are held against it."""
        for name, items in (("calibrators", self.calibrators), ("thresholds", self.tuned)):
            if len(items) != len(tasks):
                raise ValueError(f"there are {name} of {len(items)} tasks, expected {len(tasks)}")
        for task, calibrator in zip(tasks, self.calibrators, strict=True):
            if calibrator is not None:
                if not task.is_classification:
                    raise ValueError(f"task {task.name!r} is {task.kind}, and has a calibrator of probabilities")
                calibrator.check(len(task.classes or ()))
        if self.conformal is not None:
            self.conformal.check(tasks)

    def of(self, places: Sequence[int | None]) -> Self:
        """Return the decisions of tasks by their places among these; None is a task that has learned nothing."""
        return replace(
            self,
            calibrators=tuple(None if t is None else self.calibrators[t] for t in places),
            tuned=tuple(None if t is None else self.tuned[t] for t in places),
            conformal=None if self.conformal is None else self.conformal.of(places),
        )

    def judging(self, before: Decisions | None, tasks: Sequence[Task]) -> dict[str, list[str]]:
        """Return by task what has the positive class in the choice of thresholds since others.

        Costs name both classes, but the threshold is one of the probability of the positive class.
        """
        old = (None,) * len(tasks) if before is None else before.tuned
        found: dict[str, list[str]] = {}
        for task, tuned, was in zip(tasks, self.tuned, old, strict=True):
            if tuned is None or tuned is was:
                continue
            if tuned.metric == BY_COSTS:
                found[task.name] = ["the threshold by costs"]
            elif task.is_binary:
                found[task.name] = metrics_of_positive(task.judged_by(tuned.metric))
        return found

    def calibrated(self, found: Mapping[int, Calibrator], changed: Collection[int]) -> Self:
        """Return the decisions with new calibrators by place of the task, and without what rests on changed answers."""
        return replace(
            self,
            calibrators=tuple(found.get(t, old) for t, old in enumerate(self.calibrators)),
            tuned=tuple(None if t in changed else old for t, old in enumerate(self.tuned)),
            conformal=None if self.conformal is None else self.conformal.without(changed),
        )


Learned = tuple[tuple[Task, ...], Decisions]
_FACTS = tuple(field.name for field in fields(Tuned))
_TASKS = "tasks must be the name of a task"
_DECIDED = "two classes or, as the kind 'ordinal' that fit is told of, ordered classes"


def calibrate(
    decisions: Decisions | None, answered: Answered, method: str, names: Any, chain: Sequence[int]
) -> Learned:
    """Learn calibrators of some tasks, of answers in front of calibrators.

    The chain has the numbers of the steps of a funnel: a step has at most the probability of the one before it, so that
    a new calibration changes the answers of all steps behind it too.

    Returns
    -------
    tasks : tuple of Task
    decisions : Decisions

    Raises
    ------
    ValueError
        If a task is unknown or has no probabilities, or has too few labels.
    """
    tasks = tuple(answered.tasks)
    places = _chosen(tasks, names, "calibrate", lambda task: task.is_classification, "classes")
    found = {}
    for t, rows in _labelled(answered, None, places):
        weight = None if answered.weight is None else rows.weight
        found[t] = Calibrator.learn(tasks[t], rows.y, rows.p, weight, method)
    first = next((place for place, t in enumerate(chain) if t in found), len(chain))
    changed = {*found, *chain[first:]}
    dropped = [task.name for t, task in enumerate(tasks) if t in changed and task.thresholds is not None]
    if dropped:
        warn_user(
            f"the thresholds of the tasks {dropped} were chosen for other probabilities, and are dropped; choose them "
            "anew by tune_thresholds"
        )
    old = decisions or Decisions.none(len(tasks))
    known = () if old.conformal is None else old.conformal.tasks
    dropped = [task.name for t, (task, own) in enumerate(zip(tasks, known, strict=False)) if t in changed and own]
    if dropped:
        warn_user(
            f"the sets of the tasks {dropped} were made of other probabilities, and are dropped; call conformalize anew"
        )
    kept = tuple(task.at(None) if t in changed else task for t, task in enumerate(tasks))
    return kept, old.calibrated(found, changed)


def tune_thresholds(
    decisions: Decisions | None, answered: Answered, group: np.ndarray | None, metric: Any, costs: Any, names: Any
) -> Learned:
    """Choose thresholds of some tasks.

    Returns
    -------
    tasks : tuple of Task
    decisions : Decisions

    Raises
    ------
    ValueError, TypeError
        If a task, a metric or costs do not fit, or the labels of a task have one class.
    """
    tasks = list(answered.tasks)
    goals = _goals(tasks, metric, costs, names)
    old = decisions or Decisions.none(len(tasks))
    tuned = list(old.tuned)
    for t, rows in _labelled(answered, group, list(goals)):
        thresholds, tuned[t] = tune(tasks[t], rows, goals[t])
        tasks[t] = tasks[t].at(thresholds)
    return tuple(tasks), replace(old, tuned=tuple(tuned))


def conformalize(
    decisions: Decisions | None, answered: Answered, groups: Sequence[Any] | None, column: str | None, names: Any
) -> Learned:
    """Learn what intervals of some tasks are made of; those of all tasks before are forgotten.

    Returns
    -------
    tasks : tuple of Task
    decisions : Decisions

    Raises
    ------
    ValueError
        If a task is unknown or has no labels, or a group is too small.
    """
    tasks = tuple(answered.tasks)
    places = _chosen(tasks, names, "conformalize", lambda task: True, "any kind")
    found = Conformal.learn(answered, places, groups, column)
    return tasks, replace(decisions or Decisions.none(len(tasks)), conformal=found)


def threshold_frame(tasks: Sequence[Task], decisions: Decisions | None) -> pl.DataFrame | None:
    """Return the thresholds of all tasks with what they are worth; None if there are none.

    Columns are "task"; "above", the class from which on the threshold counts; "threshold"; and the fields of `Tuned`.
    """
    lines: list[tuple[Any, ...]] = []
    for task, tuned in zip(tasks, () if decisions is None else decisions.tuned, strict=decisions is not None):
        if tuned is not None and task.thresholds is not None:
            facts = [getattr(tuned, name) for name in _FACTS]
            classes = (task.classes or ())[1:]
            lines += [(task.name, str(c), at, *facts) for c, at in zip(classes, task.thresholds, strict=True)]
    types = {"task": pl.String, "above": pl.String, "threshold": pl.Float64}
    types |= dict.fromkeys(_FACTS, pl.Float64) | {"metric": pl.String}
    return pl.DataFrame(lines, types, orient="row") if lines else None


def _labelled(answered: Answered, group: np.ndarray | None, places: Sequence[int]) -> Iterator[tuple[int, Rows]]:
    """Yield the labelled rows of some tasks."""
    for t, (_, y, p, weight, unit) in enumerate(each_task(*answered._replace(group=group))):
        if t in places:
            kept = counted(y, weight)
            weights = np.ones(kept.sum()) if weight is None else weight[kept].astype(np.float64)
            units = None if unit is None else unit[kept]
            yield t, Rows(y[kept].astype(np.intp), p[kept].astype(np.float64), weights, units)


def _chosen(tasks: Sequence[Task], names: Any, method: str, fits: Callable[[Task], bool], kinds: str) -> list[int]:
    """Return the places of the tasks that a method is for, all of a kind or those that are named."""
    known = [task.name for task in tasks]
    named = known if names is None else listed_names(_TASKS, names)
    check_known("tasks names tasks", named, known, "the model")
    if not named:
        raise ValueError(f"tasks names none of the tasks of {method}; leave it out for all, or name some of {known}")
    found = [t for t, task in enumerate(tasks) if task.name in named and fits(task)]
    others = [f"{task.name!r} is {task.kind}" for task in tasks if task.name in named and not fits(task)]
    if others and (names is not None or not found):
        cure = "leave it out" if names is not None else "there is none here"
        raise ValueError(f"{method} is for tasks of {kinds}, and {', '.join(others[:5])}; {cure}")
    return found


def _goals(tasks: Sequence[Task], metric: Any, costs: Any, names: Any) -> dict[int, Goal]:
    """Return what the thresholds of each task are chosen for, by its place."""
    if not isinstance(metric, str | Mapping | None):
        raise TypeError(f"metric must be the name of a score, such as 'f1', or names by task, got {metric!r}")
    if not isinstance(costs, Mapping | None):
        raise TypeError(
            "costs must be numbers by the true class and the answered one, such as {('yes', 'no'): 10.0}, or these by "
            f"task, got {costs!r}"
        )
    metrics = metric if isinstance(metric, Mapping) else None
    charges = None if costs is None or any(isinstance(key, tuple) for key in costs) else costs
    by_task = [*(metrics or ()), *(charges or ())]
    if names is None and (metrics is not None or charges is not None):
        names = by_task
    elif unasked := [name for name in by_task if name not in listed_names(_TASKS, names)]:
        raise ValueError(
            f"metric or costs are given for {unasked}, which tasks={names!r} leaves out; name them there too"
        )
    places = _chosen(tasks, names, "tune_thresholds", lambda task: task.kind.takes_thresholds, _DECIDED)
    if costs is not None and charges is None and len(places) > 1:
        raise ValueError(
            f"costs are of one task, and there are {[tasks[t].name for t in places]}; name it by tasks=, or give costs "
            "by task"
        )
    if names is None and isinstance(metric, str):  # those that it judges, if it judges any
        places = [t for t in places if metric in goals_of(tasks[t])] or places
    found = {}
    for t in places:
        name = tasks[t].name
        judged = metric if metrics is None else metrics.get(name)
        charged = costs if charges is None else charges.get(name)
        if judged is not None and charged is not None:
            raise ValueError(f"task {name!r}: thresholds are chosen for a metric or by costs, got both; leave one out")
        found[t] = goal_of(tasks[t], judged, charged)
    return found
