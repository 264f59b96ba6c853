"""Targets, long and wide: derivatives, constants, and where rows meet tasks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabmtl.models.rmtgb.targets import BinnedRows, LongTargets, Targets
from tabmtl.targets import KINDS

WIDTHS = {"regression": 1, "binary": 1, "multiclass": 3}
COUNTS = (4, 0, 7, 1, 0)

kinds = pytest.mark.parametrize("kind", WIDTHS)
layouts = pytest.mark.parametrize("layout", ["long", "wide"])


def some_labels(kind, shape, rng):
    return (
        rng.normal(size=shape) if kind == "regression" else rng.integers(0, max(WIDTHS[kind], 2), shape).astype(float)
    )


def make(kind, layout, *, seed=0, counts=COUNTS, weighted=True):
    """Targets of tasks, some without rows or labels; wide ones have holes."""
    rng = np.random.default_rng(seed)
    n, n_tasks = sum(counts), len(counts)
    shape = (n,) if layout == "long" else (n_tasks, n)
    weight = rng.uniform(0.5, 2, shape) if weighted else np.ones(shape)
    if layout == "wide":
        weight[rng.random(shape) < 0.3] = 0
        weight[1] = 0
    y = some_labels(kind, shape, rng) * (weight > 0)
    labels = {"kind": KINDS[kind], "width": WIDTHS[kind], "y": y, "weight": weight}
    return LongTargets(**labels, counts=np.array(counts)) if layout == "long" else Targets(**labels)


def twins(kind, seed=0, counts=COUNTS):
    """The long form of cells, and the wide one with a row's label at its own task alone."""
    long = make(kind, "long", seed=seed, counts=counts)
    owner = np.repeat(np.arange(len(counts)), counts) == np.arange(len(counts))[:, None]
    return long, Targets(kind=KINDS[kind], width=long.width, y=owner * long.y, weight=owner * long.weight)


def scores_of(cells, seed=1):
    """Scores (K, n) or (T, K, n) of the cells, drawn."""
    shape = (*cells.y.shape[:-1], cells.width, cells.y.shape[-1])
    return np.random.default_rng(seed).normal(size=shape)


def functions(cells, seed=2):
    return np.random.default_rng(seed).normal(size=(cells.width, cells.y.shape[-1]))


def task_of_cells(cells):
    """The task of every cell (n,) or (T, n)."""
    if isinstance(cells, LongTargets):
        return np.repeat(np.arange(cells.n_tasks), cells.counts)
    return np.broadcast_to(np.arange(cells.n_tasks)[:, None], cells.y.shape)


def nudged(values, place, by):
    values = values.copy()
    values[place] += by
    return values


@layouts
@kinds
def test_residuals_and_hessians_are_the_slopes_of_losses_and_residuals(kind, layout):
    """Hessians of many classes are K / (K - 1) times the exact diagonal, as LightGBM has it."""
    cells, step = make(kind, layout), 1e-5
    scores = scores_of(cells)
    residuals, hessians = cells.derivatives(scores)
    slopes = np.empty((2, *scores.shape))
    for place in np.ndindex(scores.shape):
        moved = [nudged(scores, place, by) for by in (step, -step)]
        losses, sides = zip(*((cells.losses(at).sum(), cells.derivatives(at)[0][place]) for at in moved), strict=True)
        slopes[(slice(None), *place)] = np.diff([losses, sides], axis=1)[:, 0] / (2 * step)
    np.testing.assert_allclose(residuals, slopes[0], atol=1e-8)
    expected = slopes[1] * (1.5 if kind == "multiclass" else 1)
    np.testing.assert_allclose(np.broadcast_to(hessians, scores.shape), expected, atol=1e-8)


@layouts
@kinds
def test_an_unlabelled_cell_says_nothing(kind, layout):
    cells = make(kind, layout)
    cells.weight[..., 2] = 0
    scores = scores_of(cells)
    residuals, hessians = cells.derivatives(scores)
    assert not residuals[..., 2].any() and not np.broadcast_to(hessians, scores.shape)[..., 2].any()
    far = scores.copy()
    far[..., 2] = 50
    np.testing.assert_array_equal(cells.losses(far), cells.losses(scores))


