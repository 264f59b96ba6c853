"""Cross-validation for several targets at once: a splitter, a scorer, and the split that early stopping uses."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import BaseCrossValidator
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.metadata_routing import UNUSED

from tabmtl.base.params import check_known
from tabmtl.base.schema import listed, warn_user
from tabmtl.columns.category import text_of
from tabmtl.encode.labels import DeclaredTasks, LabelCoder
from tabmtl.encode.read import read_features, read_groups
from tabmtl.metrics.scores import mean_score
from tabmtl.model_selection.stratify import ATTEMPTS, Strata, deal_groups, deal_rows, train_valid_split
from tabmtl.targets import Task

__all__ = ["MultiTaskKFold", "MultitaskScorer", "make_multitask_scorer", "train_valid_split"]

#: Number of tasks and classes that a warning names; it counts the others.

RandomState = int | np.random.Generator | np.random.RandomState | None


class MultiTaskKFold(BaseCrossValidator):
    """K folds that each hold labels of every task, and every class of the classification tasks.

    The targets may be of any mix and partly missing; a row without any label is assigned like the others. Folds get
    their share of each task's labelled rows and of each class as nearly as possible, rare classes before frequent ones,
    and differ in size by a few rows. With ``groups`` no group is split, and the sizes depend on the groups.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    shuffle : bool, default=True
        Whether chance decides among rows with the same labels (or groups of the same size); otherwise their
        order does.
    random_state : int, Generator, RandomState or None, default=None
        Seed of the shuffle; None gives other folds each time.
    tasks : mapping of name to kind or Task, or sequence of Task, optional
        Kinds of the targets, as the estimators take them. Other kinds are inferred from ``y``.
    task_column : str, optional
        Long layout: the column of X that names every row's own task.

    Examples
    --------
    >>> import polars as pl
    >>> y = pl.DataFrame(
    ...     {"late": ["no", "no", "yes", "yes", None, None], "delay": [0.5, None, None, 9.5, None, 3.0]}
    ... )
    >>> for train, test in MultiTaskKFold(2, random_state=0).split(y, y):
    ...     print(sorted(y[test]["late"].drop_nulls()), y[test]["delay"].count() > 0)
    ['no', 'yes'] True
    ['no', 'yes'] True
    """

    __metadata_request__split: ClassVar = {"groups": True}

    def __init__(
        self,
        n_splits: int = 5,
        *,
        shuffle: bool = True,
        random_state: RandomState = None,
        tasks: DeclaredTasks | None = None,
        task_column: str | None = None,
    ) -> None:
        if not isinstance(n_splits, numbers.Integral) or n_splits < 2:
            raise ValueError(f"n_splits must be a whole number of at least 2, got {n_splits!r}")
        if not shuffle and random_state is not None:
            raise ValueError(f"random_state={random_state!r} has no effect without shuffle; leave it out")
        self.n_splits: int = int(n_splits)
        self.shuffle: bool = shuffle
        self.random_state: RandomState = random_state
        self.tasks: DeclaredTasks | None = tasks
        self.task_column: str | None = task_column

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds; the arguments are ignored, as in scikit-learn."""
        return self.n_splits

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the row numbers of each split.

        Parameters
        ----------
        X : frame or array of n rows
            Only its number of rows counts, the task column of the long layout, and a column that ``groups`` names.
        y : frame (n, T), series (n,) or array of shape (n,) or (n, T)
            The targets; null and NaN are unlabelled.
        groups : array-like of shape (n,) or str, optional
            Group of each row, or the name of a column of X that holds it; rows of one group stay together.

        Yields
        ------
        train, test : ndarray of int
            Sorted row numbers; every row is in one test set.

        Raises
        ------
        ValueError
            If ``y`` is missing or holds a task without labels, or there are fewer rows or groups than folds.

        Warns
        -----
        TabmtlWarning
            Where a fold lacks labels of a task or one of its classes, because there are too few.
        """
        if y is None:
            raise ValueError("MultiTaskKFold needs the targets to spread them over the folds: split(X, y), got y=None")
        check_consistent_length(X, y, None if isinstance(groups, str) else groups)
        levels, task = (None, None) if self.task_column is None else read_task(X, self.task_column)
        coder = LabelCoder.fit(y, tasks=self.tasks, task_levels=levels)
        strata = Strata.of(coder.encode(y)[0], coder.tasks, task)
        group = None
        if isinstance(groups, str):
            groups = read_groups(groups, X, len(y))
        if groups is not None:
            groups = check_array(groups, input_name="groups", ensure_2d=False, dtype=None)
            group = np.unique(groups, return_inverse=True)[1]
        spread = strata.spread(group)
        if spread[-1] < self.n_splits:
            units = f"{spread[-1]} {'rows' if group is None else 'groups'}"
            raise ValueError(f"n_splits={self.n_splits} is more than the {units}; use at most {spread[-1]} splits")
        fold = self._deal(strata, group, attainable=spread >= self.n_splits)
        counts, of_what = strata.count(fold, self.n_splits), f"not each of the {self.n_splits} folds"
        warn_of_gaps(counts, strata, coder.tasks, of_what, "use fewer splits, merge rare classes or smaller groups")
        for f in range(self.n_splits):
            yield np.flatnonzero(fold != f), np.flatnonzero(fold == f)

    def _deal(self, strata: Strata, group: np.ndarray | None, attainable: np.ndarray) -> np.ndarray:
        """Assign a fold to each row: of a few attempts the first without a gap in attainable strata, or the last."""
        shares = np.full(self.n_splits, 1 / self.n_splits)
        rng = _generator(self.random_state) if self.shuffle else None
        for _ in range(ATTEMPTS if self.shuffle else 1):
            fold = deal_rows(strata, shares, rng) if group is None else deal_groups(strata, group, shares, rng)
            if strata.count(fold, self.n_splits)[:, attainable].all():
                break
        return fold


class MultitaskScorer(BaseEstimator):
    """Scorer of multi-task estimators; :func:`make_multitask_scorer` explains its parameters."""

    # From the signature of `score`, scikit-learn makes `set_score_request(sample_weight=True)`.
    __metadata_request__score: ClassVar = {"estimator": UNUSED}

    def __init__(self, *, per_task: bool = False, task: str | None = None) -> None:
        self.per_task = per_task
        self.task = task

    def score(self, estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float | dict[str, float]:
        """Score a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            Has ``score_tasks``, or is a Pipeline or a search around one that has.
        X : frame or array of n rows
            The features.
        y : frame, series or array of n rows
            The targets; null and NaN are unlabelled.
        sample_weight : array of shape (n,) or (n, T), or frame, optional
            Weights, as ``score_tasks`` takes them.

        Returns
        -------
        float or dict
            The mean over tasks or the score of one; or a dictionary of all. NaN where undefined.

        Raises
        ------
        TypeError
            If the estimator has no ``score_tasks``.
        ValueError
            If the estimator does not have the task, or ``per_task`` meets a task called "mean".
        """
        estimator, X = _unwrap(estimator, X)
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        found = estimator.score_tasks(X, y, **weights)
        scores = {name: math.nan if score is None else float(score) for name, score in found.items()}
        if self.task is not None:
            if self.task not in scores:
                raise ValueError(f"expected task to be one of {list(scores)}, got {self.task!r}")
            return scores[self.task]
        if not self.per_task:
            return mean_score(scores)
        if "mean" in scores:
            raise ValueError("per_task=True calls the mean over tasks 'mean', and so does a task; rename the task")
        return scores | {"mean": mean_score(scores)}

    def __call__(self, estimator: Any, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Score, as scikit-learn calls a scorer; without y, where it was given none."""
        return self.score(estimator, X, y, sample_weight)


