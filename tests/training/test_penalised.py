"""Linear heads by a penalty that folds choose: scikit-learn's at one penalty, constant where features tell nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression, Ridge

from tabmtl.targets import Task
from tabmtl.training.penalised import PENALTIES, Labels, Linear, learn_by_folds, simplest

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(120, 6)) / 6**0.5
SIGNAL = FEATURES @ np.array([2.0, -1.0, 0.0, 0.0, 1.0, 0.0])
FOLD = np.arange(120) % 3


def labels_of(kind, y, classes=None):
    return Labels(task=Task(name="t", kind=kind, classes=classes), y=y.astype(float), weight=np.ones(len(y)))


@pytest.mark.parametrize("place", [1, 3, 6])
def test_a_line_is_that_of_scikit_learn(place):
    y = SIGNAL + 0.1 * RNG.normal(size=120)
    found = Linear().path(FEATURES, labels_of("regression", y))[place]
    expected = Ridge(alpha=120 * PENALTIES[place - 1] / 2).fit(FEATURES, y)
    np.testing.assert_allclose(found.linear[:, 0], expected.coef_, atol=1e-3)
    late = (SIGNAL > 0).astype(float)
    found = Linear().path(FEATURES, labels_of("binary", late, (0, 1)))[place]
    expected = LogisticRegression(C=1 / (120 * PENALTIES[place - 1]), tol=1e-8, max_iter=1_000).fit(FEATURES, late)
    np.testing.assert_allclose(found.linear[:, 0], expected.coef_[0], atol=2e-2 * np.abs(expected.coef_).max())


def test_more_features_than_rows_are_no_matter():
    wide = RNG.normal(size=(30, 200)) / 200**0.5
    y = wide[:, 0] * 5
    found = Linear().path(wide, labels_of("regression", y))[4]
    many = np.concatenate([wide, np.zeros((30, 3))], axis=1)
    np.testing.assert_allclose(Linear().path(many, labels_of("regression", y))[4].linear[:200], found.linear, atol=1e-3)


@pytest.mark.parametrize("kind", ["regression", "multiclass", "poisson", "quantile:0.8"])
def test_every_kind_gains_where_features_tell(kind):
    task = Task(
        name="t", kind=kind, classes={"binary": (0, 1), "multiclass": (0, 1, 2), "ordinal": (0, 1, 2)}.get(kind)
    )
    y = {
        "binary": SIGNAL > 0,
        "multiclass": np.digitize(SIGNAL, [-0.5, 0.5]),
        "ordinal": np.digitize(SIGNAL, [-0.5, 0.5]),
    }
    y = y.get(kind, np.floor(3 * np.exp(SIGNAL)) if kind == "poisson" else SIGNAL).astype(float)
    labels, form = Labels(task=task, y=y, weight=np.ones(120)), Linear()
    constant = form.path(FEATURES, labels)[0]

    def loss(weights):
        return labels.losses(form.scores(weights, FEATURES)).mean()

    assert loss(learn_by_folds(form, FEATURES, labels, FOLD)) < 0.8 * loss(constant)


def test_a_single_fold_gives_the_constant():
    found = learn_by_folds(Linear(), FEATURES, labels_of("binary", SIGNAL > 0.5, (0, 1)), np.zeros(120, dtype=int))
    assert not found.linear.any()
    assert expit(found.bias[0]) == pytest.approx((SIGNAL > 0.5).mean(), abs=1e-3)


def test_the_simplest_of_equals_is_taken():
    losses = np.array([[1.0, 1.0, 1.0, 1.0], [1.5, 0.4, 0.5, 1.5], [0.2, 0.3, 0.2, 0.3]])
    assert simplest(losses) == 2
    assert simplest(losses[:2]) == 0
