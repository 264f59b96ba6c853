"""Kind and classes of a target, declared or inferred from its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import polars as pl

from tabmtl.base.params import check_known
from tabmtl.base.schema import warn_about
from tabmtl.columns.cures import by_kind
from tabmtl.targets import KINDS, Kind, Task
from tabmtl.targets.kind import TEXT


def check_tasks(name: str, value: Any) -> None:
    """Raise a ValueError for a value that does not declare tasks."""
    is_mapping = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    is_list = isinstance(value, Sequence) and all(isinstance(task, Task) for task in value)
    if not (value is None or is_mapping or is_list) or isinstance(value, str):
        raise ValueError(
            f"{name} must be a mapping from columns of y to their kind or Task, or a list of Tasks, got {value!r}"
        )


DeclaredTasks = Annotated[Mapping[str, str | Kind | Task] | Sequence[Task] | None, check_tasks]

_MAX_INFERRED_CLASSES = 20


def named_classes(classes: Any, columns: Sequence[str]) -> dict[str, tuple]:
    """Return the classes of columns of y, which one column, or a list for each, need not name.

    Raises
    ------
    ValueError
        If a name is no column of y, or classes fit no columns.
    """
    if classes is None:
        return {}
    named = classes if isinstance(classes, Mapping) else {}
    if not isinstance(classes, Mapping) and hasattr(classes, "__len__"):
        several = [classes] if len(columns) == 1 else list(classes)
        named = dict(zip(columns, several, strict=True)) if len(several) == len(columns) else {}
    are_classes = [own is None or (hasattr(own, "__len__") and not isinstance(own, str)) for own in named.values()]
    if not all(are_classes) or (not named and not isinstance(classes, Mapping)):
        raise ValueError(
            f"classes must be a mapping from columns of y to their classes, such as {{{columns[0]!r}: "
            f"['a', 'b']}}, for y has the columns {list(columns)}, got {classes!r}"
        )
    check_known("classes names columns", named, columns, "y")
    return {
        name: tuple(label.item() if isinstance(label, np.generic) else label for label in own)
        for name, own in named.items()
        if own is not None
    }


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
    check_known("tasks declares tasks", entries, columns, "y")
    return entries


def names_classes(tasks: DeclaredTasks, column: str) -> bool:
    """Return whether declared tasks name the classes of a column of y, or the positive one of two."""
    entries = tasks if isinstance(tasks, Mapping) else {task.name: task for task in tasks or ()}
    found = entries.get(column)
    return found is not None and (found if isinstance(found, Task) else Task(name=column, kind=found)).names_classes


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
    present = series.alias("").drop_nulls()  # polars reads a name like "^a$" as a pattern
    present = present.drop_nans() if present.dtype.is_float() else present
    check_type(name, present)
    _check_labels(name, present)
    if declared is not None:
        if force and declared.is_classification != (force == "classification"):
            raise ValueError(
                f"task {name!r} is declared '{declared.kind}', but this estimator is for {force} alone; use the mixed "
                "estimator, whose name has no Classifier or Regressor at its end, or declare another kind"
            )
        classes = declared.kind.learn(present, name, declared.classes, order)
        return replace(declared, kind=declared.kind.fitted(), classes=classes)
    if force == "regression" and present.dtype in TEXT:
        raise ValueError(
            f"task {name!r} holds text ({present.dtype}), and a regressor expects numbers; cast it to numbers, or "
            "use a classifier or the mixed estimator"
        )
    if force == "regression" or (force is None and not is_category and _is_regression(name, present, may_be_whole)):
        return _learned(name, "regression", present)
    if not is_category and force and present.dtype.is_float() and not (present == present.round()).all():
        raise ValueError(
            f"Unknown label type: task {name!r} holds continuous numbers, and a classifier expects classes; "
            "use a regressor or the mixed estimator"
        )
    return _learned(name, "binary" if present.n_unique() == 2 else "multiclass", present, order)


def _learned(name: str, kind: str, present: pl.Series, order: Sequence | None = None) -> Task:
    """Make a task of its labels, which is judged as its kind is by default."""
    of_kind = KINDS[kind]
    classes = of_kind.learn(present, name, None, order)
    return Task(name=name, kind=of_kind, classes=classes, metric=next(iter(of_kind.metrics)))


def check_type(name: str, labels: pl.Series) -> None:
    """Raise a TypeError unless labels, if there are any, may be classes or numbers."""
    dtype, are_missing = labels.dtype, labels.null_count() == len(labels)
    if dtype.is_temporal() or not (dtype in (*TEXT, pl.Boolean) or dtype.is_numeric() or are_missing):
        cure = "give every label a column of its own" if dtype.is_nested() else "cast them"
        raise TypeError(f"task {name!r}: labels of type {dtype} are neither classes nor numbers; {cure}")


def _check_labels(name: str, present: pl.Series) -> None:
    """Raise an error unless a task has labels, and numbers among them are finite."""
    if present.len() == 0:
        raise ValueError(
            f"task {name!r} has no observed label: every value is missing (null or NaN) or has weight zero; "
            "drop the task"
        )
    if present.dtype.is_float() and present.is_infinite().any():
        raise ValueError(f"task {name!r}: a label is infinite; replace it by null or a finite number")


def _is_regression(name: str, present: pl.Series, may_be_whole: bool) -> bool:
    """Return whether an undeclared target is a regression target."""
    if present.dtype in (*TEXT, pl.Boolean):
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
    least = values.min()
    unknown = "make -1 a null if it marks a missing label, and " if least == -1 else ""
    counts = f", or {by_kind(name, 'poisson')} for counts" if is_regression and least in (0, 1) else ""
    warn_about(
        [name],
        f"task {name!r} holds {len(values)} distinct whole numbers and was taken for {kind}; "
        f"{unknown}say which it is: {by_kind(name, kind)}{counts}",
    )
    return is_regression
