"""Losses of all kinds, wide and long: derivatives, starts and sums over leaves."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logit

from tabmtl import Task
from tabmtl.base.schema import Batch
from tabmtl.columns import Features
from tabmtl.models.shared_trees.sums import Sums
from tabmtl.models.shared_trees.targets import make_targets

TASKS = (
    Task(name="class", kind="multiclass", classes=("a", "b", "c")),
    Task(name="value", kind="regression"),
    Task(name="sign", kind="binary", classes=(0, 1)),
    Task(name="again", kind="regression"),
)
N = 60


def batch(kind="wide", holes=0.4):
    rng = np.random.default_rng(0)
    y = np.column_stack([rng.integers(0, 3, N), rng.normal(size=N), rng.integers(0, 2, N), rng.normal(size=N)])
    y[rng.random(y.shape) < holes] = np.nan
    weight = rng.integers(1, 4, y.shape).astype(float)
    task = None
    if kind != "wide":
        column = [task.kind.name for task in TASKS].index(kind)
        y, weight, task = y[:, [column]], weight[:, [column]], rng.integers(0, 4, N)
    return Batch(x=Features(numbers=np.zeros((N, 1)), codes=np.zeros((N, 0))), y=y, weight=weight, task=task)


def targets(kind="wide", holes=0.4):
    rows = batch(kind, holes)
    tasks = TASKS if kind == "wide" else [task for task in TASKS if task.kind.name == kind][:1] * 4
    return make_targets(rows, tasks, np.zeros(rows.y.shape[1]), np.ones(rows.y.shape[1])), rows


every_kind = pytest.mark.parametrize("kind", ["wide", "regression", "binary", "multiclass"])


@every_kind
def test_derivatives_are_those_of_the_loss(kind):
    made, _ = targets(kind)
    scores = np.random.default_rng(1).normal(size=made.y.shape).astype(np.float32)
    gradient, hessian = (part.copy() for part in made.derivatives(scores))
    step = 0.03
    for column in range(scores.shape[1]):
        moved = []
        for sign in (-1, 0, 1):
            shifted = scores.copy()
            shifted[:, column] += sign * step
            cells = made._cell_losses(shifted)
            moved.append(cells.sum(axis=1, dtype=np.float64))
        np.testing.assert_allclose((moved[2] - moved[0]) / (2 * step), gradient[:, column], atol=2e-3)
        # of many classes the hessian is K / (K - 1) of the diagonal, as LightGBM has it
        is_multiclass = next(kind for kind, own in made.blocks if own.start <= column < own.stop).name == "multiclass"
        second = (moved[2] - 2 * moved[1] + moved[0]) / step**2 * (1.5 if is_multiclass else 1)
        np.testing.assert_allclose(second, hessian[:, column], atol=2e-2)


@every_kind
def test_a_cell_without_a_label_has_no_gradient_and_no_loss(kind):
    made, rows = targets(kind)
    gradient, hessian = made.derivatives(np.random.default_rng(1).normal(size=made.y.shape).astype(np.float32))
    assert (gradient[made.weight == 0] == 0).all() and (hessian[made.weight == 0] == 0).all()
    assert (made.weight == 0).any() and gradient.any()
    sizes = [len(losses) for losses in made.losses(np.zeros_like(made.y))]
    labelled = (~np.isnan(rows.y)).sum(axis=0)
    expected = labelled if kind == "wide" else [*np.bincount(rows.task[~np.isnan(rows.y[:, 0])]), *labelled]
    assert sizes == list(expected)


@every_kind
def test_sums_by_leaf_and_by_function_agree_with_loops(kind):
    made, rows = targets(kind)
    leaf = np.random.default_rng(2).integers(0, 3, N).astype(np.int32)
    values = np.random.default_rng(3).normal(size=made.y.shape).astype(np.float32)
    found = made.sums.per_leaf(leaf, 3, values)
    expected = np.zeros_like(found)
    for row in range(N):
        if kind == "wide":
            expected[leaf[row]] += values[row]
            continue
        own, pooled = np.split(values[row], 2)
        expected[leaf[row]].reshape(5, -1)[rows.task[row]] += own
        expected[leaf[row]].reshape(5, -1)[4] += pooled
    np.testing.assert_allclose(found, expected, atol=1e-5)
    scores = np.zeros_like(made.y)
    made.sums.add_leaves(scores, found, leaf)
    row = 7
    own = found[leaf[row]] if kind == "wide" else found[leaf[row]].reshape(5, -1)[[rows.task[row], 4]].ravel()
    np.testing.assert_allclose(scores[row], own, rtol=1e-6)
    losses = made.losses(values)
    np.testing.assert_allclose(made.total_losses(values), [each.sum() for each in losses], rtol=1e-5)


@pytest.mark.parametrize("n_rows", [50, 10_000])
def test_sums_by_leaf_are_those_of_the_leaves_at_hand(n_rows):
    rng, sums = np.random.default_rng(0), Sums(n_rows=n_rows, function=np.arange(2))
    for n_leaves in (3, 20, 2, 20):
        leaf, values = rng.integers(0, n_leaves, n_rows).astype(np.int32), rng.normal(size=(n_rows, 2))
        expected = np.stack([np.bincount(leaf, column, n_leaves) for column in values.T], axis=1)
        np.testing.assert_allclose(sums.per_leaf(leaf, n_leaves, values.astype(np.float32)), expected, atol=1e-3)
    np.testing.assert_allclose(sums.total(np.ones((n_rows, 2), dtype=np.float32)), [n_rows, n_rows])


def test_functions_start_at_mean_log_odds_and_log_shares():
    made, rows = targets()
    start = made.start(0.0)
    weight = np.where(np.isnan(rows.y), 0, rows.weight)
    mean = (np.nan_to_num(rows.y) * weight).sum(axis=0) / weight.sum(axis=0)
    np.testing.assert_allclose(start[:2], mean[[1, 3]], atol=1e-6)
    np.testing.assert_allclose(start[2], logit(mean[2]), atol=1e-6)
    shares = [weight[rows.y[:, 0] == k, 0].sum() / weight[:, 0].sum() for k in range(3)]
    np.testing.assert_allclose(np.exp(start[3:]), shares, atol=1e-6)
    # a constant that is best has no gradient
    gradient, _ = made.derivatives(made.sums.at_rows(start))
    np.testing.assert_allclose(made.sums.total(gradient), 0, atol=1e-4)


def test_tasks_of_a_long_table_start_between_their_mean_and_that_of_all():
    made, rows = targets("regression")
    y, weight = np.nan_to_num(rows.y[:, 0]), np.where(np.isnan(rows.y[:, 0]), 0, rows.weight[:, 0])
    pooled = (y * weight).sum() / weight.sum()
    for t in range(4):
        own = rows.task == t
        total = weight[own].sum()
        mean = (y[own] * weight[own]).sum() / total
        for penalty in (0.0, 5.0):
            expected = pooled + (mean - pooled) * total / (total + penalty)
            assert made.start(penalty)[t] == pytest.approx(expected, abs=1e-5)
    assert made.start(5.0)[4] == pytest.approx(pooled, abs=1e-6)


def test_a_sketch_of_full_labels_has_the_hessian_one_and_unit_variance():
    made, _ = targets(holes=0.0)
    made = make_targets(replace(batch(holes=0.0), weight=None), TASKS, np.zeros(4), np.ones(4))
    gradient, _ = made.derivatives(made.sums.at_rows(made.start(0.0)))
    for column in range(3):
        factors = made.sums.normalise(np.eye(6)[column] * 7)
        g, h = made.sketch(gradient, factors)
        np.testing.assert_allclose(h, 1)
        assert g.std() == pytest.approx(gradient[:, column].std() / np.sqrt(made.curvature[column]), rel=1e-4)
    assert made.curvature[2] == pytest.approx(made.share[2] * (1 - made.share[2]))
