"""Weights by the likelihood of labels: their prior, far labels, and losses that are no squares."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tabmtl.estimators.mixing.weights import likelihood_weights, nats_of_label
from tabmtl.targets import Task

SIZE = Task(name="size", kind="regression")
LATE = Task(name="late", kind="binary", classes=("no", "yes"))
PRIOR = np.array([0.5, 0.3, 0.2])
NUMBERS = [SIZE, Task(name="most", kind="quantile"), Task(name="cost", kind="huber")]


def numbers(n, noise=(1.0, 1.4, 2.0), seed=0):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    return y, np.stack([y + scale * rng.normal(size=n) for scale in noise])


@pytest.mark.parametrize("task", NUMBERS, ids=lambda task: task.name)
@pytest.mark.parametrize("n", [30, 300])
def test_a_far_label_does_not_decide(task, n):
    """One candidate answers it best, and all others by far worse."""
    y, answers = numbers(n)
    before = likelihood_weights(task, y, answers)
    for best in range(3):
        far, own = y.copy(), answers.copy()
        far[0] = 1_000.0
        own[:, 0] = 0.0
        own[best, 0] = 500.0
        assert_allclose(likelihood_weights(task, far, own), before, atol=0.15)


@pytest.mark.parametrize("task", NUMBERS, ids=lambda task: task.name)
def test_no_label_or_two_leave_about_the_prior(task):
    y, answers = numbers(2)
    assert_array_equal(likelihood_weights(task, y[:0], answers[:, :0], prior=PRIOR), PRIOR)
    for prior in (PRIOR, None):
        drawn = (numbers(2, (1.0, 1.0, 1.0), seed) for seed in range(20))
        found = [likelihood_weights(task, *labels, prior=prior) for labels in drawn]
        expected = PRIOR if prior is not None else np.full(3, 1 / 3)
        assert np.abs(found - expected).mean() < 0.15
        assert_allclose(np.mean(found, axis=0), expected, atol=0.12)


def test_two_labels_of_classes_leave_the_prior():
    p = np.array([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    answers = np.stack([1 - p, p], axis=2)
    assert_allclose(likelihood_weights(LATE, np.array([1.0, 0.0]), answers, prior=PRIOR), PRIOR, atol=0.12)


def test_answers_that_are_alike_keep_their_prior():
    y, answers = numbers(500)
    assert_allclose(likelihood_weights(SIZE, y, answers[[0, 0, 0]], prior=PRIOR), PRIOR, atol=1e-4)


@pytest.mark.parametrize("power", [1, 2])
def test_the_scale_of_numbers_is_their_own(power):
    """Labels of errors e have the log likelihood -log of their spread, a mean loss of the power 1 or 2."""
    task = SIZE if power == 2 else NUMBERS[1]
    assert nats_of_label(task, 3.0**power) - nats_of_label(task, 1.0) == pytest.approx(np.log(3.0))
    y, answers = numbers(100)
    found = [likelihood_weights(task, unit * y, unit * answers) for unit in (1e4, 1.0)]
    assert_allclose(*found, atol=1e-3 if power == 2 else 1e-2)  # absolute errors have kinks, where a search may stop


def test_many_labels_choose_whatever_the_prior():
    y, answers = numbers(5_000, (0.5, 3.0, 3.0))
    for prior in (PRIOR, PRIOR[::-1]):
        assert likelihood_weights(SIZE, y, answers, prior=prior)[0] > 0.9


def test_weights_of_rows_are_the_number_of_equal_rows_up_to_the_share_of_each():
    y, answers = numbers(40)
    weight = np.tile([1.0, 3.0], 20)
    many = np.repeat(np.arange(40), weight.astype(int))
    weighed = likelihood_weights(SIZE, y, answers, weight)
    assert_allclose(weighed, likelihood_weights(SIZE, y, answers, 10 * weight), atol=1e-4)
    assert_allclose(weighed, likelihood_weights(SIZE, y[many], answers[:, many]), atol=0.1)


def test_answers_without_any_error_take_all():
    y, answers = numbers(50)
    assert_array_equal(likelihood_weights(SIZE, y, np.stack([answers[0], y])), [0, 1])
