"""Conformal scores: what they promise of rows, groups and whole rows, for every kind of targets."""

import numpy as np
import pytest
from scipy.stats import binom

from tabmtl.base.schema import TabmtlWarning
from tabmtl.metrics.scores import Answered
from tabmtl.targets import Task
from tabmtl.targets.decisions.conformal import Conformal, misses, needed, span

N = 2_000
TASKS = (
    Task(name="delay", kind="regression"),
    Task(name="cost", kind="quantiles:0.05:0.25:0.5:0.75:0.95"),
    Task(name="visits", kind="poisson"),
    Task(name="amount", kind="gamma"),
    Task(name="carrier", kind="multiclass", classes=("a", "b", "c", "d")),
    Task(name="late", kind="binary", classes=(0, 1)),
)
NUMBERS = 4  # of the tasks


def rows(seed):
    """Return labels and answers of rows whose noise grows with x, and the group of x."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=N)
    y = x + rng.normal(size=N) * np.exp(x / 2)
    mean = np.exp(x)
    p = rng.dirichlet([0.3] * 4, size=N)
    late = rng.uniform(0.6, 1, size=N)
    labels = [
        y,
        y,
        rng.poisson(mean),
        rng.gamma(2, mean / 2),
        (p.cumsum(axis=1) < rng.random((N, 1))).sum(axis=1).clip(0, 3),
        rng.random(N) > late,
    ]
    outputs = [x, x[:, None] + [-1.5, -0.5, 0, 0.5, 1.5], mean, mean, p, np.column_stack([late, 1 - late])]
    return Answered(TASKS, np.column_stack(labels).astype(float), outputs), (x > 0).astype(int)


def is_held(task, y, found):
    if task.is_classification:
        return found.classes[np.arange(len(y)), y.astype(int)]
    return (found.low <= y) & (y <= found.high)


def by_chance(level, n=N):
    """Return the shares between which n rows lie, by the promise; the scores of N rows move it as much."""
    low, high = binom.ppf([1e-4, 1 - 1e-4], n, level) / n
    return level - 1.5 * (level - low), level + 1.5 * (high - level)


KNOWN, GROUP = rows(0)
NEW, NEW_GROUP = rows(1)


@pytest.mark.parametrize("level", [0.75, 0.9, 0.97])
def test_every_kind_holds_the_share_of_labels_that_it_promises(level):
    spans = Conformal.learn(KNOWN, range(len(TASKS)), None, None).spans(TASKS, NEW.outputs, level)
    low, high = by_chance(level)
    for task, y, found in zip(TASKS, NEW.labels.T, spans, strict=True):
        share = is_held(task, y, found).mean()
        accuracy = (NEW.outputs[-1].argmax(axis=1) == y).mean() if task.name == "late" else 0
        assert low <= share <= max(high, accuracy), task.name
        if not task.is_classification:
            assert (found.low <= found.high).all()


def test_groups_hold_their_share_each_and_all_rows_that_of_new_groups():
    level, conformal = 0.9, Conformal.learn(KNOWN, [0, 4], [*GROUP], "x")
    spans = conformal.spans(TASKS, NEW.outputs, level, group=conformal.numbers([*NEW_GROUP]))
    plain = Conformal.learn(KNOWN, [0, 4], None, None).spans(TASKS, NEW.outputs, level)
    for t in (0, 4):
        for g in (0, 1):
            of_group = g == NEW_GROUP
            low, high = by_chance(level, of_group.sum())
            share = is_held(TASKS[t], NEW.labels[of_group, t], span_of(spans[t], of_group)).mean()
            assert low <= share <= high
    shares = [
        is_held(TASKS[0], NEW.labels[g == NEW_GROUP, 0], span_of(plain[0], g == NEW_GROUP)).mean() for g in (0, 1)
    ]
    assert shares[0] > 0.95  # without groups, the promise is one of all rows only
    assert shares[1] < 0.86
    with pytest.warns(UserWarning, match=f"{N} rows are of groups that conformalize has not seen, '7'"):
        unseen = conformal.spans(TASKS, NEW.outputs, level, group=conformal.numbers([7] * N))
    assert np.array_equal(unseen[0].low, plain[0].low)


def span_of(found, rows):
    return type(found)(*(bounds[rows] for bounds in found))


def test_a_small_group_has_no_part_in_the_intervals_of_others():
    of_one = np.where(np.arange(N) < 5, 2, GROUP)
    with pytest.warns(UserWarning, match="the groups '2' have fewer than the 9 labels"):
        conformal = Conformal.learn(KNOWN, [0], [*of_one], None)
    (found, *_) = conformal.spans(TASKS, NEW.outputs, 0.9, group=conformal.numbers([*NEW_GROUP]))
    assert np.isfinite(found.high).all()
    with pytest.raises(ValueError, match="task 'delay' of the group '2', and conformalize was given 5"):
        conformal.spans(TASKS, NEW.outputs, 0.9, group=conformal.numbers([2, *NEW_GROUP[1:]]))


def test_all_numbers_of_a_row_are_held_together():
    conformal = Conformal.learn(KNOWN, range(len(TASKS)), None, None)
    for level in (0.75, 0.9):
        joint = conformal.spans(TASKS, NEW.outputs, level, joint=True)
        assert joint[4:] == [None, None]
        held = [is_held(task, y, own) for task, y, own in zip(TASKS[:4], NEW.labels.T, joint[:4], strict=False)]
        low, high = by_chance(level)
        assert low <= np.all(held, axis=0).mean() <= high
        alone = conformal.spans(TASKS, NEW.outputs, level)
        assert all(
            (own.high - own.low).mean() < (all_.high - all_.low).mean()
            for own, all_ in zip(alone[:4], joint[:4], strict=True)
        )


def test_few_rows_hold_all_numbers_of_a_row_as_often_as_they_promise():
    rng, level, n, n_tasks, held = np.random.default_rng(0), 0.9, 20, 5, []
    tasks = [Task(name=f"t{t}", kind="regression") for t in range(n_tasks)]
    unit = 10.0 ** np.arange(n_tasks)
    for _ in range(300):
        known, new = (unit * rng.normal(size=(m, n_tasks)) for m in (n, 100))
        outputs = [np.zeros(100)] * n_tasks
        conformal = Conformal.learn(Answered(tasks, known, [np.zeros(n)] * n_tasks), range(n_tasks), None, None)
        joint = conformal.spans(tasks, outputs, level, joint=True)
        held.append(np.all([is_held(*own) for own in zip(tasks, new.T, joint, strict=True)], axis=0).mean())
    error = np.std(held) / np.sqrt(len(held))
    assert level - 3 * error < np.mean(held) < level + 1.5 / n + 3 * error


def test_the_joint_intervals_of_one_task_are_its_own():
    conformal = Conformal.learn(KNOWN, [1, 4], None, None)
    alone, joint = (conformal.spans(TASKS, NEW.outputs, 0.9, joint=joint) for joint in (False, True))
    assert np.array_equal(alone[1], joint[1])


def test_a_score_is_the_reach_from_which_its_label_is_held():
    for task, y, output in zip(TASKS, NEW.labels.T, NEW.outputs, strict=True):
        scores = misses(task, y, output)[:, 0]
        level = 0.9 if not task.kind.levels else task.kind.levels[-1] - task.kind.levels[0]
        assert is_held(task, y, span(task, output, scores + 1e-9, level)).all()
        short = is_held(task, y, span(task, output, scores - 1e-9, level))
        assert not short[scores > 1e-6].any(), task.name


def test_sets_hold_the_first_class_and_grow_by_falling_probability():
    p = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]])
    task = Task(name="size", kind="multiclass", classes=("s", "m", "l"))
    for reach, expected in [(0.0, [[0, 1, 0], [1, 0, 0]]), (0.45, [[0, 1, 0], [1, 0, 1]]), (0.8, [[1, 1, 1]] * 2)]:
        assert span(task, p, np.full(2, reach), 0.9).classes.tolist() == np.array(expected, dtype=bool).tolist()


def test_counts_and_amounts_have_intervals_as_wide_as_their_kind_and_none_below_zero():
    mean = np.array([1.0, 4.0, 100.0])
    for kind, widths in (("poisson", [1, 2, 10]), ("gamma", [1, 4, 100]), ("tweedie:1.5", mean**0.75)):
        found = span(Task(name="y", kind=kind), mean, np.full(3, 0.5), 0.9)
        assert np.allclose(found.high - found.low, widths)
    assert span(Task(name="y", kind="poisson"), mean, np.full(3, 9.0), 0.9).low.min() == 0


def test_scores_of_a_long_table_are_those_of_its_own_tasks():
    tasks = tuple(Task(name=name, kind="regression") for name in ("a", "b"))
    own_task = np.arange(N) % 2
    y, output = KNOWN.labels[:, :1] * np.where(own_task == 0, 1.0, 10.0)[:, None], KNOWN.outputs[0]
    conformal = Conformal.learn(Answered(tasks, y, [output], None, own_task), [0, 1], None, None)
    (found,) = conformal.spans(tasks, [output], 0.9, own_task=own_task)
    for t in (0, 1):
        of_task = own_task == t
        (alone,) = Conformal.learn(Answered(tasks[t : t + 1], y[of_task], [output[of_task]]), [0], None, None).spans(
            tasks[t : t + 1], [output[of_task]], 0.9
        )
        assert np.array_equal(found.low[of_task], alone.low)


def test_groups_too_small_for_nine_tenths_are_told_before_they_are_asked():
    with pytest.warns(TabmtlWarning, match="the groups '1' have fewer than the 9 labels"):
        learned(25, [0] * 20 + [1] * 5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: learned(8).spans(TASKS, NEW.outputs, 0.9),
            "level=0.9 needs at least 9 labelled rows of task 'delay', and",
        ),
        (lambda: learned(98).spans(TASKS, NEW.outputs, 0.99), "at most 0.989"),
        (lambda: learned(40, [0] * 30 + [1] * 10).spans(TASKS, NEW.outputs, 0.95, group=GROUP), "of the group '1'"),
        (lambda: learned(8).spans(TASKS, NEW.outputs, 0.9, joint=True), r"of the tasks \['delay'\] together"),
        (lambda: alike_but_one().spans(TASKS, NEW.outputs, 0.9, joint=True), "needs at least 10 labelled rows"),
        (lambda: learned(3, [0, 0, 1]), "fewer than 2 labels in the groups '1', .* needs 9 of each"),
        (lambda: learned(0), "task 'delay' has no labels"),
        (lambda: learned(20).check(TASKS[:1]), "intervals of 6 tasks, expected 1"),
        (lambda: learned(20).check((TASKS[1], *TASKS[1:])), "scores of 1 pairs"),
    ],
)
def test_what_cannot_be_promised_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def learned(n, groups=None):
    labels = np.where(np.arange(N)[:, None] < n, KNOWN.labels, np.nan)
    groups = None if groups is None else [*groups, *[0] * (N - len(groups))]
    return Conformal.learn(KNOWN._replace(labels=labels), [0], groups, None)


def alike_but_one():
    """Learn from 9 rows, of which one alone has a score in a task: it leaves the scores of other tasks no end."""
    labels = np.where(np.arange(N)[:, None] < 9, KNOWN.labels, np.nan)
    labels[1:9, 0] = KNOWN.outputs[0][1:9]
    return Conformal.learn(KNOWN._replace(labels=labels), [0, 2], None, None)


def test_the_labels_needed_for_a_level():
    assert [needed(level) for level in (0.5, 0.8, 0.9, 0.95, 0.99)] == [1, 4, 9, 19, 99]
