"""Trees that several ranks grow: the splits and answers of one process on all rows, also where ranks see other rows."""

import numpy as np
import polars as pl
import pytest
from cases import later
from conformance import tiny
from polars.testing import assert_frame_equal
from ranks import answers, read_small_parts, run_ranks
from sklearn.base import clone

from tabmtl import RMTGB, IndependentTasks, Shards, SharedTrees, Task
from tabmtl.models.rmtgb import dealing

TARGETS = ["late", "size", "delay", "spend", "rare"]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    read_small_parts(monkeypatch, chunk_rows=8)


@pytest.fixture(scope="module")
def table():
    """Rows sorted by the column that tells most, so that ranks see disjoint ranges of it; one label is rare."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3))
    x[:, 0].sort()
    noise = rng.normal(size=(600, 3)) / 4
    frame = pl.DataFrame({f"x{j}": column for j, column in enumerate(x.T)}).with_columns(
        shop=pl.Series(rng.choice(["a", "b", "c"], 600)),
        late=pl.Series(x[:, 0] + x[:, 1] + noise[:, 0] > 0),
        size=pl.Series(np.where(x[:, 2] > 0.5, "s", np.where(x[:, 0] > 0, "m", "l"))),
        delay=pl.Series(x[:, 0] * x[:, 1] + noise[:, 1]),
        spend=pl.Series(x[:, 0] + noise[:, 0]),
        rare=pl.Series(x[:, 0] + noise[:, 2]),
    )
    return frame.with_columns(rare=pl.when(pl.int_range(600) > 560).then("rare"))


def fit_ranks(table, cls, targets, *, with_valid=False, **params):
    """The model of one process, and those of two ranks."""
    drop = [name for name in TARGETS if name not in targets and name in table.columns]
    rows = pl.int_range(table.height) % 5
    train, valid = (table.filter(rows > 0), table.filter(rows == 0)) if with_valid else (table, table)

    def work():
        options = {"X_val": Shards(valid.lazy()), "y_val": targets} if with_valid else {}
        return tiny(cls, drop=drop, **params).fit(Shards(train.lazy()), targets, **options)

    return work(), *run_ranks(2, work)


KEPT = "no fit of all rows, so that the one without the rows set aside is kept"


@pytest.mark.parametrize(
    ("cls", "parts"), [(RMTGB, [KEPT]), (SharedTrees, [KEPT]), (IndependentTasks, ["task 'late', ", "task 'size', "])]
)
def test_ranks_end_in_time_together_and_rank_0_tells_of_all(table, cls, parts, monkeypatch):
    told = []  # threads share what catches warnings
    monkeypatch.setattr("tabmtl.training.watch.warn_user", lambda text, _: told.append(text))
    model = tiny(cls, time_limit=1e-3, drop=TARGETS[2:])
    one, other = run_ranks(2, lambda: clone(model).fit(Shards(table.lazy()), TARGETS[:2]))
    (text,) = told
    assert all(part in text for part in parts)
    X = table.drop(TARGETS)
    np.testing.assert_array_equal(answers(one, X), answers(other, X))


@pytest.mark.parametrize(("cls", "is_dealt"), [(RMTGB, True), (RMTGB, False), (SharedTrees, False)])
def test_ranks_grow_the_trees_of_one(table, cls, is_dealt, monkeypatch):
    if not is_dealt:
        monkeypatch.setattr(dealing, "_MOST_BYTES", 0)
    # regressions with all labels, so that hessians count rows; without a penalty, because one process does not look
    # again at a column of a leaf that had no good split above it, and several do
    one, first, second = fit_ranks(table, cls, ["delay", "spend"], with_valid=True, reg_lambda=0.0)
    X = table.drop(TARGETS)
    np.testing.assert_allclose(answers(first, X), answers(one, X), rtol=0, atol=1e-6 if cls is RMTGB else 1e-5)
    np.testing.assert_array_equal(answers(first, X), answers(second, X))
    rounds = "block_rounds_" if cls is RMTGB else "rounds_"
    assert_frame_equal(getattr(first, rounds), getattr(one, rounds))


@pytest.mark.parametrize("with_valid", [True, False])
def test_rank_0_shows_the_scores_on_the_rows_of_all(table, with_valid, capsys):
    one, *_ = fit_ranks(table, RMTGB, ["delay", "spend"], with_valid=with_valid, verbose=1, reg_lambda=0.0)
    shown = [line.split("  ")[1:] for line in capsys.readouterr().out.splitlines() if " val r2 " in line]
    assert [line[0] for line in shown] == [task.name for task in one.tasks_] * 2  # of one process, and of rank 0
    assert not with_valid or shown[:2] == shown[2:]  # ranks set other rows aside


@pytest.mark.parametrize("cls", [RMTGB, SharedTrees])
def test_ranks_are_as_good_as_one_where_lightgbm_estimates_the_rows_of_leaves(table, cls):
    ordered = {"size": Task(name="size", kind="ordinal", classes=("m", "l", "s"))} if cls is SharedTrees else None
    one, first, second = fit_ranks(table, cls, TARGETS, tasks=ordered)  # that is, where hessians differ
    X, y = table.drop(TARGETS), table.select(TARGETS)
    np.testing.assert_array_equal(answers(first, X), answers(second, X))
    ours, theirs = first.score_tasks(X, y), one.score_tasks(X, y)
    many = [task for task in TARGETS if task != "rare"]  # of few labels, one process finds the rounds by folds
    assert min(ours[task] - theirs[task] for task in many) > -0.05, (ours, theirs)
    for name in ["outlier_score_"] if cls is RMTGB else ["rounds_"]:
        assert getattr(first, name)["n_labels"].to_list() == getattr(one, name)["n_labels"].to_list()


@pytest.mark.parametrize("cls", later([RMTGB, SharedTrees], SharedTrees))
def test_a_long_table_with_tasks_on_one_rank(cls):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    task = np.repeat(["a", "b", "c", "d"], 100)
    frame = pl.DataFrame({"x0": x[:, 0], "x1": x[:, 1], "task": task, "y": x[:, 0] + np.repeat(np.arange(4), 100)})
    one, first, second = fit_ranks(frame, cls, "y", task_column="task", early_stopping=False, min_child_samples=1)
    X = frame.drop("y")
    np.testing.assert_array_equal(answers(first, X), answers(second, X))
    np.testing.assert_allclose(answers(first, X), answers(one, X), rtol=0, atol=1e-6 if cls is RMTGB else 0.5)


@pytest.mark.parametrize("cls", [RMTGB, SharedTrees])
def test_a_rank_of_whose_rows_none_is_drawn(table, cls):
    _, first, second = fit_ranks(table, cls, ["rare"], subsample=0.5, early_stopping=False)  # all labels on one rank
    X = table.drop(TARGETS)
    np.testing.assert_array_equal(answers(first, X), answers(second, X))
    assert np.ptp(answers(first, X)) > 0.1  # trees were grown


TUNED = pytest.param(TARGETS, {"tune": ("small", "mid")}, marks=pytest.mark.all_faces)


LEVELS = (["late", "delay"], {"tasks": {"delay": "quantiles"}})
ORDERED = (["late", "size"], {"tasks": {"size": Task(name="size", kind="ordinal", classes=("m", "l", "s"))}})


@pytest.mark.parametrize(("targets", "params"), [(["late", "delay"], {}), LEVELS, ORDERED, TUNED])
def test_tasks_are_dealt_to_ranks(table, targets, params, capsys):
    one, first, second = fit_ranks(table, IndependentTasks, targets, learning_rate=0.3, verbose=1, **params)
    shown = capsys.readouterr().out
    assert "task of rank 0 1/" in shown and "model of rank 0 1/" in shown
    assert "rank 1" not in shown
    X = table.drop(TARGETS)
    np.testing.assert_array_equal(answers(first, X), answers(one, X))
    np.testing.assert_array_equal(answers(first, X), answers(second, X))
    assert_frame_equal(first.configuration_scores_, one.configuration_scores_)
