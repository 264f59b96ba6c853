"""Linear models of every task on the answers of single-task models for the other tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, TypeAlias

import numpy as np
from sklearn import config_context
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV

from tabmtl.base.storage.stored import POSITIVE, Stored
from tabmtl.encode import LabelCoder
from tabmtl.targets import Task
from tabmtl.targets.cumulative import CumulativeRegression

Linear: TypeAlias = RidgeCV | LogisticRegression | CumulativeRegression

_PENALTIES = np.logspace(-1, 4, 11)
_INVERSE_PENALTIES = np.logspace(-3, 1, 5)
_FEW, _LEAST_OF_CLASS = 2_000, 5  # labels that choose the penalty of a classification by folds
_LEAST_VALUES = 3  # of a regression; leave-one-out cannot choose a penalty by fewer
_NEVER = -20.0  # score of a class without labels


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearStack:
    """Ridge and logistic regressions on scores of the other tasks: log odds, log probabilities, values.

    Attributes
    ----------
    center : ndarray of shape (M, O)
        O scores of the constant answers to the rows that the models of the M folds were fitted on.
    scale : ndarray of shape (O,)
        Standard deviation of the scores.
    coef : ndarray of shape (M, O, O)
        Weights of the M models: scores by columns. A task does not see its own.
    intercept : ndarray of shape (M, O)
    """

    center: Annotated[np.ndarray, Stored("f8", "M O")]
    scale: Annotated[np.ndarray, Stored("f8", "O", low=POSITIVE)]
    coef: Annotated[np.ndarray, Stored("f8", "M O O")]
    intercept: Annotated[np.ndarray, Stored("f8", "M O")]

    @classmethod
    def fit(
        cls,
        labels: LabelCoder,
        answers: Sequence[np.ndarray],
        y: np.ndarray,
        weight: np.ndarray | None,
        folds: Sequence[tuple[np.ndarray, np.ndarray]],
        parts: Sequence[np.ndarray] | None = None,
    ) -> LinearStack:
        """Fit one model to each part of the rows.

        An answer is read as its distance to the constant answer of the rows that were fitted for it. The mean of a
        fold is far from theirs where its own labels lie on the other side, so that answers which know nothing would
        tell the labels of the fold.

        A ridge regression chooses its penalty on its own part, by leaving out one row after the other. The penalty of a
        logistic regression is the same in all parts: with at most 2000 labels it is one of five, chosen on all of them,
        those of the judged fold included. So one number per task may know of judged labels, and no weight does.

        Parameters
        ----------
        labels : LabelCoder
        answers : sequence of T arrays
            Out-of-fold answers (n, K) or (n,) to all rows; NaN where no fold answered.
        y : ndarray of shape (n, T)
        weight : ndarray of shape (n, T), optional
        folds : sequence of pairs of ndarray of int
            Numbers of the rows that the models of a fold were fitted on, and of those that they answered.
        parts : sequence of ndarray of int, optional
            Numbers of the rows of every model, and of those that the answers which it reads were learned from; the
            fitted ones of the folds by default.
        """
        parts = [fitted for fitted, _ in folds] if parts is None else parts
        scores = _scores(labels, answers)
        answered = np.isfinite(scores).all(axis=1)
        constants = _constants(labels, y, weight, [fitted for fitted, _ in folds])
        for constant, (_, rows) in zip(constants, folds, strict=True):
            scores[rows] -= constant
        scale = scores[answered].std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        features = scores / scale
        n_outputs, own = scores.shape[1], _own_columns(labels.tasks)
        coef, intercept = np.zeros((len(parts), n_outputs, n_outputs)), np.zeros((len(parts), n_outputs))
        values = labels.standardize(y).astype(np.float64)
        for t, task in enumerate(labels.tasks):
            others = np.setdiff1d(np.arange(n_outputs), np.arange(n_outputs)[own[t]])
            labelled = answered & ~np.isnan(values[:, t])
            sample_weight = np.ones(len(y)) if weight is None else weight[:, t]
            model = _model(task, features[np.ix_(labelled, others)], values[labelled, t], sample_weight[labelled])
            for m, part in enumerate(parts):
                rows = part[labelled[part]]
                fitted = _fit(task, model, features[np.ix_(rows, others)], values[rows, t], sample_weight[rows])
                coef[m, others, own[t]], intercept[m, own[t]] = fitted
        return cls(center=_constants(labels, y, weight, parts), scale=scale, coef=coef, intercept=intercept)

    def only(self, models: Sequence[int]) -> LinearStack:
        """Return some of the models."""
        return replace(self, center=self.center[models], coef=self.coef[models], intercept=self.intercept[models])

    def answer(self, labels: LabelCoder, model: int, answers: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return probabilities or values by one of the models, given the answers to all tasks."""
        features = (_scores(labels, answers) - self.center[model]) / self.scale
        scores = np.tile(self.intercept[model], (len(features), 1))
        # one by one: a matrix product may round a row otherwise
        for column, slope in zip(features.T, self.coef[model], strict=True):
            scores += column[:, None] * slope
        return labels.outputs([scores[:, own] for own in _own_columns(labels.tasks)])


