"""Intervals of scores hold what they promise, for rare classes too, and say where there is nothing to promise."""

import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from tabmtl.base.schema import TabmtlWarning
from tabmtl.inspection.comparison.judging import warn_of_unjudged
from tabmtl.metrics.intervals import (
    estimate,
    estimate_tasks,
    joint_level,
    mean_estimate,
    score_difference,
    score_interval,
    score_intervals,
)
from tabmtl.metrics.scores import Answered, score_task
from tabmtl.targets import Task

LATE = Task(name="late", kind="binary", classes=("no", "yes"))


def delays(*names):
    return [Task(name=name, kind="regression", metric="r2") for name in names]


def mean_difference(tasks, y, outputs, reference, own_task=None, group=None):
    """The mean over the tasks that have a difference."""
    both = [Answered(tasks, y, each, own_task=own_task, group=group) for each in (outputs, reference)]
    found = estimate_tasks(both[:1], both[1:])
    return mean_estimate([each for each in found if each is not None]).interval()


def two_columns(score):
    """Probabilities of two classes in the order of any scores."""
    positive = stats.norm.cdf(score)
    return np.column_stack([1 - positive, positive])


def rare_rows(rng, n, n_positive, distance=1.2):
    """Labels of which a given number is positive, and scores that are normal in both classes."""
    y = np.zeros(n)
    y[rng.permutation(n)[:n_positive]] = 1
    return y, rng.normal(size=n) + distance * y


def placement_values(y, score):
    """The two means of the n1 x n0 comparisons, in O(n²)."""
    differences = score[y == 1][:, None] - score[y == 0]
    wins = (differences > 0) + 0.5 * (differences == 0)
    return wins.mean(axis=1), wins.mean(axis=0)


@pytest.mark.parametrize("decimals", [8, 0])
def test_auc_error_is_that_of_delong_with_and_without_ties(decimals):
    y, score = rare_rows(np.random.default_rng(0), 300, 20)
    score = np.round(score, decimals)
    of_positive, of_negative = placement_values(y, score)
    expected = math.sqrt(of_positive.var(ddof=1) / 20 + of_negative.var(ddof=1) / 280)
    interval = score_interval(LATE, y, two_columns(score))
    assert interval.score == pytest.approx(of_positive.mean())
    assert interval.standard_error == pytest.approx(expected, rel=1e-12)


def test_error_of_a_difference_is_that_of_delongs_covariance():
    rng = np.random.default_rng(1)
    y, score = rare_rows(rng, 300, 20)
    other = score + rng.normal(size=300)
    parts = [placement_values(y, each) for each in (score, other)]
    covariance = sum(np.cov(first, second) / len(first) for first, second in zip(*parts, strict=True))
    difference = score_difference(LATE, y, two_columns(score), two_columns(other))
    expected = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert difference.standard_error**2 == pytest.approx(expected, rel=1e-9)
    assert expected < 0.8 * (covariance[0, 0] + covariance[1, 1])
    assert difference.low < difference.score < difference.high
    assert difference.score + difference.low < 2 * difference.score < difference.score + difference.high


@pytest.mark.parametrize(
    ("distance", "n_positive", "n"),
    [pytest.param(1.2, 20, 20_000, marks=pytest.mark.all_faces), (2.0, 50, 2_000), (3.0, 20, 2_000)],
)
def test_intervals_of_rare_tasks_hold_the_true_auc_as_often_as_they_say(distance, n_positive, n):
    rng = np.random.default_rng(1)
    truth = stats.norm.cdf(distance / math.sqrt(2))
    held = 0
    for _ in range(300):
        y, score = rare_rows(rng, n, n_positive, distance)
        interval = score_interval(LATE, y, two_columns(score))
        held += interval.low <= truth <= interval.high
    assert 0.90 <= held / 300 <= 0.99


