"""Calibrators are those of scikit-learn, and keep the order of ordered classes."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV

from tabmtl.targets import Task
from tabmtl.targets.classes import above_each
from tabmtl.targets.decisions import Calibrator
from tabmtl.targets.decisions.calibrators import events, log_odds

KINDS = {2: "binary", 4: "multiclass"}


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose probabilities are X."""

    def __init__(self, n_classes=2):
        self.n_classes = n_classes

    def fit(self, X, y, sample_weight=None):
        self.classes_ = np.arange(self.n_classes)
        return self

    def predict(self, X):
        return X.argmax(axis=1)

    def predict_proba(self, X):
        return X


class Scored(Given):
    """A classifier that tells the log odds of X."""

    def decision_function(self, X):
        return log_odds(events(X, is_ordered=False)).squeeze()


def drawn(n_classes, n=400, seed=0):
    """Draw probabilities that are too sure, labels and weights."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.linspace(1, 2, n_classes), size=n)
    true = np.sqrt(p) / np.sqrt(p).sum(axis=1, keepdims=True)
    y = (rng.random((n, 1)) > np.cumsum(true, axis=1)).sum(axis=1).clip(max=n_classes - 1)
    return p, y, rng.uniform(0.1, 2.0, size=n)


@pytest.mark.parametrize("n_classes", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("method", ["isotonic", "sigmoid", "temperature"])
def test_probabilities_are_those_of_scikit_learn(method, weighted, n_classes):
    p, y, weight = drawn(n_classes)
    weight = weight if weighted else None
    task = Task(name="t", kind=KINDS[n_classes], classes=tuple(range(n_classes)))
    found = replace(Calibrator.learn(task, y, p, weight, method), floor=0.0)
    model = (Scored if method == "sigmoid" else Given)(n_classes)
    everyone = [(np.arange(len(y)), np.arange(len(y)))]
    oracle = CalibratedClassifierCV(model, method=method, cv=everyone, ensemble=False)
    new = np.vstack([drawn(n_classes, seed=1)[0], np.eye(n_classes)])
    assert_allclose(found(new), oracle.fit(p, y, sample_weight=weight).predict_proba(new), rtol=0, atol=1e-12)
    assert all(np.array_equal(found(row[None]), own[None]) for row, own in zip(new, found(new), strict=True))


@pytest.mark.parametrize("method", ["isotonic", "sigmoid", "temperature"])
def test_ordered_classes_are_calibrated_by_the_probabilities_above_each(method):
    p, y, _ = drawn(4, 2000)
    task = Task(name="t", kind="ordinal", classes=(0, 1, 2, 3))
    found = Calibrator.learn(task, y, p, None, method)(p)
    assert_allclose(found.sum(axis=1), 1)
    assert found.min() >= 0
    assert np.abs(above_each(found).mean(axis=0) - [(y > k).mean() for k in range(3)]).max() < 0.02


@pytest.mark.parametrize("kind", ["binary", "multiclass", "ordinal"])
def test_an_isotonic_answer_is_never_surer_than_its_labels_tell(kind):
    n_classes = 2 if kind == "binary" else 4
    p, y, _ = drawn(n_classes, 300)
    task = Task(name="t", kind=kind, classes=tuple(range(n_classes)))
    learned, plain = (Calibrator.learn(task, y, p, None, name) for name in ("isotonic", "sigmoid"))
    new = np.vstack([drawn(n_classes, seed=1)[0], np.eye(n_classes)])
    found, bare = learned(new), replace(learned, floor=0.0)(new)
    assert bare.min() == 0 and plain.floor == 0
    assert_allclose(found.sum(axis=1), 1)
    assert_allclose(found.argmax(axis=1), bare.argmax(axis=1))
    if kind == "binary":
        assert_allclose(found, bare.clip(1 / 302, 1 - 1 / 302))
    assert 0.5 / 302 < found.min() <= 1 / 302


def test_a_temperature_is_learned_though_a_class_has_no_label():
    p, y, _ = drawn(3)
    task = Task(name="t", kind="multiclass", classes=("a", "b", "c"))
    kept = y < 2
    found = Calibrator.learn(task, y[kept], p[kept], None, "temperature")
    assert 0 < found.inverse_temperature < 1  # too sure before


@pytest.mark.parametrize(
    ("labels", "method", "kind", "words"),
    [
        ([0] * 30 + [1] * 9, "sigmoid", "binary", "at least 10 labels of 'b' and of the others, and the rows have 9"),
        (
            [0] * 30 + [1] * 19,
            "isotonic",
            "binary",
            "at least 20 .* have 19 .* say method='sigmoid' \\(10\\)",
        ),
        ([0] * 30, "temperature", "binary", "at least 10 labels of two classes .* of one class at most"),
        ([0] * 20 + [1] * 20, "sigmoid", "multiclass", "of 'c' and of the others, and the rows have 0"),
        ([0] * 5 + [1] * 20 + [2] * 20, "sigmoid", "ordinal", "up to 'a' and above it, and the rows have 5"),
    ],
)
def test_too_few_labels_are_refused_with_the_number_that_is_needed(labels, method, kind, words):
    y, classes = np.array(labels), ("a", "b", "c")[: 2 if kind == "binary" else 3]
    p = np.full((len(y), len(classes)), 1 / len(classes))
    with pytest.raises(ValueError, match=words):
        Calibrator.learn(Task(name="t", kind=kind, classes=classes), y, p, None, method)
