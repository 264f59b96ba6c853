"""Means of targets by levels: their values, what they must not know, and what reads them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tabmtl.base.schema import FIRST_LEVEL, UNSEEN, Batch, Columns
from tabmtl.columns.features import Features
from tabmtl.estimators.mixing.levels import LEAST_LEVELS, PRIORS, LevelMeans, LevelRows
from tabmtl.targets import Task

TASKS = (
    Task(name="late", kind="binary", classes=("no", "yes")),
    Task(name="size", kind="multiclass", classes=("s", "m", "l")),
    Task(name="delay", kind="regression"),
)
N_LEVELS = 9


def columns(*n_levels):
    levels = tuple(tuple(f"level {k}" for k in range(n)) for n in n_levels)
    return Columns(
        numeric=("x",),
        categorical=tuple(f"c{j}" for j in range(len(levels))),
        levels=levels,
        has_missing=(False,),
        bins=((),),
    )


def rows(n=60, n_columns=1, seed=0, **parts):
    """Rows with some missing labels; codes of two levels, the missing one among them, are frequent."""
    rng = np.random.default_rng(seed)
    codes = rng.choice([0, *range(FIRST_LEVEL, FIRST_LEVEL + N_LEVELS)], (n, n_columns)).astype(np.int32)
    y = np.column_stack([rng.integers(0, 2, n), rng.integers(0, 3, n), rng.normal(size=n)]).astype(np.float64)
    y[rng.random(y.shape) < 0.3] = np.nan
    return Batch(x=Features(numbers=rng.normal(size=(n, 1)).astype(np.float32), codes=codes), **{"y": y, **parts})


def learn(batch, n_columns=1):
    found = LevelRows.learn(batch, columns(*[N_LEVELS] * n_columns), TASKS)
    assert found is not None
    return found


@pytest.fixture
def ten(monkeypatch):
    """Let the mean of all rows count as ten labels, without a choice."""
    monkeypatch.setattr("tabmtl.estimators.mixing.levels.PRIORS", (10.0,))


def by_hand(values, weights, codes, asked):
    """Means of values over the rows of each asked code, drawn to that of all rows by ten rows."""
    known = ~np.isnan(values)
    total = np.average(values[known], weights=weights[known])
    found = []
    for code in asked:
        own = known & (codes == code)
        found.append((values[own] @ weights[own] + 10 * total) / (weights[own].sum() + 10))
    return np.array(found)


def outputs(y):
    """The share of one of two classes, of each of three, and the rank of the number among its quantiles."""
    late, size, delay = y.T
    knots = np.quantile(delay[~np.isnan(delay)], np.linspace(0, 1, 65))
    rank = np.array([((knots < value).sum() + (knots <= value).sum()) / 130 for value in delay])
    return [
        np.where(np.isnan(late), np.nan, late == 1),
        *(np.where(np.isnan(size), np.nan, size == k) for k in range(3)),
        np.where(np.isnan(delay), np.nan, rank),
    ]


@pytest.mark.parametrize("is_weighed", [False, True])
def test_means_are_those_of_the_rows_of_a_level(is_weighed, ten):
    weight = np.random.default_rng(1).uniform(0.5, 3, (60, 3)) if is_weighed else None
    batch = rows(n_columns=2, weight=weight)
    found = learn(batch, 2).whole
    asked = rows(30, 2, seed=1)
    asked.x.codes[0] = UNSEEN
    numbers = found.numbers_of(asked)
    assert numbers.dtype == np.float32
    assert numbers.shape == (30, 2 * 6) == (30, found.n_numbers)
    weights = np.ones((60, 3)) if weight is None else weight
    for j, own in enumerate(np.split(numbers, 2, axis=1)):
        codes = batch.x.codes[:, j]
        for o, (value, t) in enumerate(zip(outputs(batch.y), (0, 1, 1, 1, 2), strict=True)):
            expected = by_hand(value, weights[:, t], codes, asked.x.codes[:, j])
            assert_allclose(own[:, o], expected, rtol=1e-5)
        counts = [(codes == code).sum() for code in asked.x.codes[:, j]]
        assert_allclose(own[:, 5], np.log1p(counts), rtol=1e-5)


def test_priors_are_those_that_predict_the_other_rows_best():
    """Levels of two columns: the first tells the number, the second nothing."""
    batch = rows(2_000, n_columns=2)
    batch.y[:, 2] = batch.x.codes[:, 0] + np.random.default_rng(1).normal(size=2_000) / 100
    priors = learn(batch, 2).whole.priors
    assert priors[0, -1] == PRIORS[0] and priors[1, -1] == PRIORS[-1]


def test_factors_of_classes_are_no_weights_of_means():
    of_class = np.random.default_rng(1).uniform(0.5, 3, (60, 3))
    batch = rows()
    found = learn(replace(batch, weight=2 * of_class, of_class=of_class)).whole
    doubled = learn(replace(batch, weight=np.full((60, 3), 2.0))).whole
    assert_allclose(found.sums, doubled.sums)
    assert_allclose(found.weights, doubled.weights)


def test_a_far_label_moves_a_mean_as_any_other_does():
    batch = rows()
    y = batch.y.copy()
    y[np.nanargmax(y[:, 2]), 2] = 1e9
    assert_allclose(learn(replace(batch, y=y)).whole.numbers_of(batch), learn(batch).whole.numbers_of(batch), atol=1e-6)


def test_an_unseen_level_has_the_mean_of_all_and_a_missing_one_its_own():
    batch = rows(400)
    batch.y[:, 0] = batch.x.codes[:, 0] == 0  # missing
    found = learn(batch).whole
    asked = rows(3)
    asked.x.codes[:, 0] = [UNSEEN, 0, FIRST_LEVEL]
    numbers = found.numbers_of(asked)
    assert numbers[0, 0] == pytest.approx(batch.y[:, 0].mean())
    assert numbers[0, -1] == 0
    assert numbers[1, 0] > 0.8 > 0.1 > numbers[2, 0]


def test_codes_beyond_those_of_the_fit_are_unseen():
    """A coder that has learned further rows knows more levels."""
    batch = rows()
    found, asked = learn(batch).whole, rows(2)
    asked.x.codes[:, 0] = [UNSEEN, FIRST_LEVEL + N_LEVELS + 3]
    first, second = found.numbers_of(asked)
    assert_array_equal(first, second)


def test_extended_rows_have_the_means_behind_their_numbers():
    batch = rows()
    found = learn(batch).whole
    extended = found.extended(batch)
    assert_array_equal(extended.x.numbers, np.column_stack([batch.x.numbers, found.numbers_of(batch)]))
    assert extended.y is batch.y
    blank = found.blank(batch)
    assert blank.x.numbers.shape == extended.x.numbers.shape and not blank.x.numbers[:, 1:].any()
    wide = found.columns(columns(N_LEVELS))
    assert len(wide.numeric) == extended.x.numbers.shape[1] and wide.numeric[0] == "x"


def parted_of(batch, part, whole=None):
    """The rows of a fit in parts, whose labels of numbers may have the ranks of another fit."""
    learned = learn(batch)
    if whole is not None:
        learned = LevelRows(
            whole=replace(learned.whole, knots=whole.knots),
            levels=learned.levels,
            values=np.nan_to_num(whole._values(batch)[0] * learned.weights),
            weights=learned.weights,
            task=None,
        )
    return learned.whole, learned.parted(part)


@pytest.mark.parametrize("is_chosen", [False, True])
@given(data=st.data())
def test_no_label_of_its_own_part_or_of_the_part_held_changes_a_row(is_chosen, data):
    """Labels of its own part may only move the choice of the prior; those of the part held may not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tabmtl.estimators.mixing.levels.PRIORS", PRIORS if is_chosen else (10.0,))
        check_that_no_label_changes_a_row(data, is_chosen)


