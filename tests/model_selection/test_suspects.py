"""Warnings of data whose scores would mislead; each has a category of its own, and is quiet where nothing is wrong."""

from __future__ import annotations

import datetime
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import tabmtl
from tabmtl import (
    ConstantFeatureWarning,
    FewLabelsWarning,
    IdColumnWarning,
    IndexMismatchWarning,
    PerfectFeatureWarning,
    SharedBottom,
    TabmtlWarning,
    TargetInFeaturesWarning,
)
from tabmtl.base.schema import told
from tabmtl.estimators.tables import MultiTaskEstimator

N = 400
RNG = np.random.default_rng(0)
X = pl.DataFrame({"plain": RNG.normal(size=N), "other": RNG.random(N), "town": RNG.choice(["Ulm", "Bonn", "Kiel"], N)})
NOISE = RNG.normal(size=N)
Y = pl.DataFrame({"late": X["plain"] + NOISE > 0, "delay": X["other"] + NOISE})


@dataclass(kw_only=True, eq=False, repr=False)
class Reader(MultiTaskEstimator):
    """Reads a table and learns nothing."""

    def _fit(self, *args: Any) -> dict[str, Any]:
        return {"_fitted": None}


def said(X: Any, y: Any, **params: Any) -> list[warnings.WarningMessage]:
    """Return the warnings of a fit, as the first of a process."""
    told.clear()
    with warnings.catch_warnings(record=True, action="always") as found:
        fit = {name: params.pop(name) for name in ("sample_weight", "X_val", "y_val") if name in params}
        Reader(**params).fit(X, y, **fit)
    return found


def test_a_sound_table_is_silent():
    assert said(X, Y) == []
    assert said(X.to_pandas(), Y.to_pandas()) == []


def test_a_target_that_is_a_feature_too():
    (warning,) = said(X.with_columns(late=RNG.random(N)), Y)
    assert warning.category is TargetInFeaturesWarning
    assert "X holds the targets ['late'] as features" in str(warning.message)
    assert "columns={'late': 'ignore'}" in str(warning.message)
    assert said(X.with_columns(late=RNG.random(N)), Y, columns={"late": "ignore"}) == []
    array = X.select("plain", "other").to_numpy()
    assert said(array, array + NOISE[:, None]) == [], "arrays have no names"


@pytest.mark.parametrize(
    ("leak", "name", "score"),
    [
        (Y["delay"] * 3 + 1, "delay", "R² 1.0000"),
        (-np.exp(Y["delay"].to_numpy()), "delay", "R² 1.0000"),
        (Y["late"].cast(pl.Float64) + X["other"] / 2, "late", "AUC 1.0000"),
        (Y["late"].cast(pl.Int8), "late", "AUC 1.0000"),
        (Y["late"].cast(pl.String), "late", "R² 1.0000"),
    ],
)
def test_a_feature_that_alone_predicts_a_task(leak, name, score):
    for y in (Y, Y.with_columns(pl.when(pl.int_range(N) % 3 > 0).then(pl.col(name)))):
        (warning,) = said(X.with_columns(leak=leak), y)
        assert warning.category is PerfectFeatureWarning
        assert f"'leak' predicts {name!r} ({score})" in str(warning.message)
        assert "columns={'leak': 'ignore'}" in str(warning.message)
    rare = pl.DataFrame({"late": [i < 12 for i in range(N)]})
    (warning,) = said(X.with_columns(leak=pl.Series(range(N)) + 0.5), rare)
    assert "'leak' predicts 'late' (AUC 1.0000)" in str(warning.message)


def test_a_leak_in_a_long_table_is_named_for_its_task():
    long = X.with_columns(task=pl.int_range(N) % 2).with_columns(
        leak=pl.when(pl.col("task") == 1).then(Y["delay"]).otherwise(pl.col("other"))
    )
    (warning,) = said(long, Y["delay"], task_column="task")
    assert "'leak' predicts '1' (R² 1.0000)" in str(warning.message)
    assert "predicts '0'" not in str(warning.message)


def test_strong_features_and_names_are_no_leak():
    strong = X.with_columns(
        near=Y["delay"] + 0.1 * RNG.normal(size=N), name=pl.Series([f"n{i % 100}" for i in range(N)])
    )
    assert said(strong, Y) == []


def test_a_text_column_that_names_the_rows():
    ids = X.with_columns(id=pl.Series([f"row {i}" for i in range(N)]))
    (warning,) = said(ids, Y)
    assert warning.category is IdColumnWarning
    assert "column 'id' is text with 400 values in 400 rows" in str(warning.message)
    assert "columns={'id': 'ignore'}" in str(warning.message)
    assert said(ids, Y, columns={"id": "ignore"}) == []
    assert said(ids, Y, columns={"id": "category", "town": "category"}) == [], "who names a column knows it"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("row", np.arange(N)),
        ("row", RNG.permutation(3 * N)[:N]),  # those of a part of a table
        ("row", np.where(np.arange(N) % 10 > 0, RNG.permutation(N), np.nan)),
        ("customer_id", RNG.integers(0, 10**9, N)),
        ("PassengerId", np.r_[RNG.integers(0, 10**9, N - 4), [7] * 4]),
    ],
)
def test_whole_numbers_that_name_the_rows(name, values):
    ids = X.with_columns(pl.Series(name, values, strict=False))
    (warning,) = said(ids, Y)
    assert warning.category is IdColumnWarning
    assert f"column {name!r} holds whole numbers, hardly one of them twice" in str(warning.message)
    assert f"columns={{{name!r}: 'ignore'}}" in str(warning.message)
    assert said(ids, Y, columns={name: "ignore"}) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("population", RNG.integers(0, 10**9, N)),  # distinct, as such numbers are
        ("paid", RNG.integers(0, 10**9, N)),
        ("minutes", RNG.integers(0, 10 * N, N)),
        ("customer_id", np.arange(N) // 5),  # a group
        ("row", np.arange(N) + 0.5),
    ],
)
def test_other_whole_numbers_are_no_ids(name, values):
    assert said(X.with_columns(pl.Series(name, values)), Y) == []


