"""Thresholds are the best ones of their rows, and their score is that of other rows."""

import numpy as np
import pytest
from cases import later
from numpy.testing import assert_allclose

from tabmtl.metrics.scores import score_task
from tabmtl.targets import Task
from tabmtl.targets.classes import above_each
from tabmtl.targets.decisions.goals import goal_of, goals_of
from tabmtl.targets.decisions.thresholds import Rows, choose, deal, tune

LATE = Task(name="late", kind="binary", classes=("no", "yes"))
GRADE = Task(name="grade", kind="ordinal", classes=(1, 2, 3, 4))


def drawn(n_classes=2, n=80, seed=0, decimals=2):
    """Draw rows with many ties."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.linspace(2, 1, n_classes), size=n).round(decimals)
    p[:, 0] = 1 - p[:, 1:].sum(axis=1)
    y = (rng.random((n, 1)) > np.cumsum(p, axis=1)).sum(axis=1).clip(max=n_classes - 1)
    return Rows(y, p, rng.uniform(0.1, 2, size=n), None)


def all_score(task, metric, rows, thresholds):
    """Score the decisions at thresholds, as scores of a model do."""
    judged = task.judged_by(metric).at(thresholds)
    return score_task(judged, rows.y.astype(float), rows.p, rows.weight)


@pytest.mark.parametrize("metric", goals_of(LATE))
@pytest.mark.parametrize("seed", later(range(3), 1, 2))
def test_no_other_threshold_of_two_classes_is_better(metric, seed):
    rows = drawn(seed=seed)
    found = choose(rows, goal_of(LATE, metric, None), np.zeros(len(rows.y), dtype=int))
    others = [all_score(LATE, metric, rows, (t,)) for t in np.linspace(0, 1, 301)]
    assert all_score(LATE, metric, rows, found) >= max(others) - 1e-12


@pytest.mark.parametrize("metric", goals_of(GRADE))
def test_no_single_threshold_of_ordered_classes_is_better_elsewhere(metric):
    rows = drawn(4)
    found = choose(rows, goal_of(GRADE, metric, None), np.zeros(len(rows.y), dtype=int))
    best = all_score(GRADE, metric, rows, found)
    assert best >= all_score(GRADE, metric, rows, (0.5, 0.5, 0.5)) - 1e-12
    for k in range(3):
        others = [(*found[:k], t, *found[k + 1 :]) for t in np.linspace(0, 1, 101)]
        assert best >= max(all_score(GRADE, metric, rows, each) for each in others) - 1e-12


def test_the_threshold_of_calibrated_probabilities_is_that_of_the_costs():
    rows = drawn(n=20_000, decimals=4)
    costs = {("yes", "no"): 9.0, ("no", "yes"): 1.0}
    (found,), tuned = tune(LATE, rows, goal_of(LATE, None, costs))
    assert found == pytest.approx(1 / 10, abs=0.03)
    expected = np.minimum(9 * rows.p[:, 1], 1 - rows.p[:, 1])
    assert -tuned.score == pytest.approx(np.average(expected, weights=rows.weight), abs=4 * tuned.standard_error)
    assert tuned.score > tuned.default_score
    bold = rows.p[:, 1] ** 3  # of which the costs tell nothing
    (found,), better = tune(
        LATE, Rows(rows.y, np.column_stack([1 - bold, bold]), rows.weight, None), goal_of(LATE, None, costs)
    )
    assert found == pytest.approx(1 / 10**3, abs=1e-3)
    assert better.score == pytest.approx(tuned.score, abs=tuned.standard_error)


def test_a_mistake_that_costs_too_much_is_never_made():
    for seed, label in enumerate((0, 1)):
        rows, pair = drawn(seed=seed), LATE.classes if label == 0 else LATE.classes[::-1]
        found, _ = tune(LATE, rows, goal_of(LATE, None, {pair: 1000.0, pair[::-1]: 0.001}))
        assert (LATE.at(found).decide(rows.p)[rows.y == label] == label).all()
    sure = Rows(rows.y, np.eye(2)[np.ones(80, dtype=int)], rows.weight, None)
    found, _ = tune(LATE, sure, goal_of(LATE, None, {("no", "yes"): 1000.0, ("yes", "no"): 0.001}))
    assert not LATE.at(found).decide(sure.p).any()


@pytest.mark.all_faces
def test_groups_stay_whole_and_count_by_folds():
    rng, rows = np.random.default_rng(0), drawn(n=600)
    rows = Rows(rows.y, rows.p, np.ones(600), rng.integers(0, 40, size=600))
    fold = deal(rows)
    assert all(len(set(fold[rows.group == g])) == 1 for g in range(40))
    assert {len(set(rows.y[fold == f])) for f in range(5)} == {2}
    goal = goal_of(LATE, "f1", None)
    (found,) = choose(rows, goal, fold)

    def mean(threshold):
        return np.mean([all_score(LATE, "f1", rows.take(np.flatnonzero(fold == f)), (threshold,)) for f in range(5)])

    assert mean(found) >= max(mean(t) for t in np.linspace(0, 1, 201)) - 1e-12
    _, tuned = tune(LATE, rows, goal)
    _, plain = tune(LATE, Rows(rows.y, rows.p, rows.weight, None), goal)
    assert tuned.standard_error > 0
    assert tuned.standard_error != plain.standard_error


def noise(rng, n=40):
    """Draw labels and probabilities that know nothing of each other."""
    p = rng.random(n)
    return Rows(np.arange(n) % 2, np.column_stack([1 - p, p]), np.ones(n), None)


def test_the_score_is_that_of_rows_that_chose_nothing():
    rng, scores, goal = np.random.default_rng(0), [], goal_of(LATE, "balanced_accuracy", None)
    for _ in range(12):
        rows = noise(rng)
        best = choose(rows, goal, np.zeros(40, dtype=int))
        scores.append((all_score(LATE, "balanced_accuracy", rows, best), tune(LATE, rows, goal)[1].score))
    own, unseen = np.mean(scores, axis=0)
    assert own > 0.55
    assert unseen < 0.52


@pytest.mark.all_faces
def test_the_cost_that_is_reported_is_that_of_fresh_rows():
    goal, differences = goal_of(LATE, None, {("yes", "no"): 9.0, ("no", "yes"): 1.0}), []
    rng = np.random.default_rng(0)
    odds = rng.normal(-2, 1.5, size=(60, 1_100))
    y, p = (rng.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(int), 1 / (1 + np.exp(-1.5 * odds))
    for labels, positive in zip(y, p, strict=True):
        rows = Rows(labels, np.column_stack([1 - positive, positive]), np.ones(1_100), None)
        few, fresh = rows.take(np.arange(100)), rows.take(np.arange(100, 1_100))
        found, tuned = tune(LATE, few, goal)

        def score(part, at):
            return goal.score(goal.parts(part.y, LATE.at(at).decide(part.p)).sum(axis=0))

        luck = score(few, (0.1,)) - score(fresh, (0.1,))  # of the draw, whoever chooses
        differences.append(tuned.score - score(fresh, found) - luck)
    error = np.std(differences) / np.sqrt(60)
    assert abs(np.mean(differences)) < 2 * error


@pytest.mark.parametrize("task", [LATE, GRADE], ids=lambda task: task.name)
def test_the_default_stays_where_no_other_threshold_is_clearly_better(task):
    rng, kept = np.random.default_rng(0), []
    for _ in range(12):
        rows = noise(rng)
        if task is GRADE:
            rows = Rows(rng.integers(4, size=40), rng.dirichlet([1.0] * 4, size=40), np.ones(40), None)
        found, tuned = tune(task, rows, goal_of(task, "accuracy", None))
        kept.append(found == (0.5,) * len(found))
        assert kept[-1] == (tuned.gain <= tuned.gain_error)
    assert sum(kept) >= 8  # by chance, one in six seems better by a standard error


def test_a_threshold_that_is_clearly_better_is_chosen():
    rows = drawn(n=600, decimals=4)
    bold = rows.p[:, 1] ** 3
    rows = Rows(rows.y, np.column_stack([1 - bold, bold]), rows.weight, None)
    (found,), tuned = tune(LATE, rows, goal_of(LATE, "accuracy", None))
    assert 0.05 < found < 0.4
    assert tuned.gain > tuned.gain_error
    assert tuned.score > tuned.default_score


def test_a_single_label_of_an_ordered_class_does_not_hinder_the_others():
    rows = drawn(4, n=300)
    top = np.flatnonzero(rows.y == 3)
    rows = rows.take(np.setdiff1d(np.arange(300), top[1:]))
    _, tuned = tune(GRADE, rows, goal_of(GRADE, None, None))
    assert None not in (tuned.score, tuned.gain)


def test_ordered_classes_rise_as_long_as_their_thresholds_are_reached():
    p = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    assert_allclose(above_each(p), [[0.9, 0.7, 0.4], [0.6, 0.3, 0.1]])
    assert GRADE.at((0.5, 0.5, 0.5)).decide(p).tolist() == GRADE.decide(p).tolist() == [2, 1]
    assert GRADE.at((0.95, 0.0, 0.0)).decide(p).tolist() == [0, 0]
    assert GRADE.at((0.6, 0.3, 0.1)).decide(p).tolist() == [3, 3]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LATE.at((0.5, 0.5)), "thresholds must be 1 numbers from 0 to 1"),
        (lambda: LATE.at((1.5,)), "from 0 to 1"),
        (lambda: Task(name="n", kind="regression").at((0.5,)), "thresholds are for two classes"),
        (lambda: goal_of(LATE, "f1_macr", None), "got metric='f1_macr'; near is 'f1_macro'"),
        (lambda: goal_of(GRADE, "f1", None), "thresholds of ordinal tasks are chosen for one of"),
        (lambda: goal_of(LATE, None, {("yess", "no"): 1.0}), "costs name the class 'yess'; near is 'yes'"),
        (lambda: goal_of(LATE, None, {"yes": 1.0}), "costs are by the true class and the one that is answered"),
        (lambda: goal_of(LATE, None, {("yes", "no"): np.nan}), "must be a finite number, got nan"),
        (lambda: goal_of(LATE, None, [[0, 1], [9, 0]]), r"costs are by the true class .* got \[\[0, 1\]"),
        (lambda: goal_of(LATE, None, {("yes", "no"): 9.0}), "no answer is ever better than 'yes'"),
        (lambda: goal_of(LATE, None, {("yes", "yes"): 0.0}), "by these costs all answers are alike"),
        (
            lambda: tune(LATE, drawn().take(np.zeros(9, dtype=int)), goal_of(LATE, "f1", None)),
            "the rows have '(no|yes)' alone",
        ),
    ],
)
def test_what_chooses_no_threshold_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_costs_tell_the_threshold_unless_another_clearly_costs_less():
    kept = []
    for seed in range(10):
        rows = drawn(n=300, seed=seed)
        (found,), _ = tune(LATE, rows, goal_of(LATE, None, {("yes", "no"): 9.0, ("no", "yes"): 1.0}))
        kept.append(found == pytest.approx(1 / 10))
    assert sum(kept) >= 6  # by chance, one in six seems better by a standard error
