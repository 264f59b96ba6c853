"""Contract of every multi-task estimator, with scikit-learn's names and rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
from sklearn.base import clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_feature_names, _check_n_features, check_is_fitted

from tabmtl.columns.cures import by_columns
from tabmtl.decisions.calibrators import Method as CalibrationMethod
from tabmtl.decisions.learned import calibrate, conformalize, threshold_frame, tune_thresholds
from tabmtl.drift.profile import Profile
from tabmtl.encode import TableCoder
from tabmtl.encode.preprocessing import check_preprocessor
from tabmtl.encode.read import check_container, has_column, in_order, read_groups, without_columns
from tabmtl.encode.shards import Shards
from tabmtl.encode.tasks import DeclaredTasks
from tabmtl.encode.text_encoder import check_text_encoder
from tabmtl.estimators.asked import Together
from tabmtl.estimators.base import NotHere, at_once, drafted
from tabmtl.estimators.learner import Marks, TableLearner
from tabmtl.estimators.onward import LearnsOn
from tabmtl.estimators.predicting import Predicts, orders_of_classes
from tabmtl.estimators.rows import FitRows
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
from tabmtl.model_selection.repeats import SeenRows, number_groups
from tabmtl.model_selection.suspects import warn_of_frequent_classes
from tabmtl.params import Count, Names, RandomState
from tabmtl.processes.ranks import ALONE
from tabmtl.schema import Batch, counted, is_asked_by_sklearn, warn_user
from tabmtl.targets import Task, Tasks
from tabmtl.training.hooks import CallbackSupport
from tabmtl.training.run import running


@dataclass(frozen=True, kw_only=True, eq=False)
class TableState:
    """Fitted attributes that the file of an estimator keeps; a subclass adds those of its method."""

    coder_: TableCoder
    profile_: Profile | None = None

    later_fields: ClassVar[tuple[str, ...]] = ("profile",)

    def __post_init__(self) -> None:
        if any(own.transform == "raw" for several in self.coder_.features.scalers.values() for own in several):
            raise ValueError("numbers are 'raw', which only exported networks read")


@dataclass(kw_only=True, eq=False, repr=False)
class MultiTaskEstimator(Predicts, LearnsOn, CallbackSupport):
    """Base of all estimators: one object that learns several targets at once.

    A subclass defines `_fit` and `_outputs`, and declares by `_stored` the fitted attributes that its file keeps; this
    class handles frames, targets, scores and files.

    Parameters
    ----------
    tasks : mapping of name to kind or Task, or sequence of Task, optional
        Kinds of the targets; `fit` infers those left out. Text, categories and booleans are classes. Floats are a
        regression target, unless all are 0 or 1. Whole numbers with two values are binary; others are ambiguous, and
        cause a warning.
    task_column : str, optional
        Long layout: the column of X that names every row's own task. Then y holds one label per row.
    categorical_features : "from_dtype" or sequence of str or int, default="from_dtype"
        Columns of X that hold categories. By default these are the columns of text, categories and booleans.
    text_features : "from_values" or sequence of str or int, default="from_values"
        Columns of X that hold free text, read by its words and 3-grams of letters. By default these are the columns of
        text whose values, in up to 10 000 rows spread over all, have at least 20 letters and 3 words on average, and
        a tenth of them distinct; a warning names them. With ``categorical_features`` named, there are none by default.
    text_encoder : callable or object with ``encode``, optional
        Makes vectors of free text, in place of words and 3-grams. It gets a list of n texts, and returns an array
        (n, d) of finite numbers, as ``SentenceTransformer(...)`` of sentence-transformers does. Every `fit` encodes
        each distinct text once, missing ones never, and reads the result as a column of vectors. `save` leaves the
        encoder out, for it is code: a loaded model predicts after ``set_params(text_encoder=...)``. `fit` collects a
        LazyFrame.
    sequence_features : mapping of str to str or None, optional
        Columns of X that hold ordered lists, the newest entry last, and what their entries are of. ``{"history":
        "item"}`` says that ``history`` holds values of the column ``item``: both share levels and embedding, and
        networks read the history by attention to the item of the row. With None, a list has levels of its own. A list
        beside another one, of the same lengths, is of that one: ``{"history": "item", "history_hours": "history"}``.
    max_sequence_length : int, default=50
        Entries of a sequence that are read, the newest. A warning tells once how many sequences are longer. The length
        and the counts that trees get are of these alone.
    drop : sequence of str, default=()
        Columns of the frame X that are not features, such as an id. X may lack them in ``predict``. Positions in
        ``categorical_features`` and ``text_features`` do not count them.
    preprocessor : transformer of scikit-learn, optional
        Makes the features of the columns of X, such as a ``ColumnTransformer`` or a ``Pipeline`` of transformers. `fit`
        fits a copy on X alone, without labels and weights. All rows that the estimator gets then go through it, those
        of X_val too, and `save` writes it beside the model. It sees X without the task column and the columns in
        ``drop``, in the library of fit; ``categorical_features`` name columns that it gives.
    random_state : int, RandomState or None, default=None
        Random seed; the global generators stay untouched.

    Attributes
    ----------
    tasks_ : tuple of Task
        The tasks with kind, classes, score and weight, in the order of y; in the long layout, in the order of their
        names.
    n_features_in_ : int
        Number of the columns of X, with the task column and without those in ``drop``.
    feature_names_in_ : ndarray of str
        Their names, if X is a frame.
    coder_ : TableCoder
        How X and y are read: their columns, levels, scales and tasks.
    preprocessor_ : transformer
        The fitted copy of ``preprocessor``, if there is one.
    profile_ : Profile or None
        How the rows of fit are spread, which `drift` compares with; None in a file of an earlier release.
    thresholds_ : polars.DataFrame
        What `tune_thresholds` has chosen, if it was called.
    """

    tasks: DeclaredTasks = None
    task_column: str | None = None
    categorical_features: Literal["from_dtype"] | Sequence[str | int] = "from_dtype"
    text_features: Literal["from_values"] | Sequence[str | int] = "from_values"
    text_encoder: Annotated[Any, check_text_encoder] = None
    sequence_features: Mapping[str, str | None] | None = None
    max_sequence_length: Count = 50
    drop: Names = ()
    preprocessor: Annotated[Any, check_preprocessor] = None
    random_state: RandomState = None

    classes_ = cast(  # an array, where a Classifier face has set it
        Any,
        NotHere(
            "fit of a Classifier face, for classifications only, sets it, as CalibratedClassifierCV needs it; tasks_ "
            "has the classes of every task"
        ),
    )

    importances_ = cast(
        Any,
        NotHere("only the trees of a model have a gain; say tabmtl.inspection.feature_importances(model, X, y)"),
    )

    #: Whether it chooses by folds or splits of its own, and then learns all rows. Given X_val, it would lose labels, so
    #: `compare` and the commands give it these rows to learn.
    learns_all_rows: ClassVar[bool] = False

    # scikit-learn routes these to fit as it does to the splitters
    __metadata_request__fit: ClassVar = {"groups": True, "time": True}
    _kept_apart: ClassVar[tuple[str, ...]] = ("preprocessor", "text_encoder")
    # whether answers to a task keep to its ``monotone``
    _keeps_monotone: ClassVar[bool] = False
    # whether it reads rows of shards window by window, and not all at once
    _reads_windows: ClassVar[bool] = False
    # what asks several fitted ones as one
    _together: ClassVar[type[Together]] = Together

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
            `tabmtl.Shards`, y is the name or the names of its columns with targets, and sample_weight the name of a
            column.
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
        learner, run = self.learner(), running()
        learner.check(X, X_val, y_val)
        encoded: list[Any]
        if not isinstance(X, Shards):
            if run.group.size > 1 and run.group.rank == 0:
                warn_user(
                    f"every one of the {run.group.size} processes of the group fits this frame whole, by itself; write "
                    "its rows to files and give Shards, whose rows are dealt, or fit outside of joined()"
                )
            run = replace(run, group=ALONE)
        with run.fit(self, X=X, y=y, sample_weight=sample_weight), ExitStack() as stack:
            coder, *encoded = learner.rows(stack, X, y, sample_weight, Marks(groups, time), X_val, y_val)
            seed = run.group.broadcast(self._seed())
            seen = self._seen_rows if self._is_warm else SeenRows.unknown()
            if not isinstance(X, Shards):
                seen = seen.and_of(encoded[0].read(), coder.labels.names)
            drawn = self._drawn(coder, encoded[0])
            # kept by nobody else, so that a network that has copied its rows can free these
            fitted = self._fit(coder.after, encoded.pop(0), encoded.pop(), seed)
            answered = fitted.pop("answered", None)
            self._set_fitted(coder, fitted)
            self._seen_rows = seen
            self._keep_profile(drawn, answered)
        return self

    def learner(self) -> TableLearner:
        """Return what checks a call, learns columns and tasks, and reads rows, as `fit` does before it trains."""
        sequences = {"sequences": self.sequence_features or {}, "max_length": self.max_sequence_length}
        encoder = {"text_encoder": self.text_encoder}
        return TableLearner(
            estimator=self,
            coding={
                "tasks": self.tasks,
                "force": self._target_kind,
                "task_column": self.task_column,
                "categorical": self.categorical_features,
                "encoding": self._encoding() | {"texts": self.text_features, **encoder, **sequences},
            },
            drop=self.drop,
            preprocessor=self.preprocessor,
            chain=self._chain,
            keeps_monotone=self._keeps_monotone,
            reads_windows=self._reads_windows,
            hints=self.sequence_features is None,
            known=self.coder_ if self._is_warm else None,
        )

    @property
    def _is_warm(self) -> bool:
        """Whether `fit` begins at what the last fit has learned."""
        # asked before fit checks its parameters, so any value may stand there
        return hasattr(self, "coder_") and bool(np.all(getattr(self, "warm_start", False)))

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
        answered = self.answer_labelled(X, y, sample_weight, groups=groups, metric=metric)
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
        answered = self.answer_labelled(X, y, sample_weight, groups=groups, metric=metric)
        if metric is not None:
            self._warn_of_frequent_classes(answered)
        return score_intervals(*score_given(answered, given, self.coder_.labels.chain), level=level)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the mean over the tasks of `score_tasks`; tasks with an undefined score are left out."""
        return mean_score(self.score_tasks(X, y, sample_weight))

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
        answered = self.answer_labelled(X, y, sample_weight, unseen_for="calibrate", calibrated=False)
        labels = self.coder_.labels
        found = calibrate(labels.decisions, answered, method, tasks, labels.chain)
        self._decide_by(self.coder_.with_decisions(*found))
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
        that. Probabilities stay as they are. `tabmtl.decisions.thresholds` says how the best ones are found. They are
        taken if they are better by more than a standard error than 1/2, or, by costs of two classes, than the threshold
        that the costs tell (1 / 51 below); if not, that one stays.

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
        answered = self.answer_labelled(X, y, sample_weight, unseen_for="tune_thresholds")
        group = None if groups is None else number_groups(read_groups(groups, X, len(answered.labels)))
        found = tune_thresholds(self.coder_.labels.decisions, answered, group, metric, costs, tasks)
        self._warn_of_frequent_classes(answered, found[1].judging(self.coder_.labels.decisions, found[0]))
        self._decide_by(self.coder_.with_decisions(*found))
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
        answered = self.answer_labelled(X, y, unseen_for="conformalize")
        values = None if groups is None else read_groups(groups, X, len(answered.labels))
        column = groups if isinstance(groups, str) else None
        found = conformalize(self.coder_.labels.decisions, answered, values, column, tasks)
        self._decide_by(self.coder_.with_decisions(*found))
        return self

    # methods that a subclass defines

    def _encoding(self) -> dict[str, Any]:
        """Return the encoding of features: `transform`, `min_frequency` and `flat` of `FeatureCoder.fit`."""
        return {"transform": "none", "min_frequency": 1, "flat": True}

    def _chain(self, tasks: Sequence[Task]) -> tuple[int, ...]:
        """Return task indices of the funnel steps, in order; empty if the method has no funnel."""
        return ()

    def _fit(self, coder: TableCoder, rows: FitRows, valid: FitRows | None, seed: int) -> dict[str, Any]:
        """Fit on encoded rows, and return the fitted attributes by name; see `tabmtl.estimators.rows`.

        Beside them may stand ``answered``, a function without arguments. Called when they are set, it gives the
        several `tabmtl.drift.readings.Answers` to some rows, best to such as the model has not learned.
        """
        raise NotImplementedError

    # shared steps

    def _warn_of_frequent_classes(self, answered: Answered, judging: Mapping[str, Sequence[str]] | None = None) -> None:
        """Warn as `tabmtl.model_selection.suspects.warn_of_frequent_classes` says."""
        warn_of_frequent_classes(self.coder_.labels, self.tasks, answered.tasks, answered.labels, judging)

    def _restore(self, state: Any) -> None:
        fitted = dict(vars(state))
        self._set_fitted(fitted.pop("coder_"), fitted)

    def _set_fitted(self, coder: TableCoder, fitted: dict[str, Any]) -> None:
        self._forget()
        self._seen_rows, self.profile_ = SeenRows.unknown(), None
        if coder.preprocessing is not None:
            self.preprocessor_ = coder.preprocessing.transformer.fitted
            if self.preprocessor is None:  # of a file
                self.preprocessor = clone(self.preprocessor_)
        self._fitted_params = self.get_params(deep=False) | {"preprocessor": clone(self.preprocessor, safe=False)}
        if coder.text_vectors is not None:
            coder.text_vectors.forget()
        self._decide_by(coder)
        self.n_features_in_ = len(coder.names)
        if coder.named:
            self.feature_names_in_ = np.array(coder.names, dtype=object)
        self.__dict__ |= fitted

    def _decide_by(self, coder: TableCoder) -> None:
        """Take over a coder, with what it knows of decisions."""
        self.coder_ = coder
        self.tasks_ = Tasks(coder.labels.tasks)
        if self._target_kind == "classification":
            pairs = zip(coder.labels.column_tasks, orders_of_classes(coder.labels), strict=True)
            classes = [np.array(task.classes)[slice(None) if order is None else order] for task, order in pairs]
            self.classes_ = classes[0] if coder.labels.origin.ndim == 1 else classes
        self.__dict__.pop("thresholds_", None)
        found = threshold_frame(self.tasks_, coder.labels.decisions)
        if found is not None:
            self.thresholds_ = found

    def _preprocessed(self, X: Any) -> Any:
        """Return rows as `_read_rows` and `_outputs` take them: with the columns of fit, behind the preprocessor.

        Columns are checked against those of fit, with scikit-learn's messages.
        """
        # for a row, scikit-learn's checks take longer than reading it
        if not hasattr(self, "coder_"):
            check_is_fitted(self)
        if isinstance(X, Shards):
            raise TypeError("Shards are for fit; tabmtl.scale.predict_files answers the rows of files")
        X = without_columns(X, self.coder_.dropped)
        is_frame = isinstance(X, pl.DataFrame) or nw.dependencies.is_pandas_dataframe(X)
        if not (is_frame and self.coder_.named and tuple(X.columns) == self.coder_.names):
            head = pl.DataFrame(schema=X.collect_schema()) if isinstance(X, pl.LazyFrame) else X
            check_container(head)
            ordered = in_order(X, self.coder_.names) if self.coder_.named else None
            try:
                if ordered is None and not (isinstance(head, np.ndarray) and is_asked_by_sklearn()):
                    _check_feature_names(self, head, reset=False)  # of arrays, which scikit-learn made of frames, none
            except ValueError as error:
                lacks = not all(has_column(X, name) for name in self.coder_.names)
                raise ValueError(f"{error}{'Add the missing ones to X.' if lacks else by_columns(X)}") from None
            if ordered is None and getattr(head, "ndim", 2) == 2:  # other shapes are refused where X is read
                _check_n_features(self, head, reset=False)
            X = X if ordered is None else ordered
        return self.coder_.prepared(X, self.text_encoder)

    def _read_rows(self, X: Any) -> Batch:
        """Return encoded rows to predict, of those that the preprocessor gives."""
        return self.coder_.after.read(X)

    @at_once
    def answer_labelled(
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
        """Answer rows as `answer` does, and read their labels and groups.

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
            self._seen_rows.refuse(batch, self.coder_.labels.names, unseen_for)
        outputs = self._outputs(prepared, replace(batch, y=None, weight=None))
        if calibrated:
            outputs = self.coder_.labels.decided(outputs, batch.task)
        tasks, known = self.tasks_ if metric is None else with_metrics(self.tasks_, metric), self.coder_.group_column
        if groups is None and known is not None and any(map(is_by_group, tasks)) and has_column(X, known):
            groups = known
        group = None if groups is None else number_groups(read_groups(groups, X, len(batch)))
        return Answered(tasks, batch.y, outputs, batch.weight, batch.task, group)

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
