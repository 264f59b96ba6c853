"""Weights of candidates: the likelihood of labels, the guard against mixtures, and tasks with too few labels."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tabmtl.base.schema import TabmtlWarning
from tabmtl.estimators.mixing.judged import Judged, choose_weights, leaderboard
from tabmtl.targets import Task

SIZE = Task(name="size", kind="regression", metric="r2")
LATE = Task(name="late", kind="binary", classes=("no", "yes"), metric="roc_auc")


def judged(n=400, noise=(1.0, 1.0, 3.0), n_single=1, seed=0, task=SIZE):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    answers = np.stack([y + scale * rng.normal(size=n) for scale in noise])
    if task is LATE:
        p = 1 / (1 + np.exp(-answers))
        return Judged(task, (y > 0).astype(float), None, np.stack([1 - p, p], axis=2), n_single)
    return Judged(task, y, None, answers, n_single)


def chosen(tasks):
    """The weights (T, C) of all tasks."""
    return np.stack([choice.weights for choice in choose_weights(tasks, 0, "label more")])


def test_independent_errors_are_averaged():
    (weights,) = chosen([judged(4_000)])
    assert_allclose(weights, [0.5, 0.5, 0.0], atol=0.12)
    assert weights.sum() == pytest.approx(1)


def test_a_candidate_that_is_best_alone_is_taken_alone_by_every_task():
    tasks = [judged(noise=(2.0, 0.01, 2.0)), judged(noise=(2.0, 2.0, 0.01))]
    assert_array_equal(chosen(tasks), [[0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize("task", [SIZE, LATE])
def test_few_labels_mix_candidates_that_are_nearly_alike(task):
    found = [judged(12, (1.0, 1.3), seed=seed, task=task).weigh()[0] for seed in range(30)]
    assert 0.1 < min(found) < max(found) < 0.95


def test_many_labels_weigh_by_the_size_of_errors():
    (weights,) = chosen([judged(20_000, (1.0, 1.3))])
    assert weights[0] == pytest.approx(1.69 / 2.69, abs=0.02)


def test_a_mixture_that_is_clearly_behind_is_not_taken():
    """Answers that are too sure rank well, and the likelihood adds others that rank worse."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=2_000)
    sure, other = 10 * (y + 0.5 * rng.normal(size=2_000)), y + 2 * rng.normal(size=2_000)
    each = Judged(LATE, (y > 0).astype(float), None, answers_of(1 / (1 + np.exp(-np.stack([sure, other])))), 1)
    weights = each.weigh()
    assert 0.5 < weights[0] < 0.9
    assert each.score(each.mix(weights)) < each.score(each.answers[0]) - 0.01
    assert_array_equal(chosen([each])[0], [1, 0])


def test_the_best_of_several_single_task_candidates_is_the_fallback():
    better = judged(noise=(1.0,))
    worse = better.answers + np.random.default_rng(1).normal(size=better.answers.shape)
    each = Judged(SIZE, better.y, None, np.concatenate([worse, better.answers]), 2)
    assert_array_equal(chosen([each])[0] > 0, [False, True])


def test_too_few_labels_take_what_suits_the_others():
    few = Judged(SIZE, np.arange(9.0), None, np.zeros((3, 9)), 1)
    tasks = [judged(noise=(2.0, 0.01, 2.0)), few]
    with pytest.warns(TabmtlWarning, match=r"'size'.*few to judge.*10 of a regression"):
        assert_array_equal(chosen(tasks)[1], [0, 1, 0])
    four = Judged(LATE, np.repeat([0.0, 1.0], [90, 4]), None, np.full((3, 94, 2), 0.5), 1)
    with pytest.warns(TabmtlWarning, match="'late'"):
        choose_weights([tasks[0], four], 0, "label more")
    five = Judged(LATE, np.repeat([0.0, 1.0], [90, 5]), None, np.full((3, 95, 2), 0.5), 1)
    with warnings.catch_warnings(action="error"):
        choose_weights([tasks[0], five], 0, "label more")


@pytest.mark.parametrize(
    ("n_single", "expected"), [(1, [3, 1, 1, 1]), (2, [1.5, 1.5, 1.5, 1.5]), (3, [1, 1, 1, 3]), (4, [1.5] * 4)]
)
def test_without_any_judge_one_half_is_learned_alone_and_one_together(n_single, expected):
    few = Judged(SIZE, np.arange(2.0), None, np.zeros((4, 2)), n_single)
    with pytest.warns(TabmtlWarning, match="few"):
        assert_allclose(chosen([few]), [np.array(expected) / 6])


