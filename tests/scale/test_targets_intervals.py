"""Intervals and sets of rows of files."""

from functools import cache

import numpy as np
import polars as pl
import pytest

from tabmtl import SharedTrees
from tabmtl.scale import predict_file
from tabmtl.testing import features, mixed_targets

N = 600
X = features(N).with_columns(region=pl.Series(np.random.default_rng(0).choice(["north", "south"], N)))
Y = mixed_targets(X)
FIT, GIVEN, NEW = slice(0, 200), slice(200, 400), slice(400, N)


@cache
def fitted(groups=None, ignored=()):
    columns = dict.fromkeys(ignored, "ignore")
    model = SharedTrees(n_estimators=20, n_estimators_task=5, columns=columns, random_state=0).fit(X[FIT], Y[FIT])
    return model.conformalize(X[GIVEN], Y[GIVEN], groups=groups)


def intervals_of_file(model, folder, name="found.parquet", **options):
    X[NEW].write_parquet(folder / "new.parquet")
    predict_file(model, folder / "new.parquet", folder / name, method="predict_interval", **options)
    return pl.read_parquet(folder / name)


@pytest.mark.parametrize(("groups", "ignored"), [(None, ()), ("region", ("region",))])
def test_a_file_has_the_intervals_of_the_frame(groups, ignored, tmp_path):
    model = fitted(groups, ignored)
    assert intervals_of_file(model, tmp_path, level=0.8).equals(model.predict_interval(X[NEW], level=0.8))


@pytest.mark.parametrize("dtype", [pl.Int8, pl.Boolean])
def test_sets_hold_classes_of_the_type_of_labels(dtype, tmp_path):
    y = pl.DataFrame({"late": (X["plain"] > 0).cast(dtype)})
    model = SharedTrees(n_estimators=5, n_estimators_task=5, random_state=0).fit(X[FIT], y[FIT])
    model.conformalize(X[GIVEN], y[GIVEN])
    assert intervals_of_file(model, tmp_path).equals(model.predict_interval(X[NEW]))


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"CSV holds no lists or sets, such as those of \['late_set', 'size_set'\]"):
        intervals_of_file(fitted(), tmp_path, "found.csv")
    with pytest.raises(ValueError, match="the name of a column"):
        intervals_of_file(fitted(groups=tuple(X[GIVEN]["region"])), tmp_path)