def check_that_no_label_changes_a_row(data, is_held):
    part = np.arange(60) % 5 + 1
    batch = rows()
    changed = data.draw(st.integers(1, 5))
    held = changed if is_held else data.draw(st.integers(0, 5))
    y = batch.y.copy()
    at = data.draw(st.lists(st.sampled_from(np.flatnonzero(part == changed).tolist()), min_size=1))
    y[at, 0], y[at, 1] = (data.draw(st.sampled_from([0.0, 1.0, np.nan])) for _ in range(2))
    y[at, 2] = data.draw(st.sampled_from([-1e6, 0.0, 1e6, np.nan]))
    every = np.arange(60)
    whole, before = parted_of(batch, part)
    _, after = parted_of(replace(batch, y=y), part, whole)
    blind = np.flatnonzero(part == changed) if changed != held else every
    assert_array_equal(before.numbers(blind, held), after.numbers(blind, held))


def test_parts_read_the_means_of_the_other_parts(ten):
    batch, part = rows(), np.arange(60) % 4 + 1
    learned = learn(batch)
    parts = learned.parted(part)
    for held in (0, 2):
        numbers = parts.numbers(np.arange(60), held)
        for own in range(1, 5):
            others = (part != own) & (part != held)
            expected = by_hand(outputs(batch.y)[0][others], np.ones(60)[others], batch.x.codes[others, 0], range(11))
            assert_allclose(numbers[part == own, 0], expected[batch.x.codes[part == own, 0]], rtol=1e-5)
    counts = np.log1p([(batch.x.codes[:, 0] == code).sum() for code in batch.x.codes[:, 0]])
    assert_allclose(parts.numbers(np.arange(60))[:, -1], counts, rtol=1e-6)


def test_nothing_is_learned_from_rows_of_no_part(ten):
    batch = rows()
    part = np.where(np.arange(60) < 20, -1, 1 + np.arange(60) % 4)
    numbers = learn(batch).parted(part).numbers(np.arange(60))
    without, kept = outputs(batch.y)[0][20:], batch.x.codes[20:, 0]
    expected = by_hand(without, np.ones(40), kept, batch.x.codes[:20, 0])
    assert_allclose(numbers[:20, 0], expected, rtol=1e-5)


