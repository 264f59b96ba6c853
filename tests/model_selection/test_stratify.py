"""Rows dealt in two for early stopping: labels of every task and class on both sides, fast, seeded."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabmtl.model_selection.stratify import Strata, deal_rows, train_valid_split
from tabmtl.targets import Task

DELAY = Task(name="delay", kind="regression")
LATE = Task(name="late", kind="binary", classes=("no", "yes"))
CAUSE = Task(name="cause", kind="multiclass", classes=("a", "b", "c", "d"))
TASKS = (DELAY, LATE, CAUSE)


def some_labels(n, rng, missing=0.3):
    """Encoded labels of TASKS (n, 3) with holes; class "yes" and class "d" are rare."""
    y = np.column_stack(
        [rng.normal(size=n), rng.random(n) < 0.05, rng.choice(4, size=n, p=[0.6, 0.3, 0.09, 0.01])]
    ).astype(float)
    y[rng.random(y.shape) < missing] = np.nan
    return y


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_both_sides_get_rows_and_every_row_one_side(n, fraction, missing, seed):
    rng = np.random.default_rng(seed)
    train, valid = train_valid_split(some_labels(n, rng, missing), TASKS, fraction, rng)
    assert len(train) and len(valid)
    assert np.all(np.diff(train) > 0) and np.all(np.diff(valid) > 0)
    assert sorted([*train, *valid]) == list(range(n))


@pytest.mark.parametrize("seed", range(5))
def test_both_sides_hold_every_task_and_class(seed):
    rng = np.random.default_rng(seed)
    y = some_labels(1500, rng)
    train, valid = train_valid_split(y, TASKS, 0.1, rng)
    assert len(valid) == pytest.approx(150, abs=3)
    for side in (train, valid):
        assert not np.isnan(y[side, 0]).all()
        assert set(y[side, 1]) >= {0.0, 1.0}
        assert set(y[side, 2]) >= {0.0, 1.0, 2.0, 3.0}


def test_two_rows_of_a_class_part_and_a_single_one_stays_in_training():
    late = np.zeros(200)
    late[[17, 130]] = 1
    cause = np.zeros(200)
    cause[50] = 3
    y = np.column_stack([late, cause])
    train, valid = train_valid_split(y, (LATE, CAUSE), 0.1, np.random.default_rng(0))
    assert late[train].sum() == late[valid].sum() == 1
    assert 50 in train


def test_the_seed_decides():
    y = some_labels(300, np.random.default_rng(0))
    splits = [train_valid_split(y, TASKS, 0.2, np.random.default_rng(seed))[1].tolist() for seed in (1, 1, 2)]
    assert splits[0] == splits[1] != splits[2]


def test_a_million_rows_of_eight_tasks_are_split_in_a_moment():
    rng = np.random.default_rng(0)
    tasks = [DELAY, LATE, CAUSE, LATE, DELAY, CAUSE, LATE, DELAY]
    y = np.where(rng.random((1_000_000, 8)) < 0.3, np.nan, rng.integers(0, 2, (1_000_000, 8)))
    start = time.process_time()
    _, valid = train_valid_split(y, tasks, 0.1, rng)
    assert time.process_time() - start < 1.5
    assert len(valid) == pytest.approx(100_000, abs=20)


def test_shares_are_kept_in_each_stratum():
    rng = np.random.default_rng(0)
    strata = Strata.of(some_labels(20_000, rng), TASKS)
    shares = np.array([0.5, 0.3, 0.2])
    counts = strata.count(deal_rows(strata, shares, rng), 3)
    assert np.abs(counts - np.outer(shares, counts.sum(axis=0))).max() < 5


@pytest.mark.parametrize("fraction", [0, 1, 3])
def test_an_impossible_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match=f"between 0 and 1, got {fraction}"):
        train_valid_split(np.zeros((5, 1)), [DELAY], fraction, np.random.default_rng(0))


def test_one_row_is_refused():
    with pytest.raises(ValueError, match=r"two rows.*got 1"):
        train_valid_split(np.zeros((1, 1)), [DELAY], 0.5, np.random.default_rng(0))


@pytest.mark.parametrize("n_groups", [2, 3, 40, 300, 6_000])
def test_no_group_is_on_both_sides(n_groups):
    rng = np.random.default_rng(0)
    n = 9_000
    group = rng.integers(0, n_groups, n) * 7 - 3
    y = some_labels(n, rng, 0.3)
    train, valid = train_valid_split(y, TASKS, 0.15, rng, group=group)
    assert sorted([*train, *valid]) == list(range(n))
    assert not set(group[train]) & set(group[valid])
    assert len(valid) == pytest.approx(0.15 * n, abs=1.5 * np.bincount(group + 3).max() * (n_groups < 40) + 0.01 * n)
    if n_groups >= 40:
        for task in range(len(TASKS)):
            assert np.isfinite(y[valid, task]).sum() > 0


def test_the_largest_group_is_learned_from():
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, *range(2, 22)], [500, 300, *[10] * 20])
    train, valid = train_valid_split(some_labels(1_000, rng, 0.1), TASKS, 0.15, rng, group=group)
    assert {0, 1} <= set(group[train])
    assert len(valid) == 150


def test_a_class_in_two_groups_is_on_both_sides():
    y = np.zeros((6_000, 1))
    y[[10, 4_000]] = 1
    for seed in range(5):
        rng = np.random.default_rng(seed)
        train, valid = train_valid_split(y, [LATE], 0.15, rng, group=np.arange(6_000) // 2)
        assert y[train].sum() == y[valid].sum() == 1
        _, valid = train_valid_split(y, [LATE], 0.15, rng, group=np.arange(6_000) % 10)
        assert y[valid].sum() == 0, "both rows are in one group, which is learned from"


def test_groups_of_one_row_differ_from_no_groups_in_their_rows_alone():
    rng = np.random.default_rng(0)
    y = some_labels(400, rng, 0.2)
    counts = []
    for group in (None, np.arange(400)):
        _, valid = train_valid_split(y, TASKS, 0.2, np.random.default_rng(1), group=group)
        counts.append(np.isfinite(y[valid]).sum(axis=0))
    np.testing.assert_allclose(*counts, atol=4)


def test_one_group_cannot_be_split():
    with pytest.raises(ValueError, match=r"task 'delay' are all in one group.*early_stopping=False"):
        train_valid_split(np.zeros((5, 1)), [DELAY], 0.2, np.random.default_rng(0), group=np.full(5, 3))


def test_groups_that_divide_no_task_cannot_be_split():
    y = np.array([[1.0, np.nan]] * 4 + [[np.nan, 1.0]] * 4)
    tasks = [DELAY, Task(name="price", kind="regression")]
    with pytest.raises(ValueError, match="no task or class has labels in two groups"):
        train_valid_split(y, tasks, 0.2, np.random.default_rng(0), group=np.repeat([0, 1], 4))
    train, valid = train_valid_split(y, tasks, 0.2, np.random.default_rng(0), group=np.repeat([0, 1, 2], [2, 2, 4]))
    assert np.isfinite(y[train]).any(axis=0).all()
    assert np.isfinite(y[valid]).any(axis=0).tolist() == [True, False]
