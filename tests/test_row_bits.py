"""Every estimator of the package answers a row bit for bit as in a batch."""

import numpy as np
import polars as pl
import pytest
from conformance import ESTIMATORS, answers, features, same, targets_for, tiny

from tabmtl import IndependentTasks, SharedTrees


def is_later(cls, size):
    """Say whether a case is checked in `make test-all` only: tiny models, and two that take seconds."""
    return size == "tiny" or (cls in (IndependentTasks, SharedTrees) and size == "default")


CASES = [
    pytest.param(cls, size, id=f"{cls.__name__}-{size}", marks=pytest.mark.all_faces if is_later(cls, size) else ())
    for cls in ESTIMATORS
    if cls._target_kind is None
    for size in ("tiny", "members", "default")
    if size != "members" or "n_members" in cls._get_param_names()
]


@pytest.mark.parametrize(("cls", "size"), CASES)
def test_a_row_is_answered_bit_for_bit_as_in_a_batch(cls, size):
    X = features(400)
    estimator = tiny(cls, n_members=3 if size == "members" else 1)
    if size == "default":
        kept = ("device", "n_jobs", "random_state", "tasks", "task_chain", "models", "n_folds")
        estimator = cls(**{name: value for name, value in estimator.get_params().items() if name in kept})
        few = {"epochs": 1, "n_estimators_shared": 1, "n_estimators_task": 50}
        estimator.set_params(**{name: n for name, n in few.items() if hasattr(estimator, name)})
    estimator.fit(X, targets_for(cls, X))
    whole = answers(estimator, X)
    for n, starts in ((1, [*range(8), *range(396, 400)]), (2, range(0, 400, 50)), (399, [0, 1])):
        for start in starts:
            assert same([a[start : start + n] for a in whole], answers(estimator, X[start : start + n]))
    assert same([np.concatenate([a] * 3) for a in whole], answers(estimator, pl.concat([X] * 3)))
