"""What an estimator answers: predictions, probabilities, quantiles and intervals, of all tasks or of some."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import polars as pl
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from tabmtl.encode.labels import Answers
from tabmtl.encode.read import read_groups
from tabmtl.encode.write import ORDERED, write_targets
from tabmtl.estimators.asked import part_of
from tabmtl.estimators.base import SavableEstimator, asking_score, at_once
from tabmtl.params import near

if TYPE_CHECKING:
    from tabmtl.encode import LabelCoder
    from tabmtl.schema import Batch
    from tabmtl.targets import Task

TargetKind = Literal["classification", "regression"] | None


def check_levels(tasks: Sequence[Task]) -> None:
    """Raise a ValueError unless one of the tasks has several levels."""
    if not any(task.kind.levels for task in tasks):
        kinds = ", ".join(f"{task.name!r} is {task.kind}" for task in tasks[:5])
        raise ValueError(
            f"quantiles need a task with several levels, and {kinds}: declare one, such as "
            f"tasks={{{tasks[0].name!r}: 'quantiles:0.1:0.5:0.9'}}"
        )


def check_named_classes(tasks: Sequence[Task]) -> None:
    """Raise a ValueError if one of the tasks that are named has no classes."""
    _refuse(tasks, [not task.is_classification for task in tasks], "predict_proba gives probabilities of classes")


def check_named_levels(tasks: Sequence[Task]) -> None:
    """Raise a ValueError if one of the tasks that are named has no levels."""
    can = "predict_quantiles gives the levels of the kind 'quantiles'"
    _refuse(tasks, [not task.kind.levels for task in tasks], can)


def _refuse(tasks: Sequence[Task], is_wrong: Sequence[bool], can: str) -> None:
    wrong = [*itertools.compress(tasks, is_wrong)]
    if wrong:
        kinds = ", ".join(f"{task.name!r} is {task.kind}" for task in wrong[:5])
        raise ValueError(f"{can}, and {kinds}; leave {'it' if len(wrong) == 1 else 'them'} out of tasks")


def _has_levels(estimator: Predicts) -> bool:
    if estimator._target_kind == "classification":
        return False
    if hasattr(estimator, "tasks_"):
        try:
            check_levels(estimator.tasks_)
        except ValueError as error:
            raise AttributeError(str(error)) from None
    return True


def _gives_probabilities(estimator: Predicts) -> bool:
    if estimator._target_kind == "regression":
        return False
    if not hasattr(estimator, "tasks_") or any(task.is_classification for task in estimator.tasks_):
        return True
    raise AttributeError("predict_proba needs a classification task; all tasks are regressions")


def _refuse_plain_score(tasks: Sequence[Task]) -> None:
    """Raise a ValueError if a score of scikit-learn, all of which know one kind of target, asks for a prediction."""
    score = asking_score()
    if score is not None:
        kinds = ", ".join(f"{task.name!r} is {task.kind}" for task in tasks[:5])
        raise ValueError(
            f"{score.__name__} of scikit-learn takes targets of one kind, and {kinds}: say "
            "scoring=make_multitask_scorer(), or leave scoring out for the mean of score_tasks"
        )


def orders_of_classes(labels: LabelCoder) -> list[np.ndarray | None]:
    """Return the places of the classes of every column of y as a Classifier face has them; None leaves them.

    scikit-learn's scorers expect several classes to be sorted, so those that `partial_fit` has met stand among the
    others. An order that the type of the labels gives stays.
    """
    found: list[np.ndarray | None] = []
    for task, dtype, native in zip(labels.column_tasks, labels.dtypes, labels.origin.dtypes, strict=True):
        order = np.argsort(np.array(task.classes)) if task.kind.takes_new_classes else np.zeros(1, dtype=np.intp)
        stays = isinstance(dtype, pl.Enum) or native == ORDERED or bool((np.diff(order) > 0).all())
        found.append(None if stays else order)
    return found


class Probabilities(dict[str, np.ndarray]):
    """Probabilities (n, K) by task; the KeyError for a task of numbers names the method that answers it."""

    def __init__(self, found: dict[str, np.ndarray], tasks: Sequence[Task]) -> None:
        super().__init__(found)
        self._tasks = tasks

    def __missing__(self, name: Any) -> np.ndarray:
        task = next((task for task in self._tasks if task.name == name), None)
        if task is None:
            raise KeyError(f"no task is named {name!r}{near(name, self)}; those with probabilities are {[*self]}")
        verb = "predict_quantiles" if task.kind.levels else "predict"
        raise KeyError(
            f"task {name!r} is {task.kind}, whose numbers have no probabilities; say {verb}(X, tasks={name!r})"
        )

    def __reduce__(self) -> Any:
        return dict, (dict(self),)  # a copy is plain


def _no_outputs(labels: LabelCoder) -> list[np.ndarray]:
    """Return the outputs of no rows."""
    return labels.outputs([np.empty((0, task.width), dtype=np.float32) for task in labels.column_tasks])


class Predicts(SavableEstimator):
    """The predictions of an estimator, all of which come from `answer`."""

    # the kind of every undeclared task; the three faces differ in it
    _target_kind: ClassVar[TargetKind] = None
    # names of tasks, and no metadata of rows to scikit-learn
    __metadata_request__predict: ClassVar = {"tasks": UNUSED}
    __metadata_request__predict_proba: ClassVar = {"tasks": UNUSED}

    def predict(self, X: Any, *, tasks: str | Sequence[str] | None = None) -> Any:
        """Predict the tasks.

        Parameters
        ----------
        X : frame or array of shape (n, p)
            Rows with the columns of fit; a frame may have them in any order. No rows have no predictions, of the same
            names and types.
        tasks : str or sequence of str, optional
            Names of the tasks to predict, all by default. Parts of the model that they do not need, such as other
            heads and trees, are not computed. For the long layout, give the rows of these tasks instead.

        Returns
        -------
        y : like the y of fit
            Same container, names and label types: (n, T), or (n,) for a flat target. In the long layout, every row is
            predicted for its own task. With a sequence of tasks, the columns of these in its order; with one name, as
            for a flat target.

        Raises
        ------
        ValueError, TypeError
            If the rows do not fit, or a task is unknown or named twice.

        Examples
        --------
        >>> import numpy as np
        >>> import polars as pl
        >>> from tabmtl import SharedTrees
        >>> X = np.random.default_rng(0).normal(size=(200, 3))
        >>> y = pl.DataFrame({"sum": X.sum(axis=1), "late": X[:, 0] > 0, "first": X[:, 0]})
        >>> model = SharedTrees(random_state=0).fit(X, y)
        >>> model.predict(X, tasks=["first", "late"]).columns
        ['first', 'late']
        >>> model.predict_proba(X, tasks="late").shape
        (200, 2)
        """
        outputs, labels = self._answered(X, tasks)
        if len({task.is_classification for task in labels.tasks}) == 2:
            _refuse_plain_score(labels.tasks)
        return labels.decode(outputs, X.index if type(X).__module__.startswith("pandas") else None)

    @available_if(_gives_probabilities)
    def predict_proba(self, X: Any, *, tasks: str | Sequence[str] | None = None) -> Any:
        """Predict class probabilities.

        Parameters
        ----------
        X, tasks : as in `predict`
            The tasks that are named must be classifications.

        Returns
        -------
        probabilities : ndarray, list or dict
            One array (n, K) for a flat target, or for one task that is named. For several targets, a dict from task to
            (n, K) with the classification tasks only, whose KeyError for another task names the method that answers it;
            the Classifier faces give scikit-learn's list instead. The columns follow ``classes`` of the task, and
            ``classes_`` of a Classifier face.
        """
        outputs, labels = self._answered(X, tasks, check_named_classes)
        if self._target_kind == "classification":
            orders = orders_of_classes(labels)
            outputs = [own if order is None else own[:, order] for own, order in zip(outputs, orders, strict=True)]
        if labels.origin.ndim == 1:
            return outputs[0]
        if self._target_kind == "classification":
            return outputs
        _refuse_plain_score(labels.tasks)
        pairs = zip(labels.column_tasks, outputs, strict=True)
        return Probabilities({task.name: own for task, own in pairs if task.is_classification}, labels.column_tasks)

    @available_if(_has_levels)
    def predict_quantiles(self, X: Any, *, tasks: str | Sequence[str] | None = None) -> Any:
        """Predict the quantiles of every level, for tasks of the kind "quantiles".

        Parameters
        ----------
        X, tasks : as in `predict`
            The tasks that are named must have several levels.

        Returns
        -------
        quantiles : frame, or ndarray of shape (n, L)
            In the container of y in fit: a column ``<task>_q<level>`` for every level of these tasks, such as
            ``amount_q0.1``, in the order of the tasks. In a row, those of a task never fall. In the long layout, the
            columns have the name of the target.

        Raises
        ------
        AttributeError
            If no task has several levels.
        """
        outputs, labels = self._answered(X, tasks, check_named_levels)
        quantiles, origin = labels.quantiles(outputs)
        return write_targets(quantiles, origin, X.index if type(X).__module__.startswith("pandas") else None)

    @at_once
    def predict_interval(
        self,
        X: Any,
        *,
        level: float = 0.9,
        joint: bool = False,
        groups: Any = None,
        tasks: str | Sequence[str] | None = None,
    ) -> Any:
        """Predict intervals of numbers and sets of classes that hold the labels of new rows as often as they promise.

        They hold the label of a task in a share of ``level`` of all rows, if these come as those that `conformalize`
        was given came, whatever the model is. `tabmtl.decisions.conformal` says how they are made.

        Parameters
        ----------
        X : as in `predict`
        level : float, default=0.9
            Share of the rows whose label is held.
        joint : bool, default=False
            Whether the numbers of a row are all held, in a share of ``level`` of the rows; classes are left out.
        groups : array of shape (n,) or str, optional
            Group of every row, where `conformalize` was given groups; a column that was named there is found in X.
            Rows of new groups have the intervals of all rows, with a warning.
        tasks : str or sequence of str, optional
            As in `predict`, of those that `conformalize` was given. Their joint intervals are those of all numbers.

        Returns
        -------
        intervals : polars DataFrame, or pandas where y of fit was
            ``<task>_low`` and ``<task>_high`` of every task of numbers, and ``<task>_set`` of every task of classes: a
            list of them, with the most probable one. In the long layout, the name is that of the target.

        Raises
        ------
        ValueError
            If `conformalize` was not called, a task or a group had too few labels for the level, or groups are lacking.
        """
        places = None
        if tasks is not None:
            check_is_fitted(self)
            places = self.coder_.labels.places(tasks)
            self.coder_.labels.check_conformal(places, joint=joint)
        outputs, labels = self.answer(X) if tasks is None else self.answer(X, tasks), self.coder_.labels
        groups = labels.conformal.column if groups is None else groups
        values = None if groups is None else read_groups(groups, X, len(outputs[0]))
        found = labels.intervals(outputs, level, values, joint, places)
        if labels.origin.container != "pandas":
            return found
        import pandas as pd

        index = X.index if type(X).__module__.startswith("pandas") else None
        return pd.DataFrame({own.name: own.to_list() for own in found.iter_columns()}, index)

    @at_once
    def answer(self, X: Any, tasks: str | Sequence[str] | None = None) -> list[np.ndarray]:
        """Answer rows for every column of y, of which all predictions are made.

        Answers are probabilities (n, K), values (n,), or the quantiles (n, L) of several levels, calibrated where
        `calibrate` was called.

        Parameters
        ----------
        X, tasks : as in `predict`
        """
        if tasks is None:
            X = self._preprocessed(X)
            batch = self._read_rows(X)
            outputs = self._outputs(X, batch) if len(batch) else _no_outputs(self.coder_.labels)
            return self.coder_.labels.decided(outputs, batch.task)
        check_is_fitted(self)
        labels = self.coder_.labels
        places = labels.places(tasks)
        needed = labels.deciding(places)
        X = self._preprocessed(X)
        batch, own = self._read_rows(X), self._labels_of(needed)
        outputs = self._outputs_of(X, batch, needed) if len(batch) else _no_outputs(own)
        return Answers(own.decided(outputs)[: len(places)])

    @at_once
    def _answered(
        self, X: Any, tasks: str | Sequence[str] | None, check: Callable[[Sequence[Task]], None] | None = None
    ) -> tuple[list[np.ndarray], LabelCoder]:
        """Return the answers to the tasks that are asked for, with their labels; all by default.

        ``check`` raises a ValueError if a task that is named does not fit what it is asked for.
        """
        if tasks is None:
            return self.answer(X), self.coder_.labels  # a class of the user may have an `answer` of its own
        check_is_fitted(self)
        labels = self.coder_.labels
        own = self._labels_of(labels.places(tasks), is_flat=isinstance(tasks, str))
        if check is not None:
            check(own.tasks)
        return self.answer(X, tasks), own

    def _labels_of(self, places: tuple[int, ...], *, is_flat: bool = False) -> LabelCoder:
        """Return the encoding of some columns of y; for a row, making it would take as long as reading the row."""
        labels = self.coder_.labels
        return part_of(labels, (places, is_flat), lambda: labels.of(places, is_flat=is_flat))

    # methods that a subclass defines

    def _outputs(self, X: Any, batch: Batch) -> list[np.ndarray]:
        """Return probabilities (n, K) or values (n,) per column of y; X is what the preprocessor gives."""
        raise NotImplementedError

    def _outputs_of(self, X: Any, batch: Batch, places: tuple[int, ...]) -> list[np.ndarray]:
        """Return what `_outputs` does for some columns of a wide y, in this order, without computing the others.

        By default they are computed.
        """
        outputs = self._outputs(X, batch)
        return [outputs[place] for place in places]