def test_another_index_of_pandas():
    features, targets = X.to_pandas(), Y.to_pandas()
    (warning,) = said(features, targets.sample(frac=1, random_state=0))
    assert warning.category is IndexMismatchWarning
    assert "y has another pandas index than X" in str(warning.message)
    assert "y.loc[X.index]" in str(warning.message)
    new = features[:50].assign(plain=0.5)
    (warning,) = said(features, targets, X_val=new, y_val=targets[50:100])
    assert "y_val has another pandas index than X_val" in str(warning.message)
    for y in (targets["late"], targets.to_numpy(dtype=object)[:, 0]):
        assert said(features, y) == []
    assert said(X, targets.set_axis(range(1, N + 1))) == [], "one of them has an index"


def test_tasks_of_few_labels():
    few = Y.with_columns(
        rare=pl.int_range(N) < 9,
        common=pl.int_range(N) >= 9,
        scarce=pl.when(pl.int_range(N) < 19).then(pl.col("delay")),
        enough=pl.when(pl.int_range(N) < 20).then(pl.col("delay")),
    )
    (warning,) = said(X, few)
    assert warning.category is FewLabelsWarning
    assert "'rare' (9 of a class), 'common' (9 of a class), 'scarce' (19 rows); no score" in str(warning.message)
    long = X.with_columns(task=pl.Series(["a"] * (N - 5) + ["b"] * 5))
    (warning,) = said(long, Y["delay"], task_column="task")
    assert "'b' (5 rows)" in str(warning.message)


def test_constant_and_empty_features_are_named_once():
    n = 60
    X = pl.DataFrame(
        {
            "same": [1.0] * n,
            "none": pl.Series([None] * n, dtype=pl.Float64),
            "null": [None] * n,
            "word": ["a"] * n,
            "day": [datetime.date(2024, 1, 1)] * n,
            "holes": [1.0, None] * (n // 2),
            "rare": [f"level {k}" for k in range(n // 2)] * 2,
            "size": np.arange(n) / 7,
        }
    )
    y = np.arange(n) % 5 / 5
    for model in (Reader(), SharedBottom(epochs=1, min_frequency=5)):
        told.clear()
        with warnings.catch_warnings(record=True, action="always") as found:
            model.fit(X, y)
        (warning,) = [own for own in found if own.category is ConstantFeatureWarning]
        names = "'same', 'none', 'null', 'word', 'day'"
        assert str(warning.message).startswith(f"the features {names} have one value in all rows, or none")
        assert "say columns={'same': 'ignore', 'none': 'ignore', 'null': 'ignore'," in str(warning.message)
    with pytest.warns(ConstantFeatureWarning, match="the feature 'same' has one value .* from it; .* how it was read"):
        Reader().fit(X.select("same", "size"), y)


CATEGORIES = [
    ConstantFeatureWarning,
    FewLabelsWarning,
    IdColumnWarning,
    IndexMismatchWarning,
    PerfectFeatureWarning,
    TargetInFeaturesWarning,
]


@pytest.mark.parametrize("category", CATEGORIES)
def test_each_category_can_be_silenced_by_itself(category):
    assert issubclass(category, TabmtlWarning)
    assert category is not TabmtlWarning
    assert category.__name__ in tabmtl.__all__
    bad = pd.DataFrame({"id": [f"row {i}" for i in range(60)], "y": np.arange(60) + 0.5, "same": 1.0})
    target = pd.DataFrame({"y": np.arange(60) + 0.5, "rare": np.arange(60) < 3}, index=range(1, 61))
    with warnings.catch_warnings(record=True, action="always") as found:
        warnings.simplefilter("ignore", category)
        Reader().fit(bad, target)
    assert len(found) == len(CATEGORIES) - 1
    assert category not in {warning.category for warning in found}


def test_lists_that_look_like_histories_are_named_and_tags_are_not():
    rng, items = np.random.default_rng(0), [f"item {k}" for k in range(12)]
    lists = [rng.choice(items, 6).tolist() for _ in range(200)]
    X = pl.DataFrame({"seen": lists, "tags": [sorted({*own}) for own in lists], "item": [own[0] for own in lists]})
    y = pl.Series("y", [items.index(own[0]) + 0.5 for own in lists])
    message = r"'seen' is read as tags.* values of 'item', .* say columns=\{'seen': 'sequence:item'\}, and otherwise"
    for frame in (X, X.lazy(), X.to_pandas()):
        told.clear()
        with pytest.warns(TabmtlWarning, match=message) as caught:
            tabmtl.SharedTrees(n_estimators=1, n_estimators_task=5).fit(frame, y)
        assert len(caught) == 1
    with warnings.catch_warnings(action="error"):
        tabmtl.SharedTrees(n_estimators=1, n_estimators_task=5, columns={"seen": "tags"}).fit(X, y)
