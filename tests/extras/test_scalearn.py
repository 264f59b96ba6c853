"""ScaLearn: a new task scales the features of the others."""

from copy import deepcopy

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score

from tabmtl import SharedBottom, Task
from tabmtl.extras import ScaLearn
from tabmtl.extras.scalearn import Scaled
from tabmtl.training.penalised import Labels, learn_by_folds

RNG = np.random.default_rng(0)
FOLD = np.arange(120) % 5


def waves(n, seed):
    """Rows whose labels are waves of a hidden direction, which a line does not tell."""
    X = np.random.default_rng(seed).normal(size=(n, 6))
    factor = X @ np.linspace(1, -1, 6) / 2
    return X, np.column_stack([np.sin(2 * factor), np.cos(2 * factor), np.sin(2 * factor) + np.cos(2 * factor)])


def regression(y):
    return Labels(task=Task(name="t", kind="regression"), y=y, weight=np.ones(len(y)))


def test_a_scale_of_a_source_without_signal_stays_behind():
    of_signal = RNG.normal(size=(120, 6)) / 6**0.5
    features = np.stack([RNG.normal(size=of_signal.shape) / 6**0.5, of_signal], axis=1)
    found = learn_by_folds(Scaled(is_uniform=True), features, regression(of_signal[:, 0] * 2), FOLD)
    assert abs(found.scale[1, 0]) > 3 * abs(found.scale[0, 0])


@pytest.mark.parametrize("uniform", [False, True])
def test_weights_are_those_of_the_scaled_sum(uniform):
    blocks = [RNG.normal(size=shape) for shape in ((120, 3), (120, 2, 4), (120, 5))]
    labels = regression(blocks[1][:, 0, 0] + 0.1 * RNG.normal(size=120))
    weights, bias = ScaLearn(uniform=uniform).learn(blocks, labels, FOLD)
    form = Scaled(uniform)
    found = learn_by_folds(form, blocks[1] / 2, labels, FOLD)
    whole = np.concatenate([block.reshape(120, -1) for block in blocks], axis=1)
    np.testing.assert_allclose(whole @ weights + bias, form.scores(found, blocks[1] / 2).numpy(), atol=1e-12)
    alone, constant = ScaLearn(uniform=uniform).learn(blocks, labels, np.zeros(120, dtype=int))
    assert not alone.any()
    assert constant[0] == pytest.approx(labels.y.mean(), abs=1e-3)


def test_forty_labels_teach_by_way_of_other_tasks(reloaded):
    X, z = waves(2_000, 0)
    model = SharedBottom(epochs=30, hidden=(64, 32), learning_rate=0.01, random_state=0).fit(X, z[:, :2])
    X_test, z_test = waves(1_000, 2)
    alone = RidgeCV(np.logspace(-2, 4, 13)).fit(X[:40], z[:40, 2])
    assert r2_score(z_test[:, 2], alone.predict(X_test)) < 0.3  # a constant has 0
    for uniform in (False, True):
        grown = deepcopy(model).add_task(X[:40], z[:40, 2], head=ScaLearn(uniform=uniform))
        assert r2_score(z_test[:, 2], grown.predict(X_test)[:, 2]) > 0.6
        assert np.array_equal(reloaded(grown).predict(X_test), grown.predict(X_test))
