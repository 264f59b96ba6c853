"""Train one network on the answers of another model, such as an ensemble, to answer for it at less cost.

The labels of the network are probabilities and values instead of classes and observations, for every row that the
teacher answers: those it learned from, and unlabelled ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
import torch
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from tabmtl.encode import TableCoder
from tabmtl.encode.features import FeatureCoder
from tabmtl.encode.labels import LabelCoder
from tabmtl.ensemble.folds import read_frame
from tabmtl.estimators.base import draw_seed
from tabmtl.estimators.network import NetworkEstimator
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.model_selection.folds import train_valid_split
from tabmtl.models.shared_bottom import SharedBottom, SharedBottomClassifier, SharedBottomRegressor
from tabmtl.params import RandomState
from tabmtl.schema import Batch
from tabmtl.targets import Task
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.run import Run
from tabmtl.training.table_loop import Evaluate

_OF_THE_TABLE = ("tasks", "task_column", "categorical_features", "drop")
_STUDENTS = {None: SharedBottom, "classification": SharedBottomClassifier, "regression": SharedBottomRegressor}
_LEAST_VARIATION = 1e-6  # answers that vary less count as constant


def distill(
    teacher: MultiTaskEstimator,
    X: Any,
    *,
    network: NetworkEstimator | None = None,
    random_state: RandomState = None,
    verbose: int | None = None,
) -> NetworkEstimator:
    """Train one network on the answers of a fitted estimator to all its tasks.

    Parameters
    ----------
    teacher : MultiTaskEstimator
        Fitted: an ensemble, or any other estimator of the package.
    X : frame or array of shape (n, p)
        Rows to answer, with the columns of the teacher's fit: those it was fitted on, and all unlabelled ones. More
        rows bring the network nearer to it.
    network : NetworkEstimator, optional
        Network to train, which is left as it is; by default a `SharedBottom` without dropout. It takes tasks and
        roles of columns from the teacher. ``validation_fraction`` of the rows of X tell when to stop.
    random_state : int, RandomState or None, default=None
        Random seed.
    verbose : int, optional
        1 shows the epochs of the network; by default it is that of ``network``.

    Returns
    -------
    student : NetworkEstimator
        Fitted network with the tasks, classes and containers of the teacher. The losses in ``history_`` are distances
        to the teacher: 0 if both answer alike, 1 for the teacher's mean answer. Scores are undefined, since no label is
        read.

    Raises
    ------
    TypeError
        If `network` is no network.
    ValueError
        If X has other columns than the teacher's fit, or the network has a loss of its own or another face.

    Notes
    -----
    A classification loses the Kullback-Leibler divergence KL(p || q) from the teacher's probabilities p to the
    network's q, a regression (p - q)². Each task's loss is divided by that of the teacher's mean answer, so that tasks
    whose answers vary little are learned like the others.

    Unlabelled rows matter most. For ensembles of 1200 rows of two tables, 6 of 13 test scores of the default network
    were at most .003 below the ensemble's; with 2400 unlabelled rows more, all 13 were (one draw; docs/lab.md,
    "Distillation").

    References
    ----------
    Bucilă, Caruana, Niculescu-Mizil (2006), "Model Compression", KDD.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedBottom, SharedTrees, distill
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.column_stack([X[:, 0], X[:, 0] > X[:, 1]])
    >>> trees = SharedTrees(n_estimators=20, random_state=0).fit(X, y)
    >>> student = distill(trees, X, network=SharedBottom(epochs=2), random_state=0)
    >>> student.predict(X).shape
    (200, 2)
    """
    check_is_fitted(teacher)
    student = _untrained(teacher, network)
    if verbose is not None:
        student.set_params(verbose=verbose)
    seed = draw_seed(random_state)
    frame = read_frame(teacher._check_columns(X), teacher._coder)
    coder = _fit_features(teacher._coder, frame, student)
    answers = teacher._read_and_answer(frame if coder.named else frame.to_numpy())
    coder = replace(coder, labels=coder.labels.scaled(answers))
    batch, valid = replace(coder.read(frame), y=_targets(coder.labels, answers)), None
    if student.early_stopping:
        batch, valid = _split(batch, coder.labels, student.validation_fraction, seed)
    loss = DistillationLoss(coder.labels, batch.y)
    with Run().fit(student):
        student._set_fitted(coder, student._learn(coder, batch, valid, loss, _score_nothing(loss.tasks), seed))
    return student


class DistillationLoss(MultiTaskLoss):
    """Distances of a network's answers to the teacher's, as a share of those of the teacher's mean answer.

    Labels are of shape (B, W): per column of y the probability of the second class, those of all classes, or the
    standardised value. Every cell is labelled.

    Parameters
    ----------
    labels : LabelCoder
    targets : ndarray of float32, shape (n, W)
        Labels of the training rows.
    """

    def __init__(self, labels: LabelCoder, targets: np.ndarray) -> None:
        super().__init__(labels.tasks)
        self._columns = labels.column_tasks()
        self._widths = [task.width for task in self._columns]
        parts = torch.from_numpy(targets).split(self._widths, dim=1)
        variation = torch.stack([task.kind.variation(part) for part, task in zip(parts, self._columns, strict=True)])
        self._variation = torch.where(variation > _LEAST_VARIATION, variation, 1.0)

    def labelled(self, y: Tensor) -> Tensor:
        """Return the mask of the labelled cells, (B, T) or (B, 1): all."""
        return y.new_ones((len(y), len(self._columns)), dtype=torch.bool)

    def _rows(self, scores: Sequence[Tensor], y: Tensor, long: bool) -> Tensor:
        """Return the distance of every cell, (B, T) or (B, 1)."""
        parts = zip(scores, y.split(self._widths, dim=1), self._columns, strict=True)
        rows = torch.stack([task.kind.distance(score.float(), target) for score, target, task in parts], dim=1)
        return rows / self._variation.to(rows.device)


def _untrained(teacher: MultiTaskEstimator, network: NetworkEstimator | None) -> NetworkEstimator:
    """Return the network with the teacher's tasks and roles of columns, after checks."""
    face = teacher._target_kind
    if network is not None and not isinstance(network, NetworkEstimator):
        raise TypeError(f"network must be a network of this package, such as SharedBottom(), got {network!r}")
    # the answers are without noise, so dropout has nothing to average out
    student = _STUDENTS[face](dropout=0.0) if network is None else clone(network)
    if type(student)._loss is not NetworkEstimator._loss:
        raise ValueError(
            f"{type(student).__name__} has a loss of its own, which takes labels and no probabilities; distill into "
            "another network, such as SharedBottom"
        )
    if student._target_kind not in (None, face):
        raise ValueError(
            f"network is a {type(student).__name__}, whose every task is a {student._target_kind}, but the teacher is "
            f"a {type(teacher).__name__}; take {_STUDENTS[face].__name__}, or another network of that face"
        )
    student.set_params(**{name: teacher._fitted_params[name] for name in _OF_THE_TABLE})
    student._check_params()
    student._check_monitor(teacher.tasks_)
    return student


