"""Labels of a funnel: ordered binary tasks, each meaning that its step and all before it were taken."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tabmtl.schema import TabmtlWarning, Task


def settle_funnel(values: np.ndarray, tasks: Sequence[Task], chain: Sequence[int]) -> np.ndarray:
    """Make the labels of a funnel mean «this step and all before it», over all rows.

    Where a step was not taken, all later ones are 0: a missing label is known after all, and a 1 (a conversion
    without a click) contradicts the step before.

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
        Where a step is labelled 1 after a 0; it names both tasks and counts the rows.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl.schema import Task
    >>> tasks = [Task(name=name, kind="binary") for name in ("click", "conversion")]
    >>> settle_funnel(np.array([[0, np.nan], [1, 1], [1, np.nan]]), tasks, [0, 1]).tolist()
    [[0.0, 0.0], [1.0, 1.0], [1.0, nan]]
    """
    if not chain:
        return values
    values = values.copy()
    for before, after in pairwise(chain):
        not_taken = values[:, before] == 0
        against = int((not_taken & (values[:, after] == 1)).sum())
        if against:
            first, second = tasks[before], tasks[after]
            yes, no = (second.classes or (0, 1))[1], (first.classes or (0, 1))[0]
            warnings.warn(
                f"{against} of {len(values)} rows have {second.name}={yes!r} although {first.name}={no!r}; they count "
                f"as not {second.name!r}, for task_chain says that it needs {first.name!r} before. If the order or the "
                "classes are meant otherwise, change task_chain, or Task(classes=(no, yes))",
                TabmtlWarning,
                stacklevel=2,
            )
        values[not_taken, after] = 0
    return values
