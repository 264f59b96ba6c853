"""Scores of tasks given a step before them, such as conversions given a click.

A conversion needs a click, and two of its rates are of use: that of the clicked rows, and that of all rows. ESMM (Ma et
al., SIGIR 2018) and APEM report both, as CVR and CTCVR.

==================  ======================================  =================================================
name                rows and labels                         answers
==================  ======================================  =================================================
conversion|click    conversions of the rows with a click    p(conversion | click), of click and conversion
                                                            p(conversion) / p(click)
conversion&click    both, of all rows                       p(conversion), of p(conversion | click) the
                                                            product with p(click)
==================  ======================================  =================================================

A model with a funnel of both steps answers for both. Of others the labels tell: if conversions are labelled where there
is no click, as 0, the answer is that of both steps. If they are missing there, it is that given the click.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tabmtl.base.params import check_known
from tabmtl.metrics.scores import Answered

if TYPE_CHECKING:
    from tabmtl.targets import Task


def score_given(answered: Answered, given: str | None, chain: Sequence[int] = ()) -> Answered:
    """Replace every task that needs a step before it by two, given this step and together with it.

    Parameters
    ----------
    answered : Answered
        Of a wide table.
    given : str or None
        A binary task; with None, all stays as it is.
    chain : sequence of int, optional
        Numbers of the tasks that are the steps of a funnel of the model.

    Returns
    -------
    Answered
        Other tasks, and binary ones that are 1 where the step was not taken, stay as they are.

    Raises
    ------
    ValueError
        If the table is long, there is no such binary task, or no other task follows it.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl.targets import Task
    >>> tasks = [Task(name=name, kind="binary") for name in ("click", "buy")]
    >>> labels = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    >>> both = [np.array([[0.8, 0.2], [0.5, 0.5], [0.5, 0.5]]), np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])]
    >>> found = score_given(Answered(tasks, labels, both), "click")
    >>> [task.name for task in found.tasks], found.outputs[1][1:, 1].tolist()
    (['click', 'buy|click', 'buy&click'], [0.2, 0.8])
    """
    if given is None:
        return answered
    names = [task.name for task in answered.tasks]
    if not isinstance(given, str):
        raise TypeError(f"given must be the name of a task, got {given!r}")
    check_known("given names tasks", [given], names, "the model")
    if answered.own_task is not None:
        raise ValueError(f"given={given!r} needs all labels of a row in one row of y; a long table has one task a row")
    step = names.index(given)
    if not answered.tasks[step].is_binary:
        raise ValueError(f"given must name a binary task, and {given!r} is {answered.tasks[step].kind}")
    columns = [column for t in range(len(names)) for column in _columns(answered, step, t, {step, t} <= set(chain))]
    if len(columns) == len(names):
        raise ValueError(_nothing_follows(answered, step))
    tasks, labels, outputs, weights = zip(*columns, strict=True)
    weight = answered.weight if answered.weight is None or answered.weight.ndim == 1 else np.column_stack(weights)
    return answered._replace(tasks=tasks, labels=np.column_stack(labels), outputs=[*outputs], weight=weight)


def _columns(
    answered: Answered, step: int, t: int, in_funnel: bool
) -> Iterator[tuple[Task, np.ndarray, np.ndarray, np.ndarray | None]]:
    """Yield the tasks of one task, with their labels, answers and weights."""
    task, y, p, weight = _column(answered, t)
    before, taken, p_before, weight_before = _column(answered, step)
    if t == step or not task.is_binary or _n_against(taken, y):
        yield task, y, p, weight
        return
    is_of_both = in_funnel or ((taken == 0) & (y == 0)).any()
    positive, rate = p[:, 1].astype(np.float64), p_before[:, 1].astype(np.float64)
    ratio = np.divide(positive, rate, out=np.zeros(len(rate)), where=rate > 0)
    on_taken = np.minimum(ratio, 1.0) if is_of_both else positive
    of_both = positive if is_of_both else positive * rate
    clicked = np.where(taken == 1, y, np.nan)
    for sign, labels, found, of_rows in (
        ("|", clicked, on_taken, weight),
        ("&", np.where(taken == 0, 0.0, clicked), of_both, weight if is_of_both else weight_before),
    ):
        thresholds = task.thresholds if found is positive else None  # they are of the answers as the model gives them
        yield (
            replace(task, name=f"{task.name}{sign}{before.name}").at(thresholds),
            labels,
            np.column_stack([1 - found, found]),
            of_rows,
        )


def _column(answered: Answered, t: int) -> tuple[Task, np.ndarray, np.ndarray, np.ndarray | None]:
    weight = answered.weight
    own = None if weight is None or weight.ndim == 1 else weight[:, t]
    return answered.tasks[t], answered.labels[:, t], answered.outputs[t], own


def _n_against(taken: np.ndarray, y: np.ndarray) -> int:
    """Return the number of rows that took a step without the one before."""
    return int(((taken == 0) & (y == 1)).sum())


def _nothing_follows(answered: Answered, step: int) -> str:
    given = answered.tasks[step].name
    counts = {
        task.name: _n_against(answered.labels[:, step], answered.labels[:, t])
        for t, task in enumerate(answered.tasks)
        if t != step and task.is_binary
    }
    if not counts:
        return f"given={given!r}: the model has no other binary task"
    found = ", ".join(f"{name!r} is 1 in {n} of them" for name, n in counts.items())
    return (
        f"given={given!r}: no other binary task needs it, since of the rows where it is 0, {found}; set these labels "
        "to 0, drop the rows, or name the step before"
    )