def test_intervals_stay_where_scores_can_be():
    rng = np.random.default_rng(0)
    y, score = rare_rows(rng, 60, 6, distance=1.0)
    for metric in ("roc_auc", "average_precision", "f1", "accuracy", "balanced_accuracy", "neg_log_loss"):
        interval = score_interval(Task(name="a", kind="binary", metric=metric), y, two_columns(score), level=0.999)
        assert (-math.inf if metric == "neg_log_loss" else 0) <= interval.low < interval.score
        assert interval.score < interval.high <= (0 if metric == "neg_log_loss" else 1)
    value = rng.normal(size=4)
    for metric in ("r2", "explained_variance", "neg_mean_absolute_error"):
        task = Task(name="a", kind="regression", metric=metric)
        interval = score_interval(task, value, value + 0.1 * rng.normal(size=4), level=0.999)
        assert interval.low < interval.score < interval.high < (0 if metric.startswith("neg") else 1)


def test_a_perfect_auc_is_as_certain_as_its_rarest_class_allows():
    y = np.repeat([0.0, 1.0], [500, 12])
    for sign, low, high in ((1, 0.025 ** (1 / 12), 1.0), (-1, 0.0, 1 - 0.025 ** (1 / 12))):
        interval = score_interval(LATE, y, two_columns(sign * y))
        assert interval == (max(sign, 0), 0, pytest.approx(low), pytest.approx(high))
    assert score_interval(LATE, y, np.full((512, 2), 0.5)) == pytest.approx((0.5, 0, 0.5, 0.5))  # known as constant
    nearly = y.copy()
    nearly[0] = 1  # ties with the positives
    assert score_interval(LATE, y, two_columns(nearly)).low <= 0.025 ** (1 / 12)


ONE, TEN = np.repeat([0.0, 1.0], [49, 1]), np.repeat([0.0, 1.0], [40, 10])
NO_INTERVAL = [
    *((metric, ONE, None, "the class 1 has one single lab") for metric in ("roc_auc", "average_precision", "f1")),
    ("roc_auc", TEN, np.append(np.arange(40), np.zeros(10)), "the class 1 has one single group of labelled rows"),
    ("roc_auc", np.zeros(50), None, "one single class"),
    ("neg_mean_absolute_error", np.append(2.0, np.full(49, np.nan)), None, "there is one single labelled row"),
]


@pytest.mark.parametrize(("metric", "y", "group", "reason"), NO_INTERVAL)
def test_few_labels_have_a_score_without_interval_or_none(metric, y, group, reason):
    task = Task(name="late", kind="regression" if metric.startswith("neg") else "binary", metric=metric)
    first, second = (np.random.default_rng(seed).normal(size=50) for seed in (0, 1))
    if task.kind.name == "binary":
        first, second = two_columns(first), two_columns(second)
    with pytest.warns(TabmtlWarning, match=f"task 'late'.*{reason}"):
        interval = score_interval(task, y, first, group=group)
    with pytest.warns(TabmtlWarning, match=reason):
        difference = score_difference(task, y, first, second, group=group)
    assert interval[1:] == difference[1:] == (None, None, None)
    expected = None if reason == "one single class" else score_task(task, y, first)
    assert interval.score == expected and (difference.score is None) == (expected is None)


def test_the_calibration_error_has_no_interval_and_says_so_where_it_matters():
    rng = np.random.default_rng(0)
    p, metric = rng.uniform(size=200), "neg_expected_calibration_error"
    task = Task(name="late", kind="binary", metric=(metric, "roc_auc"))
    y, outputs = (rng.random(200) < p).astype(float), [np.column_stack([1 - own, own]) for own in (p, p**2)]
    found = score_intervals([task], y[:, None], outputs[:1])
    assert found.filter(metric=metric).select("standard_error", "low", "high").row(0) == (None, None, None)
    assert found["low"].null_count() == 1
    difference = score_difference(task, y, *outputs)
    assert difference.score > 0
    assert difference[1:] == (None, None, None)
    with pytest.warns(
        TabmtlWarning, match="no part in the verdict: no error of .* is known.*name another metric first"
    ):
        warn_of_unjudged([task], y[:, None], None, None)