def _own_columns(tasks: Sequence[Task]) -> list[slice]:
    last = np.cumsum([task.width for task in tasks]).tolist()
    return [slice(end - task.width, end) for end, task in zip(last, tasks, strict=True)]


def _scores(labels: LabelCoder, answers: Sequence[np.ndarray]) -> np.ndarray:
    """Return answers to all tasks as scores (n, O): log odds, log probabilities, standardised values."""
    parts = zip(labels.tasks, answers, labels.center, labels.scale, strict=True)
    return np.concatenate([t.kind.unlink(t.kind.answered_means(a, *units), np) for t, a, *units in parts], axis=1)


def _constants(labels: LabelCoder, y: np.ndarray, weight: np.ndarray | None, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the scores (M, O) of the constant answer to the labels of every part of the rows."""
    weight = np.ones_like(y) if weight is None else weight
    found = []
    for part in parts:
        answers = []
        for t, task in enumerate(labels.tasks):
            rows = part[weight[part, t] * ~np.isnan(y[part, t]) > 0]
            if task.is_classification or len(rows):
                answers.append(task.kind.constant(y[rows, t], weight[rows, t], task.classes))
            else:
                start = task.kind.start(task.kind.means(np.zeros(1), task.width))
                answers.append(task.kind.answers(start, labels.center[t], labels.scale[t], np))
        found.append(_scores(labels, answers)[0])
    return np.array(found)


def _model(task: Task, features: np.ndarray, y: np.ndarray, weight: np.ndarray) -> Linear:
    """Return the unfitted model of a task; a classification of few labels chooses its penalty by folds."""
    if not (task.is_classification and task.kind.takes_curves):
        return RidgeCV(alphas=_PENALTIES)
    model: Linear = LogisticRegression(max_iter=1_000)
    if task.kind.has_one_slope:
        model = CumulativeRegression(kind=task.kind, width=task.width)
    counts = np.unique(y, return_counts=True)[1]
    if len(counts) < 2 or counts.min() < _LEAST_OF_CLASS or counts.sum() > _FEW:
        return model
    search = GridSearchCV(model, {"C": _INVERSE_PENALTIES}, scoring="neg_log_loss", cv=_LEAST_OF_CLASS, refit=False)
    # in the mode of routing, scikit-learn would refuse the weights
    with config_context(enable_metadata_routing=False):
        return model.set_params(**search.fit(features, y, sample_weight=weight).best_params_)


def _fit(
    task: Task, model: Linear, features: np.ndarray, y: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the model of a task; return the weights (O', width) and the intercepts (width,) of its scores."""
    slope, start = np.zeros((features.shape[1], task.width)), np.zeros(task.width)
    if not len(y):
        return slope, start
    if not task.kind.takes_curves or (not task.is_classification and len(y) < _LEAST_VALUES):
        means = task.kind.means(y, task.width)  # no linear model of scikit-learn: a constant
        return slope, task.kind.start(np.average(means.T, axis=1, weights=weight))
    if not task.is_classification:
        model.fit(features, y, sample_weight=weight)
        return model.coef_[:, None], np.array([model.intercept_])
    if task.kind.has_one_slope:
        model.fit(features, y, sample_weight=weight)
        return model.coef_.T, model.intercept_
    present = np.unique(y.astype(np.intp))
    if not task.is_binary:
        start = np.where(np.isin(np.arange(task.width), present), 0.0, _NEVER)
    elif len(present) == 1:
        start = np.array([-_NEVER if present[0] else _NEVER])
    if len(present) == 1:
        return slope, start
    model.fit(features, y, sample_weight=weight)
    # with two classes, scikit-learn gives the log odds of the second
    scored = slice(None) if task.is_binary else present[1:] if len(present) == 2 else present
    slope[:, scored], start[scored] = model.coef_.T, model.intercept_
    return slope, start
