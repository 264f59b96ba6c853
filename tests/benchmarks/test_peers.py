"""CatBoost as a peer: it learns all tasks, takes categories, and lives with missing labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.peers.lightgbm import Coded
from tabmtl.base.schema import Batch
from tabmtl.columns import Features


def rows(n: int, seed: int) -> Batch:
    """A regression and a binary task twice each; a category of eight levels decides a part of all."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2)).astype(np.float32)
    level = rng.integers(0, 8, n)
    signal = x[:, 0] + np.array([3, -3, 1, 0, -1, 2, -2, 0])[level]
    y = np.column_stack([signal, 1_000 - 50 * signal, signal > 0, signal < 1]).astype(float)
    return Batch(x=Features(numbers=x, codes=(level + 2)[:, None].astype(np.int32)), y=y)


PARAMS = {"iterations": 100, "thread_count": 1, "random_seed": 0, "learning_rate": 0.2}
KINDS = ("regression", "regression", "binary", "binary")


@pytest.mark.parametrize("missing", [False, True])
def test_catboost_learns_all_tasks(missing):
    pytest.importorskip("catboost")
    from benchmarks.peers.catboost import fit_catboost, predict_catboost

    train, val, test = rows(800, 0), rows(200, 1), rows(200, 2)
    if missing:
        hidden = np.random.default_rng(3).random(train.y.shape) < 0.3
        train = replace(train, y=np.where(hidden, np.nan, train.y))
    answer = predict_catboost(fit_catboost(Coded(train=train, val=val, kinds=KINDS, n_numeric=2), PARAMS), test)
    assert answer.shape == test.y.shape
    explained = 1 - np.square(answer - test.y).mean(axis=0) / test.y.var(axis=0)  # 0 for the best constant
    assert (explained[:2] > 0.8).all()
    assert (explained[2:] > 0.5).all()


def test_refit_of_catboost_knows_the_rows_set_aside():
    pytest.importorskip("catboost")
    from benchmarks.peers.catboost import fit_catboost, predict_catboost, refit_catboost

    train, val = rows(200, 0), rows(200, 1)
    fitted = fit_catboost(Coded(train=train, val=val, kinds=KINDS, n_numeric=2), PARAMS)
    x = [Features(numbers=part.x.numbers, codes=part.x.codes) for part in (train, val)]
    both = Batch(
        x=Features(
            numbers=np.concatenate([part.numbers for part in x]), codes=np.concatenate([part.codes for part in x])
        ),
        y=np.concatenate([train.y, val.y]),
    )
    refitted = refit_catboost(fitted, both)
    assert [model.tree_count_ for model in fitted] == [model.tree_count_ for model in refitted]
    errors = [np.square(predict_catboost(each, val) - val.y).mean(axis=0) for each in (fitted, refitted)]
    assert (errors[1] < 0.8 * errors[0]).all()
