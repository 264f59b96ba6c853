"""Fitted estimators that take new tasks, and part with tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from tabmtl.encode import LabelCoder, TableCoder
from tabmtl.encode.class_factors import ClassFactors
from tabmtl.encode.read import read_groups
from tabmtl.encode.shards import Shards
from tabmtl.encode.table import sort_tasks, task_texts
from tabmtl.encode.tasks import DeclaredTasks, check_tasks
from tabmtl.estimators.base import drafted
from tabmtl.estimators.drifting import NoticesDrift
from tabmtl.model_selection.repeats import SeenRows, group_equal_rows, number_groups
from tabmtl.params import check_choice, near
from tabmtl.schema import Batch, warn_user
from tabmtl.targets.task import refuse_monotone

Method = Literal["head", "scalearn", "scalearn_uniform"]
Freeze = Literal["shared"] | None


class TakesTasks(NoticesDrift):
    """Fitted estimator that takes new tasks; a subclass gives `_add_tasks` and `_remove_task`.

    Attributes
    ----------
    coder_ : TableCoder
    """

    coder_: TableCoder
    _target_kind: ClassVar[Literal["classification", "regression"] | None]
    _seen_rows: SeenRows
    _keeps_monotone: ClassVar[bool]

    #: Methods of `add_task` that the class has, and what may be frozen.
    _task_methods: ClassVar[tuple[str, ...]] = ("head",)
    _task_freezes: ClassVar[tuple[str | None, ...]] = ("shared",)

    @available_if(lambda estimator: type(estimator)._add_tasks is not TakesTasks._add_tasks)
    @drafted
    def add_task(
        self,
        X: Any,
        y: Any,
        *,
        method: Method = "head",
        freeze: Freeze = "shared",
        tasks: DeclaredTasks = None,
        sample_weight: Any = None,
        groups: Any = None,
    ) -> Self:
        """Learn new tasks, which read what the fitted model computes, and leave the tasks it has as they are.

        The answers of the tasks that the model has keep their bits, with their thresholds, calibrators and intervals,
        unless ``freeze=None``. New tasks come behind them. Call it again for further ones.

        Parameters
        ----------
        X : frame or array of shape (n, p)
            Rows with the columns of fit, those that have a label of a new task; they may be the rows of fit or others.
            In the long layout, the column of tasks names the new task in every row.
        y : frame, series or array of shape (n,) or (n, T)
            Labels of the new tasks, of any kind, in the library of y of fit; null and NaN are unlabelled. With
            ``freeze=None``, it may hold labels of tasks that the model has, too. In the long layout, the one target.
        method : {"head", "scalearn", "scalearn_uniform"}, default="head"
            What a new task reads of the model. Trees and models of each task alone have "head" only.

            - "head": all features that the heads of a network read, and those that the last layers of its heads read,
              by a linear layer; its penalty is chosen by folds. In `SharedTrees` the trees that stand, which give the
              task leaf values of its own.
            - "scalearn": the features of every task of the network, each scaled by learned numbers, and added up
              (ScaLearn); ``task_transfer_`` says how much each task lends.
            - "scalearn_uniform": the same with one number for each task.
        freeze : {"shared"} or None, default="shared"
            What stays as it is: with "shared" all that the model has learned. None trains a whole network on, after
            the new tasks have learned with it frozen: the answers of all tasks change, and what `calibrate`,
            `tune_thresholds` and `conformalize` have learned is dropped, with a warning.
        tasks : mapping of name to kind or Task, or sequence of Task, optional
            Kinds of the new tasks, as in the parameter ``tasks``.
        sample_weight : array of shape (n,) or (n, T), or frame with the task names, optional
        groups : array of shape (n,) or str, optional
            Group of every row, or the name of a column of X that holds it: no group is on both sides of a fold.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If the model has the task, X has other columns, no row has a label, the class lacks the method, or a task is
            ``monotone`` and the class cannot promise it, as in `fit`; the model stays unchanged.

        References
        ----------
        Frohmann, Holtermann, Masoudian, Lauscher and Rekabsaz (2024), "ScaLearn: Simple and Highly Parameter-Efficient
        Task Transfer by Learning to Scale", Findings of ACL, arXiv 2310.01217.

        Examples
        --------
        >>> import numpy as np
        >>> from tabmtl import SharedBottom
        >>> X = np.random.default_rng(0).normal(size=(300, 4))
        >>> model = SharedBottom(epochs=2, random_state=0).fit(X, X[:, :2])
        >>> model.add_task(X[:50], X[:50, 0] + X[:50, 1], method="head").predict(X).shape
        (300, 3)
        """
        check_is_fitted(self)
        self._check_way(method, freeze)
        check_tasks("tasks", tasks)
        if isinstance(X, Shards):
            raise TypeError("add_task reads a frame in memory, and X is Shards; give some of their rows as a frame")
        if y is None:
            raise ValueError("add_task learns from labels, but the target y is None; give labels of the new task")
        prepared, n_old = self._preprocessed(X), len(self.coder_.labels.tasks)
        coder, labels, weight = self._with_new_tasks(prepared, y, tasks, sample_weight, freeze)
        if not self._keeps_monotone:
            refuse_monotone(coder.labels.tasks, type(self).__name__)
        batch = coder.after.read(prepared, labels, weight)
        _check_labelled(coder.labels, batch, n_old)
        batch = _weighed(coder.labels, batch)
        values = None if groups is None else read_groups(groups, X, len(batch))
        batch = replace(batch, group=group_equal_rows(batch) if values is None else number_groups(values))
        if freeze is None:
            coder = _undecided(coder)
        self._take_over(coder, self._add_tasks(coder.after, batch, method, freeze, self._seed()))
        self._seen_rows = self._seen_rows.and_of(*_learned(coder.labels, batch, n_old, freeze))
        self._follow_tasks(prepared, batch, are_new=freeze is not None)
        return self

    @available_if(lambda estimator: type(estimator)._remove_task is not TakesTasks._remove_task)
    @drafted
    def remove_task(self, name: str) -> Self:
        """Part with a task, of fit or added later; the answers of the others stay, with all that they have decided.

        The head that `add_task` has given to a network goes with its task. A network keeps the weights of a task of
        fit, in its file too, since the others may read what it computes; fit again to leave none.

        Parameters
        ----------
        name : str
            In the long layout one of the tasks of rows.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is no such task, it is the only one, or a step of a funnel; the model stays unchanged.

        Examples
        --------
        >>> import numpy as np
        >>> from tabmtl import SharedBottom
        >>> X = np.random.default_rng(0).normal(size=(300, 4))
        >>> model = SharedBottom(epochs=2, random_state=0).fit(X, X[:, :3]).remove_task("y1")
        >>> [task.name for task in model.tasks_]
        ['y0', 'y2']
        """
        check_is_fitted(self)
        names = [task.name for task in self.coder_.labels.tasks]
        if not isinstance(name, str) or name not in names:
            raise ValueError(f"there is no task {name!r}{near(str(name), names)} to remove; the tasks are {names}")
        if len(names) == 1:
            raise ValueError(f"{name!r} is the only task of the model, which cannot do without one; fit another model")
        coder = replace(self.coder_, labels=self.coder_.labels.without(name))
        self._take_over(coder, self._remove_task(coder.after, names.index(name)))
        if self.coder_.task_column is not None:  # codes of tasks have changed
            self._seen_rows = SeenRows.unknown()
        if self.profile_ is not None:
            self.profile_ = self.profile_.of_tasks([task.name for task in self.tasks_], self.coder_.task_column)
        return self

    # methods that a subclass defines

    def _add_tasks(self, coder: TableCoder, batch: Batch, method: Method, freeze: Freeze, seed: int) -> dict[str, Any]:
        """Learn the tasks of a coder behind those of the model, and return the fitted attributes that change.

        Parameters
        ----------
        coder : TableCoder
            Of all tasks, the new ones last.
        batch : Batch
            Rows with labels of all these tasks, in own units, their weights and groups; NaN where there is no label.
        method, freeze : as in `add_task`
        seed : int
        """
        raise NotImplementedError(f"{type(self).__name__} must define _add_tasks")

    def _remove_task(self, coder: TableCoder, t: int) -> dict[str, Any]:
        """Part with the task at a place, and return the fitted attributes that change; the coder lacks it already."""
        raise NotImplementedError(f"{type(self).__name__} must define _remove_task")

    # shared steps

    def _check_way(self, method: Any, freeze: Any) -> None:
        """Raise a ValueError for a method, or a part to freeze, that the class does not have."""
        name = type(self).__name__
        check_choice("method", method, ("head", "scalearn", "scalearn_uniform"))
        if freeze is not None:
            check_choice("freeze", freeze, ("shared",))
        if method not in self._task_methods:
            raise ValueError(
                f"{name} has no features to scale for method={method!r}; say method='head', or take a network"
            )
        if freeze not in self._task_freezes:
            raise ValueError(f"{name} cannot train on what it has learned, as freeze={freeze!r} says; leave it out")

    def _with_new_tasks(
        self, X: Any, y: Any, tasks: DeclaredTasks, sample_weight: Any, freeze: Freeze
    ) -> tuple[TableCoder, Any, Any]:
        """Return the coder of all tasks, and the labels and weights of all columns of y."""
        coder = self.coder_
        if coder.task_column is not None:
            if tasks is not None:
                raise ValueError("tasks of a long table are of one kind, that of fit; leave out tasks")
            return replace(coder, labels=coder.labels.with_levels(self._new_levels(X, freeze))), y, sample_weight
        labels, frame, weight = coder.labels.beside(y, sample_weight, tasks=tasks, force=self._target_kind)
        known = [name for name in coder.labels.names if frame[name].null_count() < len(frame)]
        if known and freeze is not None:
            raise ValueError(
                f"the model has the tasks {known} already; leave them out of y, part with them by remove_task, or say "
                "freeze=None to train them on"
            )
        return replace(coder, labels=labels), frame, weight

    def _new_levels(self, X: Any, freeze: Freeze) -> tuple[str, ...]:
        """Return the new tasks among those that rows of a long table belong to."""
        coder = self.coder_.after
        column, frame = str(coder.task_column), coder.read_frame(X)
        texts = task_texts(frame, column)
        found = sort_tasks(texts.unique(), column, frame.collect_schema()[column])
        known = coder.labels.task_levels or ()
        old, new = [name for name in found if name in known], tuple(name for name in found if name not in known)
        if not new:
            raise ValueError(f"task_column {column!r} names no new task: the model has {old[:10]} already")
        if old and freeze is not None:
            raise ValueError(
                f"task_column {column!r}: rows belong to the tasks {old[:10]}, which the model has already; give the "
                f"rows of {[*new[:10]]} alone, or say freeze=None to train the others on"
            )
        return new

    def _take_over(self, coder: TableCoder, fitted: dict[str, Any]) -> None:
        """Set the coder and fitted attributes, now that nothing can fail; the parameters of fit stay."""
        self._decide_by(coder)
        self.__dict__.pop("importances_", None)  # of the tasks before
        self.__dict__ |= fitted


def _undecided(coder: TableCoder) -> TableCoder:
    """Return a coder without what was learned of answers that are to change, with a warning if there was some."""
    if coder.labels.decisions is None:
        return coder
    warn_user(
        "freeze=None changes the answers of all tasks, so what calibrate, tune_thresholds and conformalize have "
        "learned is dropped; call them again, on rows that the model has not seen"
    )
    tasks = tuple(replace(task, name=task.name) for task in coder.labels.tasks)  # without their thresholds
    return replace(coder, labels=replace(coder.labels, tasks=tasks, decisions=None))


def _check_labelled(labels: LabelCoder, batch: Batch, n_old: int) -> None:
    """Raise a ValueError that names a new task without any label."""
    counts = batch.count_labels(len(labels.tasks))[n_old:]
    if not counts.all():
        name = labels.tasks[n_old + int(np.argmin(counts))].name
        raise ValueError(f"the new task {name!r} has no label in y; give rows that have some")


def _learned(labels: LabelCoder, batch: Batch, n_old: int, freeze: Freeze) -> tuple[Batch, tuple[str, ...]]:
    """Return rows with the columns of y that a call has learned, and their names."""
    if batch.task is not None or freeze is None:
        return batch, labels.names
    return replace(batch, y=batch.y[:, n_old:]), labels.names[n_old:]


def _weighed(labels: LabelCoder, batch: Batch) -> Batch:
    """Return rows whose weights know the weights of classes, of the tasks that have labels."""
    counts = batch.count_labels(len(labels.tasks))
    tasks = [task if n else replace(task, class_weight=None) for task, n in zip(labels.tasks, counts, strict=True)]
    return ClassFactors.learn(replace(labels, tasks=tuple(tasks)), [batch]).weighed(batch)