def test_rows_without_label_or_weight_count_nowhere():
    rng = np.random.default_rng(0)
    y, score = rare_rows(rng, 200, 30)
    weight = np.where(rng.random(200) < 0.3, 0.0, 2.0)
    hidden = np.where(weight == 0, np.nan, y)
    expected = score_interval(LATE, y[weight > 0], two_columns(score[weight > 0]))
    assert score_interval(LATE, hidden, two_columns(score)) == expected
    assert score_interval(LATE, y, two_columns(score), weight) == pytest.approx(expected)


def test_equal_models_do_not_differ_and_a_wider_level_is_wider():
    y, score = rare_rows(np.random.default_rng(0), 200, 30)
    assert score_difference(LATE, y, two_columns(score), two_columns(2 * score + 1)) == (0, 0, 0, 0)
    narrow, wide = (score_interval(LATE, y, two_columns(score), level=level) for level in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    for call in (score_interval, lambda *args, level: score_difference(*args, args[-1], level=level)):
        with pytest.raises(ValueError, match=r"between 0 and 1, such as 0\.95, got 95"):
            call(LATE, y, two_columns(score), level=95)


def test_tables_of_both_layouts_hold_every_task():
    rng = np.random.default_rng(0)
    y, score = rare_rows(rng, 200, 30)
    y[:50] = np.nan
    other = rng.normal(size=200)
    tasks = [LATE, Task(name="delay", kind="regression")]
    wide = score_intervals(tasks, np.column_stack([y, other]), [two_columns(score), other / 2])
    assert wide.schema == dict.fromkeys(("task", "metric"), pl.String) | dict.fromkeys(
        ("score", "standard_error", "low", "high"), pl.Float64
    ) | dict.fromkeys(("n_labelled", "n_positive"), pl.Int64) | {"positive_class": pl.String}
    assert wide["n_labelled"].to_list() == [150, 200]
    assert wide["n_positive"].to_list() == [np.nansum(y), None]
    assert wide.row(0)[2:6] == score_interval(LATE, y, two_columns(score))
    early = Task(name="early", kind="binary", classes=("no", "yes"))
    own = np.repeat([0, 1], 100)
    long = score_intervals([early, LATE], y[:, None], [two_columns(score)], None, own)
    assert long.row(1)[2:6] == score_interval(LATE, y[100:], two_columns(score[100:]))
    assert long["n_labelled"].to_list() == [50, 100]


def test_a_mean_difference_counts_what_tasks_share_once():
    rng = np.random.default_rng(5)
    y = rng.normal(size=(200, 1))
    y[:20] = np.nan
    first, second = (y[:, 0] + rng.normal(size=200) for _ in range(2))
    (task,) = delays("a")
    single = score_difference(task, y[:, 0], first, second)
    twice = mean_difference(delays("a", "b"), np.hstack([y, y]), [first, first], [second, second])
    assert twice == pytest.approx(single)  # the second task says nothing new
    opposite = mean_difference(delays("a", "b"), np.hstack([y, y]), [first, second], [second, first])
    assert opposite == pytest.approx((0, 0, 0, 0), abs=1e-12)


def test_a_mean_difference_over_tasks_of_other_rows_adds_their_variances():
    rng = np.random.default_rng(6)
    y, own = rng.normal(size=(200, 1)), np.arange(200) % 2
    first, second = (y[:, 0] + rng.normal(size=200) for _ in range(2))
    mean = mean_difference(delays("a", "b"), y, [first], [second], own)
    parts = [
        score_difference(task, y[own == t, 0], first[own == t], second[own == t])
        for t, task in enumerate(delays("a", "b"))
    ]
    assert mean.score == pytest.approx(np.mean([part.score for part in parts]))
    assert mean.standard_error == pytest.approx(math.hypot(*(part.standard_error for part in parts)) / 2)
    assert mean.low < mean.score < mean.high


def test_a_mean_difference_leaves_undefined_tasks_out():
    rng = np.random.default_rng(7)
    y = np.column_stack([rng.normal(size=50), np.full(50, np.nan)])
    first, second = rng.normal(size=(2, 50))
    a, b = delays("a", "b")
    with pytest.warns(TabmtlWarning, match="task 'b': r2 is undefined"):
        both = mean_difference([a, b], y, [first, first], [second, second])
    assert both == pytest.approx(score_difference(a, y[:, 0], first, second))
    one = np.where(np.arange(50) > 0, 0.0, 1.0)[:, None]  # a single positive row
    found = mean_difference([LATE], one, [two_columns(first)], [two_columns(second)])
    assert found.score is not None and found[1:] == (None, None, None)


@pytest.mark.parametrize("metric", ["r2", "roc_auc", "balanced_accuracy"])
def test_rows_that_repeat_in_their_group_tell_nothing_new(metric):
    """Five copies of every row, said to be one group, leave the error where it was."""
    rng = np.random.default_rng(0)
    y, first, second = rng.normal(size=(3, 60))
    task = Task(name="a", kind="regression" if metric == "r2" else "binary", metric=metric)
    rows, group = np.repeat(np.arange(60), 5), np.repeat(rng.permutation(60), 5)
    if metric != "r2":
        y, first, second = (y > 0.5).astype(float), two_columns(first), two_columns(second)
    copied = [each[rows] for each in (y, first, second)]
    assert score_interval(task, *copied[:2], group=group) == pytest.approx(score_interval(task, y, first))
    assert score_difference(task, *copied, group=group) == pytest.approx(score_difference(task, y, first, second))
    assert score_interval(task, *copied[:2]).standard_error < 0.5 * score_interval(task, y, first).standard_error
    table = score_intervals([task], copied[0][:, None], [copied[1]], group=group)
    assert table.row(0)[2:6] == score_interval(task, *copied[:2], group=group)


@pytest.mark.parametrize("sizes", ["equal", "unequal"])
def test_intervals_over_groups_hold_as_often_as_they_say(sizes):
    """Half of the error is that of the group, so rows taken as independent would be far too sure."""
    rng = np.random.default_rng(0)
    group = np.arange(400) // 20 if sizes == "equal" else np.repeat(np.arange(20), np.arange(20) + 5)
    (task,), missed, too_sure = delays("a"), 0, 0
    for _ in range(300):
        y = rng.normal(size=len(group))
        first, second = (y + rng.normal(size=len(group)) + rng.normal(size=20)[group] for _ in range(2))
        for is_told in (True, False):
            _, _, low, high = score_difference(task, y, first, second, group=group if is_told else None)
            missed += is_told and not low <= 0 <= high
            too_sure += not is_told and not low <= 0 <= high
    assert missed <= 0.05 * 300 + 2 * math.sqrt(0.05 * 0.95 * 300) < 90 < too_sure


def test_the_bound_of_a_mean_over_classes_is_not_that_of_the_rarest():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4.0), [5, 100, 100, 100])
    output = rng.dirichlet(np.ones(4), 305) + 0.2 * np.eye(4)[y.astype(int)]
    task = Task(name="kind", kind="multiclass", metric="roc_auc")
    found = score_interval(task, y, output)
    assert found.low == pytest.approx(found.score - 2 * found.standard_error, abs=0.03)
    assert found.low > 0.025 ** (1 / 5) + 0.1  # the bound of the rarest class, were all of it in order
    perfect = score_interval(task, y, np.eye(4)[y.astype(int)])
    assert perfect.low == pytest.approx((0.025 ** (1 / 5) + 3 * 0.025 ** (1 / 100)) / 4)


