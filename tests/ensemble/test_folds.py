"""Folds of an ensemble: every fit sees every task and class, and no fold judges what its fit has seen."""

from contextlib import ExitStack

import numpy as np
import polars as pl
import pytest
from conformance import CANDIDATES
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from tabmtl import MultiTaskEnsemble, SharedTrees
from tabmtl.ensemble.folds import Folds, Table
from tabmtl.estimators.learner import Marks
from tabmtl.model_selection.stratify import Strata
from tabmtl.testing import features, long_table, mixed_targets


def deal(X, y, n_folds="auto", seed=0, groups=None, **params):
    coder, rows, _ = SharedTrees(**params).__learner__().rows(ExitStack(), X, y, None, Marks(groups))
    return coder, Folds.deal(Table.read(X, coder, rows.batch), coder, n_folds, seed)


def check(coder, folds):
    batch = folds.table.batch
    strata = Strata.of(batch.y, coder.labels.tasks, batch.task)
    everywhere = strata.spread(None) > 0
    judged = np.concatenate([rows for _, rows in folds.pairs])
    assert len(np.unique(judged)) == len(judged)
    for fitted, rows in folds.pairs:
        assert not np.intersect1d(fitted, rows).size
        assert (strata.take(fitted).spread(None)[everywhere] > 0).all()
        if batch.group is not None:
            assert not np.intersect1d(batch.group[fitted], batch.group[rows]).size


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), n_folds=st.integers(2, 6), n_groups=st.integers(1, 40), seed=st.integers(0, 99))
def test_every_fit_sees_all_labels_that_there_are(n, n_folds, n_groups, seed):
    rng = np.random.default_rng(seed)
    X = features(n, seed)
    y = pl.DataFrame({"size": rng.normal(size=n), "few": [2.5] + [None] * (n - 1)})
    coder, folds = deal(X, y, n_folds, seed, groups=rng.integers(0, n_groups, n))
    check(coder, folds)


def tables():
    """Wide and long tables, the first row of which is the only one of its class or task."""
    X = features(60)
    yield X, pl.DataFrame({"kind": ["rare"] + ["a", "b"] * 29 + ["a"], "size": np.arange(60.0)}), 3, {}
    yield X, mixed_targets(X).with_columns(late=pl.Series(["rare", *["a", None, "b"] * 20][:60])), 4, {}
    X, y = long_table(60)
    X = X.with_columns(school=pl.Series(["lone", *X["school"][1:]]))
    yield X, y.fill_null(1.0), 5, {"task_column": "school"}


@pytest.mark.parametrize(("X", "y", "n_folds", "params"), [*tables()])
def test_the_only_row_of_a_class_or_a_task_is_in_every_fit(X, y, n_folds, params):
    coder, folds = deal(X, y, n_folds, **params)
    check(coder, folds)
    assert len(folds.pairs) == n_folds
    assert all(0 in fitted for fitted, _ in folds.pairs)


def test_folds_are_halved_for_models_of_single_tasks():
    """A half of a fold leaves more labels to learn from, and no row of the other half is in another fold."""
    X = features(1_500)
    folds = deal(X, pl.DataFrame({"full": np.arange(1_500.0)}))[1]
    assert len(folds.pairs) == 5
    assert len(np.unique(folds.fine)) == 10
    assert_array_equal(folds.fine % 5, folds.numbers)


def test_labels_are_those_given():
    X = features()
    y = mixed_targets(X).with_columns(is_late=pl.col("late") == "late", level=pl.col("delay").round().cast(int) % 3)
    coder, rows, _ = SharedTrees(tasks={"level": "multiclass"}).__learner__().rows(ExitStack(), X, y, None, Marks())
    table = Table.read(X, coder, rows.batch)
    assert table.y.cast(y.schema).equals(y)
    assert table.X.equals(X)


def test_groups_that_leave_no_rows_to_stop_on_are_not_handed_on():
    """Labels of the only task in two groups, one of which a fold judges."""
    X, group = features(90), np.repeat([0, 1, 2], 30)
    y = X.select(pl.when(pl.Series(group < 2)).then("plain").alias("few"))
    model = MultiTaskEnsemble(models=CANDIDATES, n_folds=3, random_state=0).fit(X, y, groups=group)
    assert model.leaderboard_["score"].null_count() == 0


def test_large_tables_have_few_folds_and_more_of_them_for_a_scarce_task(monkeypatch):
    monkeypatch.setattr("tabmtl.ensemble.folds._MANY_ROWS", 500)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(700, 1)), rng.normal(size=(700, 2))
    assert len(deal(X, y)[1].pairs) == 3
    y[400:, 1] = np.nan
    assert len(deal(X, y)[1].pairs) == 5


def test_no_label_of_a_fold_is_in_the_means_of_levels_that_its_models_read():
    """The rows of the other folds read it once all are learned."""
    rng = np.random.default_rng(0)
    X = pl.DataFrame({"level": [f"level {k}" for k in rng.integers(0, 12, 120)], "a": rng.normal(size=120)})
    y, found = rng.normal(size=(120, 2)), []
    for _ in range(2):
        _, folds = deal(X, y, groups=np.arange(120) // 2)
        encoded, (fitted, held) = folds.encoded(SharedTrees()), folds.pairs[0]
        found.append([own.batch.x.numbers for own in (*encoded.tables(0), encoded.whole.rows(fitted))])
        y = y.copy()
        y[held] = y[held][::-1]  # in another order, so that the ranks of all labels stay
    assert found[0][0].shape[1] == 1 + 3  # the column, the mean of each target, and the number of rows
    for before, after in zip(found[0][:2], found[1][:2], strict=True):
        assert_array_equal(before, after)
    assert (found[0][2] != found[1][2]).any()