def make_multitask_scorer(*, per_task: bool = False, task: str | None = None) -> MultitaskScorer:
    """Make a scorer for ``cross_validate``, ``GridSearchCV`` and the like.

    Each task is judged by its own metric (``task.metric``, by default ROC AUC or R²) on its labelled rows.

    Parameters
    ----------
    per_task : bool, default=False
        Give a dictionary of all scores and their "mean" (``GridSearchCV(..., refit="mean")``) instead of the mean
        over the tasks with a defined score.
    task : str, optional
        Give the score of this task only.

    Returns
    -------
    MultitaskScorer
        Called as ``scorer(estimator, X, y, sample_weight=None)``. An undefined score is NaN.

    Raises
    ------
    ValueError
        If both parameters are given.

    Examples
    --------
    >>> make_multitask_scorer(task="late")
    MultitaskScorer(task='late')
    """
    if per_task and task is not None:
        raise ValueError(f"expected either per_task=True or a task, got both (task={task!r})")
    return MultitaskScorer(per_task=per_task, task=task)


def warn_of_gaps(counts: np.ndarray, strata: Strata, tasks: Sequence[Task], what: str, cure: str) -> None:
    """Warn if some part of the rows lacks labels of a task or one of its classes; ``counts`` is (F, S)."""
    total = strata.spread(None)
    gaps = np.flatnonzero((counts == 0).any(axis=0) & (total > 0))
    if not len(gaps):
        return
    lacking = [
        f"task {tasks[strata.task[s]].name!r}"
        f"{'' if strata.classes[s] is None else f' class {strata.classes[s]!r}'} ({total[s]} rows)"
        for s in gaps
    ]
    warn_user(f"{what} holds labels of {listed(lacking)}; {cure}")


def read_task(X: Any, task_column: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the tasks of a long table, and the index (n,) of every row's own."""
    frame = read_features(X)[0].lazy()
    schema = frame.collect_schema()
    check_known("task_column names columns", [task_column], schema, "X")
    own = frame.select(text_of(task_column, schema[task_column])).collect().to_series()
    if own.null_count():
        raise ValueError(f"task_column {task_column!r} has missing values; every row needs a task")
    levels, task = np.unique(own.to_numpy(), return_inverse=True)
    return tuple(levels.tolist()), task


def _generator(random_state: RandomState) -> np.random.Generator:
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**31))
    return np.random.default_rng(random_state)


def _unwrap(estimator: Any, X: Any) -> tuple[Any, Any]:
    """Return the multi-task estimator inside searches and pipelines, and the features as it sees them."""
    while not hasattr(estimator, "score_tasks"):
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, Pipeline):
            X = estimator[:-1].transform(X) if len(estimator) > 1 else X
            estimator = estimator[-1]
        else:
            name = type(estimator).__name__
            raise TypeError(
                f"expected an estimator with score_tasks, such as MultiTabNet, got {name}; wrap single-task "
                "estimators in IndependentTasks"
            )
    return estimator, X
