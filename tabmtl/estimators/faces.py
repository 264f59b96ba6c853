"""The faces of an estimator: its Classifier, whose every task is a classification, and its Regressor."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin

from tabmtl.estimators.base import FromFitted
from tabmtl.estimators.model import Model
from tabmtl.estimators.predicting import TargetKind, orders_of_classes
from tabmtl.metrics.scores import mean_score


def _classes(model: Model) -> Any:
    labels = model.coder.labels
    pairs = zip(labels.column_tasks, orders_of_classes(labels), strict=True)
    found = [np.array(task.classes)[slice(None) if order is None else order] for task, order in pairs]
    return found[0] if labels.origin.ndim == 1 else found


class ClassifierFace(ClassifierMixin):
    """Face for classification tasks only; scikit-learn sees a classifier.

    Attributes
    ----------
    classes_ : ndarray, or list of ndarray
        Classes of a flat target, or those of each task, sorted; columns of ``predict_proba`` follow them.
    """

    _target_kind: ClassVar[TargetKind] = "classification"
    classes_ = FromFitted(_classes)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy, averaged over the tasks; unlabelled cells are left out."""
        return mean_score(self.score_tasks(X, y, sample_weight, metric="accuracy"))


class RegressorFace(RegressorMixin):
    """Face for regression tasks only; scikit-learn sees a regressor."""

    _target_kind: ClassVar[TargetKind] = "regression"

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R², averaged over the tasks; unlabelled cells are left out."""
        return mean_score(self.score_tasks(X, y, sample_weight, metric="r2"))
