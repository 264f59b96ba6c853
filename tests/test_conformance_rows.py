"""Every estimator answers a row by that row alone, and takes whatever a column may hold."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest
from conformance import (
    ESTIMATORS,
    FREE,
    MIXED,
    answers,
    features,
    fitted,
    largest_gap,
    mixed_targets,
    same,
    targets_for,
    tiny,
)

from tabmtl.schema import TabmtlWarning

every_estimator = pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
few_rows_say_little = pytest.mark.filterwarnings("ignore:.* experts have collapsed:tabmtl.schema.TabmtlWarning")
every_free_estimator = pytest.mark.parametrize("cls", FREE, ids=lambda cls: cls.__name__)
every_mixed = pytest.mark.parametrize("cls", MIXED, ids=lambda cls: cls.__name__)


def finite(found: list[np.ndarray]) -> bool:
    """Whether an answer holds no missing and no infinite value."""
    return all(np.isfinite(a).all() if a.dtype.kind == "f" else None not in a.tolist() for a in found)


@pytest.mark.parametrize("size", [1, 2, 7, 8, 31])
@every_estimator
def test_a_row_is_answered_alike_in_any_batch(cls, size):
    estimator, X, _ = fitted(cls)
    whole = answers(estimator, X)
    pieces = [answers(estimator, X[start : start + size]) for start in range(0, len(X), size)]
    joined = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
    assert all(np.array_equal(a, b) for a, b in zip(whole, joined, strict=True) if a.dtype.kind != "f")
    assert largest_gap(whole, joined) <= 1e-6


@every_estimator
def test_a_row_is_answered_alike_in_any_order_and_beside_any_row(cls):
    estimator, X, _ = fitted(cls)
    order = np.random.default_rng(0).permutation(len(X))
    whole = answers(estimator, X)
    assert largest_gap([a[order] for a in whole], answers(estimator, X[order])) <= 1e-6
    strange = X.with_columns(plain=pl.lit(1e9), holes=pl.lit(None, dtype=pl.Float64), text=pl.lit("violet"))
    beside = answers(estimator, pl.concat([strange, X]))
    assert largest_gap(whole, [a[len(X) :] for a in beside]) <= 1e-6
    many = answers(estimator, pl.concat([X] * 20))
    assert largest_gap([np.concatenate([a] * 20) for a in whole], many) <= 1e-6


@every_estimator
def test_missing_values_are_answered_anywhere(cls):
    estimator, X, y = fitted(cls)
    for name in X.columns:
        empty = X.with_columns(pl.lit(None, dtype=X.schema[name]).alias(name))
        assert finite(answers(estimator, empty))
        untyped = X.with_columns(pl.lit(None).alias(name))
        assert same(answers(estimator, empty), answers(estimator, untyped))
    assert finite(answers(estimator, X.clear(3)))
    assert finite(answers(tiny(cls).fit(X.with_columns(plain=pl.lit(None)), y), X.with_columns(plain=pl.lit(None))))


@every_estimator
def test_unseen_levels_are_answered_alike(cls):
    estimator, X, _ = fitted(cls)
    violet, brown = (answers(estimator, X.with_columns(text=pl.lit(level))) for level in ("violet", "brown"))
    assert finite(violet)
    assert same(violet, brown)


@every_estimator
@few_rows_say_little
def test_constant_columns_and_outliers_are_taken(cls):
    X = features().with_columns(level=pl.lit("only"), yes=pl.lit(True), zero=pl.lit(0))
    huge = X["plain"].scatter([3, 4], [1e300, -1e300])
    y = targets_for(cls, X)
    estimator = tiny(cls).fit(X.with_columns(plain=huge), y)
    assert finite(answers(estimator, X))
    assert finite(answers(estimator, X.with_columns(plain=pl.lit(-1e300))))
    only = X.select("level")
    assert finite(answers(tiny(cls).fit(only, y), only))


@every_mixed
def test_ten_thousand_levels_are_learned(cls):
    rng = np.random.default_rng(0)
    level = rng.permutation(np.repeat(np.arange(10_000), 2))
    X = pl.DataFrame({"user": pl.Series(level).cast(pl.String), "plain": rng.normal(size=len(level))})
    estimator = tiny(cls, epochs=1, batch_size=2_048).fit(X, mixed_targets(X))
    assert max(estimator._coder.features.columns.cardinalities) == 10_002
    assert finite(answers(estimator, X[:50]))


@every_estimator
def test_one_row_is_answered(cls):
    estimator, X, _ = fitted(cls)
    assert [len(a) for a in answers(estimator, X[:1])] == [1] * len(answers(estimator, X[:1]))


@every_free_estimator
@few_rows_say_little
def test_few_rows_are_enough_to_fit(cls):
    X = features()[:4]
    y = pl.DataFrame({"late": ["a", "b", None, "a"], "size": ["s", "m", "l", None], "delay": [1.5, None, -2.0, 0.7]})
    y = y.select(targets_for(cls, features()).columns) if cls._target_kind != "regression" else y.select("delay")
    assert finite(answers(tiny(cls).fit(X, y), X))


@pytest.mark.parametrize("cls", [cls for cls in FREE if cls._target_kind != "classification"])
@few_rows_say_little
def test_one_label_is_enough_for_a_regression(cls):
    X = features()[:5]
    y = pl.DataFrame({"delay": [None, 3.0, None, None, None], "size": [1.0, 2.5, 3.0, 4.0, 5.5]})
    predicted = tiny(cls).fit(X, y).predict(X)
    assert finite([predicted["delay"].to_numpy()])
    assert finite([tiny(cls).fit(X[:1], [3.5]).predict(X)])


@every_estimator
def test_a_task_with_labels_on_one_percent_of_rows_is_learned(cls):
    X = features(1_000)
    y = targets_for(cls, X)
    rare = y.columns[0]
    kept = np.concatenate([np.flatnonzero(y[rare] == value)[:5] for value in y[rare].drop_nulls().unique()[:2]])
    few = pl.Series(np.isin(np.arange(len(X)), kept[:10]))
    y = y.with_columns(pl.when(few).then(pl.col(rare)).alias(rare))
    estimator = tiny(cls).fit(X, y)
    assert finite(answers(estimator, X))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TabmtlWarning)
        assert set(estimator.score_tasks(X, y)) == set(y.columns)
