"""Kind and classes of a target, declared or inferred from its labels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import polars as pl

from tabmtl.encode.cures import by_kind
from tabmtl.params import near
from tabmtl.schema import Kind, TabmtlWarning, Task


def check_tasks(name: str, value: Any) -> None:
    """Raise a ValueError for a value that does not declare tasks."""
    is_mapping = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    is_list = isinstance(value, Sequence) and all(isinstance(task, Task) for task in value)
    if not (value is None or is_mapping or is_list) or isinstance(value, str):
        raise ValueError(
            f"{name} must be a mapping from columns of y to their kind or Task, or a list of Tasks, got {value!r}"
        )


DeclaredTasks = Annotated[Mapping[str, Kind | Task] | Sequence[Task] | None, check_tasks]

_MAX_INFERRED_CLASSES = 20


def declared_tasks(tasks: DeclaredTasks, columns: Sequence[str]) -> dict[str, Task]:
    """Return the declared tasks by column of y.

    Raises
    ------
    ValueError
        If a declaration has no column, or a Task stands under a name that is not its own.
    """
    if tasks is None:
        return {}
    if isinstance(tasks, Mapping):
        entries = {name: task if isinstance(task, Task) else Task(name=name, kind=task) for name, task in tasks.items()}
    else:
        entries = {task.name: task for task in tasks}
    for name, task in entries.items():
        if task.name != name:
            raise ValueError(f"tasks has the task {task.name!r} under {name!r}; give both the name of y's column")
    unknown = [name for name in entries if name not in columns]
    if unknown:
        hint = near(unknown[0], columns)
        raise ValueError(f"tasks declares {unknown}, which y does not have{hint}; y has {list(columns)}")
    return entries


def fit_task(
    series: pl.Series,
    declared: Task | None,
    force: str | None,
    *,
    categories: Sequence | None = None,
    is_ordered: bool = False,
    may_be_whole: bool = False,
) -> Task:
    """Infer the kind and classes of one target.

    Parameters
    ----------
    series : polars Series
        Labels, null and NaN where there is none.
    declared : Task or None
        Overrides the inference from labels.
    force : {"classification", "regression"} or None
        Sort of all tasks that the estimator takes; None takes both.
    categories : sequence, optional
        All categories of pandas: the labels are classes even if they are numbers.
    is_ordered : bool, default=False
        Whether classes keep the order of ``categories``; those of an Enum always keep its own.
    may_be_whole : bool, default=False
        Whether floats may be whole numbers of a library that holds them as floats where some are missing.

    Raises
    ------
    TypeError, ValueError
        If the labels are of another type, such as dates, all missing, infinite, of one class, or do not fit the
        declaration.
    """
    name, is_category = series.name, categories is not None
    order = categories if is_ordered else None
    present = _present(series.alias(""))
    _check_labels(name, present)
    if declared is not None:
        if force and declared.is_classification != (force == "classification"):
            raise ValueError(
                f"task {name!r} is declared {declared.kind!r}, but this estimator is for {force} alone; use the mixed "
                "estimator, whose name has no Classifier or Regressor at its end, or declare another kind"
            )
        return _with_classes(declared, present, order)
    if force == "regression" and is_text(present) and present.dtype != pl.Boolean:
        raise ValueError(
            f"task {name!r} holds text ({present.dtype}), and a regressor expects numbers; cast it to numbers, or "
            "use a classifier or the mixed estimator"
        )
    if force == "regression" or (force is None and not is_category and _is_regression(name, present, may_be_whole)):
        return _with_classes(Task(name=name, kind="regression"), present)
    if not is_category and force and present.dtype.is_float() and not (present == present.round()).all():
        raise ValueError(
            f"Unknown label type: task {name!r} holds continuous numbers, and a classifier expects classes; "
            "use a regressor or the mixed estimator"
        )
    classes = _classes(present, order)
    return _with_classes(Task(name=name, kind="binary" if len(classes) == 2 else "multiclass"), present, order)


def is_text(series: pl.Series) -> bool:
    """Return whether the values can only be classes."""
    return series.dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean)


def class_values(task: Task) -> pl.Series:
    """Return the classes of a task, text, booleans or numbers.

    Raises
    ------
    TypeError
        If they are something else or a mixture.
    """
    classes = list(task.classes or ())
    if all(isinstance(label, int) and not isinstance(label, bool) for label in classes):
        return pl.Series(classes, dtype=pl.Int128)
    for kinds, dtype in ((bool, pl.Boolean), (str, pl.String), (int | float, pl.Float64)):
        if all(isinstance(label, kinds) for label in classes):
            return pl.Series(classes, dtype=dtype, strict=False)
    raise TypeError(f"task {task.name!r}: classes must be all text, all booleans or all numbers, got {classes}")


def as_values(series: pl.Series) -> pl.Series:
    """Return class labels as text or numbers that can be compared; a missing one is null."""
    if series.dtype in (pl.Categorical, pl.Enum):
        return series.cast(pl.String)
    if series.dtype == pl.Boolean:
        return series.cast(pl.UInt8)
    return series.fill_nan(None) if series.dtype.is_float() else series


def _present(series: pl.Series) -> pl.Series:
    """Return the labelled values of a target without a name: polars reads one like "^a$" as a pattern."""
    series = series.drop_nulls()
    return series.drop_nans() if series.dtype.is_float() else series


def _check_labels(name: str, present: pl.Series) -> None:
    """Raise an error unless the labels of a task are some classes or finite numbers."""
    if present.dtype.is_temporal() or not (is_text(present) or present.dtype.is_numeric() or present.len() == 0):
        raise TypeError(f"task {name!r}: labels of type {present.dtype} are neither classes nor numbers; cast them")
    if present.len() == 0:
        raise ValueError(
            f"task {name!r} has no observed label: every value is missing (null or NaN) or has weight zero; "
            "drop the task"
        )
    if present.dtype.is_float() and present.is_infinite().any():
        raise ValueError(f"task {name!r}: a label is infinite; replace it by null or a finite number")


def _is_regression(name: str, present: pl.Series, may_be_whole: bool) -> bool:
    """Return whether an undeclared target is a regression target."""
    if is_text(present):
        return False
    if present.dtype.is_float():
        if present.is_in([0.0, 1.0]).all():
            return False
        if not (may_be_whole and (present == present.round()).all()):
            return True
    values = present.unique()
    if len(values) <= 2:
        return False
    is_regression = len(values) > _MAX_INFERRED_CLASSES
    kind = "regression" if is_regression else "multiclass"
    warnings.warn(
        f"task {name!r} holds {len(values)} distinct whole numbers and was taken for {kind}; "
        f"say which it is: {by_kind(name, kind)}",
        TabmtlWarning,
        stacklevel=2,
    )
    return is_regression


def _classes(present: pl.Series, order: Sequence | None) -> tuple:
    """Return the classes that occur, in the order of all categories, or of an Enum, or sorted."""
    values = (present.cast(pl.String) if present.dtype == pl.Categorical else present).unique().sort().to_list()
    if order is not None:
        found = set(values)
        return tuple(category for category in order if category in found)
    return tuple(values)


def _with_classes(task: Task, present: pl.Series, order: Sequence | None = None) -> Task:
    """Complete a task by the classes among its labels, or check the declared ones."""
    if task.kind == "regression":
        if is_text(present) and present.dtype != pl.Boolean:
            raise ValueError(
                f"task {task.name!r} is a regression task, but its labels are text ({present.dtype}); cast y to "
                "numbers, or declare the task 'binary' or 'multiclass'"
            )
        return task
    seen = _classes(present, order)
    if task.classes is not None:
        plain = tuple(label.item() if isinstance(label, np.generic) else label for label in task.classes)
        task = replace(task, classes=plain)  # which JSON can hold
        unknown = [label for label in seen if label not in (task.classes or ())]
        if unknown:
            raise ValueError(
                f"task {task.name!r}: labels {unknown} are not among its classes {list(task.classes or ())}"
            )
    elif len(seen) == 1:
        raise ValueError(
            f"task {task.name!r} has only one class, {seen[0]!r}, among its labels; a classifier needs at "
            "least two classes: drop the task, or declare its classes"
        )
    elif task.kind == "binary" and len(seen) != 2:
        raise ValueError(
            f"task {task.name!r} is binary, but its labels have {len(seen)} classes, such as {list(seen[:3])}; "
            "declare it 'multiclass', or 'regression' for numbers"
        )
    return replace(task, classes=task.classes or seen)


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
    >>> from tabmtl.schema import Task
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
        warnings.warn(
            f"{count} of {len(values)} rows have {second.name}={yes!r} although {first.name}={no!r}; they count "
            f"as not {second.name!r}, for task_chain says that it needs {first.name!r} before. If the order or the "
            "classes are meant otherwise, change task_chain, or declare tasks={name: Task(name=name, kind='binary', "
            "classes=(<not taken>, <taken>))}",
            TabmtlWarning,
            stacklevel=2,
        )
    settled = values.copy()
    settled[:, list(chain)] = np.where(ended, 0, steps)
    return settled
