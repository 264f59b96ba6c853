"""Funnels: ordered binary tasks, where every step means «this one and all before it»."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tabmtl.base.schema import warn_user
from tabmtl.targets.task import Task


def settle_funnel(values: np.ndarray, tasks: Sequence[Task], chain: Sequence[int]) -> np.ndarray:
    """Make the labels of a funnel mean «this step and all before it», over all rows.

    After a step that is 0, all later ones are 0: a missing label becomes 0, and a 1 (a conversion without a click)
    contradicts the step before. A missing label before a 1 stays missing, although it can only be 1: filling in ones
    only would make a step look too frequent.

    Parameters
    ----------
    values : ndarray of shape (n, T)
        Labels, NaN = unlabelled; 1 is the second of a task's classes.
    tasks : sequence of Task
    chain : sequence of int
        Indices of the steps, in order; may be empty.

    Returns
    -------
    ndarray of shape (n, T)

    Warns
    -----
    TabmtlWarning
        If a step is labelled 1 after a 0; the warning names the first 0 of a row and the first 1 after it, and counts
        the rows.

    Examples
    --------
    >>> import numpy as np

    >>> tasks = [Task(name=name, kind="binary") for name in ("click", "conversion")]
    >>> settle_funnel(np.array([[0, np.nan], [1, 1], [1, np.nan]]), tasks, [0, 1]).tolist()
    [[0.0, 0.0], [1.0, 1.0], [1.0, nan]]
    """
    if not chain:
        return values
    steps = values[:, list(chain)]
    ended = np.maximum.accumulate(steps == 0, axis=1)
    against = ended & (steps == 1)
    rows = against.any(axis=1)
    pairs = np.column_stack([ended[rows].argmax(axis=1), against[rows].argmax(axis=1)])
    for (before, after), count in zip(*np.unique(pairs, axis=0, return_counts=True), strict=True):
        first, second = tasks[chain[before]], tasks[chain[after]]
        yes, no = (second.classes or (0, 1))[1], (first.classes or (0, 1))[0]
        warn_user(
            f"{count} of {len(values)} rows have {second.name}={yes!r} although {first.name}={no!r}; they count "
            f"as not {second.name!r}, for task_chain says that it needs {first.name!r} before. If the order or the "
            "classes are meant otherwise, change task_chain, or declare tasks={name: Task(name=name, kind='binary', "
            "classes=(<not taken>, <taken>))}"
        )
    settled = values.copy()
    settled[:, list(chain)] = np.where(ended, 0, steps)
    return settled


def with_steps_before(places: Sequence[int], chain: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of some tasks, and behind them those of the steps of a funnel that come before these.

    Parameters
    ----------
    places : sequence of int
        Numbers of tasks.
    chain : sequence of int
        Numbers of the steps, in order; may be empty.

    Examples
    --------
    >>> with_steps_before([3, 2], chain=[0, 1, 2])
    (3, 2, 0, 1)
    """
    last = max((step for step, t in enumerate(chain) if t in places), default=-1)
    return *places, *(t for t in chain[: last + 1] if t not in places)
