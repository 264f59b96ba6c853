"""Linear models on the other tasks' answers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.linear_model import LogisticRegression, RidgeCV

from tabmtl.encode import LabelCoder
from tabmtl.ensemble.stack import LinearStack
from tabmtl.targets import Task


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    n = 300
    z = rng.normal(size=n)
    late = np.where(z + 0.5 * rng.normal(size=n) > 0, "yes", "no")
    mark = np.array(["a", "b", "c"])[np.digitize(z + 0.3 * rng.normal(size=n), [-0.5, 0.5])]
    y = np.column_stack([late, mark, 10 + 3 * z + rng.normal(size=n)]).astype(object)
    y[:, 2] = y[:, 2].astype(float)
    labels = LabelCoder.fit(y)
    p = 1 / (1 + np.exp(-2 * z))
    three = np.exp(np.outer(z, [-1, 0, 1]))
    answers = [np.column_stack([1 - p, p]), three / three.sum(axis=1, keepdims=True), 10 + 3 * z]
    return labels, answers, labels.encode(y)[0]


def fit(labels, answers, y, weight, parts):
    """Fit models to parts of the rows, on answers of one model that has seen the first."""
    return LinearStack.fit(labels, answers, y, weight, [(parts[0], np.arange(len(y)))], parts)


def test_a_regression_is_scikit_learns_ridge(table):
    labels, answers, y = table
    rows = np.arange(0, 300, 2)
    stack = fit(labels, answers, y, None, [rows])
    p, three, _ = answers
    features = np.column_stack([np.log(p[:, 1] / p[:, 0]), np.log(three)])
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    ridge = RidgeCV(alphas=np.logspace(-1, 4, 11)).fit(features[rows], labels.standardize(y)[rows, 2].astype(float))
    expected = ridge.predict(features) * labels.scale[2] + labels.center[2]
    assert_allclose(stack.answer(labels, 0, answers)[2], expected, rtol=1e-6)


def test_ordered_classes_are_moved_by_the_other_answers(table):
    _, answers, y = table
    tasks = [Task(name="late", kind="binary"), Task(name="mark", kind="ordinal", classes=(0, 1, 2))]
    labels = LabelCoder.fit(np.column_stack([y[:, 0], y[:, 1]]), tasks=tasks)
    stack = fit(labels, [answers[0], np.full((300, 3), 1 / 3)], y[:, :2], None, [np.arange(300)])
    assert stack.coef[0][0, 1] > 1 and not stack.coef[0][:, 2].any()
    found = stack.answer(labels, 0, [answers[0], answers[1]])[1]
    own = found[np.arange(300), y[:, 1].astype(int)]
    assert -np.log(own).mean() < 0.75  # their shares have 1.1; so has the task's own answer here


def test_a_task_does_not_see_its_own_answer(table):
    labels, answers, y = table
    stack = fit(labels, answers, y, None, [np.arange(300)])
    before = stack.answer(labels, 0, answers)
    for t in range(3):
        changed = list(answers)
        changed[t] = answers[t][::-1]
        after = stack.answer(labels, 0, changed)
        assert_array_equal(before[t], after[t])
        assert any(not np.array_equal(before[other], after[other]) for other in range(3) if other != t)


def test_rows_without_answers_or_labels_are_left_out(table):
    labels, answers, y = table
    kept = np.arange(300) >= 100
    holes = [np.where(kept if a.ndim == 1 else kept[:, None], a, np.nan) for a in answers]
    hidden = y.copy()
    hidden[100:110, 2] = np.nan
    stack = fit(labels, holes, hidden, None, [np.arange(300)])
    direct = fit(labels, [a[100:] for a in answers], hidden[100:], None, [np.arange(200)])
    assert_allclose(stack.coef, direct.coef, rtol=0.1, atol=0.02)  # the solver of the logistic regressions stops early
    weightless = fit(labels, holes, hidden, np.ones_like(y), [np.arange(300)])
    assert_allclose(weightless.coef, stack.coef, rtol=1e-4, atol=1e-6)


def test_parts_without_some_class_answer_all_classes(table):
    labels, answers, y = table
    one = np.flatnonzero((y[:, 0] == 1) & (y[:, 1] == 2))
    two = np.flatnonzero(y[:, 1] != 0)
    stack = fit(labels, answers, y, None, [two, one, np.arange(0)])
    late, mark, _ = stack.answer(labels, 1, answers)
    assert_allclose(late.sum(axis=1), 1)
    assert_allclose(mark.sum(axis=1), 1)
    assert late[:, 1].min() > 0.99
    assert mark[:, 2].min() > 0.99
    mark = stack.answer(labels, 0, answers)[1]
    assert mark[:, 0].max() < 1e-3
    rest = LogisticRegression().fit(np.zeros((len(two), 1)), y[two, 1])
    assert set(rest.classes_) == {1, 2}
    assert (mark[two].argmax(axis=1) == y[two, 1]).mean() > 0.6
    assert all(np.isfinite(answer).all() for answer in stack.answer(labels, 2, answers))


def test_two_labels_give_their_mean(table):
    labels, answers, y = table
    y = y.copy()
    y[2:, 2] = np.nan
    value = fit(labels, answers, y, None, [np.arange(300)]).answer(labels, 0, answers)[2]
    assert_allclose(value, y[:2, 2].mean())


def test_scikit_learns_routing_changes_nothing(table):
    labels, answers, y = table
    weight = np.random.default_rng(0).random(y.shape)
    with config_context(enable_metadata_routing=True):
        routed = fit(labels, answers, y, weight, [np.arange(300)])
    assert_array_equal(routed.coef, fit(labels, answers, y, weight, [np.arange(300)]).coef)


def test_the_mean_of_the_other_folds_tells_nothing_of_this_one():
    """A reference that answers the mean of the other folds let ridge read off that of its own: R² .03 of noise."""
    rng = np.random.default_rng(0)
    n, fold = 150, np.arange(150) % 10
    folds = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(10)]
    found = []
    for _ in range(20):
        shared = rng.normal(size=n)
        y = np.column_stack([shared + 0.3 * rng.normal(size=n) for _ in range(3)])
        answers = [np.array([column[fold != f].mean() for f in fold]) for column in y.T]
        labels = LabelCoder.fit(y)
        stack = LinearStack.fit(labels, answers, y, None, folds)
        for k, (_, rows) in enumerate(folds):
            answer = stack.answer(labels, k, [each[rows] for each in answers])[0]
            found.append(np.square(y[rows, 0] - answer).sum() - np.square(y[rows, 0] - y[:, 0].mean()).sum())
    assert sum(found) > 0
