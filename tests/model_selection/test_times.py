"""Splits by time: what judges is newer than what is learned, rows of one time stay together, and shares are met."""

from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import GridSearchCV, cross_validate

from tabmtl import IndependentTasks, MultiTaskTimeSplit, make_multitask_scorer
from tabmtl.base.schema import TabmtlWarning
from tabmtl.model_selection.times import borders, newest_split
from tabmtl.targets import Task

PRICE, LATE = Task(name="price", kind="regression"), Task(name="late", kind="binary", classes=("no", "yes"))
COUNTS = st.lists(st.integers(1, 9), min_size=2, max_size=12)


def times_of(counts, seed=0):
    """Times 0, 1, ... in so many rows each, mixed."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(float(len(counts))), counts))


@given(COUNTS, st.floats(0.05, 0.95), st.integers(0, 99))
def test_newest_rows_are_set_aside_by_whole_times_next_to_the_share(counts, share, seed):
    time = times_of(counts, seed)
    y = np.where(np.random.default_rng(seed).random(len(time)) < 0.3, np.nan, time)[:, None]
    labelled = time[~np.isnan(y[:, 0])]
    if len(np.unique(labelled)) < 2:
        return
    train, valid = newest_split(y, [PRICE], share, time)
    assert sorted([*train, *valid]) == [*range(len(time))]
    assert time[train].max() < time[valid].min()
    wanted, found = share * len(labelled), (labelled >= time[valid].min()).sum()
    others = [(labelled >= value).sum() for value in np.unique(labelled)[1:]]
    assert abs(found - wanted) == min(abs(other - wanted) for other in others)


def test_labels_that_begin_late_are_learned_before_they_judge():
    time = np.arange(100.0)
    y = np.column_stack([time, np.where(time < 95, np.nan, 0), np.where(time < 90, 0, 1)])
    train, valid = newest_split(y, [PRICE, Task(name="new", kind="regression"), LATE], 0.2, time)
    assert (train.max(), len(valid)) == (95, 4)
    with pytest.raises(ValueError, match=r"all labels of the tasks 'new' are of the newest time"):
        newest_split(
            np.column_stack([time, np.where(time < 99, np.nan, 0)]),
            [PRICE, Task(name="new", kind="regression")],
            0.2,
            time,
        )
    assert len(newest_split(np.where(time < 99, 0, 1)[:, None], [LATE], 0.2, time)[1]) == 20


@given(COUNTS, st.integers(0, 99))
def test_groups_that_are_learned_judge_nothing(counts, seed):
    time = times_of(counts, seed)
    group = np.random.default_rng(seed).integers(0, 1 + len(time) // 2, len(time))
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr("tabmtl.model_selection.times.warn_user", said.append)
        try:
            train, valid = newest_split(time[:, None], [PRICE], 0.3, time, group=group)
        except ValueError as error:
            assert "belong to groups that have older rows" in str(error)
            return
    assert not {*group[train]} & {*group[valid]}
    left_out = len(time) - len(train) - len(valid)
    assert [text.split()[0] for text in said] == ([str(left_out)] if left_out else [])


@given(COUNTS, st.integers(1, 11))
def test_borders_are_as_many_as_asked_for_or_as_there_are_times(counts, n):
    time = times_of(counts)
    found = borders(time, [len(time) * (j + 1) / (n + 1) for j in range(n)])
    assert found == sorted(set(found)) and len(found) == min(n, len(counts) - 1)
    assert 0.0 not in found


def table(n=60):
    days = np.random.default_rng(0).permutation(n) // 5
    X = pl.DataFrame({"x": np.sin(np.arange(n)), "day": [date(2024, 1, 1) + timedelta(days=int(d)) for d in days]})
    return X, pl.DataFrame({"late": np.arange(n) % 2 == 0, "price": X["x"] * 2})


def days_of(pairs, X):
    return [tuple((X[rows]["day"].min().day, X[rows]["day"].max().day) for rows in pair) for pair in pairs]


@pytest.mark.parametrize(
    ("params", "days"),
    [
        ({}, [((1, 3), (4, 6)), ((1, 6), (7, 9)), ((1, 9), (10, 12))]),
        ({"test_size": 5}, [((1, 9), (10, 10)), ((1, 10), (11, 11)), ((1, 11), (12, 12))]),
        ({"test_size": 10, "max_train_size": 10}, [((5, 6), (7, 8)), ((7, 8), (9, 10)), ((9, 10), (11, 12))]),
        ({"gap": timedelta(days=2)}, [((1, 2), (4, 6)), ((1, 5), (7, 9)), ((1, 8), (10, 12))]),
    ],
)
def test_splits_go_forward_by_whole_days(params, days):
    X, y = table()
    splitter = MultiTaskTimeSplit(3, time="day", **params)
    pairs = [*splitter.split(X, y)]
    assert splitter.get_n_splits() == 3 and days_of(pairs, X) == days
    whole = {day: set(np.flatnonzero(X["day"] == day)) for day in X["day"].unique()}
    for train, test in pairs:
        assert all(rows <= {*test} or not rows & {*test} for rows in whole.values())
        assert np.all(np.diff(train) > 0) and np.all(np.diff(test) > 0)


@pytest.mark.parametrize(
    "time",
    [
        lambda X: "day",
        lambda X: X["day"],
        lambda X: X["day"].to_numpy(),
        lambda X: X["day"].to_pandas(),
        lambda X: X["day"].to_arrow(),
        lambda X: X["day"].to_list(),
        lambda X: [datetime(day.year, day.month, day.day, 12) for day in X["day"]],
        lambda X: pd.Series(X["day"].to_pandas()).dt.tz_localize("Europe/Berlin"),
        lambda X: X["day"].to_physical().to_numpy() / 7,
    ],
)
def test_times_are_dates_or_numbers_of_any_library(time):
    X, y = table()
    pairs = MultiTaskTimeSplit(3).split(X, y, time=time(X))
    expected = MultiTaskTimeSplit(3, time="day").split(X, y)
    for own, other in zip(pairs, expected, strict=True):
        assert all(map(np.array_equal, own, other))


def test_rows_of_known_groups_are_not_tested_on():
    X, y = table()
    owner = np.where(X["day"].to_numpy() == np.datetime64("2024-01-12"), 0, 1 + np.arange(len(X)))
    owner[X["day"].arg_min()] = 0
    with pytest.warns(TabmtlWarning, match="5 of the newest rows are not tested on"):
        pairs = [*MultiTaskTimeSplit(3, time="day").split(X, y, groups=owner)]
    assert days_of(pairs, X)[-1] == ((1, 9), (10, 11))


def test_splits_without_labels_of_a_task_are_told():
    X, y = table()
    y = y.with_columns(new=pl.when(X["day"] > date(2024, 1, 5)).then("price"))
    with pytest.warns(TabmtlWarning, match=r"not each set of rows to train on holds labels of task 'new' \(35 rows\)"):
        [*MultiTaskTimeSplit(3, time="day").split(X, y)]


@pytest.mark.parametrize(
    ("params", "given", "error", "words"),
    [
        ({"n_splits": 0}, {}, ValueError, "n_splits must be at least 1"),
        ({"test_size": 0}, {}, ValueError, "test_size must be at least 1"),
        ({"gap": -1}, {}, ValueError, "gap must be a timedelta or a number"),
        ({"gap": "1d"}, {}, ValueError, "gap must be a timedelta or a number"),
        ({"gap": 2}, {}, ValueError, r"gap must be a datetime\.timedelta"),
        ({"gap": timedelta(days=5)}, {}, ValueError, r"gap=.* leaves no row to train on in the first split"),
        ({"n_splits": 12}, {}, ValueError, "n_splits=12 needs at least 13 different times, got 12; use at most 11"),
        ({"test_size": 20}, {}, ValueError, "test_size=20 need more than 60 rows, got 60"),
        ({}, {"y": None}, ValueError, "needs the targets"),
        ({"time": None}, {}, ValueError, "needs the time of every row"),
        ({"time": "dy"}, {}, ValueError, "time names the column 'dy', which X lacks"),
        ({}, {"time": np.zeros(60)}, ValueError, "all 60 rows have the same time"),
        ({}, {"groups": np.zeros(60)}, ValueError, "all test rows of a split belong to groups with older rows"),
        ({}, {"time": ["day"]}, ValueError, "give its name alone: time='day'"),
        ({}, {"time": [True, False] * 30}, TypeError, "must hold dates, datetimes or numbers, got Boolean"),
        ({}, {"time": [None] + [1.5] * 59}, ValueError, "time has 1 missing values of 60"),
    ],
)
def test_what_cannot_be_split_is_named(params, given, error, words):
    X, y = table()
    with pytest.raises(error, match=words):
        splitter = MultiTaskTimeSplit(**{"n_splits": 3, "time": "day", **params})
        [*splitter.split(**{"X": X, "y": y, **given})]


def test_it_serves_the_tools_of_scikit_learn():
    X, y = table()
    model = IndependentTasks(families=("lightgbm",), random_state=0, early_stopping=False)
    search = GridSearchCV(
        model, {"num_leaves": [3]}, cv=MultiTaskTimeSplit(2, time="day"), scoring=make_multitask_scorer()
    )
    assert np.isfinite(search.fit(X, y).best_score_)
    found = cross_validate(model, X, y, cv=MultiTaskTimeSplit(2, time="day"), params={"time": "day"})
    with sklearn.config_context(enable_metadata_routing=True):
        routed = cross_validate(model, X, y, cv=MultiTaskTimeSplit(2), params={"time": "day"})
    assert found["test_score"].tolist() == routed["test_score"].tolist()
