"""Answers of a mixture are stretched as far as the labels tell, and as usual where they tell little."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression

from tabmtl.estimators.mixing.stretch import Stretch
from tabmtl.targets import Task

SIZE = Task(name="size", kind="regression", metric="r2")
LATE = Task(name="late", kind="binary", classes=("no", "yes"), metric="roc_auc")
SORT = Task(name="sort", kind="multiclass", classes=("a", "b", "c"), metric="neg_log_loss")


def of_odds(odds):
    p = 1 / (1 + np.exp(-odds))
    return np.stack([1 - p, p], axis=1)


def test_values_find_their_factor():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=5_000)
    found = Stretch.fit([SIZE], [(7 + truth + 0.3 * rng.normal(size=5_000), None, 7 + truth / 1.4)])
    assert found.factor[0] == pytest.approx(1.4, abs=0.02)
    assert_allclose(found.answer([SIZE], 0, np.array([7.0, 7 + 1 / 1.4])), [7, 8], atol=0.05)


def test_log_odds_find_their_factor():
    rng = np.random.default_rng(0)
    odds = rng.normal(size=20_000)
    y = (rng.random(20_000) < of_odds(odds)[:, 1]).astype(float)
    answers = of_odds(odds / 1.3)
    found = Stretch.fit([SIZE, LATE], [(y, None, y), (y, None, answers)])
    assert found.factor[1] == pytest.approx(1.3, abs=0.08)
    stretched = found.answer([SIZE, LATE], 1, answers)
    assert_allclose(stretched.sum(axis=1), 1)
    assert (np.argsort(stretched[:, 1]) == np.argsort(answers[:, 1])).all()
    slope = LogisticRegression(C=1e9).fit(np.log(stretched[:, [1]] / stretched[:, [0]]), y).coef_.item()
    assert slope == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("n", [0, 3])
def test_few_labels_leave_the_usual_factor(n):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2.0
    answers = of_odds(0.1 * rng.normal(size=n))
    factor = Stretch.fit([LATE], [(y, None, answers)]).factor[0]
    assert factor == (pytest.approx(1.15, abs=0.02) if n else 1)


def test_rows_count_by_their_weights():
    truth = np.random.default_rng(0).normal(size=4_000)
    answers = np.where(np.arange(4_000) % 2, truth / 1.5, truth)
    weight = np.where(np.arange(4_000) % 2, 1.0, 1e-6)
    y = truth + 0.3 * np.random.default_rng(1).normal(size=4_000)
    assert Stretch.fit([SIZE], [(y, weight, answers)]).factor[0] == pytest.approx(1.5, abs=0.03)


def test_classes_stay_probabilities():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300).astype(float)
    answers = rng.dirichlet(np.ones(3), 300)
    found = Stretch.fit([SORT], [(y, None, answers)])
    assert found.factor[0] < 1  # answers that know nothing
    stretched = found.answer([SORT], 0, answers)
    assert_allclose(stretched.sum(axis=1), 1)
    assert (stretched >= 0).all()
