"""The maps of numeric columns: robust to any tail, monotone, and what scikit-learn and numpy say they are."""

from __future__ import annotations

import pickle
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import QuantileTransformer

from tabmtl.columns.number import NumericScaler, bin_edges, quantiles

TRANSFORMS = ("standardize", "quantile", "none")
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def mapped(sample: np.ndarray, transform: str, values: np.ndarray | None = None) -> np.ndarray:
    """Values of one column, or the sample itself, by the map that the sample fits."""
    scaler = NumericScaler.fit(np.array(sample, dtype=float)[None], transform)
    block = np.array(sample if values is None else values, dtype=float)[None]
    scaler.apply(block)
    return block[0]


def test_standardize_is_z_with_a_smooth_clip():
    x = np.random.default_rng(0).normal(5, 3, 1001)
    z = (x - np.median(x)) / ((np.quantile(x, 0.75) - np.quantile(x, 0.25)) / 1.349)
    np.testing.assert_allclose(mapped(x, "standardize"), z / np.sqrt(1 + (z / 4) ** 2), rtol=1e-12)


@pytest.mark.parametrize("transform", ["standardize", "quantile"])
@pytest.mark.parametrize("outlier", [1e6, 1e300, -1.7e308])
def test_one_outlier_does_not_squash_the_rest(transform, outlier):
    x = np.random.default_rng(0).normal(size=1000)
    alone, beside = mapped(x, transform), mapped(np.append(x, outlier), transform)
    # beyond the last knot but one, a 255th of the rows, quantiles have no detail
    inner = np.abs(alone) < 2.6 if transform == "quantile" else slice(None)
    assert np.abs(beside[:-1] - alone)[inner].max() < 0.1
    assert 3 <= np.abs(beside[-1]) <= 4


def test_outlier_in_a_column_that_is_mostly_zero():
    rare = np.concatenate([np.zeros(900), np.linspace(1, 100, 99)])
    alone, beside = mapped(rare, "standardize"), mapped(np.append(rare, 1e12), "standardize")
    np.testing.assert_allclose(beside[:-1], alone, atol=0.1)
    assert np.ptp(alone) > 1.5
    assert beside[-1] == pytest.approx(4)


@pytest.mark.parametrize("transform", TRANSFORMS)
@given(sample=st.lists(FINITE, min_size=1, max_size=40), new=st.lists(FINITE, min_size=2, max_size=40))
def test_any_finite_values_map_monotonely_to_finite_ones(transform, sample, new):
    values = np.sort(np.array(sample + new))
    result = mapped(np.array(sample), transform, values).astype(np.float32)
    assert np.isfinite(result).all()
    assert (np.diff(result) >= -1e-6).all()
    if transform != "none":
        assert np.abs(result).max() <= 4


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("sample", [[7.0] * 5, [np.nan] * 5, [0.0, np.nan], [1e300, 1e300]])
def test_columns_without_spread(transform, sample):
    result = mapped(sample, transform, np.array([*sample, 1.5, np.nan]))
    np.testing.assert_array_equal(np.isnan(result), np.isnan([*sample, 1.5, np.nan]))


@pytest.mark.parametrize("draw", ["normal", "lognormal", "uniform", "exponential", "standard_cauchy"])
def test_quantile_is_close_to_scikit_learn(draw):
    x = getattr(np.random.default_rng(0), draw)(size=20_000)
    theirs = QuantileTransformer(output_distribution="normal", subsample=None).fit_transform(x[:, None])[:, 0]
    ours = mapped(x, "quantile")
    inner = np.abs(theirs) < 2.3
    assert np.abs(ours - theirs)[inner].max() < 0.03
    assert np.abs(ours).max() < 3.1
    assert abs(ours.std() - 1) < 0.02


@given(st.lists(st.integers(-3, 3) | FINITE, min_size=1, max_size=300))
def test_quantile_is_the_line_through_the_knots(values):
    sample = np.clip(np.array(values, dtype=float), -1e150, 1e150)
    scaler = NumericScaler.fit(sample[None].copy(), "quantile")
    knots = np.unique(scaler.knots[0])
    heights = knots[None].copy()
    scaler.apply(heights)
    block = np.concatenate([sample, knots])[None]
    expected = np.interp(block, knots, heights[0])
    scaler.apply(block)
    np.testing.assert_allclose(block, expected, atol=1e-9)


def test_ties_get_the_middle_of_their_interval():
    x = np.array([0.0] * 600 + [1.0] * 400)
    low, high = np.unique(mapped(x, "quantile"))
    assert low == pytest.approx(-0.524, abs=0.01)  # normal quantile of 0.3
    assert high == pytest.approx(0.842, abs=0.01)  # of 0.8


def test_none_keeps_values_within_float32():
    x = np.array([-1.7e308, -2.5, 0.0, 3.0, 1e300])
    result = mapped(x, "none").astype(np.float32)
    np.testing.assert_array_equal(result[1:4], x[1:4])
    assert np.isfinite(result).all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.integers(2, 60))
def test_quantiles_are_those_of_numpy(values, n):
    sample = np.sort(np.array(values))[None]
    found = quantiles(np.concatenate([sample, [[np.nan]]], axis=1), n)
    np.testing.assert_allclose(found[0], np.quantile(values, np.linspace(0, 1, n)), rtol=1e-9, atol=1e-9)
    assert set(found[0, [0, -1]]) == {min(values), max(values)}


@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32) | st.just(np.nan), min_size=1, max_size=80))
def test_bins_always_increase(values):
    (edges,) = bin_edges(np.sort(np.array(values))[None])
    assert len(edges) >= 2
    assert (np.diff(np.array(edges, dtype=np.float32)) > 0).all()


def test_copies_carry_the_fit_and_no_tables():
    scaler = NumericScaler.fit(np.random.default_rng(0).normal(size=(3, 500)), "quantile")
    block = np.random.default_rng(1).normal(size=(3, 7))
    expected = block.copy()
    scaler.apply(expected)
    for copied in (deepcopy(scaler), pickle.loads(pickle.dumps(scaler))):
        assert set(vars(copied)) == {"transform", "center", "scale", "knots"}
        result = block.copy()
        copied.apply(result)
        np.testing.assert_array_equal(result, expected)