def _fit_features(coder: TableCoder, frame: pl.DataFrame, student: NetworkEstimator) -> TableCoder:
    """Return the teacher's coder with the features as the student reads them."""
    known = coder.features
    features = FeatureCoder.fit(
        frame.select(cs.by_name(*known.names)), categorical=known.columns.categorical, **student._encoding()
    )
    return replace(coder, features=features)


def _split(batch: Batch, labels: LabelCoder, share: float, seed: int) -> tuple[Batch, Batch]:
    """Split rows in those to learn from and those that tell when to stop."""
    y = np.zeros((len(batch), len(labels.names)))  # every row is labelled
    train, valid = train_valid_split(y, labels.tasks, share, np.random.default_rng(seed), batch.task)
    return batch.rows(train), batch.rows(valid)


def _targets(labels: LabelCoder, answers: Sequence[np.ndarray]) -> np.ndarray:
    """Return answers as labels (n, W) of `DistillationLoss`."""
    parts = zip(labels.column_tasks(), answers, labels.center, labels.scale, strict=True)
    columns = [task.kind.answered_means(answer, center, scale) for task, answer, center, scale in parts]
    return np.concatenate(columns, axis=1, dtype=np.float32)


def _score_nothing(tasks: Sequence[Task]) -> Evaluate:
    """Return a function that scores nothing, since there are no labels: training then stops by the loss."""
    return lambda scores, batch: dict.fromkeys(task.name for task in tasks)
