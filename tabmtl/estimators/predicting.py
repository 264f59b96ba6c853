"""What an estimator answers: predictions, probabilities, quantiles and intervals, scores, and drift."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, ClassVar, Literal

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_feature_names, _check_n_features, check_is_fitted

from tabmtl.base.frames import Whole
from tabmtl.base.params import Names, near
from tabmtl.base.schema import Batch, is_asked_by_sklearn
from tabmtl.columns.cures import BY_COLUMNS
from tabmtl.encode import LabelCoder
from tabmtl.encode.drift import readings
from tabmtl.encode.labels import Answers
from tabmtl.encode.read import check_container, has_column, in_order, read_groups, without_columns
from tabmtl.encode.write import ORDERED, write_targets
from tabmtl.estimators.base import FromFitted, SavableEstimator, asking_score, at_once
from tabmtl.estimators.drifting import drift
from tabmtl.estimators.model import Model
from tabmtl.estimators.source import refuse_source
from tabmtl.metrics.given import score_given
from tabmtl.metrics.intervals import score_intervals
from tabmtl.metrics.scores import (
    Answered,
    TaskScores,
    is_by_group,
    mean_score,
    score_metrics,
    with_group_metrics,
    with_metrics,
)
from tabmtl.model_selection.repeats import number_groups
from tabmtl.model_selection.suspects import warn_of_frequent_classes
from tabmtl.targets import Task
from tabmtl.targets.decisions.learned import threshold_frame

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


def _feature_names(model: Model) -> np.ndarray | None:
    return np.array(model.coder.names, dtype=object) if model.coder.named else None


class Predicts(SavableEstimator):
    """What a fitted estimator tells of rows: predictions, all of which come from `__answers__`, scores, and drift."""

    coder_ = FromFitted(attrgetter("coder"))
    tasks_ = FromFitted(attrgetter("tasks"))
    _profile = FromFitted(attrgetter("profile"))
    n_features_in_ = FromFitted(lambda model: len(model.coder.names))
    feature_names_in_ = FromFitted(_feature_names)
    preprocessor_ = FromFitted(lambda model: model.coder.preprocessing and model.coder.preprocessing.transformer.fitted)
    thresholds_ = FromFitted(lambda model: threshold_frame(model.tasks, model.coder.labels.decisions))
    _over = FromFitted(attrgetter("over"))
    _model: Model

    # the kind of every undeclared task; the three faces differ in it
    _target_kind: ClassVar[TargetKind] = None
    # names of tasks, and no metadata of rows to scikit-learn
    __metadata_request__predict: ClassVar = {"tasks": UNUSED}
    __metadata_request__predict_proba: ClassVar = {"tasks": UNUSED}

    def _has_levels(self) -> bool:
        if self._target_kind == "classification":
            return False
        if hasattr(self, "tasks_"):
            try:
                check_levels(self.tasks_)
            except ValueError as error:
                raise AttributeError(str(error)) from None
        return True

    def _gives_probabilities(self) -> bool:
        if self._target_kind == "regression":
            return False
        if not hasattr(self, "tasks_") or any(task.is_classification for task in self.tasks_):
            return True
        raise AttributeError("predict_proba needs a classification task; all tasks are regressions")

    @property
    def _fitted(self) -> Any:
        return self._model.fitted

    def __sklearn_is_fitted__(self) -> bool:
        return "_model" in vars(self)

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
        was given came, whatever the model is. `tabmtl.targets.decisions.conformal` says how they are made.

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
        outputs, labels = self.__answers__(X, tasks), self.coder_.labels
        groups = labels.conformal.column if groups is None else groups
        values = None if groups is None else read_groups(groups, X, len(outputs[0]))
        found = labels.intervals(outputs, level, values, joint, places)
        if labels.origin.container != "pandas":
            return found
        import pandas as pd

        index = X.index if type(X).__module__.startswith("pandas") else None
        return pd.DataFrame({own.name: own.to_list() for own in found.iter_columns()}, index)

    @at_once
    def __answers__(self, X: Any, tasks: str | Sequence[str] | None = None) -> list[np.ndarray]:
        """Return the answers for every column of y, of which all predictions are made.

        Answers are probabilities (n, K), values (n,), or the quantiles (n, L) of several levels, calibrated where
        `calibrate` was called.

        Parameters
        ----------
        X, tasks : as in `predict`
        """
        # for a row, scikit-learn's checks take longer than reading it
        if "_model" not in vars(self):
            check_is_fitted(self)
        model, needed = self._model, None
        labels = model.coder.labels
        if tasks is not None:
            places = labels.places(tasks)
            needed = labels.deciding(places)
            labels = model.labels_of(needed)
        X = self._preprocessed(X)
        batch = self._read_rows(X)
        outputs = model.answer(batch, self, X, needed) if len(batch) else _no_outputs(labels)
        decided = labels.decided(outputs, batch.task)
        if tasks is not None:
            return Answers(decided[: len(places)])
        return decided

    @at_once
    def _answered(
        self, X: Any, tasks: str | Sequence[str] | None, check: Callable[[Sequence[Task]], None] | None = None
    ) -> tuple[list[np.ndarray], LabelCoder]:
        """Return the answers to the tasks that are asked for, with their labels; all by default.

        ``check`` raises a ValueError if a task that is named does not fit what it is asked for.
        """
        if tasks is None:
            return self.__answers__(X), self._model.coder.labels
        check_is_fitted(self)
        labels = self.coder_.labels
        own = self._model.labels_of(labels.places(tasks), is_flat=isinstance(tasks, str))
        if check is not None:
            check(own.tasks)
        return self.__answers__(X, tasks), own

    @at_once
    def __labelled_answers__(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        metric: str | Sequence[str] | None = None,
        unseen_for: str | None = None,
        calibrated: bool = True,
    ) -> Answered:
        """Return answers as `__answers__` does, with the labels and groups of the rows, as scores take them.

        Parameters
        ----------
        X, y, sample_weight, groups, metric : as in `score_tasks`
        unseen_for : str, optional
            Name of a method that learns from these rows: rows that fit has seen, as far as this process knows, are
            refused then.
        calibrated : bool, default=True
            Whether answers are behind the calibrators.
        """
        if y is None:
            raise ValueError("scores are of labels, but the target y is None; give the columns of y for the rows of X")
        prepared = self._preprocessed(X)
        batch = self.coder_.after.read(prepared, y, sample_weight)
        if unseen_for is not None:
            self._model.seen.refuse(batch, self.coder_.labels.names, unseen_for)
        outputs = self._model.answer(replace(batch, y=None, weight=None), self, prepared)
        if calibrated:
            outputs = self.coder_.labels.decided(outputs, batch.task)
        tasks, known = self.tasks_ if metric is None else with_metrics(self.tasks_, metric), self.coder_.group_column
        if groups is None and known is not None and any(map(is_by_group, tasks)) and has_column(X, known):
            groups = known
        group = None if groups is None else number_groups(read_groups(groups, X, len(batch)))
        return Answered(tasks, batch.y, outputs, batch.weight, batch.task, group)

    @at_once
    def score_tasks(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        given: str | None = None,
        metric: str | Sequence[str] | None = None,
    ) -> TaskScores:
        """Score every task on its labelled rows.

        Parameters
        ----------
        X, y : as in fit
        sample_weight : array of shape (n,) or (n, T), or frame, optional
        groups : array of shape (n,) or str, optional
            Group of every row, such as a user, or the name of a column of X that holds it, for scores by group: GAUC,
            NDCG, MRR and hit rate, see `tabmtl.metrics.groups`. With groups, ``by_metric`` has these of every task of
            two or ordered classes, behind its own metrics. A model that is watched by one of them takes the column that
            its fit was told of, unless other groups are given.
        given : str, optional
            A binary task, such as a click, which other binary tasks follow, such as a conversion: they are 1 only where
            it is. The score of each is replaced by two, ``"conversion|click"`` on the rows with a click, and
            ``"conversion&click"`` on all rows; see `tabmtl.metrics.given`.
        metric : str or sequence of str, optional
            Metrics in place of those of the tasks, the first of which counts. A task whose kind has none of them keeps
            its own.

        Returns
        -------
        scores : dict of str to float
            Score by task and its metric; higher is better. None, with a warning, where the score is undefined. Of
            several metrics, the first counts; the attribute ``by_metric`` has all of them, by task and metric, and
            ``n_groups`` the number of groups that count in scores by group, and of those that do not, since their
            labels are all alike.
        """
        answered = self.__labelled_answers__(X, y, sample_weight, groups=groups, metric=metric)
        if metric is not None:
            self._warn_of_frequent_classes(answered)
        if groups is not None and metric is None:
            answered = answered._replace(tasks=with_group_metrics(answered.tasks))
        return score_metrics(score_given(answered, given, self.coder_.labels.chain))

    @at_once
    def score_intervals(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        groups: Any = None,
        given: str | None = None,
        metric: str | Sequence[str] | None = None,
        level: float = 0.95,
    ) -> pl.DataFrame:
        """Score every task on its labelled rows, with standard errors and confidence intervals.

        Parameters
        ----------
        X, y, sample_weight : as in `score_tasks`
        groups : array of shape (n,) or str, optional
            Group of every row, such as a patient, or the name of a column of X that holds it. Intervals are then over
            draws of groups; by default, over draws of rows.
        given, metric : as in `score_tasks`
            Without ``metric``, the table has the metrics of the tasks, with groups too.
        level : float, default=0.95
            Share of intervals that should hold the true score.

        Returns
        -------
        intervals : polars.DataFrame
            One row per task and metric: task, metric, score, standard_error, low, high, n_labelled, n_positive (of
            binary tasks), positive_class (of metrics that depend on it), and with groups n_groups and n_left_out, those
            whose labels are all alike, which metrics by group leave out.
            A score that is undefined is null, with a warning. `tabmtl.metrics.intervals` describes the interval.

        Raises
        ------
        ValueError
            If the level is not between 0 and 1, or the groups do not fit.
        """
        answered = self.__labelled_answers__(X, y, sample_weight, groups=groups, metric=metric)
        if metric is not None:
            self._warn_of_frequent_classes(answered)
        return Whole(score_intervals(*score_given(answered, given, self.coder_.labels.chain), level=level))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the mean over the tasks of `score_tasks`; tasks with an undefined score are left out."""
        return mean_score(self.score_tasks(X, y, sample_weight))

    @at_once
    def drift(
        self, X: Any, *, reference: Any = None, size: float = 0.1, alpha: float = 0.05, ignore: str | Names = ()
    ) -> pl.DataFrame:
        """Tell which columns and which predictions are no longer spread as in fit.

        A fit keeps shares and no rows: those of ten bins of a number, of up to 64 levels or sets of levels, and of
        missing and unseen values, of at most 5 000 of its rows. Lists are measured by their entries and their length,
        vectors by their norm and by four directions, dates by their parts. New rows of a date are later by nature: the
        column that fit was given as ``time`` is left out, and others are left out by ``ignore``.

        Something has drifted where a difference is beyond chance and large. Beyond chance: if rows are drawn as those
        of fit were, each by itself, any line at all is called drifted with a probability of about ``alpha`` at most, by
        Pearson's test of the shares and Fisher's of missing and unseen values, with Bonferroni's correction. Large: see
        ``size``. Rows that belong together, such as several of one customer, differ by chance more than that.

        Parameters
        ----------
        X : as in `predict`, or an iterator of such blocks of rows
            New rows, 20 or more; several hundred tell more. Labels are not needed.
        reference : as X, optional
            Rows to compare with in place of those of fit, such as those of a month in which all was well. A model that
            has kept no profile needs them. They are best rows that the model has not learned.
        size : float, default=0.1
            The least population stability index that counts: .1 is usually read as some drift, .25 as much. Half of it
            is the least change that counts of the share of missing values, and of unseen ones.
        alpha : float, default=0.05
        ignore : str or sequence of str, default=()
            Columns and tasks to leave out, such as a date.

        Returns
        -------
        drift : polars.DataFrame
            One row for each column, ``kind`` "column", as the preprocessor gives them if there is one, and then one for
            each task, "prediction":

            - ``name``, and ``feature``: which of several features of a column, or numbers of an answer, differs most;
            - ``psi`` and ``jensen_shannon``: its population stability index and its Jensen-Shannon divergence in nats,
              which is at most an eighth of it. Missing values are a cell of their own, and unseen ones are left out.
              Cells that expect fewer than five rows are joined;
            - ``missing_of_fit``, ``missing``, ``unseen_of_fit``, ``unseen``: shares of the rows;
            - ``n_of_fit``, ``n``: the rows that were counted;
            - ``against``: "fit"; of predictions "unseen", rows of fit that the model has not learned, such as those set
              aside or those of a fold, or "learned"; or "reference". Where the model has learned all rows in the end,
              another fit, as of a fold, has answered for it, and has other answers: predictions have drifted if they
              are unlike both sorts, and the nearer one is told;
            - ``p_value``: of the whole line, corrected for all lines;
            - ``is_drift``, and ``why``: "distribution", "missing" or "unseen". Null, with the reason, where nothing can
              be told: of tasks and references with fewer than 20 rows, and of predictions where there are "learned"
              rows alone, of which a model is surer than of new ones.

        Raises
        ------
        ValueError, TypeError
            If there are fewer than 20 rows, the model keeps no profile and there is no reference, ``ignore`` names
            something else, or rows do not fit, as in `predict`.

        Notes
        -----
        Calibrators play no part: answers are compared as the method gives them. After `partial_fit`, columns are still
        compared with those of fit. Predictions are not judged, since they differ because the model has moved, also on
        rows as those of fit; `reference` tells what the rows do.

        Examples
        --------
        >>> import numpy as np
        >>> from tabmtl import SharedTrees
        >>> X = np.random.default_rng(0).normal(size=(600, 2))
        >>> model = SharedTrees(n_estimators=20, random_state=0).fit(X[:300], X[:300, 0] > 0)
        >>> model.drift(X[300:])["is_drift"].to_list()
        [False, False, False]
        >>> model.drift(X[300:] + [1.0, 0.0]).select("kind", "name", "is_drift").rows()
        [('column', 'x0', True), ('column', 'x1', False), ('prediction', 'y', True)]
        """
        check_is_fitted(self)

        def read(block: Any) -> tuple[Batch, readings.Answers]:
            prepared = self._preprocessed(block)
            batch = self._read_rows(prepared)
            return batch, readings.Answers(self._model.of_method(batch, self, prepared), batch.task)

        return Whole(drift(self._model, read, X, reference=reference, size=size, alpha=alpha, ignore=ignore))

    def _warn_of_frequent_classes(self, answered: Answered, judging: Mapping[str, Sequence[str]] | None = None) -> None:
        """Warn as `tabmtl.model_selection.suspects.warn_of_frequent_classes` says."""
        warn_of_frequent_classes(self.coder_.labels, self.tasks, answered.tasks, answered.labels, judging)

    def _preprocessed(self, X: Any) -> Any:
        """Return rows as `_read_rows` and models take them: with the columns of fit, behind the preprocessor.

        Columns are checked against those of fit, with scikit-learn's messages.
        """
        if "_model" not in vars(self):
            check_is_fitted(self)
        coder = self._model.coder
        refuse_source(X, "a fitted model")
        X = without_columns(X, coder.dropped)
        is_frame = isinstance(X, pl.DataFrame) or nw.dependencies.is_pandas_dataframe(X)
        if not (is_frame and coder.named and tuple(X.columns) == coder.names):
            head = pl.DataFrame(schema=X.collect_schema()) if isinstance(X, pl.LazyFrame) else X
            check_container(head)
            ordered = in_order(X, coder.names) if coder.named else None
            try:
                if ordered is None and not (isinstance(head, np.ndarray) and is_asked_by_sklearn()):
                    _check_feature_names(self, head, reset=False)  # of arrays, which scikit-learn made of frames, none
            except ValueError as error:
                lacks = not all(has_column(X, name) for name in coder.names)
                raise ValueError(f"{error}{'Add the missing ones to X.' if lacks else BY_COLUMNS}") from None
            if ordered is None and getattr(head, "ndim", 2) == 2:  # other shapes are refused where X is read
                _check_n_features(self, head, reset=False)
            X = X if ordered is None else ordered
        return coder.prepared(X, self.columns)

    def _read_rows(self, X: Any) -> Batch:
        """Return encoded rows to predict, of those that the preprocessor gives."""
        return self._model.coder.after.read(X)
