"""What `fit` does before a method trains: it learns columns and tasks, and reads the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from tabmtl.base.params import check_params
from tabmtl.base.schema import Batch, warn_user
from tabmtl.columns.kind import RowError
from tabmtl.encode import LabelCoder, TableCoder
from tabmtl.encode.class_factors import ClassFactors
from tabmtl.encode.new_classes import declare_classes, warn_of_new_classes
from tabmtl.encode.preprocessing import Preprocessing
from tabmtl.encode.read import groups_of_parts, has_column, read_groups, without_columns
from tabmtl.encode.tasks import declared_tasks
from tabmtl.estimators.base import SavableEstimator, draw_seed
from tabmtl.estimators.rows import FitRows, FrameRows
from tabmtl.estimators.source import Source
from tabmtl.metrics.scores import by_metric, check_metric, is_by_group, refuse_without_groups
from tabmtl.model_selection.repeats import (
    group_equal_rows,
    number_groups,
    warn_of_shared_groups,
    warn_of_shared_rows,
)
from tabmtl.model_selection.suspects import (
    dates_of,
    warn_of_frequent_classes,
    warn_of_histories,
    warn_of_index,
    warn_of_suspects,
)
from tabmtl.model_selection.times import times_beside, times_of_fit
from tabmtl.targets import Task
from tabmtl.targets.task import refuse_monotone
from tabmtl.training.run import check_alone

#: Parameters that say how a table is read.
OF_THE_TABLE = ("tasks", "task_column", "columns", "preprocessor")
OF_NUMBERS = ("numeric_transform", "min_frequency")
_TO_GROUP_VAL = "name a column that X and X_val have, or give those of both, as groups=(those of X, those of X_val)"

FittedRows = tuple[TableCoder, FitRows, FitRows | None]


class Marks(NamedTuple):
    """What tells which rows may be set aside, as `fit` takes it: their groups, and their times."""

    groups: Any = None
    time: Any = None


@dataclass(frozen=True, kw_only=True, eq=False)
class TableLearner:
    """Learns the columns and tasks of a table for one estimator, as its `fit` does before it trains.

    Parameters
    ----------
    estimator : SavableEstimator
    coding : mapping
        Parameters of `TableCoder.fit`.
    ignored : tuple of str
        Columns of X that are no features.
    preprocessor : transformer of scikit-learn, or None
    chain : callable
        Returns the steps of a funnel, given the tasks; see `LabelCoder`.
    keeps_monotone : bool
        Whether the estimator keeps to the ``monotone`` of a task.
    reads_windows : bool
        Whether it reads rows of a source window by window, and not all at once.
    known : TableCoder, optional
        Of an earlier fit that this one goes on from: new levels and classes come behind those that it knows.
    """

    estimator: SavableEstimator
    coding: Mapping[str, Any]
    ignored: tuple[str, ...]
    preprocessor: Any
    chain: Callable[[Sequence[Task]], tuple[int, ...]]
    keeps_monotone: bool
    reads_windows: bool
    known: TableCoder | None = None

    def check(self, X: Any, X_val: Any = None, y_val: Any = None) -> None:
        """Raise an error for what `fit` would refuse before it reads a row.

        Raises
        ------
        TypeError, ValueError
            For a bad parameter, or for validation rows that lack labels, or do not come as the others do.
        """
        has_source = isinstance(X, Source)
        if X_val is not None and has_source != isinstance(X_val, Source):
            raise TypeError(
                f"X and X_val must both be Shards or both be frames, got {type(X).__name__} and {type(X_val).__name__}"
            )
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val belong together; got only one of them")
        check_params(self.estimator)
        what = f"a fit of {type(self.estimator).__name__}"
        if not self.reads_windows:
            check_alone(
                what, "call it outside of joined(), by threads of one process (n_jobs); several fit networks only"
            )
        elif not has_source:
            check_alone(f"{what} on a frame", "give Shards, whose rows are dealt, or call it outside of joined()")
        if has_source and self.known is not None:
            raise TypeError(
                "warm_start=True goes on by rows in memory, and X is Shards; give a frame, or say warm_start=False"
            )
        if has_source and self.preprocessor is not None:
            raise TypeError(
                "a preprocessor learns from a frame in memory, and X is Shards; write files of what it gives, and "
                "leave the preprocessor out"
            )
        task_column = self.coding["task_column"]
        if task_column in (*self.ignored, *self.coding["columns"]):
            raise ValueError(f"columns names the task_column {task_column!r}, which is no feature; leave it out")

    def coder(self, X: Any, y: Any, sample_weight: Any = None) -> TableCoder:
        """Learn columns and tasks; X may be a source, and y the names of columns.

        Raises
        ------
        TypeError, ValueError
            As `fit` does.
        """
        if isinstance(X, Source):
            return X.coder(self, y, sample_weight)
        if self.known is not None:
            with _naming_warm_start():
                self._refuse_changed()
                return self._grown(self.known, self.known.prepared(X), y, sample_weight)
        X, before = without_columns(X, self.ignored, strict=True), None
        if self.preprocessor is not None:
            seed = draw_seed(self.estimator.random_state)
            before, names, X = Preprocessing.fit(self.preprocessor, X, self.coding["task_column"], seed)
        coder = TableCoder.fit(X, y, sample_weight, **self.coding)
        if before is not None:
            coder = replace(coder, preprocessing=before, names=names, named=before.library != "numpy")
        return replace(coder, labels=self.with_metrics(coder.labels), dropped=self.ignored)

    def _refuse_changed(self) -> None:
        """Raise a ValueError if a parameter has changed which the known columns and tasks were read by."""
        for name in self.estimator._changed():
            if name in (*OF_THE_TABLE, *OF_NUMBERS):
                was, now = self.estimator._fitted_params[name], getattr(self.estimator, name)
                raise ValueError(f"{name} is {now!r}, and was {was!r} in the last fit: set it back")

    def labels(self, y: Any, task_levels: tuple[str, ...] | None = None) -> LabelCoder:
        """Learn tasks alone, given the tasks that the rows of a long table belong to.

        Raises
        ------
        TypeError, ValueError
            As `fit` does.
        """
        tasks, force = self.coding["tasks"], self.coding["force"]
        return self.with_metrics(LabelCoder.fit(y, tasks=tasks, force=force, task_levels=task_levels))

    def rows(
        self, stack: ExitStack, X: Any, y: Any, weight: Any, marks: Marks, X_val: Any = None, y_val: Any = None
    ) -> FittedRows:
        """Return the coder of the rows of `fit`, these rows, and those to validate on.

        Parameters
        ----------
        stack : ExitStack
            Ends what a source keeps open.
        X, y, weight, X_val, y_val : as in `fit`
        marks : Marks

        Raises
        ------
        TypeError, ValueError
            As `fit` does.
        """
        if isinstance(X, Source):
            return X.rows(self, stack, y, weight, marks, X_val, y_val)
        return self._rows_of_frames(X, y, weight, marks, X_val, y_val)

    def declaring(self, y: Any, classes: Any) -> TableLearner:
        """Return the learner whose tasks have given classes, some of which the labels may lack."""
        return replace(self, coding={**self.coding, "tasks": declare_classes(self.coding["tasks"], y, classes)})

    def on(
        self, coder: TableCoder, X: Any, prepared: Any, y: Any, weight: Any, classes: Any, *, grows: bool
    ) -> tuple[TableCoder, FrameRows]:
        """Return the coder of a fitted model that knows new rows too, and these rows.

        Parameters
        ----------
        coder : TableCoder
            Of the model.
        X, y, weight, classes : as in `partial_fit`
        prepared : rows as the preprocessor gives them
        grows : bool
            Whether the model takes new levels and classes. If not, new levels stay unseen, with a warning.

        Raises
        ------
        TypeError, ValueError
            As `partial_fit` does.
        """
        grown = self._grown(coder, prepared, y, weight, classes)
        if not grows:
            grown = _as_it_was(coder, grown, type(self.estimator).__name__)
        batch = grown.after.read(prepared, y, weight)
        if np.isnan(batch.y).all():
            raise ValueError(f"none of the {len(batch)} rows has a label, so there is nothing to go on by; label some")
        batch = ClassFactors.learn(grown.labels, [batch], are_all=False).weighed(batch)
        if grown.group_column is not None and has_column(X, grown.group_column):
            batch = replace(batch, group=number_groups(read_groups(grown.group_column, X, len(batch))))
        warn_of_index(X, y, "")
        warn_of_new_classes(coder.labels, grown.labels, classes)
        return grown, FrameRows(batch, grown.labels.tasks, prepared)

    def _grown(self, coder: TableCoder, prepared: Any, y: Any, weight: Any, classes: Any = None) -> TableCoder:
        """Return the coder that knows new levels and classes too, those of tasks whose classes are not declared."""
        declared = declared_tasks(self.coding["tasks"], coder.labels.names)
        closed = [name for name, task in declared.items() if task.classes is not None]
        least = self.coding["encoding"]["min_frequency"]
        return coder.extended(prepared, y, weight, classes=classes, closed=closed, min_frequency=least)

    def _rows_of_frames(self, X: Any, y: Any, weight: Any, marks: Marks, X_val: Any, y_val: Any) -> FittedRows:
        groups, time = marks
        coder = self.coder(X, y, weight)
        prepared = coder.prepared(X)
        batch = coder.after.read(prepared, y, weight)
        if self.known is None:
            coder.check_labelled(batch)
        factors = ClassFactors.learn(coder.labels, [batch], are_all=self.known is None)
        batch, valid, prepared_val = factors.weighed(batch), None, None
        if X_val is not None:
            prepared_val = coder.prepared(X_val)
            valid = factors.weighed(coder.after.read(prepared_val, y_val))
            warn_of_index(X_val, y_val, "_val")
        groups, of_val = groups_of_parts(groups, X_val)
        if valid is not None:
            valid = replace(valid, time=times_beside(time, X, len(batch), X_val, len(valid)))
        batch, valid = _grouped(coder.labels.tasks, (X, batch, groups), (X_val, valid, of_val))
        warn_of_index(X, y, "")
        warn_of_suspects(coder, batch)
        warn_of_frequent_classes(coder.labels, self.coding["tasks"], coder.labels.tasks, batch.y)
        warn_of_histories(coder.after, prepared, self.coding["columns"])
        tasks = coder.labels.tasks
        group_column, time_column = (own if isinstance(own, str) else None for own in (groups, time))
        coder = replace(coder, group_column=group_column, time_column=time_column)
        batch = replace(batch, time=times_of_fit(time, X, len(batch)))
        rows = FrameRows(batch, tasks, prepared, dates=dates_of(coder.features))
        return coder, rows, None if valid is None else FrameRows(valid, tasks, prepared_val)

    def with_metrics(self, labels: LabelCoder) -> LabelCoder:
        """Return a coder that knows the scores of its tasks, and their funnel."""
        if not self.keeps_monotone:
            refuse_monotone(labels.tasks, type(self.estimator).__name__)
        metrics = [check_metric(by_metric(task)[0]) for task in labels.tasks]
        pairs = zip(labels.tasks, metrics, strict=True)
        tasks = tuple(task if task.metric == metric else replace(task, metric=metric) for task, metric in pairs)
        return replace(labels, tasks=tasks, chain=self.chain(tasks))


@contextmanager
def _naming_warm_start() -> Iterator[None]:
    """Let errors of rows that a fit cannot go on by say that it goes on: to fit again would go on, too."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not isinstance(error, RowError) and len(error.args) == 1:  # the former names the row; others hold facts
            error.args = (f"{error}; warm_start=True goes on from the last fit, and warm_start=False begins anew",)
        raise


