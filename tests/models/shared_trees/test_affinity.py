"""Regressions of the leaf values of tasks on each other."""

import numpy as np
import pytest

from tabmtl.models.shared_trees.affinity import Affinity, PooledAffinity


def rounds(n_rounds, seed=0):
    """Leaves of rounds: the second task follows the first, the third nobody; and the number of labels of each."""
    rng = np.random.default_rng(seed)
    for _ in range(n_rounds):
        first, third = rng.normal(size=(2, 8))
        yield np.column_stack([first, -2 * first, third]), np.tile([50.0, 50.0, 50.0], (8, 1))


def test_a_task_is_predicted_by_those_that_it_follows():
    affinity = Affinity(np.array([0, 1, 2]))
    for means, labels in rounds(60):
        found = affinity.predict(means, labels)
    assert np.corrcoef(found[:, 1], means[:, 1])[0, 1] > 0.99
    np.testing.assert_allclose(found[:, :2], means[:, :2], atol=0.3)
    assert np.abs(found[:, 2]).max() < 0.5 * np.abs(means[:, 2]).max()


def test_the_first_round_is_a_ridge_regression_over_its_leaves():
    means, labels = next(rounds(1))
    affinity = Affinity(np.array([0, 1, 2]))
    found = affinity.predict(means, labels)
    for c, others in ((0, [1, 2]), (1, [0, 2]), (2, [0, 1])):
        weighted = 0.1 * means[:, others].T * labels[:, c]
        coefficients = np.linalg.solve(weighted @ means[:, others] + np.eye(2), weighted @ means[:, c])
        np.testing.assert_allclose(found[:, c], means[:, others] @ coefficients)


def test_a_task_without_labels_is_predicted_by_nobody():
    affinity = Affinity(np.array([0, 1, 2]))
    for means, labels in rounds(20):
        labels[:, 1] = means[:, 1] = 0
        found = affinity.predict(means, labels)
    assert (found[:, 1] == 0).all()


@pytest.mark.parametrize("function", [[0, 0, 1], [1, 0, 0]])
def test_outputs_of_one_task_tell_each_other_nothing(function):
    affinity = Affinity(np.array(function))
    first, second = np.flatnonzero(np.array(function) == 0)
    for means, labels in rounds(30):
        means[:, second] = means[:, first]
        means[:, np.flatnonzero(function)[0]] = 0
        found = affinity.predict(means, labels)
    assert np.abs(found).max() == 0


def test_tasks_of_a_long_table_are_predicted_by_the_mean_of_the_others():
    rng, affinity = np.random.default_rng(0), PooledAffinity(5, 1)
    labels = np.tile([40.0, 40.0, 40.0, 4.0, 124.0], (8, 1))
    for _ in range(60):
        common = rng.normal(size=(8, 1))
        means = np.concatenate([common, common, -common, 0.5 * common, common], axis=1)
        found = affinity.predict(means, labels)
    ratio = found[:, 3] / means[:, 3]
    assert ratio.min() > 0.6 and ratio.max() < 1.0  # four labels are shrunk
    assert np.corrcoef(found[:, 2], means[:, 2])[0, 1] > 0.99
    assert (found[:, 4] == 0).all()
