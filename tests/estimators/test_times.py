"""Times of rows: whatever fit sets aside is newer than what it learns, in every estimator."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from cases import later, quick
from conformance import answers, features, long_table, mixed_targets, same, tiny

from tabmtl import (
    RMTGB,
    IndependentTasks,
    MultiTaskEnsemble,
    RandomSplitWarning,
    SharedBottom,
    SharedTrees,
    SharedTreesRegressor,
)
from tabmtl.base.schema import TabmtlWarning
from tabmtl.ensemble import folds as ensemble_folds
from tabmtl.estimators import rows as estimator_rows
from tabmtl.model_selection import times
from tabmtl.models.independent import choice
from tabmtl.models.independent import folds as task_folds

DAYS = pl.date(2024, 1, 1) + pl.duration(days=pl.int_range(pl.len()) * 7 % 40)
X = features(240).with_columns(day=DAYS)
Y = mixed_targets(X)
MODELS = {
    "network": (SharedBottom, {}),
    "network with members": (SharedBottom, {"n_members": 2}),
    "SharedTrees": (SharedTrees, {}),
    "RMTGB": (RMTGB, {}),
    "IndependentTasks": (IndependentTasks, {}),
    "few labels": (IndependentTasks, {"families": "all"}),
    "trees of scikit-learn's form": (
        IndependentTasks,
        {"regressor": SharedTreesRegressor(n_estimators=5, n_estimators_task=5), "families": ("lightgbm",)},
    ),
    "MultiTaskEnsemble": (MultiTaskEnsemble, {}),
}


@pytest.fixture
def splits(monkeypatch):
    """Times of the two sides of every split."""
    found = []

    def newest_split(y, tasks, fraction, time, task=None, group=None):
        sides = times.newest_split(y, tasks, fraction, time, task, group)
        found.append([time[side] for side in sides])
        return sides

    def forward_folds(time, starts, group=None):
        pairs = times.forward_folds(time, starts, group)
        found.extend([time[side] for side in pair] for pair in pairs)
        return pairs

    for module in (estimator_rows, choice):
        monkeypatch.setattr(module, "newest_split", newest_split)
    for module in (task_folds, ensemble_folds):
        monkeypatch.setattr(module, "forward_folds", forward_folds)
    monkeypatch.setattr(choice, "FEW_ROWS", 50)
    return found


@pytest.mark.parametrize("name", later(MODELS, "network with members"))
def test_no_row_that_judges_is_older_than_one_that_is_learned(name, splits):
    cls, params = MODELS[name]
    tiny(cls, **params).fit(X, Y, time="day")
    assert splits
    assert all(len(train) and len(valid) and train.max() < valid.min() for train, valid in splits)


@pytest.mark.all_faces
def test_few_labels_are_judged_by_forests_and_curves_of_older_rows(splits):
    model = tiny(IndependentTasks, families="all").fit(X[:90], Y[:90], time="day")
    assert len(splits) >= 3 * 5
    assert all(train.max() < valid.min() for train, valid in splits)
    again = tiny(IndependentTasks, families="all").fit(X[:90], Y[:90], time="day")
    assert same(answers(model, X), answers(again, X))


def test_an_ensemble_refits_what_it_has_chosen_and_judges_the_newer_blocks():
    model = tiny(MultiTaskEnsemble, n_folds=3).fit(X, Y, time="day")
    assert {len(parts) for parts in model.estimators_.values()} == {1}
    assert model.stack_ is None and model.leaderboard_["score"].count()


def test_a_long_table_is_split_by_time(splits):
    table, y = long_table(150)
    for cls in (SharedBottom, SharedTrees, IndependentTasks):
        tiny(cls, task_column="school").fit(table, y, time=np.arange(150) % 30)
    assert len(splits) > 3
    assert all(train.max() < valid.min() for train, valid in splits)


def test_validation_rows_that_are_not_newer_are_told():
    split = {"X_val": X[180:], "y_val": Y[180:]}
    with pytest.warns(
        TabmtlWarning, match=r"60 of the 60 rows of X_val are not newer than all rows of X by the column"
    ):
        tiny(SharedTrees).fit(X[:180], Y[:180], time="day", **split)
    later = X[180:].with_columns(day=pl.date(2025, 1, 1))
    tiny(SharedTrees).fit(X[:180], Y[:180], time="day", **(split | {"X_val": later}))


@pytest.mark.parametrize("cls", quick([SharedBottom, SharedTrees, IndependentTasks, MultiTaskEnsemble], "SharedTrees"))
def test_random_splits_of_rows_with_dates_are_told(cls):
    with pytest.warns(RandomSplitWarning, match=r"X holds dates in 'day'.* say time='day'") as caught:
        tiny(cls).fit(X, Y)
    assert len([one for one in caught if one.category is RandomSplitWarning]) == 1


@pytest.mark.parametrize(
    ("frame", "params", "given"),
    [
        (X, {}, {"time": "day"}),
        (X, {"columns": {"day": "ignore"}}, {}),
        (X, {"early_stopping": False}, {}),
        (X[:150], {}, {}),
        (X.with_columns(day=pl.when(pl.int_range(240) > 0).then("day")), {}, {}),
        (X, {}, {"X_val": X[200:].with_columns(plain=pl.col("plain") + 9), "y_val": Y[200:]}),
    ],
)
def test_other_fits_are_not(frame, params, given, recwarn, three_folds):
    for cls in (SharedTrees, IndependentTasks):
        tiny(cls, **params).fit(frame, Y[: len(frame)], **given)
    assert RandomSplitWarning not in [one.category for one in recwarn]
