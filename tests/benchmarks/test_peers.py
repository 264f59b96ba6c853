"""Peers from other libraries: they learn both tasks, take categories, and live with missing labels as they can."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.peers.lightgbm import Coded
from tabmtl.columns import Features
from tabmtl.schema import Batch


def rows(n: int, seed: int) -> Batch:
    """A regression and a binary task twice each; a category of eight levels decides a part of all."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2)).astype(np.float32)
    level = rng.integers(0, 8, n)
    signal = x[:, 0] + np.array([3, -3, 1, 0, -1, 2, -2, 0])[level]
    y = np.column_stack([signal, 1_000 - 50 * signal, signal > 0, signal < 1]).astype(float)
    return Batch(x=Features(numbers=x, codes=(level + 2)[:, None].astype(np.int32)), y=y)


def peer(name: str, data: Coded) -> Any:
    if name == "xgboost":
        pytest.importorskip("xgboost")
        from benchmarks.peers.xgboost import fit_xgboost

        return fit_xgboost(data, {"nthread": 1, "seed": 0}, n_trees=100, patience=10)
    pytest.importorskip("catboost")
    from benchmarks.peers.catboost import fit_catboost

    params = {"iterations": 100, "thread_count": 1, "random_seed": 0, "learning_rate": 0.2}
    return fit_catboost(data, params, jointly=name == "catboost joint")


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", ["catboost", "catboost joint", "xgboost"])
def test_peers_learn_all_tasks(name: str, missing: bool) -> None:
    train, val, test = rows(800, 0), rows(200, 1), rows(200, 2)
    if missing:
        hidden = np.random.default_rng(3).random(train.y.shape) < 0.3
        train = replace(train, y=np.where(hidden, np.nan, train.y))
    data = Coded(train=train, val=val, kinds=("regression", "regression", "binary", "binary"), n_numeric=2)
    answer = peer(name, data).predict(test)
    assert answer.shape == test.y.shape
    explained = 1 - np.square(answer - test.y).mean(axis=0) / test.y.var(axis=0)  # 0 for the best constant
    assert (explained[:2] > 0.8).all()
    assert (explained[2:] > 0.5).all()


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", ["catboost joint"])
def test_no_task_is_lost_beside_one_of_large_numbers(name: str, missing: bool) -> None:
    """By raw targets the small one has R² .72, and .45 where labels are missing: the noise of the large one splits."""
    parts = []
    for seed, n in enumerate((800, 200, 200)):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, 20)).astype(np.float32)
        y = np.column_stack([x[:, 0], 1e4 * (x[:, 1] + 2 * rng.normal(size=n))])
        parts.append(Batch(x=Features(numbers=x, codes=np.zeros((n, 0), dtype=np.int32)), y=y))
    train, val, test = parts
    if missing:
        hidden = np.random.default_rng(3).random(train.y.shape) < 0.3
        train = replace(train, y=np.where(hidden, np.nan, train.y))
    data = Coded(train=train, val=val, kinds=("regression", "regression"), n_numeric=20)
    answer = peer(name, data).predict(test)
    explained = 1 - np.square(answer - test.y).mean(axis=0) / test.y.var(axis=0)
    assert explained[0] > 0.8, explained
    assert explained[1] > 0


def test_refit_of_catboost_knows_the_rows_set_aside() -> None:
    pytest.importorskip("catboost")
    from benchmarks.peers.catboost import refit_catboost

    train, val = rows(200, 0), rows(200, 1)
    data = Coded(train=train, val=val, kinds=("regression", "regression", "binary", "binary"), n_numeric=2)
    fitted = peer("catboost", data)
    both = Batch(
        x=Features(
            numbers=np.concatenate([train.x.numbers, val.x.numbers]), codes=np.concatenate([train.x.codes, val.x.codes])
        ),
        y=np.concatenate([train.y, val.y]),
    )
    refitted = refit_catboost(fitted, both)
    counts = [[model.tree_count_ for model in each.models] for each in (fitted, refitted)]
    assert counts[0] == counts[1]
    errors = [np.square(each.predict(val) - val.y).mean(axis=0) for each in (fitted, refitted)]
    assert (errors[1] < 0.8 * errors[0]).all()
