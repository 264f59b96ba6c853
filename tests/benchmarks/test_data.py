"""The two sides of the comparison make the same tensors, up to what they do with outliers and missing values."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.data import (
    N_CATEGORICAL,
    N_NUMERIC,
    draw_table,
    measure,
    measure_latency,
    run_ours,
    run_scikit_learn,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "table.parquet"
    draw_table(path, 3000)
    return path


@pytest.mark.parametrize("transform", ["standardize", "quantile"])
def test_both_sides_do_the_same_work(path, transform):
    (x_num, x_cat), (their_num, their_cat) = run_ours(path, transform)(), run_scikit_learn(path, transform)()
    assert x_num.shape == their_num.shape == (3000, N_NUMERIC)
    assert x_cat.shape == their_cat.shape == (3000, N_CATEGORICAL)
    np.testing.assert_array_equal(x_cat - 2, their_cat)
    for ours, theirs in zip(x_num.T.numpy(), their_num.T.numpy(), strict=True):
        present = ~np.isnan(ours)
        assert 0.93 < present.mean() < 0.97
        order = np.argsort(ours[present], kind="stable")
        assert (np.diff(theirs[present][order]) >= -1e-3).all()


def test_what_is_measured(path):
    found = measure("ours", path, "standardize")
    assert found["wall"] > 0
    assert 0 < found["before"] <= found["peak"] < 100
    median, _, least = measure_latency(path, "standardize")
    assert 0 < least <= median
