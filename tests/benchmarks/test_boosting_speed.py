"""The reference is the method that it stands for, and the benchmark compares like with like."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeRegressor

from benchmarks.boosting_speed import compare_overhead, compare_plain, compare_shared, draw_columns, to_frame, to_matrix
from benchmarks.peers.rmtgb import PlainRMTGB, sigmoid


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (300, 3))
    tasks = np.repeat([7, 2, 30], 100)
    y = 5 + np.where(tasks == 30, -1, 1) * X[:, 0] + X[:, 1] ** 2
    return X, tasks, y


def test_the_shared_block_alone_is_gradient_boosting(rows):
    X, tasks, y = rows
    plain = PlainRMTGB(20, 0, 0, max_leaf_nodes=4).fit(X, tasks, y)
    peer = GradientBoostingRegressor(
        n_estimators=20, learning_rate=0.1, max_leaf_nodes=4, max_depth=None, random_state=0
    ).fit(X, y)
    np.testing.assert_allclose(plain.predict(X, tasks), peer.predict(X), atol=1e-6)


def test_the_last_block_alone_is_gradient_boosting_per_task(rows):
    X, tasks, y = rows
    plain = PlainRMTGB(0, 0, 20).fit(X, tasks, y)
    for task in (7, 2, 30):
        own = tasks == task
        expected = np.full(100, y.mean())
        for _ in range(20):
            tree = DecisionTreeRegressor(max_leaf_nodes=2, random_state=0).fit(X[own], y[own] - expected)
            expected += 0.1 * tree.predict(X[own])
        np.testing.assert_allclose(plain.predict(X[own], tasks[own]), expected, atol=1e-6)


def test_theta_moves_from_the_second_iteration_on_and_tells_the_outlier(rows):
    X, tasks, y = rows
    start = PlainRMTGB(5, 0, 0).fit(X, tasks, y).theta
    np.testing.assert_array_equal(PlainRMTGB(0, 1, 0).fit(X, tasks, y).theta, start)
    plain = PlainRMTGB(0, 50, 0).fit(X, tasks, y)
    side = dict(zip(plain.task_ids.tolist(), plain.theta > 0, strict=True))
    assert side[7] == side[2] != side[30]


def test_a_binary_label_moves_as_two_mirrored_columns_do(rows):
    X, tasks, y = rows
    label = (y > 5.2).astype(np.float64)
    plain = PlainRMTGB(1, 0, 0, binary=True).fit(X, tasks, label)
    columns = np.column_stack([1 - label, label])
    prior = columns.mean(axis=0)
    tree = DecisionTreeRegressor(max_leaf_nodes=2, random_state=0).fit(X, columns - prior)
    scores = np.log(prior) + 0.1 * tree.predict(X)
    np.testing.assert_allclose(plain.predict(X, tasks), sigmoid(scores[:, 1] - scores[:, 0]), atol=1e-6)
    better = PlainRMTGB(10, 10, 10, binary=True).fit(X, tasks, label).predict(X, tasks)
    assert roc_auc_score(label, better) > 0.95


def test_rows_are_answered_for_their_own_task(rows):
    X, tasks, y = rows
    plain = PlainRMTGB(5, 5, 5).fit(X, tasks, y)
    np.testing.assert_array_equal(plain.predict(X[250:], tasks[250:]), plain.predict(X, tasks)[250:])
    with pytest.raises(ValueError, match=r"tasks \[8\] were not seen in fit"):
        plain.predict(X[:1], np.array([8]))


def test_both_sides_of_the_comparison_reach_the_same_error():
    found = compare_plain(100, rounds=1, iterations=(20, 20, 20))
    assert found["rmse ours"] == pytest.approx(found["rmse plain"], rel=0.03)
    assert found["ours"] > 0 and found["plain"] > 0


def test_overhead_is_measured_on_both_sides():
    found = compare_overhead(500, 3, 4, (2, 2, 2), rounds=1)
    assert set(found) == {"pooled", "by task", "outside", "ours"}
    assert min(found.values()) > 0


def test_frame_and_matrix_hold_the_same_rows():
    (columns, y), (again, _) = (draw_columns(3, 50, 2) for _ in range(2))
    frame, matrix = to_frame(columns), to_matrix(again, 50)
    assert frame.columns == ["x0", "x1", "task"] and not columns and not again
    np.testing.assert_array_equal(frame.to_numpy(), matrix)
    assert y.shape == (50,) and frame["task"].n_unique() == 3


def test_shared_trees_are_measured_against_one_model():
    found = compare_shared(500, 3, 2, rounds=1, kind="binary")
    assert set(found) == {"one", "ours"}
    assert min(found.values()) > 0
