"""The front of merged networks: its points, its surrogate, and that its rows can be merged."""

import numpy as np
import pytest
from departments import fine_tuned
from models_at_hand import fitted

from tabmtl import SharedBottom
from tabmtl.extras import merge, merge_front
from tabmtl.extras.front import _terms, is_front, spread
from tabmtl.tuning import ParetoDisplay


@pytest.fixture(scope="module")
def models():
    base, X, y = fitted(SharedBottom)
    return base, [fine_tuned(base, X, t, rate=0.3) for t in range(2)], X, y


def test_a_quadratic_function_is_found_again():
    points = np.random.default_rng(0).random((10, 3))
    truth = np.random.default_rng(1).normal(size=10)
    found, *_ = np.linalg.lstsq(_terms(points), _terms(points) @ truth, rcond=None)
    assert found == pytest.approx(truth)


def test_a_front_is_what_no_other_row_is_better_than():
    scores = np.array([[1.0, 0.0], [0.5, 0.5], [0.5, 0.4], [0.0, 1.0], [0.5, 0.5], [0.0, 0.0]])
    assert is_front(scores).tolist() == [True, True, False, True, True, False]
    assert spread(scores[:4], 3).tolist() == [0, 3, 1]
    assert spread(scores[:2], 5).tolist() == [0, 1]


def test_the_front_is_scored_drawn_and_merged(models):
    base, both, X, y = models
    front = merge_front(base, both, X, y, tasks=["late", "delay"], n_front=3, random_state=0)
    assert len(front) == 18 + 3
    assert front.equals(merge_front(base, both, X, y, tasks=["late", "delay"], n_front=3, random_state=0))
    assert front["scale"][:3].to_list() == [[1, 0], [0, 1], [0.5, 0.5]]
    assert front["scale"].n_unique() == len(front)  # none is scored twice
    row = front.filter(~front["dominated"])[-1]
    scores = merge(base, both, method="task_arithmetic", scale=row["scale"].item().to_list(), X=X).score_tasks(X, y)
    assert [row[f"score/{name}"].item() for name in ("late", "delay")] == [scores["late"], scores["delay"]]
    assert len(ParetoDisplay.from_front(front).points_) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n_points": 5}, "n_points must be"),
        ({"n_front": 0}, "n_front must be"),
        ({"tasks": ["lat"]}, "tasks names tasks"),
        ({"tasks": ["late"]}, r"the number of tasks of a front must be .*at least 2, got 1"),
    ],
)
def test_refusals(models, given, words):
    base, both, X, y = models
    with pytest.raises(ValueError, match=words):
        merge_front(base, both, X, y, **given)


def test_a_task_without_a_score_is_named(models):
    base, both, X, y = models
    with pytest.raises(ValueError, match=r"\['late'\] undefined"), pytest.warns(match="late"):
        merge_front(base, both, X, y.with_columns(late=y["late"].clear(len(y))), tasks=["late", "delay"])
