"""Contract of every multi-task estimator, with scikit-learn's names and rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Self, cast

import numpy as np
import polars as pl
from sklearn.base import clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.frames import Whole
from tabmtl.base.params import RandomState, check_choice
from tabmtl.base.schema import Batch, counted, warn_user
from tabmtl.columns.declared import DeclaredColumns, Ignore, declare, ignored
from tabmtl.encode import TableCoder
from tabmtl.encode.drift.profile import Profile
from tabmtl.encode.new_tasks import Freeze, undecided, with_new_tasks
from tabmtl.encode.preprocessing import check_preprocessor
from tabmtl.encode.read import read_groups
from tabmtl.encode.tasks import DeclaredTasks, check_tasks
from tabmtl.estimators.added import Head, learned, place_of, rows_of_new, without_task
from tabmtl.estimators.asked import Together
from tabmtl.estimators.base import FromFitted, NotHere, drafted
from tabmtl.estimators.drifting import asking, drawn, following, profiled
from tabmtl.estimators.learner import Marks, TableLearner
from tabmtl.estimators.model import Model, Over
from tabmtl.estimators.predicting import Predicts
from tabmtl.estimators.rows import FitRows
from tabmtl.estimators.source import refuse_source
from tabmtl.model_selection.repeats import SeenRows, number_groups
from tabmtl.targets import Task
from tabmtl.targets.decisions.calibrators import Method as CalibrationMethod
from tabmtl.targets.decisions.learned import calibrate, conformalize, tune_thresholds
from tabmtl.targets.task import refuse_monotone
from tabmtl.training.hooks import CallbackSupport
from tabmtl.training.run import check_alone, running


@dataclass(frozen=True, kw_only=True, eq=False)
class TableState:
    """Fitted attributes that the file of an estimator keeps; a subclass adds those of its method."""

    coder_: TableCoder
    _profile: Profile | None = None
    _over: tuple[Over, ...] = ()

    later_fields: ClassVar[tuple[str, ...]] = ("profile", "over")
    #: Fields that files have only where they hold something.
    rare_fields: ClassVar[tuple[str, ...]] = ("over",)

    def __post_init__(self) -> None:
        if any(own.transform == "raw" for several in self.coder_.features.scalers.values() for own in several):
            raise ValueError("numbers are 'raw', which only exported networks read")


@dataclass(kw_only=True, eq=False, repr=False)
class MultiTaskEstimator(Predicts, CallbackSupport):
    """Base of all estimators: one object that learns several targets at once.

    A subclass defines `_fit`, and for files `_stored`, which declares the fitted attributes that they keep, and
    `_fitted_of`, which makes of them what was fitted. This class handles frames, targets, scores and files.

    Parameters
    ----------
    tasks : mapping of name to kind or Task, or sequence of Task, optional
        Kinds of the targets; `fit` infers those left out. Text, categories and booleans are classes. Floats are a
        regression target, unless all are 0 or 1. Whole numbers with two values are binary; others are ambiguous, and
        cause a warning.
    task_column : str, optional
        Long layout: the column of X that names every row's own task. Then y holds one label per row.
    columns : mapping of str to str or kind of `tabmtl.columns`, optional
        What columns of X hold, as ``tasks`` says it of targets: "number", "category", "date", "text", "tags", "vector",
        "sequence" or "ignore", or an object with options: ``{"zip": "category", "when": Date(format="%m/%d/%Y"),
        "size": Category(order="S<M<L"), "price": Number(decimal=","), "remarks": Text(encoder=...), "history":
        Sequence(of="item", longest=50), "id": "ignore"}``. `fit` infers those left out by their type: text, categories
        and booleans are categories, lists of text or whole numbers are tags, lists of floats are vectors. Text whose
        values, in up to 10 000 rows spread over all, have at least 20 letters and 3 words on average, and a tenth of
        them distinct, is free text; a warning names it. Columns of an array are called ``x0``, ``x1``, ... X may lack
        ignored columns in ``predict``.
    preprocessor : transformer of scikit-learn, optional
        Makes the features of the columns of X, such as a ``ColumnTransformer`` or a ``Pipeline`` of transformers. `fit`
        fits a copy on X alone, without labels and weights. All rows that the estimator gets then go through it, those
        of X_val too, and `save` writes it beside the model. It sees X without the task column and ignored columns, in
        the library of fit; ``columns`` names columns that it gives, and ignored ones of X.
    random_state : int, RandomState or None, default=None
        Random seed; the global generators stay untouched.

    Attributes
    ----------
    tasks_ : tuple of Task
        The tasks with kind, classes, score and weight, in the order of y; in the long layout, in the order of their
        names.
    n_features_in_ : int
        Number of the columns of X, with the task column and without ignored ones.
    feature_names_in_ : ndarray of str
        Their names, if X is a frame.
    coder_ : TableCoder
        How X and y are read: their columns, levels, scales and tasks.
    preprocessor_ : transformer
        The fitted copy of ``preprocessor``, if there is one.
    thresholds_ : polars.DataFrame
        What `tune_thresholds` has chosen, if it was called.
    """

    tasks: DeclaredTasks = None
    task_column: str | None = None
    columns: DeclaredColumns = None
    preprocessor: Annotated[Any, check_preprocessor] = None
    random_state: RandomState = None

    classes_ = cast(
        Any,
        NotHere(
            "a Classifier face, for classifications only, has it, as CalibratedClassifierCV needs it; tasks_ "
            "has the classes of every task"
        ),
    )

    feature_importances_ = cast(
        Any, NotHere("only the trees of a model have a gain; say tabmtl.permutation_importances(model, X, y)")
    )

    #: Whether it chooses by folds or splits of its own, and then learns all rows. Given X_val, it would lose labels, so
    #: `compare` and the commands give it these rows to learn.
    __learns_all_rows__: ClassVar[bool] = False

    # scikit-learn routes these to fit as it does to the splitters
    __metadata_request__fit: ClassVar = {"groups": True, "time": True}
    _kept_apart: ClassVar[tuple[str, ...]] = ("preprocessor",)
    # whether answers to a task keep to its ``monotone``
    _keeps_monotone: ClassVar[bool] = False
    # whether it reads rows of shards window by window, and not all at once
    _reads_windows: ClassVar[bool] = False
    # whether new levels and classes find a place in what a fitted model has learned, and new rows alone begin one
    _grows: ClassVar[bool] = True
    # what asks several fitted ones as one
    _together: ClassVar[type[Together]] = Together

    #: Methods of `add_task` that the class has, and what may be frozen.
    #: Whether `add_task` takes another way to learn the head of a task.
    _takes_heads: ClassVar[bool] = False
    _task_freezes: ClassVar[tuple[str | None, ...]] = ("shared",)

    @drafted
    def fit(
        self,
        X: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        groups: Any = None,
        time: Any = None,
        X_val: Any = None,
        y_val: Any = None,
    ) -> Self:
        """Fit all tasks.

        Parameters
        ----------
        X : frame or array of shape (n, p), or Shards
            Features: numbers, booleans, text, categories, dates, times or lists; null and NaN are missing values. With
            `tabmtl.scale.Shards`, y names its column or columns with targets, and sample_weight a column.
        y : frame, series or array of shape (n,) or (n, T)
            Targets of any mix of kinds; null and NaN are unlabelled cells.
        sample_weight : array of shape (n,) or (n, T), or frame with the task names, optional
            Weights, normalised over the labelled rows of every task; weight 0 equals a missing label.
        groups : array of shape (n,) or str, optional
            Group of every row, such as a patient, or the name of a column of X that holds it. Rows set aside for early
            stopping come from other groups than the rows that are learned from. Given X_val and y_val, nothing is set
            aside; `fit` only warns if the named column of X_val shares groups with X. Tasks with metrics by group need
            groups, those of X_val too: name a column that both have, or give ``(those of X, those of X_val)``.
        time : array of shape (n,) or str, optional
            Time of every row, a date, datetime or number, or the name of a column of X that holds it, which stays a
            feature unless it is dropped. The rows set aside are then the newest, all rows of one time together, and
            folds go forward in time. With groups too, newest rows of groups with older rows judge nothing.
            Given X_val and y_val, `fit` only warns if the named column of X_val is not newer than that of X.
        X_val, y_val : as X and y, optional
            Rows for early stopping, if the method supports it.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If the input does not fit; the message names the column or task and the cure. The estimator stays unchanged.
        """
        learner, run = self.__learner__(), running()
        learner.check(X, X_val, y_val)
        encoded: list[Any]
        with run.fit(self, X=X, y=y, sample_weight=sample_weight), ExitStack() as stack:
            coder, *encoded = learner.rows(stack, X, y, sample_weight, Marks(groups, time), X_val, y_val)
            seed = run.group.gather(self._seed())[0]
            seen = self._model.seen if self._is_warm else SeenRows.unknown()
            if encoded[0].frame is not None:
                seen = seen.and_of(encoded[0].read(), coder.labels.names)
            some = drawn(coder, encoded[0], self._least_rows)
            # kept by nobody else, so that a network that has copied its rows can free these
            found = self._fit(coder.after, encoded.pop(0), encoded.pop(), seed)
            asked = found.pop("answered", None)
            self._set_fitted(coder, found, seen=seen)
            self._model = profiled(self._model, some, asked)
        return self

    def __learner__(self) -> TableLearner:
        """Return what checks a call, learns columns and tasks, and reads rows, as `fit` does before it trains."""
        columns = declare(self.columns)
        return TableLearner(
            estimator=self,
            coding={
                "tasks": self.tasks,
                "force": self._target_kind,
                "task_column": self.task_column,
                "columns": {name: own for name, own in columns.items() if not isinstance(own, Ignore)},
                "encoding": self._encoding() | {"finds_text": True},
            },
            ignored=ignored(columns),
            preprocessor=self.preprocessor,
            chain=self._chain,
            keeps_monotone=self._keeps_monotone,
            reads_windows=self._reads_windows,
            known=self._model.coder if self._is_warm else None,
        )

    @property
    def _is_warm(self) -> bool:
        """Whether `fit` begins at what the last fit has learned."""
        # asked before fit checks its parameters, so any value may stand there
        return "_model" in vars(self) and bool(np.all(getattr(self, "warm_start", False)))

    @available_if(lambda estimator: type(estimator)._go_on is not MultiTaskEstimator._go_on)
    @drafted
    def partial_fit(self, X: Any, y: Any, *, classes: Any = None, sample_weight: Any = None) -> Self:
        """Go on learning by new rows, without those of fit; an unfitted estimator begins with these rows.

        Columns, kinds of tasks, scales and the preprocessor stay those of fit. Networks take new levels of categories,
        tags and sequences, which begin as unseen levels are read, and, with a warning, new classes of tasks of several
        classes; trees read new levels as unseen ones. What `calibrate`, `tune_thresholds` and `conformalize` have
        learned is dropped, with a warning: call them again.

        Parameters
        ----------
        X : frame or array of shape (n, p)
            New rows, with the columns of fit. In the long layout, of the tasks of fit.
        y : frame, series or array of shape (n,) or (n, T)
            Their targets; null and NaN are unlabelled cells, so a task may have no label here.
        classes : sequence, or mapping of task to sequence, optional
            Classes that tasks have, if the rows of the first call may lack some, and those that join later without a
            warning; a sequence where y is one column.
        sample_weight : array of shape (n,) or (n, T), or frame with the task names, optional
            Weights, normalised over the labelled rows of every task.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If the rows have other columns or kinds, a new task, or a class that its task cannot take; the message names
            the cure. The model stays unchanged.

        Examples
        --------
        >>> import numpy as np
        >>> from tabmtl import SharedBottom
        >>> X = np.random.default_rng(0).normal(size=(300, 2))
        >>> y = X + np.random.default_rng(1).normal(size=(300, 2))
        >>> model = SharedBottom(epochs=3, random_state=0).fit(X[:200], y[:200])
        >>> len(model.partial_fit(X[200:], y[200:]).history_)
        4
        """
        run = running()
        known: Model | None = vars(self).get("_model")
        refuse_source(X, "partial_fit")
        learner = self.__learner__()
        learner.check(X)
        with replace(run, job=None).fit(self, X=X, y=y, sample_weight=sample_weight), ExitStack() as stack:
            rows: FitRows
            if known is not None:
                _warn_of_decisions(known.coder)
                prepared = self._preprocessed(X)
                coder, rows = learner.on(known.coder, X, prepared, y, sample_weight, classes, grows=self._grows)
            else:
                learner = learner.declaring(y, classes)
                coder, rows, _ = learner.rows(stack, X, y, sample_weight, Marks())
            seen = (SeenRows.unknown() if known is None else known.seen).and_of(rows.read(), coder.labels.names)
            learn = self._go_on if known is not None or self._grows else partial(self._fit, valid=None)
            found = learn(coder.after, rows, seed=self._seed())
            found.pop("answered", None)
            self._set_fitted(coder, found, over=() if known is None else known.over, seen=seen)
            if known is None:
                some = drawn(coder, rows, self._least_rows)
                self._model = profiled(self._model, some, asking(some, self, are_learned=True))
            elif known.profile is not None:  # drift of columns is told from the fit
                self._model = following(self._model, known.profile.of_tasks(()), self, prepared, rows.read())
        return self

    @available_if(lambda estimator: type(estimator)._add_tasks is not MultiTaskEstimator._add_tasks)
    @drafted
    def add_task(
        self,
        X: Any,
        y: Any,
        *,
        head: Head | None = None,
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
        head : object, optional
            How the head of a new task of a network is learned, such as `tabmtl.extras.ScaLearn`; see
            :class:`tabmtl.estimators.added.Head`. By default, it is a linear layer on all features that the heads of
            the network read, and those that the last layers of its heads read; its penalty is chosen by folds. In
            `SharedTrees` the trees that stand give the task leaf values of its own.
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

        Examples
        --------
        >>> import numpy as np
        >>> from tabmtl import SharedBottom
        >>> X = np.random.default_rng(0).normal(size=(300, 4))
        >>> model = SharedBottom(epochs=2, random_state=0).fit(X, X[:, :2])
        >>> model.add_task(X[:50], X[:50, 0] + X[:50, 1]).predict(X).shape
        (300, 3)
        """
        check_is_fitted(self)
        self._check_way(head, freeze)
        check_tasks("tasks", tasks)
        check_alone("add_task", "call it outside of joined()")
        if y is None:
            raise ValueError("add_task learns from labels, but the target y is None; give labels of the new task")
        prepared, known, n_old = self._preprocessed(X), self._model, len(self._model.tasks)
        coder, labels, weight = with_new_tasks(
            known.coder, prepared, y, tasks, sample_weight, freeze, self._target_kind
        )
        if not self._keeps_monotone:
            refuse_monotone(coder.labels.tasks, type(self).__name__)
        batch = rows_of_new(coder, X, prepared, labels, weight, groups, n_old)
        if freeze is None:
            coder = undecided(coder)
        found = self._add_tasks(coder.after, batch, head, freeze, self._seed())
        seen = known.seen.and_of(*learned(coder.labels, batch, n_old, freeze))
        model = replace(known, coder=coder, fitted=found.pop("_fitted"), seen=seen)
        names = [task.name for task in model.tasks if freeze is not None]
        # rows of a new task of a long table are no drift, and fit had none
        profile = known.profile and known.profile.of_tasks(names, coder.task_column)
        self._model = following(model, profile, self, prepared, batch)
        self.__dict__ |= found
        return self

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
        t = place_of(self._model, name)
        self._model = without_task(self._model, t)
        return self

    @drafted
    def calibrate(
        self,
        X: Any,
        y: Any,
        *,
        method: CalibrationMethod = "sigmoid",
        tasks: str | Sequence[str] | None = None,
        sample_weight: Any = None,
    ) -> Self:
        """Learn from new rows what the probabilities of classes should be; all answers are calibrated from then on.

        Other tasks stay as they are, but steps of a funnel behind a task, whose probability is never above its own. A
        new calibration takes the place of an earlier one, and drops the thresholds of the tasks whose answers change,
        with a warning: call `tune_thresholds` after it.

        Parameters
        ----------
        X, y : as in fit
            Rows that `fit` has not seen. It refuses those that it has, where it knows: in the process of ``fit``, for
            frames.
        method : {"isotonic", "sigmoid", "temperature"}, default="sigmoid"
            As in scikit-learn's ``CalibratedClassifierCV``. "sigmoid" fits a logistic function to the log odds,
            "isotonic" one that rises by steps and needs about 1000 labels, "temperature" one factor of the logarithms
            of all probabilities. The first two take each of several classes against the rest, and of ordered classes
            the probability above each. Unlike there, isotonic probabilities of n labels are at least 1 / (n + 2).
        tasks : str or sequence of str, optional
            Those to calibrate; all tasks of classes by default.
        sample_weight : array of shape (n,) or (n, T), or frame, optional

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If rows are those of fit, a task is unknown or none of classes, or has too few labels: "isotonic" needs 20
            and "sigmoid" 10 of every class and of the others, "temperature" 10 in all. The model stays unchanged.

        Examples
        --------
        >>> import numpy as np
        >>> from tabmtl import SharedTrees
        >>> X = np.random.default_rng(0).normal(size=(400, 2))
        >>> y = X[:, 0] + np.random.default_rng(1).normal(size=400) > 0
        >>> model = SharedTrees(random_state=0).fit(X[:200], y[:200]).calibrate(X[200:], y[200:])
        >>> bool(abs(model.predict_proba(X[200:])[:, 1].mean() - y[200:].mean()) < 0.02)
        True
        """
        answered = self.__labelled_answers__(X, y, sample_weight, unseen_for="calibrate", calibrated=False)
        labels = self.coder_.labels
        found = calibrate(labels.decisions, answered, method, tasks, labels.chain)
        self._decide_by(found)
        return self

    @drafted
    def tune_thresholds(
        self,
        X: Any,
        y: Any,
        *,
        metric: str | Mapping[str, str] | None = None,
        costs: Mapping[Any, Any] | None = None,
        groups: Any = None,
        tasks: str | Sequence[str] | None = None,
        sample_weight: Any = None,
    ) -> Self:
        """Choose on new rows from which probability on a class is answered, for two classes and ordered ones.

        ``predict`` decides at the thresholds from then on, everywhere, and scores of decisions, such as "f1", judge
        that. Probabilities stay as they are. `tabmtl.targets.decisions.thresholds` says how the best ones are found.
        They are taken if they are better by more than a standard error than 1/2, or, by costs of two classes, than the
        threshold that the costs tell (1 / 51 below); if not, that one stays.

        Parameters
        ----------
        X, y : as in `calibrate`
        metric : str, or mapping of task to str, optional
            What the thresholds are best for: of two classes "balanced_accuracy" (default), "f1", "f1_macro" or
            "accuracy"; of ordered ones "quadratic_kappa" (default), "neg_mean_absolute_error" or "accuracy". Without
            ``tasks``, a single name is for those tasks that it judges.
        costs : mapping of (class, class) to float, or mapping of task to such, optional
            In place of a metric, what a row costs by its true class and the answered one:
            ``{("fraud", "fine"): 50.0, ("fine", "fraud"): 1.0}``. Pairs left out cost nothing; costs by which one
            answer is the best of every row are refused. A gain is below 0. Costs of single rows are their
            ``sample_weight``.
        groups : array of shape (n,) or str, optional
            Group of every row, such as a patient, or the name of a column of X that holds it. The thresholds are then
            best in the mean of 5 folds of whole groups, and standard errors are over draws of groups.
        tasks : str or sequence of str, optional
            Those to choose thresholds for; all of two classes or of ordered ones by default.
        sample_weight : array of shape (n,) or (n, T), or frame, optional

        Returns
        -------
        self
            With ``thresholds_``: a polars frame with a line for each threshold, its ``task``, the class ``above`` it,
            and the ``threshold``; the ``metric``, or "neg_mean_cost"; ``score`` and ``standard_error``, where each
            fold of the rows is decided as the others choose; ``default_score``, decided without thresholds; and the
            ``gain`` of the best thresholds over those that stay otherwise, with its standard error ``gain_error``.

        Raises
        ------
        ValueError, TypeError
            If rows are those of fit, or have one class only, or one group, or if a task, metric or class is unknown.
            The model stays unchanged.

        Examples
        --------
        >>> import numpy as np
        >>> from tabmtl import SharedTrees
        >>> X = np.random.default_rng(0).normal(size=(400, 2))
        >>> y = np.where(X[:, 0] + np.random.default_rng(1).normal(size=400) > 1, "fraud", "fine")
        >>> model = SharedTrees(random_state=0).fit(X[:200], y[:200])
        >>> model = model.tune_thresholds(X[200:], y[200:], costs={("fraud", "fine"): 20.0, ("fine", "fraud"): 1.0})
        >>> bool(model.thresholds_["threshold"][0] < 0.2)
        True
        """
        answered = self.__labelled_answers__(X, y, sample_weight, unseen_for="tune_thresholds")
        group = None if groups is None else number_groups(read_groups(groups, X, len(answered.labels)))
        found = tune_thresholds(self.coder_.labels.decisions, answered, group, metric, costs, tasks)
        self._warn_of_frequent_classes(answered, found[1].judging(self.coder_.labels.decisions, found[0]))
        self._decide_by(found)
        return self

    @drafted
    def conformalize(self, X: Any, y: Any, *, groups: Any = None, tasks: str | Sequence[str] | None = None) -> Self:
        """Learn from new rows what `predict_interval` needs: how far labels lie from the answers.

        A new call takes the place of an earlier one, for all tasks. `calibrate` drops the sets of its tasks, with a
        warning: call this method after it.

        Parameters
        ----------
        X, y : as in `calibrate`
            A level needs at least level / (1 - level) labels of each task, 9 for 0.9. The file of the model keeps a
            number for each label.
        groups : array of shape (n,) or str, optional
            Group of every row, such as a region, or the name of a column of X that holds it. The promise is then one of
            the rows of each group, which needs as many labels of each. A column that is named must be in X of
            `predict_interval` too.
        tasks : str or sequence of str, optional
            Those to learn; all by default.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If rows are those of fit, a task is unknown or has no labels, or a group has one label only. The model stays
            unchanged.

        Examples
        --------
        >>> import numpy as np
        >>> from tabmtl import SharedTrees
        >>> X, noise = np.random.default_rng(0).normal(size=(2, 600, 2))
        >>> y = X + noise
        >>> model = SharedTrees(random_state=0).fit(X[:200], y[:200]).conformalize(X[200:400], y[200:400])
        >>> found = model.predict_interval(X[400:], level=0.9)
        >>> found.columns
        ['y0_low', 'y0_high', 'y1_low', 'y1_high']
        >>> bool(0.85 < found["y0_low"].is_between(-np.inf, y[400:, 0]).mean() < 1)
        True
        """
        answered = self.__labelled_answers__(X, y, unseen_for="conformalize")
        values = None if groups is None else read_groups(groups, X, len(answered.labels))
        column = groups if isinstance(groups, str) else None
        found = conformalize(self.coder_.labels.decisions, answered, values, column, tasks)
        self._decide_by(found)
        return self

    # methods that a subclass defines

    def _encoding(self) -> dict[str, Any]:
        """Return the encoding of features: `transform`, `min_frequency` and `flat` of `FeatureCoder.fit`."""
        return {"transform": "none", "min_frequency": 1, "flat": True}

    def _chain(self, tasks: Sequence[Task]) -> tuple[int, ...]:
        """Return task indices of the funnel steps, in order; empty if the method has no funnel."""
        return ()

    def _fit(self, coder: TableCoder, rows: FitRows, valid: FitRows | None, seed: int) -> dict[str, Any]:
        """Fit on encoded rows, and return what was fitted as ``_fitted``; see `tabmtl.estimators.rows`.

        Beside it may stand attributes that tell of the fit, by their names, and ``answered``, which asks the model for
        answers to some rows, best to such as it has not learned; see `tabmtl.estimators.model.Asking`.
        """
        raise NotImplementedError

    def _go_on(self, coder: TableCoder, rows: FitRows, seed: int) -> dict[str, Any]:
        """Go on from what was fitted by encoded rows, and return what `_fit` does; the estimator stays as it is.

        Parameters
        ----------
        coder : TableCoder
            Of the rows: levels and classes that ``coder_`` lacks are behind those that it has.
        rows : FitRows
        seed : int
        """
        raise NotImplementedError

    def _add_tasks(
        self, coder: TableCoder, batch: Batch, head: Head | None, freeze: Freeze, seed: int
    ) -> dict[str, Any]:
        """Learn the tasks of a coder behind those of the model, and return what `_fit` does.

        Parameters
        ----------
        coder : TableCoder
            Of all tasks, the new ones last.
        batch : Batch
            Rows with labels of all these tasks, in own units, their weights and groups; NaN where there is no label.
        head, freeze : as in `add_task`
        seed : int
        """
        raise NotImplementedError

    def _fitted_of(self, coder: TableCoder, parts: dict[str, Any]) -> Any:
        """Return what was fitted, given the parts of it that a file keeps."""
        raise NotImplementedError

    # shared steps

    @property
    def _least_rows(self) -> int:
        """Rows of a level that has a place of its own."""
        return self._encoding()["min_frequency"]

    def _check_way(self, head: Any, freeze: Any) -> None:
        """Raise an error for a head, or a part to freeze, that the class does not have."""
        if freeze is not None:
            check_choice("freeze", freeze, ("shared",))
        if head is not None and (isinstance(head, type) or not callable(getattr(head, "learn", None))):
            raise TypeError(f"head must be an object with a method 'learn', such as ScaLearn(), or None, got {head!r}")
        if head is not None and not self._takes_heads:
            raise ValueError(f"{type(self).__name__} has no features that a head could read; leave head={head!r} out")
        if freeze not in self._task_freezes:
            raise ValueError(
                f"{type(self).__name__} cannot train on what it has learned, as freeze={freeze!r} says; leave it out"
            )

    def _restore(self, state: Any) -> None:
        told = dict(vars(state))
        coder = told.pop("coder_")
        told["_fitted"] = self._fitted_of(coder, FromFitted.taken_from(told, type(self)))
        self._set_fitted(coder, told, profile=told.pop("_profile"), over=told.pop("_over"))

    def _set_fitted(self, coder: TableCoder, found: Mapping[str, Any], **kept: Any) -> None:
        """Take over what was fitted, the ``_fitted`` of what was found, and attributes that tell of it.

        Parameters
        ----------
        coder : TableCoder
        found : mapping of str to object
        **kept
            Further fields of the `Model`.
        """
        self._forget()
        told = dict(found)
        if coder.preprocessing is not None and self.preprocessor is None:  # of a file
            self.preprocessor = clone(coder.preprocessing.transformer.fitted)
        self._fitted_params = self.get_params(deep=False) | {"preprocessor": clone(self.preprocessor, safe=False)}
        if coder.text_vectors is not None:
            coder.text_vectors.forget()
        self._model = Model(coder=coder, fitted=told.pop("_fitted"), **kept)
        self.__dict__ |= {k: Whole(own) if isinstance(own, pl.DataFrame) else own for k, own in told.items()}

    def _with_model(self, model: Model) -> Self:
        """Return a copy with what a verb has made of the model."""
        found = object.__new__(type(self))
        found.__dict__ = {**vars(self), "_model": model}
        return found

    def _decide_by(self, learned: Any) -> None:
        """Take over tasks and decisions that were learned of answers."""
        self._model = replace(self._model, coder=self._model.coder.with_decisions(*learned))

    # scikit-learn draws an estimator inside by itself
    @available_if(lambda own: not any(hasattr(value, "fit") for value in own.get_params(deep=False).values()))
    def _sk_visual_block_(self) -> Any:
        """Return the box that a notebook shows; scikit-learn falls back to its own where this fails."""
        from sklearn.utils._repr_html.estimator import _VisualBlock

        caption = None
        if hasattr(self, "n_features_in_"):
            caption = f"{counted(self.n_features_in_, 'input column')}, {counted(len(self.tasks_), 'task')}"
        return _VisualBlock("single", self, names=type(self).__name__, name_details=str(self), name_caption=caption)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags


def _warn_of_decisions(coder: TableCoder) -> None:
    if coder.labels.decisions is not None:
        warn_user(
            "partial_fit changes the answers of all tasks, so what calibrate, tune_thresholds and conformalize have "
            "learned is dropped; call them again, on rows that the model has not seen"
        )
