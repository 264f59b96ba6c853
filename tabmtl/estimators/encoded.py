"""Fit and ask estimators by rows that are encoded already, once for several of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from tabmtl.base.schema import Batch
from tabmtl.columns.declared import encoder_of
from tabmtl.encode import TableCoder
from tabmtl.encode.class_factors import ClassFactors
from tabmtl.estimators.asked import Together
from tabmtl.estimators.rows import FrameRows
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.model_selection.repeats import groups_of_rows
from tabmtl.model_selection.times import times_of_fit
from tabmtl.training.run import running

M = TypeVar("M", bound=MultiTaskEstimator)

_OF_FRAMES = ("fit", "__answers__", "__learner__")


def reads_frames(estimator: MultiTaskEstimator) -> bool:
    """Return whether the class of an estimator looks at frames by itself, so that nobody may encode them for it."""
    is_own = any(getattr(type(estimator), name) is not getattr(MultiTaskEstimator, name) for name in _OF_FRAMES)
    return is_own or estimator.preprocessor is not None or encoder_of(estimator.columns) is not None


def fit_encoded(
    estimator: M,
    coder: TableCoder,
    X: Any,
    batch: Batch,
    y: Any,
    sample_weight: Any = None,
    groups: Any = None,
    time: Any = None,
) -> M:
    """Fit an estimator as its `fit` does, on rows that a coder has encoded.

    Several estimators may share the coder, of its own `learner` on these rows and others. It knows features and
    long tasks; labels are learned from the rows alone.

    Parameters
    ----------
    estimator : MultiTaskEstimator
    coder : TableCoder
    X : frame of n rows
    batch : Batch
        The same rows, encoded by the coder.
    y, sample_weight, groups, time : as in `fit`
    """
    with running().fit(estimator, X=X, y=y, sample_weight=sample_weight):
        coder, rows = label_rows(estimator, coder, X, batch, y, sample_weight, groups, time)
        found = estimator._fit(coder, rows, None, estimator._seed())
        found.pop("answered", None)  # a part of a model is asked for no drift
        estimator._set_fitted(coder, found)
    return estimator


def label_rows(
    estimator: MultiTaskEstimator,
    coder: TableCoder,
    X: Any,
    batch: Batch,
    y: Any,
    sample_weight: Any = None,
    groups: Any = None,
    time: Any = None,
) -> tuple[TableCoder, FrameRows]:
    """Return the rows of `fit_encoded` with their labels, and the coder of both."""
    learner = estimator.__learner__()
    learner.check(X)
    coder = replace(coder, labels=learner.labels(y, coder.labels.task_levels))
    batch = coder.with_labels(batch.unlabelled(), y, sample_weight)
    coder.check_labelled(batch)
    batch = ClassFactors.learn(coder.labels, [batch]).weighed(batch)
    batch = replace(batch, group=groups_of_rows(groups, X, batch), time=times_of_fit(time, X, len(batch)))
    return coder, FrameRows(batch, coder.labels.tasks, X)


def together(models: Sequence[MultiTaskEstimator]) -> Together:
    """Return fitted estimators of one class, whose coders have the same features, as one that answers for all."""
    is_plain = not any(model._model.over for model in models)
    return (models[0]._together if is_plain else Together)(models)
