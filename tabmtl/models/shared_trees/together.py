"""Shared trees of several folds, which grow at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tabmtl.encode import TableCoder
from tabmtl.encode.class_factors import ClassFactors
from tabmtl.estimators.encoded import label_rows
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.models.shared_trees.estimator import SharedTrees, importance_of
from tabmtl.models.shared_trees.folds import FoldRows, GrowthInFolds, fold_rows
from tabmtl.models.shared_trees.functions import FittedTrees, SharedFunctions
from tabmtl.models.shared_trees.growth import Growth
from tabmtl.training.run import running
from tabmtl.training.watch import SHOWN_ROUNDS, describe_loss


def fit_in_folds(
    estimators: Sequence[MultiTaskEstimator],
    coder: TableCoder,
    tables: Sequence[Mapping[str, Any]],
    judged: Sequence[Mapping[str, Any]],
) -> bool:
    """Fit shared trees in all folds at once, if they are to stop early; tell whether they are fitted.

    A fit by itself sets rows aside to find the rounds, and then fits all rows by these. Here every fold grows once, on
    all of its rows. Its rounds, and whether trees of a task alone pay, are those that suit the judged rows of the other
    folds: no row chooses for the trees that answer it. As all rows judge, half of the ``patience`` will do.

    Parameters
    ----------
    estimators : sequence of MultiTaskEstimator
        With the same parameters but for ``random_state``.
    coder : TableCoder
        Of all rows, as for `tabmtl.estimators.encoded.fit_encoded`.
    tables, judged : sequence of mapping
        Arguments of `fit_encoded` for each: X, batch, y, sample_weight, groups and time. The judged rows of a fold are
        in the tables of all others.

    Raises
    ------
    ValueError, TypeError
        As ``fit`` does.
    """
    models = [each for each in estimators if isinstance(each, SharedTrees) and each.early_stopping]
    if not len(models) == len(estimators) > 1 or any(type(each)._fit is not SharedTrees._fit for each in models):
        return False
    with running().fit(models[0]):
        parts = [_part(*each, coder) for each in zip(models, tables, judged, strict=True)]
        sizes = np.array([0.0 if part is None else part.fold.judged.targets.sizes.sum() for part in parts])
        if any(part is None for part in parts) or not (sizes.sum() - sizes).all():
            return False
        _fit(models, [part for part in parts if part is not None])
    return True


class _Part(NamedTuple):
    """A fold as one of the models reads it, and the number of labels (T,) to learn from."""

    coder: TableCoder
    fold: FoldRows
    n_labels: np.ndarray


def _part(model: SharedTrees, table: Mapping[str, Any], judged: Mapping[str, Any], coder: TableCoder) -> _Part | None:
    """Bin the rows of a fold; None if no judged row has a label."""
    own, rows = label_rows(model, coder, **table)
    batch, y, weight = rows.read(), judged["y"], judged["sample_weight"]
    other = own.with_labels(judged["batch"].unlabelled(), y, weight)
    other = ClassFactors.learn(own.labels, [replace(batch, weight=batch.score_weight)]).weighed(other)
    if np.isnan(other.y).all():
        return None
    counts = batch.count_labels(len(own.labels.tasks)).astype(np.int64)
    return _Part(own, fold_rows(own, batch, other, model._data_params), counts)


def _fit(models: Sequence[SharedTrees], parts: Sequence[_Part]) -> None:
    """Grow the trees of all folds, and set the fitted attributes of each model."""
    first, tasks = models[0], parts[0].coder.labels.tasks
    has_own = first.n_estimators_task > 0 and parts[0].coder.labels.task_levels is None
    own: list[list[Growth | None]] = [[] for _ in models]
    with first._watch.steps(first.n_estimators, "round", describe_loss, every=SHOWN_ROUNDS) as step:
        options: dict[str, Any] = {"importance": importance_of(tasks), "n_rounds": first.n_estimators}
        options |= {"patience": max(1, first.patience // 2), "keeps_scores": has_own, "on_round": step}
        params = first._data_params
        schedules = [model._schedule(params, model._seed(), **options) for model in models]
        folds = GrowthInFolds([part.fold for part in parts], schedules)
        shared, _ = folds.grow()
    if has_own:
        cuts = partial(first._watch.cuts, "trees of single tasks")
        alone = [replace(each, n_rounds=first.n_estimators_task, on_round=lambda loss: cuts()) for each in schedules]
        for t in range(len(tasks)):
            for found, growth in zip(own, replace(folds, schedules=alone).finish(shared, t).by_fold, strict=True):
                found.append(growth)
    for model, part, growth, alone_after in zip(models, parts, shared, own, strict=True):
        function = part.fold.rows.targets.sums.function
        functions = SharedFunctions.join(growth, alone_after, function, part.n_labels)
        model._set_fitted(part.coder, {"_fitted": FittedTrees.of(functions, part.coder.labels)})
