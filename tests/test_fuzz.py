"""Random sequences of calls keep the laws of `fuzzing`: named errors, files and failed calls that change no answer.

A walk that breaks a law says its seed and its calls: ``Walk(seed).run()`` makes them again.
"""

from __future__ import annotations

import numpy as np
import pytest
from fuzzing import SORTS, VERBS, BrokenLaw, Walk, check_walks, differing, starts, why_raw

from tabmtl import SharedTrees

pytestmark = pytest.mark.usefixtures("three_folds")


@starts(1_800)
def test_calls_to_estimators_in_any_order_keep_the_laws(start):
    check_walks(Walk, start)


def test_walks_reach_all_verbs_and_sorts_of_estimators():
    walks = [Walk(seed) for seed in range(600)]
    for _, classes in SORTS:
        assert {type(walk.model) for walk in walks} >= {*classes}
    assert all(share > 0 for share in VERBS.values())
    worlds = [walk.world for walk in walks]
    assert {world.library for world in worlds} == {"polars", "pandas", "pyarrow", "numpy"}
    assert {(world.is_long, world.is_flat, world.is_funnel) for world in worlds} == {
        (True, True, False),
        (False, True, False),
        (False, False, False),
        (False, False, True),
    }


def test_a_seed_is_one_sequence():
    first, again = (Walk(7, n_calls=4).run() for _ in range(2))
    assert first.calls == again.calls
    assert not differing(first.said, again.said)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: SharedTrees().predict([[1.0]]), None),
        (lambda: SharedTrees(n_estimators=-1).fit([[1.0]] * 9, range(9)), None),
        (lambda: [][0], "IndexError"),
        (lambda: int("x"), "outside of the package"),
        (lambda: SharedTrees._fitted_params.fget, "outside of the package"),
    ],
)
def test_errors_of_others_are_raw(call, why):
    with pytest.raises(Exception) as error:
        call()
    found = why_raw(error.value, {"SharedTrees", "n_estimators"})
    assert found is None if why is None else why in found


def test_an_operation_of_the_package_that_fails_is_raw(monkeypatch):
    monkeypatch.setattr("tabmtl.estimators.predicting.Predicts.__answers__", lambda self, X, tasks=None: None)
    model = SharedTrees(n_estimators=2, n_estimators_task=0, random_state=0).fit(np.ones((9, 1)), np.arange(9) / 9)
    with pytest.raises(TypeError) as error:
        model.predict(np.ones((9, 1)))
    assert "an operation that failed" in why_raw(error.value, {"X"})


def test_a_broken_law_tells_seed_and_calls(monkeypatch):
    monkeypatch.setattr("tabmtl.estimators.tables.MultiTaskEstimator.remove_task", lambda self, name: [][0])
    with pytest.raises(BrokenLaw, match=r"(?s)seed \d+: a raw error: IndexError .*fit\(n=.*\n  remove_task\("):
        for seed in range(20):
            Walk(seed).run()
