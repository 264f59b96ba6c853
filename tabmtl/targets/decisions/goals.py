"""What thresholds are chosen for: scores of decisions that are made of sums over rows, and costs.

Moving a threshold past a row moves the row from one class to another. Where a score is a function of sums over rows,
running sums over the sorted rows thus give the scores of all thresholds at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tabmtl.base.params import near
from tabmtl.targets import Task

#: Name of the score by costs.
BY_COSTS = "neg_mean_cost"


@dataclass(frozen=True, eq=False)
class Goal:
    """A score of decisions, higher is better.

    Parameters
    ----------
    metric : str
    parts : callable
        ``parts(labels, decided)`` returns what each row adds to the sums, (n, S) without weights.
    score : callable
        The scores (...) of sums (..., S).
    costs : ndarray of shape (K, K), optional
        By the true class and the decided one.
    """

    metric: str
    parts: Callable[[np.ndarray, np.ndarray], np.ndarray]
    score: Callable[[np.ndarray], np.ndarray]
    costs: np.ndarray | None = None

    @property
    def threshold(self) -> float | None:
        """Threshold of two classes from which on probabilities that hold cost least; None if costs tell none."""
        if self.costs is None or len(self.costs) != 2:
            return None
        (right, alarm), (missed, found) = self.costs
        alarm, missed = alarm - right, missed - found
        return float(alarm / (alarm + missed)) if alarm > 0 and missed > 0 else None


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return ratios, 0 where nothing is below."""
    return np.divide(above, below, out=np.zeros(np.broadcast_shapes(above.shape, below.shape)), where=below > 0)


def _means(
    values: Callable[[np.ndarray, np.ndarray], np.ndarray], metric: str, costs: np.ndarray | None = None
) -> Goal:
    """Return the goal of the mean of some values over rows."""
    return Goal(
        metric,
        lambda y, found: np.column_stack([values(y, found), np.ones(len(y))]),
        lambda sums: _ratio(sums[..., 0], sums[..., 1]),
        costs,
    )


def _by_class(n_classes: int, metric: str, score: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Goal:
    """Return a goal of the sums (..., K) of right answers, labels and answers of every class."""

    def parts(y: np.ndarray, found: np.ndarray) -> np.ndarray:
        labels, answers = np.eye(n_classes)[y], np.eye(n_classes)[found]
        return np.hstack([labels * answers, labels, answers])

    return Goal(metric, parts, lambda sums: score(*np.split(sums, 3, axis=-1)))


def _mean_where(values: np.ndarray, is_there: np.ndarray) -> np.ndarray:
    return _ratio((values * is_there).sum(axis=-1), is_there.sum(axis=-1).astype(float))


def _kappa(sums: np.ndarray) -> np.ndarray:
    n, y, found, squares, paired = np.moveaxis(sums, -1, 0)
    by_chance = _ratio(squares, n) - 2 * _ratio(y, n) * _ratio(found, n)
    return np.where(by_chance > 0, 1 - _ratio(_ratio(paired, n), by_chance), 0.0)


def _kappa_parts(y: np.ndarray, found: np.ndarray) -> np.ndarray:
    y, found = y.astype(float), found.astype(float)
    return np.column_stack([np.ones(len(y)), y, found, np.square(y) + np.square(found), np.square(y - found)])


def goals_of(task: Task) -> dict[str, Goal]:
    """Return the goals of a task by the names of their metrics, the default first."""
    n_classes = len(task.classes or ())
    accuracy = _means(lambda y, found: y == found, "accuracy")
    if task.kind.name == "ordinal":
        distance = _means(lambda y, found: -np.abs(y - found), "neg_mean_absolute_error")
        goals = [Goal("quadratic_kappa", _kappa_parts, _kappa), distance, accuracy]
    else:
        goals = [
            _by_class(n_classes, "balanced_accuracy", lambda hit, y, _: _mean_where(_ratio(hit, y), y > 0)),
            _by_class(n_classes, "f1", lambda hit, y, found: _ratio(2 * hit, y + found)[..., 1]),
            _by_class(
                n_classes, "f1_macro", lambda hit, y, found: _mean_where(_ratio(2 * hit, y + found), y + found > 0)
            ),
            accuracy,
        ]
    return {goal.metric: goal for goal in goals}


def goal_of(task: Task, metric: str | None, costs: Mapping[Any, float] | None) -> Goal:
    """Return what the thresholds of a task are chosen for.

    Parameters
    ----------
    task : Task
    metric : str, optional
        By default that of its kind.
    costs : mapping of (class, class) to float, optional
        Costs of a row by its true class and the one that is answered; those left out are 0.

    Raises
    ------
    ValueError
        If the metric judges no decisions of the kind, or the costs are no numbers of two classes of the task, or make
        one answer the best for all rows.
    """
    goals = goals_of(task)
    if costs is None:
        name = next(iter(goals)) if metric is None else metric
        if name not in goals:
            raise ValueError(
                f"task {task.name!r}: thresholds of {task.kind} tasks are chosen for one of {[*goals]}, or by costs, "
                f"got metric={metric!r}{near(metric, goals)}"
            )
        return goals[name]
    if not isinstance(costs, Mapping):
        _places(task, costs)  # names the form that is expected
    table = np.zeros((len(task.classes or ()),) * 2)
    for pair, cost in costs.items():
        table[_places(task, pair)] = _number(task, pair, cost)
    if not (table != np.diag(table)[:, None]).any():
        raise ValueError(
            f"task {task.name!r}: by these costs all answers are alike; give those of mistakes, such as "
            f"costs={{({(task.classes or (0, 1))[1]!r}, {(task.classes or (0, 1))[0]!r}): 10.0}}"
        )
    best = (table == table.min(axis=1, keepdims=True)).all(axis=0)
    if best.any():
        answer = (task.classes or ())[int(best.argmax())]
        raise ValueError(
            f"task {task.name!r}: by these costs no answer is ever better than {answer!r}, so all rows would have it; "
            f"give what it costs where it is wrong, such as (another class, {answer!r}): 1.0"
        )
    return _means(lambda y, found: -table[y, found], BY_COSTS, table)


def _places(task: Task, pair: Any) -> tuple[int, int]:
    """Return the numbers of the true and the answered class that costs name."""
    classes = list(task.classes or ())
    if not (isinstance(pair, tuple) and len(pair) == 2):
        raise ValueError(
            f"task {task.name!r}: costs are by the true class and the one that is answered, such as "
            f"{{({classes[1]!r}, {classes[0]!r}): 10.0}}, got {pair!r}"
        )
    for label in pair:
        if label not in classes:
            hint = near(label, [known for known in classes if isinstance(known, str)])
            raise ValueError(f"task {task.name!r}: costs name the class {label!r}{hint}; expected one of {classes}")
    return classes.index(pair[0]), classes.index(pair[1])


def _number(task: Task, pair: Any, cost: Any) -> float:
    if isinstance(cost, bool) or not isinstance(cost, int | float | np.number) or not np.isfinite(cost):
        raise ValueError(f"task {task.name!r}: the cost of {pair!r} must be a finite number, got {cost!r}")
    return float(cost)