@given(
    st.sampled_from(sorted(WIDTHS)),
    st.sampled_from(["long", "wide"]),
    st.lists(st.integers(0, 6), min_size=2, max_size=5).filter(sum),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_at_cells_and_at_rows_are_adjoint(kind, layout, counts, has_factor, seed):
    cells = make(kind, layout, seed=seed, counts=counts)
    f, c = functions(cells), scores_of(cells)
    factor = np.random.default_rng(seed).normal(size=len(counts)) if has_factor else None
    at_cells, at_rows = cells.at_cells(f, factor), cells.at_rows(c, factor)
    assert (at_cells.shape, at_rows.shape) == (c.shape, f.shape)
    assert (at_cells * c).sum() == pytest.approx((f * at_rows).sum(), abs=1e-9)
    assert cells.inner(c, f).sum() == pytest.approx((cells.at_cells(f) * c).sum(), abs=1e-9)
    assert cells.inner(c, f).shape == cells.y.shape


@layouts
@kinds
def test_factors_and_constants_reach_the_cells_of_their_task(kind, layout):
    cells = make(kind, layout)
    values = np.random.default_rng(0).normal(size=(cells.n_tasks, cells.width))
    task, constant = task_of_cells(cells), cells.constant(values)
    scaled = cells.at_cells(np.ones((cells.width, cells.y.shape[-1])), values[:, 0])
    for k in range(cells.width):
        np.testing.assert_array_equal(constant[..., k, :], values[task, k])
        np.testing.assert_array_equal(scaled[..., k, :], values[task, 0])


@given(
    st.sampled_from(["long", "wide"]),
    st.lists(st.integers(0, 5), min_size=1, max_size=8).filter(sum),
    st.integers(0, 2**16),
)
def test_sums_per_task_are_those_of_a_loop(layout, counts, seed):
    """Tasks without a row have the sum 0, wherever they stand."""
    cells = make("regression", layout, seed=seed, counts=[*counts, 0] if layout == "wide" else counts)
    task = task_of_cells(cells)
    expected = [cells.y[task == t].sum() for t in range(cells.n_tasks)]
    np.testing.assert_allclose(cells.per_task(cells.y), expected, atol=1e-12)


@kinds
def test_long_and_wide_cells_of_the_same_labels_are_alike(kind):
    long, wide = twins(kind)
    f, factor = functions(long), np.random.default_rng(0).normal(size=len(COUNTS))
    found = []
    for cells in (long, wide):
        F = cells.at_cells(f) + cells.at_cells(f, factor)
        residuals, hessians = cells.derivatives(F)
        parts = [cells.at_rows(residuals, factor), cells.at_rows(residuals), cells.at_rows(hessians, factor**2)]
        found.append([*parts, cells.losses(F), cells.per_task(cells.inner(residuals, f)), cells.per_task(cells.weight)])
    for of_long, of_wide in zip(*found, strict=True):
        np.testing.assert_allclose(of_long, of_wide, atol=1e-12)


@layouts
@kinds
def test_weights_of_tasks_are_in_the_slope_of_the_total_loss(kind, layout):
    """A task alone does without its weight."""
    cells, step = make(kind, layout), 1e-5
    weighted = replace(cells, task_weight=np.array([1.0, 2.0, 0.0, 3.0, 0.5]))
    f = functions(cells)
    slopes = np.empty_like(f)
    for place in np.ndindex(f.shape):
        above, below = (weighted.total_loss(cells.at_cells(nudged(f, place, by))) for by in (step, -step))
        slopes[place] = (above - below) / (2 * step)
    scores = cells.at_cells(f)
    np.testing.assert_allclose(weighted.at_rows(weighted.derivatives(scores)[0]), -slopes, atol=1e-7)
    assert weighted.total_loss(scores) == pytest.approx(cells.losses(scores) @ weighted.task_weight)
    np.testing.assert_array_equal(weighted.losses(scores), cells.losses(scores))
    assert cells.total_loss(scores) == pytest.approx(cells.losses(scores).sum())
    assert weighted.of_task(3).task_weight is None


@layouts
@kinds
def test_the_cells_of_a_task_are_its_slice(kind, layout):
    cells = make(kind, layout)
    scores = scores_of(cells)
    losses, (residuals, _) = cells.losses(scores), cells.derivatives(scores)
    for t in range(cells.n_tasks):
        rows = cells.rows_of(t)
        assert list(rows) == list(np.flatnonzero((task_of_cells(cells) == t) & (cells.weight > 0)) % cells.y.shape[-1])
        own, at = cells.of_task(t), (..., rows) if layout == "long" else (t, ..., rows)
        assert (own.kind.name, own.width, own.n_tasks, list(own.counts)) == (kind, cells.width, 1, [len(rows)])
        of_task = scores[at] if layout == "long" else scores[t][:, rows]
        np.testing.assert_allclose(own.losses(of_task), losses[[t]])
        np.testing.assert_array_equal(
            own.derivatives(of_task)[0], residuals[:, rows] if layout == "long" else residuals[t][:, rows]
        )


@layouts
@kinds
def test_the_start_is_the_best_constant(kind, layout):
    """Of every task where the layout is wide, of all tasks where it is long."""
    cells = make(kind, layout, counts=(30, 40, 50), seed=3)
    start = cells.start()
    assert start.shape == (3, cells.width)
    residuals, _ = cells.derivatives(cells.constant(start))
    sums = np.stack([cells.per_task(residuals[..., k, :]) for k in range(cells.width)])
    np.testing.assert_allclose(sums.sum(axis=1) if layout == "long" else sums, 0, atol=1e-9)
    assert len(np.unique(start, axis=0)) == (1 if layout == "long" else 3)


@layouts
@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_a_start_never_rules_a_class_out(kind, layout):
    cells = make(kind, layout)
    cells.y[:] = 1
    start = cells.start()
    p = 1 / (1 + np.exp(-start[0])) if kind == "binary" else np.exp(start[0])
    np.testing.assert_allclose(p, [1 - 1e-6] if kind == "binary" else [1e-6, 1, 1e-6])


def labelled_rows(y, counts):
    """Rows without data, all scores 0."""
    targets = LongTargets(kind=KINDS["regression"], width=1, y=y, weight=np.ones(len(y)), counts=np.array(counts))
    return BinnedRows(data=None, targets=targets, scores=np.zeros((1, len(y))))


def test_constants_of_tasks_that_differ_by_chance_are_0():
    noise = np.tile([1.0, -1.0], 50)  # the mean of 100 labels is off by 0.1
    means = np.repeat([0.05, -0.05, 0.1, -0.1], 100)
    np.testing.assert_array_equal(labelled_rows(np.tile(noise, 4) + means, [100] * 4).shrunk_start(), np.zeros((4, 1)))


def test_constants_of_large_tasks_are_their_means_and_small_tasks_are_drawn_to_0():
    counts, means = [10_000, 10_000, 2, 0], np.array([1.0, -1.0, 1.0, 0.0])
    y = np.tile([1.0, -1.0], 10_001) + np.repeat(means, counts)
    start = labelled_rows(y, counts).shrunk_start()[:, 0]
    np.testing.assert_allclose(start[:2], means[:2], rtol=1e-3)
    assert 0.05 < start[2] < 0.6
    assert start[3] == 0


@given(st.sampled_from(sorted(WIDTHS)), st.sampled_from(["long", "wide"]), st.integers(0, 2**16))
def test_a_shrunk_constant_is_a_part_of_newtons_step(kind, layout, seed):
    cells = make(kind, layout, seed=seed)
    rows = BinnedRows(data=None, targets=cells, scores=scores_of(cells, seed))
    residuals, hessians = cells.derivatives(rows.scores)
    hessians = np.broadcast_to(hessians, residuals.shape)
    start = rows.shrunk_start()
    assert start.shape == (cells.n_tasks, cells.width)
    for k in range(cells.width):
        step = cells.per_task(residuals[..., k, :]) / (cells.per_task(hessians[..., k, :]) + 1e-300)
        assert (start[:, k] * step >= 0).all()
        assert (abs(start[:, k]) <= np.minimum(abs(step), np.inf if kind == "regression" else 2) + 1e-12).all()


@layouts
@kinds
def test_own_starts_are_the_best_constants_after_the_common_one(kind, layout):
    cells = make(kind, layout, counts=(30, 40, 50), seed=3)
    best = [cells.of_task(t).start()[0] for t in range(3)]
    np.testing.assert_allclose(cells.own_start() + cells.start(), best)


@kinds
def test_a_task_without_labels_prefers_no_class(kind):
    start = make(kind, "wide").start()[1]  # all its weights are 0
    np.testing.assert_allclose(start - start.mean(), 0)
    assert kind == "multiclass" or start[0] == 0