def _as_it_was(coder: TableCoder, grown: TableCoder, model: str) -> TableCoder:
    """Return the coder of a model that takes no new levels and classes; warn of the former.

    Raises
    ------
    ValueError
        If a task has new classes.
    """
    for task, now in zip(coder.labels.column_tasks, grown.labels.column_tasks, strict=True):
        new = (now.classes or ())[len(task.classes or ()) :]
        if new:
            raise ValueError(
                f"task {task.name!r} has the classes {list(task.classes or ())}, and y holds a new one, {new[0]!r}, "
                f"which the trees of {model} cannot take; drop its labels, or fit again on old and new rows"
            )
    sizes = zip(coder.features.columns.cardinalities, grown.features.columns.cardinalities, strict=True)
    names = [name for name, (n, m) in zip(coder.features.columns.categorical, sizes, strict=True) if m > n]
    if names:
        warn_user(
            f"the columns {names[:5]} hold levels that fit has not seen, and trees have no place for them, so they "
            "stay unseen; fit again on old and new rows to learn them"
        )
    return replace(grown, features=coder.features)


def _grouped(
    tasks: Sequence[Task], of_fit: tuple[Any, Batch, Any], of_val: tuple[Any, Batch | None, Any]
) -> tuple[Batch, Batch | None]:
    """Number the groups of the rows to fit, and of those to validate on if scores need them.

    Parameters
    ----------
    tasks : sequence of Task
    of_fit, of_val : tuple
        Rows as they were given, the same encoded, and their groups, as `read_groups` takes them.

    Raises
    ------
    ValueError
        If a task has a metric by group, and rows have no groups.
    """
    (X, batch, groups), (X_val, valid, val_groups) = of_fit, of_val
    refuse_without_groups(tasks, groups)
    values = None if groups is None else read_groups(groups, X, len(batch))
    group = group_equal_rows(batch) if values is None else number_groups(values)
    if valid is not None and val_groups is not None:
        judging = read_groups(val_groups, X_val, len(valid), source="X_val")
        name = f"the column {val_groups!r}" if isinstance(val_groups, str) else "the groups"
        if not any(map(is_by_group, tasks)):
            warn_of_shared_groups(name, values or [], judging, "val")
        else:  # new rows of known users are what a ranker meets
            valid = replace(valid, group=number_groups(judging))
    elif valid is not None:
        refuse_without_groups(tasks, None, "the rows of X_val", _TO_GROUP_VAL)
        warn_of_shared_rows(batch, valid)
    return replace(batch, group=group), valid
