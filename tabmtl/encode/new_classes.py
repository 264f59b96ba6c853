"""Classes of new rows join those that labels know, and those that a first part of the rows lacks are declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from tabmtl.base.schema import warn_user
from tabmtl.encode.labels import LabelCoder, name_targets, read_labels, with_unseen, without_weightless
from tabmtl.encode.tasks import DeclaredTasks, declared_tasks, named_classes
from tabmtl.encode.write import ORDERED
from tabmtl.targets import KINDS, Task
from tabmtl.targets.classes import new_classes


def grown_labels(
    known: LabelCoder, y: Any, sample_weight: Any = None, *, classes: Any = None, closed: Sequence[str] = ()
) -> LabelCoder:
    """Return labels that know the classes of new rows too, behind those known, and no decisions.

    Scales stay, and so do the codes of all known classes.

    Parameters
    ----------
    known : LabelCoder
    y : frame, series or array
        Targets of new rows, as `LabelCoder.encode` takes them.
    sample_weight : array of shape (n,) or (n, T), or frame, optional
        Labels of weight 0 teach nothing.
    classes : sequence, or mapping of task to sequence, optional
        Further classes, which need no label.
    closed : sequence of str, default=()
        Columns of y whose classes were declared, and so are all that there are.

    Raises
    ------
    ValueError
        If a task has a new class that it cannot take, or y a new target; the message names the cure.
    """
    _check_targets(known, y)
    frame, _ = without_weightless(known.targets_of(y), sample_weight)
    given = named_classes(classes, [task.name for task in known.column_tasks])
    grown = []
    for task, labels, dtype, native in zip(
        known.column_tasks, frame.iter_columns(), known.dtypes, known.origin.dtypes, strict=True
    ):
        own = task.classes or ()
        new = () if task.classes is None else new_classes(labels.alias(""), task.name, own)
        new += tuple(label for label in given.get(task.name, ()) if label not in (*own, *new))
        is_fixed = task.name in closed or native == ORDERED
        if new:
            _check_new(task, new, dtype, is_fixed)
        grown.append(replace(task, classes=(*own, *new)) if new else task)
    tasks = grown if known.task_levels is None else [replace(grown[0], name=level) for level in known.task_levels]
    origin = replace(known.origin, categories=with_unseen(known.origin.categories, grown))
    origin = origin.holding([task.classes or () for task in grown])
    return replace(known, tasks=tuple(task.at(None) for task in tasks), origin=origin, decisions=None)


def warn_of_new_classes(known: LabelCoder, grown: LabelCoder, classes: Any) -> None:
    """Warn of classes that have joined the tasks, such as a misspelt label; those that a call names are meant."""
    given = named_classes(classes, [task.name for task in known.column_tasks])
    new: dict[str, list[Any]] = {}
    for task, now in zip(known.column_tasks, grown.column_tasks, strict=True):
        found = (now.classes or ())[len(task.classes or ()) :]
        new[task.name] = [label for label in found if label not in given.get(task.name, ())]
    joined = "; ".join(f"task {name!r} {own}" for name, own in new.items() if own)
    if joined:
        warn_user(
            f"y holds classes that the model does not know, and they join: {joined}; if they are mistakes, such as "
            "misspelt labels, go on from the model before, without them; if they are meant, name them in classes"
        )


def declare_classes(tasks: DeclaredTasks | None, y: Any, classes: Any) -> DeclaredTasks | None:
    """Return declared tasks that have all classes, which the labels at hand may lack; see `LabelCoder.fit`.

    Raises
    ------
    ValueError
        If classes are of no column of y, or of one that is declared to hold numbers.
    """
    if classes is None:
        return tasks
    frame, origin = read_labels(y)
    columns = name_targets(frame, origin, tasks).columns
    declared = declared_tasks(tasks, columns)
    for name, own in named_classes(classes, columns).items():
        if name in declared:
            declared[name] = replace(declared[name], classes=own)
        else:
            kind = KINDS["binary" if len(own) == 2 else "multiclass"]
            declared[name] = Task(name=name, kind=kind, classes=own, metric=next(iter(kind.metrics)))
    return declared if tasks is None or isinstance(tasks, Mapping) else [*declared.values()]


def _check_targets(known: LabelCoder, y: Any) -> None:
    """Raise a ValueError for a target that labels do not know, whose labels would be lost."""
    frame, origin = read_labels(y)
    new = [name for name in frame.columns if name not in known.names]
    if new and origin.named and origin.ndim == 2 and known.origin.named:
        raise ValueError(
            f"y holds the new targets {new}, and the model goes on with {list(known.names)}; drop them from y, take "
            "them up by add_task, or fit again"
        )


def _check_new(task: Task, new: Sequence[Any], dtype: pl.DataType, is_fixed: bool) -> None:
    """Raise a ValueError for new classes of a task whose classes stay as they are, or that its type cannot hold."""
    if pl.Series("", new, dtype, strict=False).to_list() != [*new]:
        raise ValueError(
            f"task {task.name!r}: labels of fit are {dtype}, which cannot hold the new class {new[0]!r}; drop its "
            "labels, or fit again on old and new rows"
        )
    if is_fixed or not task.kind.takes_new_classes:
        sort = "whose classes were declared in fit" if is_fixed else f"which is {task.kind}"
        raise ValueError(
            f"task {task.name!r}, {sort}, has the classes {list(task.classes or ())}, and y holds a new one, "
            f"{new[0]!r}; only the kind 'multiclass' takes classes later, unless they were declared: drop the labels "
            "of the new class, or fit again on old and new rows"
        )
