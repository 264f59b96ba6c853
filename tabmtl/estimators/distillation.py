"""Train a network on the answers of another model; `tabmtl.distill` calls this.

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
from torch import Tensor

from tabmtl.encode import TableCoder
from tabmtl.encode.drift.profile import sample_size
from tabmtl.encode.features import FeatureCoder
from tabmtl.encode.labels import LabelCoder
from tabmtl.estimators.drifting import asking, drawn, profiled
from tabmtl.estimators.learner import OF_THE_TABLE
from tabmtl.estimators.network import NetworkEstimator
from tabmtl.estimators.rows import FrameRows
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.estimators.training import NetworkTraining, check_monitor
from tabmtl.targets.task import refuse_monotone
from tabmtl.training.device import find_device, on_device
from tabmtl.training.losses import MultiTaskLoss
from tabmtl.training.rows import MemoryRows
from tabmtl.training.run import Run

_FACES = {None: "", "classification": "Classifier", "regression": "Regressor"}
_LEAST_VARIATION = 1e-6  # answers that vary less count as constant


def learn_answers(student: NetworkEstimator, teacher: MultiTaskEstimator, X: Any, seed: int) -> None:
    """Fit a network to the answers of a fitted estimator to some rows; see `tabmtl.distill`.

    Raises
    ------
    ValueError
        If X has other columns than the teacher's fit, or the network has a loss of its own or another face.
    """
    _prepare(student, teacher)
    after = teacher.coder_.after
    frame = after.read_frame(teacher._preprocessed(X)).lazy().collect()
    coder = _fit_features(teacher.coder_, frame, student)
    given = frame if after.named else frame.to_numpy()
    answers = teacher._model.answer(teacher._read_rows(given), teacher, given)
    coder = replace(coder, labels=coder.labels.scaled(answers))
    batch, targets, valid = coder.after.read(frame), _targets(coder.labels, answers), None
    rows = FrameRows(replace(batch, y=np.zeros((len(batch), len(answers)))), coder.labels.tasks)  # all are labelled
    batch, asked = replace(batch, y=targets), rows
    if student.early_stopping:
        kept, asked = rows.split(student.validation_fraction, seed)
        batch, valid = batch.rows(kept.index), batch.rows(asked.index)
    loss = DistillationLoss(coder.labels, batch.y)
    device = find_device(student.device)
    read = MemoryRows(on_device(batch, device))
    judging = None if valid is None else MemoryRows(on_device(valid, device))
    training = NetworkTraining(estimator=student, coder=coder, seed=seed)
    with Run().fit(student):
        # there are no labels to score: training stops by the loss
        fitted = training.learn(read, judging, loss, lambda *_: dict.fromkeys(task.name for task in loss.tasks))
        student._set_fitted(coder, fitted)
        answered = asking(drawn(coder, asked, student.min_frequency), student, are_learned=valid is None)
        student._model = profiled(student._model, rows.drawn(sample_size(coder.features.columns)), answered)


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
        self._columns = labels.column_tasks
        self._widths = [task.width for task in self._columns]
        parts = torch.from_numpy(targets).split(self._widths, dim=1)
        variation = torch.stack([task.kind.variation(part) for part, task in zip(parts, self._columns, strict=True)])
        self._variation = torch.where(variation > _LEAST_VARIATION, variation, 1.0)

    def labelled(self, y: Tensor) -> Tensor:
        """Return the mask of the labelled cells, (B, T) or (B, 1): all."""
        return y.new_ones((len(y), len(self._columns)), dtype=torch.bool)

    def _rows(self, scores: Sequence[Tensor], y: Tensor) -> Tensor:
        """Return the distance of every cell, (B, T) or (B, 1)."""
        parts = zip(scores, y.split(self._widths, dim=1), self._columns, strict=True)
        rows = torch.stack([task.kind.distance(score.float(), target) for score, target, task in parts], dim=1)
        return rows / self._variation.to(rows.device)


def _prepare(student: NetworkEstimator, teacher: MultiTaskEstimator) -> None:
    """Give a network the teacher's tasks and roles of columns, after checks."""
    face = teacher._target_kind
    if type(student)._loss is not NetworkEstimator._loss:
        raise ValueError(
            f"{type(student).__name__} has a loss of its own, which takes labels and no probabilities; distill into "
            "another network, such as SharedBottom"
        )
    if student._target_kind not in (None, face):
        raise ValueError(
            f"network is a {type(student).__name__}, whose every task is a {student._target_kind}, but the teacher is "
            f"a {type(teacher).__name__}; take SharedBottom{_FACES[face]}, or another network of that face"
        )
    student.set_params(**{name: teacher._fitted_params[name] for name in OF_THE_TABLE})
    student.__check_params__()
    check_monitor(student, teacher.tasks_)
    refuse_monotone(teacher.tasks_, type(student).__name__)


def _fit_features(coder: TableCoder, frame: pl.DataFrame, student: NetworkEstimator) -> TableCoder:
    """Return the teacher's coder with the features as the student reads them."""
    known = coder.features
    features = FeatureCoder.fit(frame.select(cs.by_name(*known.names)), columns=known.declared, **student._encoding())
    # the student learns answers as the teacher's method computes them
    labels = replace(coder.labels, tasks=tuple(task.at(None) for task in coder.labels.tasks), decisions=None)
    return replace(coder, features=features, labels=labels)


def _targets(labels: LabelCoder, answers: Sequence[np.ndarray]) -> np.ndarray:
    """Return answers as labels (n, W) of `DistillationLoss`."""
    parts = zip(labels.column_tasks, answers, labels.center, labels.scale, strict=True)
    columns = [task.kind.answered_means(answer, center, scale) for task, answer, center, scale in parts]
    return np.concatenate(columns, axis=1, dtype=np.float32)
