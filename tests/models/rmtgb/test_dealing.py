"""Stage 3 of tasks that are dealt to ranks: every task has the trees of one process."""

import numpy as np
import polars as pl
import pytest
from conformance import tiny
from polars.testing import assert_frame_equal
from ranks import answers, read_small_parts, run_ranks

from tabmtl import RMTGB, Shards
from tabmtl.models.rmtgb import dealing
from tabmtl.models.rmtgb.targets import BinnedRows, LongTargets

TARGETS = ["late", "lost", "size", "fit", "delay", "spend", "rare"]
N = 500


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    read_small_parts(monkeypatch, chunk_rows=8)


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
    """The rank and number of rows of what moved, of every loss and fit, with rows to stop on before those of fit."""
    found, move = [], dealing._move

    def note(rows, owner):
        moved = move(rows, owner)
        found.append((rows.targets.group.rank, 0 if moved is None else moved.data.num_data()))
        return moved

    monkeypatch.setattr(dealing, "_move", note)
    return found


def fit_ranks(table, targets, n_ranks=2, valid=None, **params):
    """The model of one process, and those of several ranks."""
    drop = [name for name in TARGETS if name not in targets and name in table.columns]
    options = {"sample_weight": "weight"} if "weight" in table.columns else {}

    def work():
        rows_to_stop_on = {} if valid is None else {"X_val": Shards(valid.lazy()), "y_val": targets}
        model = tiny(RMTGB, **{"drop": drop} | params)
        return model.fit(Shards(table.lazy()), targets, **options, **rows_to_stop_on)

    return work(), *run_ranks(n_ranks, work)


def assert_same_models(one, ranks, X, atol=1e-12):
    for model in ranks:
        np.testing.assert_allclose(answers(model, X), answers(one, X), rtol=0, atol=atol)
        np.testing.assert_array_equal(answers(model, X), answers(ranks[0], X))
        assert_frame_equal(model.block_rounds_, one.block_rounds_)
        assert_frame_equal(model.outlier_score_, one.outlier_score_)
        np.testing.assert_allclose(model.block_importances_, one.block_importances_, rtol=1e-5)


@pytest.mark.parametrize("params", [{}, {"early_stopping": False}, {"subsample": 0.5}])
def test_ranks_have_the_own_trees_of_one(table, params, moved):
    alone = {"n_estimators_shared": 0, "n_estimators_outlier": 0}  # LightGBM's network estimates rows of leaves
    one, *ranks = fit_ranks(table, TARGETS, **alone, **params)
    assert_same_models(one, ranks, table.drop(TARGETS, "weight"))
    assert {rank for rank, rows in moved if rows} == {0, 1}


@pytest.mark.parametrize("is_dealt", [True, False])
def test_a_long_table_has_the_trees_of_one(is_dealt, moved, monkeypatch):
    if not is_dealt:
        monkeypatch.setattr(dealing, "_MOST_BYTES", 0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 2))
    task = rng.choice(4, 900, p=[0.4, 0.3, 0.2, 0.1])  # every rank has rows of all, so that no row is added
    frame = pl.DataFrame({"x0": x[:, 0], "x1": x[:, 1], "task": task, "y": x[:, 0] * task + x[:, 1]})
    params = {"task_column": "task", "reg_lambda": 0.0}
    one, *ranks = fit_ranks(frame[:600], "y", valid=frame[600:], **params)
    assert one.block_rounds_["own"].max() > 0
    assert_same_models(one, ranks, frame.drop("y"))
    assert len(moved) == (4 if is_dealt else 0)