def test_sums_of_halves_are_those_of_the_whole():
    batch = rows(n_columns=2)
    whole = learn(batch, 2).whole
    empty = replace(whole, sums=0 * whole.sums, weights=0 * whole.weights, rows=0 * whole.rows)
    halves = empty.added(batch.rows(np.arange(25))).added(batch.rows(np.arange(25, 60)))
    for name in ("sums", "weights", "rows"):
        assert_allclose(getattr(halves, name), getattr(whole, name), atol=1e-12)


def test_without_a_task_the_others_keep_their_means():
    batch = rows()
    whole = learn(batch).whole
    fewer = whole.without(1)
    assert_array_equal(fewer.task, [0, -1, -1, -1, 1])
    asked = replace(batch, y=batch.y[:, [0, 2]])
    assert_array_equal(fewer.numbers_of(asked), whole.numbers_of(batch))
    more = fewer.added(asked)
    assert_allclose(more.sums[:, [0, 4]], 2 * whole.sums[:, [0, 4]])
    assert_array_equal(more.sums[:, 1:4], whole.sums[:, 1:4])
    assert_array_equal(fewer.is_own(1), [False, False, False, False, True, True])


def long_rows(n=80, n_tasks=3):
    batch = rows(n)
    task = np.arange(n) % n_tasks
    return replace(batch, y=batch.y[:, :1], task=task)


def test_long_rows_have_the_means_of_their_task_and_of_all(ten):
    tasks = [replace(TASKS[0], name=name) for name in "abc"]
    batch = long_rows()
    found = LevelRows.learn(batch, columns(N_LEVELS), tasks)
    numbers, labels, codes = found.whole.numbers_of(batch), batch.y[:, 0], batch.x.codes[:, 0]
    assert found.whole.is_long and numbers.shape == (80, 3) == (80, found.whole.n_numbers)
    for t in range(3):
        own = batch.task == t
        assert_allclose(numbers[own, 0], by_hand(labels[own], np.ones(own.sum()), codes[own], codes[own]), rtol=1e-5)
    assert_allclose(numbers[:, 1], by_hand(labels, np.ones(80), codes, codes), rtol=1e-5)
    assert_array_equal(found.whole.is_own(1), [True, False, True])
    part = np.arange(80) % 4 + 1
    parts = found.parted(part).numbers(np.arange(80))
    own, others = (batch.task == 1) & (part == 2), (batch.task == 1) & (part != 2)
    expected = by_hand(labels[others], np.ones(others.sum()), codes[others], codes[own])
    assert_allclose(parts[own, 0], expected, rtol=1e-5)
    for task in (-1, 7):  # unknown ones have the common mean
        unknown = found.whole.numbers_of(replace(batch, task=np.full(80, task)))
        assert_array_equal(unknown[:, 0], numbers[:, 1])
        assert_array_equal(unknown[:, 1:], numbers[:, 1:])


def test_long_rows_of_one_task():
    batch = long_rows(n_tasks=1)
    found = LevelRows.learn(batch, columns(N_LEVELS), TASKS[:1])
    if found is not None:
        assert found.whole.numbers_of(batch).shape == (80, found.whole.n_numbers)


@pytest.mark.parametrize(
    ("n_levels", "tasks"),
    [
        ((LEAST_LEVELS - 1,), TASKS),
        ((), TASKS),
        ((N_LEVELS,), (Task(name="many", kind="multiclass", classes=tuple("abcdefghijk")),)),
        ((N_LEVELS,) * 26, (Task(name="ten", kind="multiclass", classes=tuple("abcdefghij")),)),  # 286 numbers
    ],
)
def test_tables_without_means_of_levels(n_levels, tasks):
    batch = rows(n_columns=len(n_levels))
    batch = replace(batch, y=batch.y[:, : len(tasks)])
    assert LevelRows.learn(batch, columns(*n_levels), tasks) is None


def test_columns_of_few_levels_have_no_means():
    batch = rows(n_columns=2)
    batch.x.codes[:, 0] = 2
    found = LevelRows.learn(batch, columns(3, N_LEVELS), TASKS).whole
    assert_array_equal(found.places, [1])
    assert found.n_numbers == 6
    gains = found.gains(np.arange(9.0), 1)  # a number, 6 means, 2 columns of codes
    assert_array_equal(gains, [0, 7, 8 + sum(range(1, 7))])


def test_numbers_are_at_most_256():
    ten = Task(name="ten", kind="multiclass", classes=tuple("abcdefghij"))
    batch = replace(rows(n_columns=23), y=rows().y[:, :1])
    assert LevelRows.learn(batch, columns(*[N_LEVELS] * 23), (ten,)).whole.n_numbers == 253


def test_arrays_that_are_no_means():
    found = learn(rows()).whole
    with pytest.raises(ValueError, match=r"there are sums \(11, 5\) of 12 levels and 5 outputs"):
        replace(found, sizes=found.sizes + 1)
    with pytest.raises(ValueError, match="of other columns or tasks"):
        found.check(columns(N_LEVELS - 1), TASKS)
    with pytest.raises(ValueError, match="of other columns or tasks"):
        found.check(columns(N_LEVELS), TASKS[:2])
    found.check(columns(N_LEVELS), TASKS)
    assert isinstance(found, LevelMeans)
