"""Objectives of tables and of click logs, with the rows that trials learn from and are judged by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
from sklearn.base import clone

from tabmtl.base.schema import Batch, warn_user
from tabmtl.columns.declared import ignored
from tabmtl.encode.preprocessing import by_preprocessor
from tabmtl.encode.read import (
    checksum,
    count_rows,
    groups_of_parts,
    read_features,
    read_groups,
    read_targets,
    without_columns,
)
from tabmtl.encode.table import TableCoder
from tabmtl.estimators.source import is_source
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.metrics.scores import mean_score, score_tasks, undefined_reason
from tabmtl.model_selection.repeats import number_groups
from tabmtl.sessions.log import to_polars
from tabmtl.sessions.recommender import Recommender
from tabmtl.targets import Task
from tabmtl.tuning.spaces import Space, check_space
from tabmtl.tuning.trial import Objective, Scores


def objective(
    est: MultiTaskEstimator,
    X: Any,
    y: Any,
    *,
    X_val: Any,
    y_val: Any,
    per_task: bool = False,
    search_space: Space | None = None,
    **fit_params: Any,
) -> Objective:
    """Make the objective of a table: fit a clone on the training rows, and score the validation rows.

    Parameters
    ----------
    est : MultiTaskEstimator
        Parameters that are not searched keep their values. Its own ``on_epoch`` is called too.
    X, y : frame or array, or Shards and names
        Training rows, as `fit` takes them.
    X_val, y_val : as X and y
        Validation rows, which stop the fit and judge it. They only judge an estimator that chooses by folds of its own,
        such as `IndependentTasks`: fit what is chosen on both. Keep test rows out of a search.
        With `tabmtl.scale.Shards`, labels and answers of all rows are in memory at the end of a trial.
    per_task : bool, default=False
        Maximise the score of every task, for a Pareto front, instead of the mean over the tasks.
    search_space : mapping of str to mapping, optional
        Replaces ``est.search_space``, in the same form. To add a parameter, write
        ``{**est.search_space, "epochs": {"low": 5, "high": 50}}``.
    **fit_params
        ``sample_weight`` of the training rows, and ``groups``, as `fit` takes them: scores by group need those of
        X_val too.

    Returns
    -------
    Objective
        Call it with an Optuna trial, or give it to `run_study`. It can be pickled if the estimator and the rows can.

    Raises
    ------
    TypeError
        If ``est`` is not an estimator of tables, or there is another parameter of `fit`.
    ValueError
        If `fit` would refuse the rows, the search space does not fit the estimator, or the score of a task is undefined
        on the validation rows. With ``per_task=False``, an undefined score is a warning, unless no score is left.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import MMoE
    >>> from tabmtl.tuning import choose_point, objective, open_study, pareto_front, run_study, with_params
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> y = X @ np.random.default_rng(1).normal(size=(4, 2))
    >>> model = MMoE(epochs=2, random_state=0)
    >>> goal = objective(model, X[:150], y[:150], X_val=X[150:], y_val=y[150:], per_task=True)
    >>> study = open_study("two tasks", goal, storage="two_tasks.db", seed=0)
    >>> run_study(study, goal, n_trials=3)
    >>> point = choose_point(pareto_front(study), weights={"y0": 2, "y1": 1})
    >>> with_params(model, point).fit(X, y).predict(X).shape
    (200, 2)
    """
    if not isinstance(est, MultiTaskEstimator):
        raise TypeError(
            f"expected an estimator of tables, such as MMoE(), got {est!r}"
            f"{by_preprocessor(est) or '; recommenders are tuned by session_objective'}"
        )
    sample_weight, groups = (fit_params.pop(name, None) for name in ("sample_weight", "groups"))
    if fit_params:
        raise TypeError(f"expected no parameters of fit but sample_weight and groups, got {[*fit_params]}")
    space = check_space(est, est.search_space if search_space is None else search_space)
    asked = clone(est)
    asked.__learner__().check(X, X_val, y_val)
    if X_val is None:
        raise ValueError("expected validation rows to judge trials by, got X_val=None and y_val=None")
    coder = asked.__learner__().coder(X, y, sample_weight)
    if not is_source(X):
        coder.check_labelled(coder.read(X, y, sample_weight))
    valid = _read_labels(coder, X_val, y_val, groups)
    tasks = _judged(coder.labels.tasks, valid, per_task)
    rows = {"X": X, "y": y, "sample_weight": sample_weight, "groups": groups, "X_val": X_val, "y_val": y_val}
    names = tuple(task.name for task in tasks) if per_task else ("mean",)
    targets = {"y": y, "y_val": y_val, "sample_weight": sample_weight}
    facts = _describe(lambda rows: read_features(without_columns(rows, ignored(est.columns)))[0], X=X, X_val=X_val)
    facts |= targets if is_source(X) else _describe(lambda rows: read_targets(rows)[0], **targets)
    facts |= {} if valid.group is None else {"groups": checksum(pl.DataFrame({"group": valid.group}))}
    return _TableObjective(
        est=est, search_space=space, names=names, facts=facts, rows=rows, tasks=tasks, per_task=per_task
    )


def session_objective(
    est: Recommender, clicks: Any, *, clicks_val: Any, items: Any = None, search_space: Space | None = None
) -> Objective:
    """Make the objective of a click log: fit a clone, and score MRR@20 of the next clicks in a later log.

    A fit never sees the later log. As in any fit, the newest sessions of ``clicks`` are set aside for what is learned
    after training: the epoch to stop at, what the items of a session are worth, the weights of a `Blend`. Learned on
    the clicks that judge, these would look too good. A study prunes by scores of the sessions set aside, too.

    Parameters
    ----------
    est : Recommender
        Parameters that are not searched keep their values.
    clicks, items : frame
        The log and the item table, as `fit` takes them.
    clicks_val : frame
        A later log, which judges the fit.
    search_space : mapping of str to mapping, optional
        Replaces ``est.search_space``, in the same form.

    Returns
    -------
    Objective
        Call it with an Optuna trial, or give it to `run_study`.

    Raises
    ------
    TypeError
        If ``est`` is not a recommender.
    ValueError
        If the search space is empty, such as that of `Popularity`, or does not fit the recommender.

    Examples
    --------
    >>> from tabmtl.sessions import SequentialRules, temporal_split
    >>> from tabmtl.synth import make_sessions
    >>> from tabmtl.tuning import open_study, run_study, session_objective
    >>> train, val = temporal_split(make_sessions(200, 40, random_state=0).clicks, test_size=0.2)
    >>> goal = session_objective(SequentialRules(), train, clicks_val=val)
    >>> study = open_study("rules", goal, seed=0)  # keeps rules.db
    >>> run_study(study, goal, n_trials=3)
    >>> sorted(study.best_params)
    ['decay', 'n_last', 'steps', 'weighting']
    """
    if not isinstance(est, Recommender):
        raise TypeError(f"expected a recommender, such as VSKNN(), got {est!r}; tables are tuned by objective")
    space = check_space(est, est.search_space if search_space is None else search_space)
    rows = {"clicks": clicks, "items": items}
    facts = _describe(lambda log: to_polars(log, "the log"), **rows, clicks_val=clicks_val)
    return _SessionObjective(est=est, search_space=space, names=("mrr@20",), facts=facts, rows=rows, judge=clicks_val)


@dataclass(kw_only=True, eq=False, repr=False)
class _TableObjective(Objective):
    rows: dict[str, Any]
    tasks: tuple[Task, ...]
    per_task: bool

    def _fit(self, model: Any) -> None:
        """Fit a model that will be judged by the validation rows: it stops by them, but chooses nothing else."""
        unseen: dict[str, Any] = {}
        if model.__learns_all_rows__:
            unseen = {
                "X_val": None,
                "y_val": None,
                "groups": groups_of_parts(self.rows["groups"], self.rows["X_val"])[0],
            }
        model.fit(**self.rows | unseen)

    def _fit_and_score(self, model: Any) -> Scores:
        self._fit(model)
        X, y = self.rows["X_val"], self.rows["y_val"]
        if is_source(X):
            answered = X.answered(model, y, self.rows["groups"])
            return {} if answered is None else score_tasks(*answered)
        of_val = groups_of_parts(self.rows["groups"], X)[1]
        return score_tasks(*model.__labelled_answers__(X, y, groups=of_val))

    def _epoch_scores(self, record: Mapping[str, float | None]) -> Scores:
        return {task.name: record.get(f"val/{task.name}/{task.metric}") for task in self.tasks}

    def _chosen(self, scores: Scores) -> tuple[float, ...]:
        if not self.per_task:
            return (mean_score(scores),)
        return tuple(mean_score({name: scores[name]}) for name in self.names)

    def _floor_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)


@dataclass(kw_only=True, eq=False, repr=False)
class _SessionObjective(Objective):
    rows: dict[str, Any]
    judge: Any

    def _fit_and_score(self, model: Any) -> Scores:
        model.fit(**self.rows)
        return {"mrr@20": model.score(self.judge)}

    def _epoch_scores(self, record: Mapping[str, float | None]) -> Scores:
        return {"mrr@20": record.get("val/mrr@20")}

    def _chosen(self, scores: Scores) -> tuple[float, ...]:
        return (mean_score(scores),)


def _describe(read: Callable[[Any], pl.DataFrame | pl.LazyFrame], **rows: Any) -> dict[str, str | None]:
    """Describe rows, each named, so that others are told from them: their number and a checksum."""
    found: dict[str, str | None] = {}
    for name, values in rows.items():
        if is_source(values):
            found[name] = values.described()
        elif values is None:
            found[name] = None
        else:
            frame = read(values)
            found[name] = f"{count_rows(frame.lazy())} rows of checksum {checksum(frame)}"
    return found


def _read_labels(coder: TableCoder, X: Any, y: Any, groups: Any) -> Batch:
    """Read validation rows with their groups, of a source without features."""
    if is_source(X):
        return X.labels(coder, y, groups)
    valid, of_val = coder.read(X, y), groups_of_parts(groups, X)[1]
    group = None if of_val is None else number_groups(read_groups(of_val, X, len(valid), source="X_val"))
    return replace(valid, group=group)


def _judged(tasks: Sequence[Task], valid: Batch, per_task: bool) -> tuple[Task, ...]:
    """Return the tasks whose score is defined on the validation rows."""
    labels = valid.wide_labels(len(tasks))
    reasons = {task.name: undefined_reason(task, labels[:, t], None, valid.group) for t, task in enumerate(tasks)}
    undefined = {name: reason for name, reason in reasons.items() if reason is not None}
    said = "; ".join(f"{name}: {reason}" for name, reason in list(undefined.items())[:10])
    if undefined and (per_task or len(undefined) == len(tasks)):
        raise ValueError(
            f"expected validation rows that score every task, but {len(undefined)} of {len(tasks)} are undefined "
            f"({said}); give other rows in X_val and y_val"
        )
    if undefined:
        warn_user(f"{len(undefined)} of {len(tasks)} tasks have no part in the mean score, undefined on y_val: {said}")
    return tuple(task for task in tasks if task.name not in undefined)