def rivals_of(y, n, rng, shared=0.0):
    """Differences of n rivals to a reference; a part of their errors may be that of all rivals."""
    (task,), same = delays("a"), rng.normal(size=len(y))
    outputs = [y + math.sqrt(shared) * same + math.sqrt(1 - shared) * rng.normal(size=len(y)) for _ in range(n)]
    return [estimate(task, y, [output], [y + rng.normal(size=len(y))]) for output in outputs]


def test_a_joint_level_grows_with_what_is_told_apart():
    rng = np.random.default_rng(0)
    y = rng.normal(size=5_000)  # more rows than bundles
    alone, few, many = (joint_level(rivals_of(y, n, rng)) for n in (1, 5, 20))
    assert alone == 0.95
    assert few == pytest.approx(0.95 ** (1 / 5), abs=0.001)  # nearly independent
    assert many == pytest.approx(0.95 ** (1 / 20), abs=0.001)
    (one,) = rivals_of(y, 1, rng)
    assert joint_level([one] * 20) == pytest.approx(0.95, abs=0.005)
    (task,) = delays("a")
    still = estimate(task, y, [y + 1], [y + 1])  # equal to its reference
    assert joint_level([one, still]) == 0.95
    assert joint_level([one], 0.8) == 0.8


def test_the_spread_over_seeds_is_a_part_of_the_error():
    rng = np.random.default_rng(0)
    y, (task,) = rng.normal(size=400), delays("a")
    reference = y + rng.normal(size=400)
    steady = estimate(task, y, [y / 2] * 3, [reference] * 3)
    assert steady.spread == pytest.approx(0)
    assert steady.error == pytest.approx(score_difference(task, y, y / 2, reference).standard_error)
    moved = estimate(task, y, [y / 2, y / 3, y / 4], [reference] * 3)
    singles = [score_difference(task, y, y / k, reference) for k in (2, 3, 4)]
    assert moved.score == pytest.approx(np.mean([each.score for each in singles]))
    assert moved.spread == pytest.approx(np.std([each.score for each in singles], ddof=1))
    of_rows = moved.influence[moved.units >= 0]
    assert moved.error**2 == pytest.approx(np.square(of_rows).sum() + moved.spread**2 / 3)
    assert steady.interval() == pytest.approx(score_difference(task, y, y / 2, reference))
    assert moved.margin(0.95) > moved.spread / math.sqrt(3) * stats.t.ppf(0.975, 2)
    twice = mean_estimate([moved, moved])
    assert twice.interval() == pytest.approx(moved.interval()) and twice.spread == pytest.approx(moved.spread)


