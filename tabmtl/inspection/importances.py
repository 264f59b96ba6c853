"""What a fitted model relies on, by task: by the gain of its trees, or by what shuffled features cost.

Functions here ask a model for answers, so they know every estimator of tables, ensembles and funnels among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.frames import Whole
from tabmtl.base.params import check_count, check_known, check_names, check_random_state, listed_names
from tabmtl.base.schema import warn_user
from tabmtl.encode import TableCoder
from tabmtl.encode.read import take_rows
from tabmtl.estimators.base import draw_seed
from tabmtl.estimators.model import model_of
from tabmtl.estimators.source import refuse_source
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.metrics.intervals import Estimate, ScoreInterval, join_units, no_interval_reason, task_influences
from tabmtl.metrics.scores import Answered, check_metric, counting, each_task, score_task
from tabmtl.targets import Task

__all__ = ["gain_importances", "permutation_importances"]


def gain_importances(model: MultiTaskEstimator, *, tasks: str | Sequence[str] | None = None) -> pl.DataFrame:
    """Return the share of every feature in the gain of every task's trees.

    The gain is the variance that splits put between the task's own values of leaves, over the rows that the trees
    learned from. So it differs between tasks whose splits are the same. Shared trees learn from rows of all tasks: a
    feature that is constant within a task can have a gain there. For a squared error without a penalty, the shares are
    those of LightGBM's gain. The gain is in units of the task's scores, such as log odds. It tells what the model took
    up, not what helps on other rows: ask `permutation_importances` for that.

    Parameters
    ----------
    model : fitted SharedTrees, RMTGB or IndependentTasks
        Where `IndependentTasks` mixes families, the importance is the mean of their shares by their weights; that of a
        linear model is the variance of what the feature adds over the rows it learned.
    tasks : str or sequence of str, optional
        Names of the tasks; default: all.

    Returns
    -------
    importances : polars.DataFrame
        One row per task and feature: ``task``, ``feature``, ``importance``, which sums to 1 in a task with a split. Of
        `RMTGB` also its parts by stage, ``shared``, ``outlier`` and ``own``; B and A count as much as the task mixes
        them.

    Raises
    ------
    NotFittedError, TypeError
        If the model is not fitted, or has no trees.
    ValueError
        If there is no such task.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedTrees, gain_importances
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> model = SharedTrees(random_state=0).fit(X, X[:, :1] * [1, 2])
    >>> gain_importances(model, tasks="y1").select("task", "feature").rows()
    [('y1', 'x0'), ('y1', 'x1')]
    """
    fitted = model_of(_checked(model))
    if not hasattr(fitted.fitted, "gains"):
        raise TypeError(
            f"gain_importances needs trees, and a {type(model).__name__} has none: say "
            "tabmtl.permutation_importances(model, X, y)"
        )
    asked, names, features = _tasks_asked(model, tasks), [own.name for own in fitted.tasks], fitted.coder.features
    gains = fitted.fitted.gains(features.columns)
    is_of = np.array(features.origins, dtype=object)[:, None] == np.array(features.names, dtype=object)
    total = np.maximum(np.sum([*gains.values()], axis=(0, 2))[:, None], np.finfo(float).tiny)
    shares = {stage: of_columns @ is_of / total for stage, of_columns in gains.items()}
    table = pl.DataFrame({"task": names, "feature": [[*features.names]] * len(names)}).explode("feature")
    columns = {"importance": sum(shares.values()), **(shares if len(shares) > 1 else {})}
    table = table.with_columns(pl.Series(name, own.ravel()) for name, own in columns.items())
    return Whole(pl.concat(table.filter(task=name) for name in asked))


def permutation_importances(
    model: MultiTaskEstimator,
    X: Any,
    y: Any,
    *,
    tasks: str | Sequence[str] | None = None,
    features: Sequence[str | Sequence[str]] | None = None,
    n_repeats: int = 5,
    groups: Any = None,
    random_state: int | np.random.RandomState | None = None,
) -> pl.DataFrame:
    """Measure by task how far the score falls where a feature is shuffled among rows: permutation importance.

    Shuffling breaks what ties a feature to the target, and leaves its distribution as it is. The model is not fitted
    again: the importance is what this model relies on. Features that say the same stand in for each other, so that both
    look unimportant: shuffle them together. Give rows that the model has not learned from.

    Parameters
    ----------
    model : fitted estimator of tables
        Any, ensembles, funnels and loaded ones too.
    X : frame or array of shape (n, p)
        Rows as in ``predict``. A feature goes to other rows among all of them; in the long layout, among rows of the
        same task.
    y : frame, series or array of shape (n,) or (n, T)
        Targets as in ``fit``. A task is scored on its labelled rows.
    tasks : str or sequence of str, optional
        Names of the tasks to score; default: all. The model answers all tasks at once anyway.
    features : sequence of str, or of sequences of str, optional
        Columns of X to shuffle. Those in an inner sequence move together, and their names are joined by `` + ``.
        Default: each feature by itself. Lists that are declared to lie beside each other always move together,
        since a row needs both of one length. The columns of an array are called ``x0``, ``x1``, ...
    n_repeats : int, default=5
        Number of shuffles of every feature. One does not tell how far shuffles differ, so its error is rather too wide.
    groups : array of shape (n,) or str, optional
        Group of every row, such as a patient, or the name of a column of X that holds it. The error is then over draws
        of groups; by default, over draws of rows. Rows are shuffled without regard to it.
    random_state : int, RandomState or None, default=None
        Random seed of the shuffles. All features are shuffled alike, so that the importance of one does not depend on
        which others are asked for, nor on their order.

    Returns
    -------
    importances : polars.DataFrame
        One row per task and feature: ``task``, ``feature``, ``metric``; ``importance``, the score of the task by its
        metric minus the mean score after shuffling, so that 0.1 is a fall by 0.1 of AUC or R²; ``standard_error`` over
        draws of rows, as those that are answered and those whose values they get, and of shuffles; ``low`` and
        ``high``, its 95 % interval; ``n_labelled``, the rows that count.
        A feature that the model does not read has exactly 0 and no error. Where labels leave the score undefined, all
        are null, with a warning.

    Raises
    ------
    NotFittedError, TypeError
        If the model is not fitted, or no estimator of tables, or X is Shards.
    ValueError
        If there is no such task or feature, an option has a bad value, or the rows do not fit.

    Notes
    -----
    A fall may exceed the score itself, since an answer to a shuffled row can be worse than a guess. Importances do not
    sum to the score.

    Examples
    --------
    >>> import numpy as np
    >>> import polars as pl
    >>> from tabmtl import IndependentTasks, permutation_importances
    >>> X = pl.DataFrame(np.random.default_rng(0).normal(size=(600, 3)), schema=["size", "rent", "age"])
    >>> y = X.select(sales=10 * pl.col("size"), closes=pl.col("rent") > 0)
    >>> model = IndependentTasks(random_state=0).fit(X[:400], y[:400])
    >>> found = permutation_importances(model, X[400:], y[400:], random_state=0)
    >>> dict(found.filter(pl.col("importance") > 0.1).select("task", "feature").iter_rows())
    {'sales': 'size', 'closes': 'rent'}
    """
    check_count("n_repeats", n_repeats)
    check_random_state("random_state", random_state)
    moved = _columns_to_move(_checked(model), features)
    refuse_source(X, "permutation_importances")
    asked = _tasks_asked(model, tasks)
    X = X.collect() if isinstance(X, pl.LazyFrame) else X
    answered = model.__labelled_answers__(X, y, groups=groups)
    judged = list(_judge(answered, asked))
    # numpy would make text of the numbers in lists that hold both; a batch of pyarrow becomes a table
    X = take_rows(np.array(X, dtype=object) if isinstance(X, list) else X, np.arange(len(answered.labels)))
    orders = _draw_orders(answered, n_repeats, random_state)
    falls: dict[tuple[str, str], ScoreInterval] = {}
    for label, columns in moved.items():
        outputs = [model.__answers__(_with_order(X, columns, order, model.coder_)) for order in orders]
        falls |= {(each.task.name, label): each.fall(outputs, orders) for each in judged}
    rows = [
        (each.task.name, label, check_metric(each.task), *falls[each.task.name, label], each.n_labelled)
        for each in judged
        for label in moved
    ]
    names = ("task", "feature", "metric", "importance", "standard_error", "low", "high", "n_labelled")
    types = (*[pl.String] * 3, *[pl.Float64] * 4, pl.Int64)
    return Whole(rows, dict(zip(names, types, strict=True)), orient="row")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Judged:
    """A task with its labels, and its score before anything is shuffled.

    Attributes
    ----------
    task : Task
    column : int
        Of y.
    rows : ndarray of int, shape (m,)
        Rows of the task; of a wide table all.
    labels : ndarray of shape (m,)
    unit : ndarray of int, shape (m,)
        What is drawn, of every row: a group, or the row itself.
    group : ndarray of int, shape (m,), or None
    score : float
        NaN where it is undefined.
    influence, part : ndarray
        As `task_influences` gives them; empty where the score is undefined.
    """

    task: Task
    column: int
    rows: np.ndarray
    labels: np.ndarray
    unit: np.ndarray
    group: np.ndarray | None
    score: float
    influence: np.ndarray
    part: np.ndarray

    @property
    def n_labelled(self) -> int:
        return int(self.counting.sum())

    @cached_property
    def counting(self) -> np.ndarray:
        """Mask (m,) of the rows that count."""
        return counting(self.task, self.labels, None, self.group)

    def fall(self, outputs: Sequence[Sequence[np.ndarray]], orders: Sequence[np.ndarray]) -> ScoreInterval:
        """Return how far the score falls to that of other answers, one for every shuffle.

        A fall is a mean over pairs of rows, one that is answered and one that lends it values. Every row does both, so
        its influence is the sum of both parts, as in the projection of a U statistic (Hoeffding, Annals of Mathematical
        Statistics 19, 1948). The first part alone would halve the error of a fall of a mean squared error.
        """
        if np.isnan(self.score):
            return ScoreInterval(None, None, None, None)
        own = [output[self.column][self.rows] for output in outputs]
        falls = self.score - np.array([score_task(self.task, self.labels, output, None, self.group) for output in own])
        # a mean of differences, since equal answers have to differ by 0 without rounding
        answering = np.stack(
            [self.influence - task_influences(self.task, self.labels, output, None, self.group)[0] for output in own]
        )
        lenders = np.stack([order[self.rows[self.counting]] for order in orders])
        lending = np.bincount(lenders.ravel(), answering.ravel(), len(orders[0]))[self.rows] / len(orders)
        found = Estimate.of(falls.mean(keepdims=True), answering.mean(axis=0), self.part, self.unit[self.counting])
        units, of_lenders, _, _ = join_units(lending, np.zeros(len(lending), dtype=np.intp), self.unit)
        units, place = np.unique(np.append(found.units, units), return_inverse=True)
        influence = np.bincount(place, np.append(found.influence, of_lenders))
        scale = math.sqrt(_share_of_rows(influence, answering, falls))
        return replace(found, units=units, influence=scale * influence).interval()


def _share_of_rows(influence: np.ndarray, answering: np.ndarray, falls: np.ndarray) -> float:
    """Return the share of the squares of influences that is no noise of the shuffles.

    In S shuffles, each row meets S others only, whose part in its influence is noise: 1 / S of the squares of one
    shuffle. What remains is at least the spread over the shuffles. Of one shuffle nothing is taken off, since it does
    not tell its spread: its error is rather too wide.
    """
    total, n = np.square(influence).sum(), len(falls)
    if total == 0 or n == 1:
        return 1.0
    noise = np.square(answering).sum() / n**2
    return float(max(total - noise, falls.var(ddof=1) / n) / total)


def _checked(model: Any) -> MultiTaskEstimator:
    """Return a model that is fitted, and of tables."""
    if not isinstance(model, MultiTaskEstimator):
        cure = "sklearn.inspection.permutation_importance knows estimators of scikit-learn"
        if hasattr(model, "steps"):
            cure = "fit its last step with the others as preprocessor=, or give pipeline[-1] and what they make of X"
        raise TypeError(f"expected a fitted estimator of tables of tabmtl, got a {type(model).__name__}: {cure}")
    check_is_fitted(model)
    return model


def _tasks_asked(model: MultiTaskEstimator, tasks: str | Sequence[str] | None) -> list[str]:
    """Return the names of tasks, all by default."""
    known = [each.name for each in model.tasks_]
    asked: list[Any] = known if tasks is None else listed_names("tasks must be the name of a task", tasks)
    check_known("tasks names tasks", asked, known, "the model")
    if not asked:
        raise ValueError(f"tasks must name a task, got {tasks!r}; leave it out for all")
    return asked


def _columns_to_move(
    model: MultiTaskEstimator, features: Sequence[str | Sequence[str]] | None
) -> dict[str, Sequence[str]]:
    """Return the columns of X that move together, by the names under which the table has them."""
    known = [name for name in model.coder_.names if name != model.coder_.task_column]
    together = model.coder_.features.moving_together
    if features is None:
        return {" + ".join(names): names for names in (together.get(name, [name]) for name in known)}
    if isinstance(features, str) or not isinstance(features, Sequence):
        check_names("features", features)
    sets = [[each] if isinstance(each, str) or not isinstance(each, Sequence) else [*each] for each in features]
    check_names("features", [name for names in sets for name in names])
    if not sets or not all(sets):
        raise ValueError(f"features must name a column in each place, got {features!r}; leave it out for all")
    check_known("features names columns", [name for names in sets for name in names], known, "the model")
    moved: dict[str, Sequence[str]] = {
        " + ".join(names): [*dict.fromkeys(own for name in names for own in together.get(name, [name]))]
        for names in sets
    }
    if len(moved) < len(sets) or any(len({*names}) < len(names) for names in sets):
        raise ValueError(f"features must name no column twice in one place, and no place twice, got {features!r}")
    return moved


def _judge(answered: Answered, names: Sequence[str]) -> Iterator[_Judged]:
    """Score the tasks of some names, and yield them in their order."""
    n = len(answered.labels)
    for t, (task, labels, output, _, group) in enumerate(each_task(*answered)):
        if task.name not in names:
            continue
        rows = np.arange(n) if answered.own_task is None else np.flatnonzero(answered.own_task == t)
        score, nothing = score_task(task, labels, output, None, group), np.zeros(0)
        influence, part = (nothing, nothing) if np.isnan(score) else task_influences(task, labels, output, None, group)
        reason = None if np.isnan(score) else no_interval_reason(task, labels, None, group)
        if reason is not None:
            warn_user(f"task {task.name!r}: falls of {check_metric(task)} have no interval: {reason}")
        yield _Judged(
            task=task,
            column=t if answered.own_task is None else 0,
            rows=rows,
            labels=labels,
            unit=rows if group is None else group,
            group=group,
            score=score,
            influence=influence,
            part=part,
        )


def _draw_orders(answered: Answered, n: int, random_state: int | np.random.RandomState | None) -> list[np.ndarray]:
    """Draw n orders of the rows, those of a long table within every task."""
    rng = np.random.default_rng(draw_seed(random_state))
    n_rows = len(answered.labels)
    task = np.zeros(n_rows) if answered.own_task is None else answered.own_task
    orders = np.empty((n, n_rows), dtype=np.int64)
    for order in orders:
        order[np.argsort(task, kind="stable")] = np.lexsort((rng.random(n_rows), task))
    return [*orders]


def _with_order(X: Any, names: Sequence[str], order: np.ndarray, coder: TableCoder) -> Any:
    """Return X with some columns in another order of the rows, in its own container."""
    places = [coder.names.index(name) for name in names]
    if not nw.dependencies.is_into_dataframe(X):
        array = np.array(X)
        array[:, places] = array[order][:, places]
        return array
    frame = nw.from_native(X, eager_only=True)
    labels = {str(label): label for label in frame.columns} if coder.named else {}
    chosen = [labels.get(name, frame.columns[place]) for name, place in zip(names, places, strict=True)]
    moved = nw.from_native(take_rows(frame[:, chosen].to_native(), order), eager_only=True)
    return frame.with_columns(*moved.iter_columns()).to_native()
