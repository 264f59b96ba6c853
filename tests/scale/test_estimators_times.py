"""Times of rows of files."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest
from conformance import features, mixed_targets, tiny

from tabmtl import (
    SharedBottom,
    SharedTrees,
)
from tabmtl.base.schema import TabmtlWarning
from tabmtl.ensemble import folds as ensemble_folds
from tabmtl.estimators import rows as estimator_rows
from tabmtl.model_selection import times
from tabmtl.models.independent import choice
from tabmtl.models.independent import folds as task_folds
from tabmtl.scale import Shards
from tabmtl.scale.rows import ShardRows

DAYS = pl.date(2024, 1, 1) + pl.duration(days=pl.int_range(pl.len()) * 7 % 40)
X = features(240).with_columns(day=DAYS)
Y = mixed_targets(X)


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


@pytest.mark.parametrize("cls", [SharedBottom, SharedTrees])
def test_shards_set_the_newest_rows_aside(cls, splits, tmp_path, monkeypatch):
    found = []
    choose = ShardRows.choose
    monkeypatch.setattr(
        ShardRows,
        "choose",
        lambda self, chosen: found.append(self.cache.arrays["time"][chosen]) or choose(self, chosen),
    )
    order = np.random.default_rng(0).permutation(240)
    X.hstack(Y)[order].write_parquet(tmp_path / "rows.parquet")
    tiny(cls, columns={"day": "ignore"}).fit(Shards(tmp_path / "rows.parquet"), Y.columns, time="day")
    sides = [found] if found else splits
    assert sides and all(train.max() < valid.min() for train, valid in sides)


def test_shards_leave_out_rows_of_known_groups(tmp_path):
    owners = X.hstack(Y).with_columns(owner=pl.int_range(240) % 215)
    owners.write_parquet(tmp_path / "rows.parquet")
    given = {"groups": "owner", "time": "day"}
    with pytest.warns(TabmtlWarning, match=r"\d of the newest rows are set aside but judge nothing"):
        tiny(SharedBottom, columns={"owner": "ignore"}).fit(Shards(tmp_path / "rows.parquet"), Y.columns, **given)
    with pytest.warns(TabmtlWarning, match=r"\d of the newest rows are set aside but judge nothing"):
        tiny(SharedBottom, columns={"owner": "ignore"}).fit(owners.drop(Y.columns), Y, **given)


@pytest.mark.parametrize(
    ("change", "given", "words"),
    [
        ({}, {"time": ["day"]}, "with Shards as X, time is the name of a column"),
        ({}, {"time": "late"}, "time names 'late', which is a target"),
        ({}, {"time": "dy"}, "time names columns.*'dy'"),
        ({"day": pl.lit(date(2024, 1, 1))}, {}, "one time in all rows"),
        ({"day": pl.when(pl.int_range(pl.len()) > 3).then("day")}, {}, "'day'.*has 4 missing values"),
        ({"day": pl.col("day").cast(pl.String)}, {}, "must hold dates, datetimes or numbers, got String"),
    ],
)
def test_bad_times_of_shards_are_named(change, given, words, tmp_path):
    X.hstack(Y).with_columns(**change).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises((TypeError, ValueError), match=words):
        model = tiny(SharedBottom, columns={"day": "ignore"})
        model.fit(Shards(tmp_path / "rows.parquet"), Y.columns, **({"time": "day"} | given))