def test_few_seeds_are_trusted_as_little_as_they_deserve():
    """The spread of two seeds has one degree of freedom, and does not tell which models move together."""
    rng = np.random.default_rng(0)
    y, (task,) = rng.normal(size=400), delays("a")
    found = []
    for _ in range(9):
        fits, references = np.split(y + 1e-3 * rng.normal(size=(4, 400)) * rng.uniform(1, 9, size=(4, 1)), 2)
        found.append(estimate(task, y, fits, references))
    for each in [*found, mean_estimate(found)]:
        assert each.margin(0.95) == pytest.approx(12.7062 * each.spread / math.sqrt(2), rel=0.05)
    assert joint_level(found) > 0.95 ** (1 / 7)  # nearly independent, for all that is known


def test_small_groups_beside_a_large_one_add_little_certainty():
    rng = np.random.default_rng(0)
    y, (task,) = rng.normal(size=400), delays("a")
    for sizes, freedom in (([200, *[10] * 20], 400**2 / (200**2 + 20 * 10**2) - 1), ([20] * 20, 19), ([399, 1], 1)):
        group = np.repeat(np.arange(len(sizes)), sizes)
        assert estimate(task, y, [y + rng.normal(size=400)], (), None, group).freedom == pytest.approx(freedom)


def test_a_task_of_few_rows_does_not_rule_the_mean():
    rng = np.random.default_rng(0)
    y, first, second = rng.normal(size=(3, 400))
    few = np.where(np.arange(400) < 3, y, np.nan)
    a, b = delays("a", "b")
    answers = [[first, y + 0.1 * first], [second, y + 0.1 * second]]
    ours, theirs = ([Answered([a, b], np.column_stack([y, few]), each)] for each in answers)
    parts = estimate_tasks(ours, theirs)
    mean = mean_estimate(parts)
    assert parts[1].freedom == 2 and parts[0].freedom == 399
    assert 20 < mean.freedom < 399
    assert mean.score == pytest.approx(np.mean([each.score for each in parts]))
