"""Stage 3 of tasks that are dealt to ranks: every task has the trees of one process."""

import numpy as np
import polars as pl
import pytest
from conformance import tiny
from polars.testing import assert_frame_equal
from ranks import run_ranks

from tabmtl import RMTGB, Shards
from tabmtl.encode import cache
from tabmtl.models.rmtgb import dealing

TARGETS = ["late", "lost", "size", "fit", "delay", "spend", "rare"]
N = 500


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(cache, "CHUNK_ROWS", 8)


@pytest.fixture(scope="module")
def table():
    """Two tasks of two classes, two of the same three, three regressions; all labels of one are on the last rank."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 4))
    noisy = x @ rng.normal(size=(4, 7)) + rng.normal(size=(N, 7)) / 2
    cut = {name: np.digitize(noisy[:, j], [-0.5, 0.5]) for j, name in [(2, "size"), (3, "fit")]}
    columns = {"late": noisy[:, 0] > 0, "lost": noisy[:, 1] > 1, "delay": noisy[:, 4], "spend": noisy[:, 5]}
    frame = pl.DataFrame({f"x{j}": column for j, column in enumerate(x.T)} | columns)
    frame = frame.with_columns(pl.Series(name, np.array(["s", "m", "l"])[codes]) for name, codes in cut.items())
    frame = frame.with_columns(
        pl.when(pl.Series(rng.random(N) > 0.3)).then(pl.col(name)).alias(name) for name in TARGETS[:-1]
    )
    return frame.with_columns(
        rare=pl.when(pl.int_range(N) >= N - 40).then(pl.Series(noisy[:, 6])),
        shop=pl.Series(rng.choice(["a", "b", "c"], N)),
        weight=pl.Series(rng.uniform(0.5, 2, N)),
    )


@pytest.fixture
def moved(monkeypatch):
    """The numbers of rows that moved to each rank, of every loss and fit."""
    found, move = [], dealing._move_rows

    def note(rows, owner):
        moved = move(rows, owner)
        found.append((rows.targets.group.rank, 0 if moved is None else moved.data.num_data()))
        return moved

    monkeypatch.setattr(dealing, "_move_rows", note)
    return found


def fit_ranks(table, targets, n_ranks=2, **params):
    """The model of one process, and those of several ranks."""
    drop = [name for name in TARGETS if name not in targets and name in table.columns]
    weights = {"sample_weight": "weight"} if "weight" in table.columns else {}

    def work():
        return tiny(RMTGB, drop=drop, **params).fit(Shards(table.lazy()), targets, **weights)

    return work(), *run_ranks(n_ranks, work)


def answers(model, X):
    return np.concatenate([np.asarray(part, dtype=float).reshape(len(X), -1) for part in model._read_and_answer(X)], 1)


@pytest.mark.parametrize("early_stopping", [True, False])
def test_ranks_have_the_own_trees_of_one(table, early_stopping, moved):
    alone = {"n_estimators_shared": 0, "n_estimators_outlier": 0}  # LightGBM's network estimates rows of leaves
    one, *ranks = fit_ranks(table, TARGETS, early_stopping=early_stopping, **alone)
    X = table.drop(TARGETS, "weight")
    for model in ranks:
        np.testing.assert_allclose(answers(model, X), answers(one, X), rtol=0, atol=1e-12)
        assert_frame_equal(model.block_rounds_, one.block_rounds_)
        assert_frame_equal(model.outlier_score_, one.outlier_score_)
        np.testing.assert_allclose(model.block_importances_, one.block_importances_)
    assert {rank for rank, rows in moved if rows} == {0, 1}


def test_a_long_table_has_the_own_trees_of_one(moved):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    task = np.repeat(["a", "b", "c", "d"], [150, 50, 120, 80])  # so that no rank has rows of all
    frame = pl.DataFrame({"x0": x[:, 0], "x1": x[:, 1], "task": task, "y": x[:, 0] * np.repeat(range(8), 50)})
    one, first, second = fit_ranks(frame, "y", task_column="task", early_stopping=False, n_estimators_outlier=0)
    X = frame.drop("y")
    np.testing.assert_array_equal(answers(first, X), answers(second, X))
    np.testing.assert_allclose(answers(first, X), answers(one, X), rtol=0, atol=1e-6)
    assert sorted(moved) == [(0, 200), (1, 200)]


def test_more_ranks_than_tasks_or_too_many_rows_grow_all_tasks_together(table, moved, monkeypatch):
    regressions = table.drop("weight")
    fit_ranks(regressions, ["delay", "spend"], n_ranks=3, early_stopping=False)
    monkeypatch.setattr(dealing, "_MOST_VALUES", N)  # a hundred rows of five columns
    fit_ranks(regressions, ["delay", "spend"], early_stopping=False)
    assert not moved
    fit_ranks(regressions.head(120), ["delay", "spend"], early_stopping=False)
    assert {rank for rank, _ in moved} == {0, 1}