def test_ranks_with_unlike_tasks_of_a_long_table(moved):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    task = np.repeat(["a", "b", "c", "d"], [150, 50, 120, 80])  # so that no rank has rows of all
    frame = pl.DataFrame({"x0": x[:, 0], "x1": x[:, 1], "task": task, "y": x[:, 0] * np.repeat(range(8), 50)})
    one, *ranks = fit_ranks(frame, "y", task_column="task", early_stopping=False, n_estimators_outlier=0)
    X = frame.drop("y")
    np.testing.assert_allclose(answers(ranks[0], X), answers(one, X), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(answers(ranks[0], X), answers(ranks[1], X))
    assert sorted(moved) == [(0, 200), (1, 200)]


def test_a_rank_without_rows_to_stop_on(table, moved):
    valid = table[400:].with_columns(delay=pl.lit(None, pl.Float64))
    alone = {"n_estimators_shared": 0, "n_estimators_outlier": 0}
    one, *ranks = fit_ranks(table[:400].drop("weight"), ["delay", "spend"], valid=valid, **alone)
    assert_same_models(one, ranks, table.drop(TARGETS, "weight"))
    assert [rows for _, rows in sorted(moved)].count(0) == 1


def test_few_rows_to_stop_on_of_one_rank_are_scored(table, capsys):
    alone = {"n_estimators_shared": 0, "n_estimators_outlier": 0, "verbose": 1}
    one, *ranks = fit_ranks(table[:400], ["delay", "spend"], valid=table[400:406], **alone)
    assert_same_models(one, ranks, table.drop(TARGETS, "weight"))
    shown = [line.split("  ")[1:] for line in capsys.readouterr().out.splitlines() if " val r2 " in line]
    assert shown[:2] == shown[2:]  # of one process, and of rank 0


def test_ranks_take_lightgbms_own_regression_together_or_not_at_all(table, monkeypatch):
    taken, take = [], BinnedRows.plain_residuals

    def note(rows):
        residuals = take(rows)
        if isinstance(rows.targets, LongTargets):  # of stage 3
            taken.append((rows.targets.group.rank, residuals is not None))
        return residuals

    monkeypatch.setattr(BinnedRows, "plain_residuals", note)
    rows = table.drop("weight")
    _, first, second = fit_ranks(rows, ["rare"], early_stopping=False)  # whose labels are all on one rank
    X = table.drop(TARGETS, "weight")
    np.testing.assert_array_equal(answers(first, X), answers(second, X))
    fit_ranks(rows, ["delay"], early_stopping=False)
    assert taken[0] == (0, True)  # one process
    assert sorted(taken[1:3]) == [(0, False), (1, False)]
    assert sorted(taken[4:]) == [(0, True), (1, True)]


@pytest.mark.parametrize("early_stopping", [True, False])
def test_the_time_ends_own_trees_of_all_ranks(table, early_stopping, moved, monkeypatch):
    told = []
    monkeypatch.setattr("tabmtl.training.watch.warn_user", lambda text, _: told.append(text))  # threads share warnings
    alone = {"n_estimators_shared": 0, "n_estimators_outlier": 0, "n_estimators_task": 50}
    rows = table.drop("weight")
    _, first, second = fit_ranks(rows, ["delay", "spend"], time_limit=1e-3, early_stopping=early_stopping, **alone)
    X = table.drop(TARGETS, "weight")
    np.testing.assert_array_equal(answers(first, X), answers(second, X))
    assert len(told) == 2  # of one process, and of rank 0
    assert "stage 3 without the shared part, round 1 of 50" in told[1]
    assert first.block_rounds_["own"].max() < 50
    assert moved


def test_tasks_that_cannot_be_dealt_well_are_grown_together(table, moved, monkeypatch):
    regressions = table.drop("weight")
    fit_ranks(regressions, ["delay", "spend"], n_ranks=3, early_stopping=False)  # a rank would have no task
    fit_ranks(regressions, ["delay", "rare"], early_stopping=False)  # or hardly a label
    monkeypatch.setattr(dealing, "_MOST_BYTES", 10_000)
    fit_ranks(regressions, ["delay", "spend"], early_stopping=False)
    assert not moved
    fit_ranks(regressions.head(120), ["delay", "spend"], early_stopping=False)
    assert {rank for rank, _ in moved} == {0, 1}
