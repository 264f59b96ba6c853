"""The plain references are the methods that they stand for."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.tree import DecisionTreeRegressor
from torch.nn import functional as F

from benchmarks.peers.rmtgb import PlainRMTGB
from benchmarks.peers.sasrec import PaddedSessions, PlainSASRec, plain_recall, train_plain
from tabmtl.sessions.log import LogColumns, read_sessions

SIZES = {"d_model": 16, "n_layers": 2, "n_heads": 4}


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


def test_rows_are_answered_for_their_own_task(rows):
    X, tasks, y = rows
    plain = PlainRMTGB(5, 5, 5).fit(X, tasks, y)
    np.testing.assert_array_equal(plain.predict(X[250:], tasks[250:]), plain.predict(X, tasks)[250:])


def rounds_log(n_sessions: int = 60, n_items: int = 12) -> pl.DataFrame:
    """Every click is followed by one on the next item of a circle, the first of a session is any."""
    start = np.random.default_rng(0).integers(n_items, size=(n_sessions, 1))
    items = (start + np.arange(4)) % n_items
    sessions = np.repeat(np.arange(n_sessions), 4)
    return pl.DataFrame(
        {"session_id": sessions, "item_id": items.ravel(), "position": np.tile(np.arange(4), n_sessions)}
    )


def test_the_plain_model_reads_no_later_click_and_no_padding():
    torch.manual_seed(0)
    plain = PlainSASRec(20, 6, **SIZES).eval()
    codes = torch.tensor([[3, 7, 2, 9, 4, 1]])
    states = plain(codes)
    assert not torch.allclose(states[0, -1], plain(codes.flip(1))[0, -1])
    torch.testing.assert_close(plain(codes[:, :4]), states[:, :4])
    padded = torch.cat([codes[:, :4], torch.zeros(1, 2, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(plain(padded)[:, :4], states[:, :4])


def test_the_plain_loss_is_cross_entropy_over_all_items_where_a_click_follows():
    torch.manual_seed(0)
    plain = PlainSASRec(20, 4, **SIZES).eval()
    codes, targets = torch.tensor([[3, 7, 2, 0], [5, 0, 0, 0]]), torch.tensor([[7, 2, 9, 0], [1, 0, 0, 0]])
    logits = plain(codes) @ plain.items.weight.T
    expected = F.cross_entropy(logits[..., 1:].flatten(0, 1), targets.flatten() - 1, ignore_index=-1)
    torch.testing.assert_close(plain.loss(codes, targets), expected)


def test_padded_sessions_are_the_newest_clicks_and_the_ones_behind_them():
    codes, targets = PaddedSessions([np.array([4, 5]), np.arange(1, 7)], 3)[0]
    assert (codes.tolist(), targets.tolist()) == ([4, 0, 0], [5, 0, 0])
    codes, targets = PaddedSessions([np.array([4, 5]), np.arange(1, 7)], 3)[1]
    assert (codes.tolist(), targets.tolist()) == ([3, 4, 5], [4, 5, 6])


def test_the_plain_model_learns_what_follows():
    log = rounds_log()
    sessions = read_sessions(log, LogColumns(time=None, order="position"), log["item_id"].unique().sort())
    torch.manual_seed(0)
    plain = PlainSASRec(12, 50, dropout=0.0, **SIZES)
    before = plain_recall(plain, sessions, 1)
    losses = train_plain(plain, sessions, epochs=12, batch_size=8, learning_rate=5e-3)
    assert losses[0] == pytest.approx(np.log(12), abs=0.5)
    assert losses[-1] < 0.5
    assert before < 0.5 < 0.9 < plain_recall(plain, sessions, 1)