def test_weights_of_rows_count():
    y = np.concatenate([np.arange(50.0), np.arange(50.0)])
    first, second = y.copy(), y.copy()
    first[:50], second[50:] = 0, 0  # each is right for one half
    weight = np.repeat([0.001, 1.0], 50)
    both = np.stack([second, first])
    assert_array_equal(chosen([Judged(SIZE, y, weight, both, 1)])[0] > 0.9, [False, True])


def test_a_sample_keeps_rare_classes_and_the_scores():
    rng = np.random.default_rng(0)
    y = np.arange(200_000) % 20_000 == 0.0
    p = 1 / (1 + np.exp(-(rng.normal(size=(1, 200_000)) + 2 * y)))
    each = Judged(LATE, y.astype(float), None, np.stack([1 - p, p], axis=2), 1)
    sampled = each.sample(rng)
    assert sampled.y.sum() == 10
    assert len(sampled.y) == 25_010
    assert sampled.weight @ sampled.y == pytest.approx(10)
    assert sampled.weight.sum() == pytest.approx(200_000)
    assert sampled.score(sampled.answers[0]) == pytest.approx(each.score(each.answers[0]), abs=0.005)


def test_tasks_in_other_units_weigh_alike():
    mean_error = Task(name="cost", kind="regression", metric="neg_mean_squared_error")
    tasks = [judged(noise=(2.0, 0.1, 2.0), seed=seed) for seed in range(5)]
    odd = judged(noise=(2.0, 2.0, 0.1))
    tasks.append(Judged(mean_error, 1e3 * odd.y, None, 1e3 * odd.answers, 1))
    few = Judged(SIZE, np.arange(2.0), None, np.zeros((3, 2)), 1)
    with pytest.warns(TabmtlWarning, match="few"):
        weights = chosen([*tasks, few])[-1]
    assert weights[1] > 0.5  # of five tasks, against one whose errors are a million times larger


def answers_of(p):
    return np.stack([1 - p, p], axis=-1)


def test_answers_of_different_folds_are_not_ranked_against_each_other():
    """A constant has the AUC .5, although the models that saw fewer positive rows answer lower."""
    rng = np.random.default_rng(0)
    y = np.repeat([0.0, 1.0], [35, 15])
    fold = np.concatenate([np.arange(35) % 10, np.arange(15) % 10])
    share = np.array([y[fold != f].mean() for f in fold])
    each = Judged(LATE, y, None, answers_of(share)[None], 1, fold=fold)
    assert each.score(each.answers[0]) == 0.5
    assert Judged(LATE, y, None, each.answers, 1).score(each.answers[0]) < 0.46
    cautious = share + 0.001 * (y + rng.normal(size=50))
    bold = 1 / (1 + np.exp(-0.3 * (y + 3 * rng.normal(size=50))))
    both = Judged(LATE, y, None, answers_of(np.stack([cautious, bold])), 1, fold=fold)
    assert_array_equal(chosen([both])[0], [1, 0])


def test_candidates_that_all_learn_alone_are_weighed_without_a_guard():
    """The one that is clearly best is not taken alone: it has chosen nothing that the others have not."""
    each = judged(60, (1.0, 1.2), n_single=2, seed=1)
    assert (chosen([each])[0] > 0.05).all()
    assert_array_equal(chosen([each])[0], each.weigh())


def test_the_table_of_scores_has_the_candidates_and_the_mixture():
    """The mixture answers each third of the rows by weights that the others choose."""
    several = [judged(90, seed=1), judged(90, task=LATE)]
    choices = choose_weights(several, 0, "label more")
    names, seconds = ["own", "more", "far"], [1.0, 2.0, None]
    lines = [line for choice in choices for line in choice.lines(names, seconds)]
    table = leaderboard([*lines, *(choice.line("mixed", choice.mixed, 3.0) for choice in choices)])
    assert table["task"].to_list() == ["size"] * 3 + ["late"] * 3 + ["size", "late"]
    assert table["seconds"].to_list() == [*seconds, *seconds, 3.0, 3.0]
    assert table["is_judged"].all() and table["left_out"].null_count() == 8
    assert_array_equal(table["weight"][:6], np.concatenate([choice.weights for choice in choices]))
    assert table["weight"][6:].to_list() == [None, None]
    for k, (each, choice) in enumerate(zip(several, choices, strict=True)):
        assert_allclose(table["score"][3 * k : 3 * k + 3], [each.score(answer) for answer in each.answers])
        assert table["score"][6 + k] == pytest.approx(each.score(choice.mixed))
        third = each.thirds()
        weights = each.rows(third != 0).weigh()
        assert_allclose(choice.mixed[third == 0], each.rows(third == 0).mix(weights))


def test_rows_of_a_group_are_one_witness():
    each = judged(600, (1.0, 1.2))
    grouped = replace(each, group=np.arange(600) % 12)
    assert 0.5 < grouped.weigh()[0] < each.weigh()[0]
