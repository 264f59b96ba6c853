"""The search of widths within a budget, beside all choices."""

from itertools import product

import numpy as np
import polars as pl
import pytest
from small_network import network_of

from tabmtl import SharedBottom
from tabmtl.slimming.search import Choices
from tabmtl.slimming.shares import Shares

SHARES = [0.25, 0.5, 1.0]


def choices(seed, n_tasks, *, is_long=False):
    rng, n = np.random.default_rng(seed), len(SHARES)
    size = 1 + np.arange(n)
    own = np.array([3]) if is_long else 1 + np.arange(n_tasks)
    head = size[:, None, None] * size[None, :, None] * own
    return Choices(
        SHARES, [f"t{t}" for t in range(n_tasks)], rng.normal(size=(n, n, n_tasks)), 10 * size, head, is_long
    )


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("budget", [0.4, 0.55, 0.8, 1.0])
def test_the_choice_is_the_best_of_all(seed, budget, is_long):
    n_tasks, weights = 3, np.array([1.0, 2.0, 0.5])
    own = choices(seed, n_tasks, is_long=is_long)
    whole, best = own.shared_cost[-1] + own.head_cost[-1, -1].sum(), (np.inf, None)
    for s, *c in product(range(3), repeat=1 + n_tasks):
        t = range(n_tasks)
        cost = own.shared_cost[s] + (own.head_cost[s, c[0], 0] if is_long else own.head_cost[s, c, t].sum())
        if cost <= budget * whole and (not is_long or len({*c}) == 1):
            best = min(best, ((own.excess[s, c, t] * weights).sum(), (s, *c)))
    s, *c = best[1]
    found = own.best(budget, {"t1": 2, "t2": 0.5})
    assert found == Shares(SHARES[s], tuple(SHARES[k] for k in c))


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_the_best_of_all_at_costs_of_any_size(seed):
    rng, n, n_tasks = np.random.default_rng(seed), 3, 4
    head = np.sort(rng.integers(1, 10**9, size=(n, n, n_tasks)), axis=1)
    loss = rng.integers(4, size=(n, n, n_tasks)) / 4  # with many ties, which are broken by the cost
    own = Choices(SHARES, list("abcd"), loss, np.sort(rng.integers(10**9, size=n)), head, is_long=False)
    t, found = range(n_tasks), []
    for s, *c in product(range(n), repeat=1 + n_tasks):
        found.append((loss[s, c, t].sum(), own.shared_cost[s] + head[s, c, t].sum(), s, *c))
    whole = found[-1][1]
    for budget in (0.5, 0.73, found[seed][1] / whole, 1.0):
        within = [one for one in found if one[1] <= budget * whole]
        if within:
            _, _, s, *c = min(within)
            assert own.best(budget, None) == Shares(SHARES[s], tuple(SHARES[k] for k in c))


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6])
def test_the_size_of_all_weights_does_not_count(scale):
    own = choices(0, 3)
    weights = {"t0": 1.0, "t1": 2.0, "t2": 0.5}
    for budget in (0.4, 0.55, 0.8):
        assert own.best(budget, {name: scale * one for name, one in weights.items()}) == own.best(budget, weights)


def test_a_task_that_does_not_count_has_the_smallest_head():
    assert choices(0, 2).best(1.0, {"t0": 0}).tasks[0] == 0.25


def test_many_tasks_take_little_time():
    rng, n_tasks = np.random.default_rng(0), 60
    head = np.sort(rng.integers(1, 10**5, size=(3, 3, n_tasks)), axis=1)
    loss = np.sort(rng.random((3, 3, n_tasks)), axis=1)[:, ::-1]
    own = Choices(SHARES, [f"t{t}" for t in range(n_tasks)], loss, np.zeros(3, dtype=np.int64), head, is_long=False)
    assert len(own.best(0.5, None).tasks) == n_tasks


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_network_that_diverges_is_not_chosen_and_a_task_without_labels_follows_the_others(bad):
    network = network_of(SharedBottom(hidden=(16,), head_hidden=16, slim=SHARES))
    loss = np.ones((3, 3, 3)) + 0.1 * np.arange(3)[::-1][:, None, None]
    loss[:, :, 1] = np.nan  # without labels
    loss[1, 0, 2] = bad
    frame = {"shared": np.repeat(SHARES, 9), "task_width": np.tile(np.repeat(SHARES, 3), 3), "task": [*"abc"] * 9}
    own = Choices.of(network, pl.DataFrame(frame | {"loss": loss.ravel()}), is_long=False)
    assert np.isfinite(own.excess).all()
    np.testing.assert_allclose(own.excess[2, 0], 0)
    np.testing.assert_allclose(own.excess[0, 0], 0.2)
    assert own.excess[1, 0, 2] > 1e6
    assert own.excess[1, 0, 1] > 1e6
    assert Choices.of(network, pl.DataFrame(frame | {"loss": np.full(27, np.nan)}), is_long=False).excess.sum() == 0


def test_a_preferred_task_keeps_its_width():
    own = choices(0, 2)
    own.excess[:] = 0.3 * np.arange(3)[::-1][None, :, None] + 0.1 * np.arange(3)[::-1][:, None, None]
    for preferred in (0, 1):
        found = own.best(0.28, {f"t{preferred}": 5.0})
        assert found.tasks[preferred] == max(found.tasks)
        assert found.tasks[preferred] > found.tasks[1 - preferred]


def test_what_does_not_fit_is_named():
    own = choices(0, 2)
    with pytest.raises(ValueError, match=r"budget=0.2 is below the smallest network, which takes 0.\d+ of the"):
        own.best(0.2, None)
    least = 13 / (30 + 27)
    assert own.best(np.ceil(least * 1000) / 1000, None) == Shares(0.25, (0.25, 0.25))
    with pytest.raises(ValueError, match="budget must be above 0 and at most 1"):
        own.best(0.0, None)
    with pytest.raises(ValueError, match=r"prefer names no task 't7'.*; the tasks are"):
        own.best(1.0, {"t7": 1})
    with pytest.raises(ValueError, match="the weight of 't1' must be a finite number of at least 0, got -1"):
        own.best(1.0, {"t1": -1})
    with pytest.raises(ValueError, match="prefer gives every task the weight 0"):
        own.best(1.0, {"t0": 0, "t1": 0})
    with pytest.raises(ValueError, match="prefer must map names of tasks to weights"):
        own.best(1.0, 2.0)
