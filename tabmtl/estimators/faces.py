"""The faces of an estimator: its Classifier, whose every task is a classification, and its Regressor."""

from __future__ import annotations

from typing import Any, ClassVar

from sklearn.base import ClassifierMixin, RegressorMixin

from tabmtl.estimators.predicting import TargetKind
from tabmtl.metrics.scores import mean_score


class ClassifierFace(ClassifierMixin):
    """Face for classification tasks only; scikit-learn sees a classifier.

    Attributes
    ----------
    classes_ : ndarray, or list of ndarray
        Classes of a flat target, or those of each task, sorted; columns of ``predict_proba`` follow them.
    """

    _target_kind: ClassVar[TargetKind] = "classification"

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy, averaged over the tasks; unlabelled cells are left out."""
        return mean_score(self.score_tasks(X, y, sample_weight, metric="accuracy"))


class RegressorFace(RegressorMixin):
    """Face for regression tasks only; scikit-learn sees a regressor."""

    _target_kind: ClassVar[TargetKind] = "regression"

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R², averaged over the tasks; unlabelled cells are left out."""
        return mean_score(self.score_tasks(X, y, sample_weight, metric="r2"))
