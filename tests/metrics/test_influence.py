"""The influence of a row is the slope of the score in the row's weight, whatever the metric."""

import numpy as np
import pytest

from tabmtl.metrics.classes import TWO_CLASSES, auc_within
from tabmtl.metrics.scores import score_task
from tabmtl.metrics.values import VALUES
from tabmtl.targets import KINDS, Binary, Task

METRICS = TWO_CLASSES | VALUES
CASES = [
    (name, metric)
    for name, kind in KINDS.items()
    for metric, each in kind.metrics.items()
    if each.influence is not None and each.compares != "groups"  # of which groups have influences, see test_groups
]


def some_rows(kind, rng, n=60):
    """Labels of which some class is rare, outputs with ties, and weights."""
    weight = rng.random(n) + 0.2
    if KINDS[kind].answer == "values":
        y = rng.uniform(4.0, 9.0, n)
        shape = KINDS[kind].answer_shape(n, None)
        return y, (y + rng.normal(1.0, 1.0, shape[::-1])).T, weight
    n_classes = 2 if isinstance(KINDS[kind], Binary) else 4
    y = np.append(np.arange(n_classes).repeat(2), rng.choice(n_classes, n - 2 * n_classes))
    shares = np.round(rng.dirichlet(np.ones(n_classes), n) + np.eye(n_classes)[y] / 2, 1) + 0.01
    return y.astype(float), shares / shares.sum(axis=1, keepdims=True), weight


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_influence_is_weight_times_the_slope_of_the_score(kind, metric):
    y, output, weight = some_rows(kind, np.random.default_rng(0), 36)
    task = Task(name="a", kind=kind, metric=metric)
    labels = y if task.kind.answer == "values" else y.astype(int)
    step = 1e-4 * np.diag(weight)
    slope = [(score_task(task, y, output, weight + h) - score_task(task, y, output, weight - h)) / 2e-4 for h in step]
    influence = task.kind.metrics[metric].influence(labels, output, weight)
    np.testing.assert_allclose(influence, slope, atol=1e-8)
    assert influence.sum() == pytest.approx(0, abs=1e-12)
    assert np.abs(influence).max() > 1e-3


def test_classes_that_no_row_has_count_nowhere():
    y, output, weight = some_rows("binary", np.random.default_rng(2))
    wide = np.column_stack([output, np.zeros((len(y), 2))])
    wide[5] = [0, 0.1, 0.9, 0]  # answered, never labelled
    task = Task(name="a", kind="multiclass", classes=("p", "q", "r", "s"), metric="f1_macro")
    step = np.zeros(len(y))
    step[5] = 1e-4
    slope = (score_task(task, y, wide, weight + step) - score_task(task, y, wide, weight - step)) / 2e-4
    assert METRICS["f1_macro"].influence(y.astype(int), wide, weight)[5] == pytest.approx(weight[5] * slope, abs=1e-8)


def test_a_perfect_regression_has_no_influences():
    y = np.arange(5.0)
    for metric in VALUES:
        assert not METRICS[metric].influence(y, y, np.ones(5)).any()


def auc_of_pairs(y, p, weight, part):
    """The share of the pairs of rows of one part that are in order, pair by pair."""
    found = []
    for k in [1] if p.shape[1] == 2 else np.unique(y):
        above, below = np.flatnonzero(y == k), np.flatnonzero(y != k)
        pairs = [(i, j) for i in above for j in below if part[i] == part[j]]
        right = [(p[i, k] > p[j, k]) + (p[i, k] == p[j, k]) / 2 for i, j in pairs]
        found.append(np.average(right, weights=[weight[i] * weight[j] for i, j in pairs]))
    return np.mean(found)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_auc_within_parts_is_that_of_their_pairs(kind):
    y, p, weight = some_rows(kind, np.random.default_rng(3))
    y, part = y.astype(int), np.arange(60) % 4
    score, influence = auc_within(y, p, weight, part)
    assert score == pytest.approx(auc_of_pairs(y, p, weight, part))
    slope = [
        (auc_within(y, p, weight + h, part)[0] - auc_within(y, p, weight - h, part)[0]) / 2e-4
        for h in 1e-4 * np.diag(weight)
    ]
    np.testing.assert_allclose(influence, slope, atol=1e-8)


def test_parts_of_one_class_have_no_pair():
    p = np.random.default_rng(0).dirichlet([1, 1], 6)
    score, influence = auc_within(np.array([0, 0, 1, 1, 0, 0]), p, np.ones(6), np.array([0, 0, 1, 1, 2, 2]))
    assert np.isnan(score)
    assert not influence.any()
