"""Rows of MultiTab-Bench: what is drawn, cut, hidden and refused."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabmtl.synth import make_multitab_bench


class TestFrames:
    def test_names_dtypes_and_shapes(self):
        bench = make_multitab_bench(20, 5, 2, random_state=0)
        assert bench.X.schema == {f"x{j}": pl.Float32 for j in range(5)}
        assert bench.y.schema == {"y0": pl.Float64, "y1": pl.Float64}
        assert bench.X.height == bench.y.height == 20
        assert bench.signal.shape == (20, 2)
        with pytest.raises(AttributeError):
            bench.X = None

    def test_defaults_are_the_released_configuration(self):
        bench = make_multitab_bench(random_state=0)
        assert bench.X.shape == (10_000, 32)
        assert bench.truth.degrees == (1, 3, 2, 3, 4, 2, 3)
        np.testing.assert_allclose(bench.truth.P[np.triu_indices(7, 1)], 0.4)
        np.testing.assert_allclose(bench.truth.score_ceiling, 1 - 1e-4 / bench.truth.variance)

    @pytest.mark.parametrize("rows", [1, 2**15, 2**15 + 1])
    def test_any_number_of_rows(self, rows):
        bench = make_multitab_bench(rows, 3, 2, noise=0, degrees=1, random_state=0)
        z = bench.X.to_numpy().astype(float) @ bench.truth.W.T
        np.testing.assert_allclose(bench.y.to_numpy(), z, atol=1e-12)

    def test_labels_are_the_powers_of_the_projections(self):
        bench = make_multitab_bench(50, 9, 8, noise=0, random_state=3)
        z = bench.X.to_numpy().astype(float) @ bench.truth.W.T
        degrees = (1, 3, 2, 3, 4, 2, 3, 1)
        expected = [sum(z[:, t] ** k for k in range(1, d + 1)) for t, d in enumerate(degrees)]
        assert bench.truth.degrees == degrees
        np.testing.assert_allclose(bench.signal, np.transpose(expected), rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(bench.y.to_numpy(), bench.signal)


class TestCategorical:
    def test_levels_are_equally_frequent_shuffled_and_cut_the_same_feature(self):
        bins = {0: 2, 1: 3, 4: 7}
        plain = make_multitab_bench(50_000, 5, 3, random_state=2)
        bench = make_multitab_bench(50_000, 5, 3, categorical=bins, random_state=2)
        assert plain.y.equals(bench.y)
        for j, n_bins in bins.items():
            column = bench.X[f"x{j}"]
            assert column.dtype == pl.Enum([f"v{k}" for k in range(n_bins)])
            cut = pl.DataFrame({"level": column, "value": plain.X[f"x{j}"]}).group_by("level")
            levels = cut.agg(pl.len(), low=pl.col("value").min(), high=pl.col("value").max()).sort("low")
            assert levels.height == n_bins
            np.testing.assert_allclose(levels["len"] / 50_000, 1 / n_bins, atol=0.01)
            assert (levels["high"].to_numpy()[:-1] <= levels["low"].to_numpy()[1:]).all()
        assert levels["level"].to_list() != sorted(levels["level"].to_list())
        assert plain.X["x2"].equals(bench.X["x2"])

    def test_levels_mean_the_same_in_every_call(self):
        train = make_multitab_bench(20_000, 1, 1, categorical={0: 7}, random_state=2)
        called = make_multitab_bench(20_000, 1, 1, categorical={0: 7}, weights=train.truth.W, random_state=3)
        means = [
            bench.X.with_columns(bench.y).group_by("x0").agg(pl.col("y0").mean()).sort("x0")["y0"].to_list()
            for bench in (train, called, train.draw(20_000, random_state=4))
        ]
        np.testing.assert_allclose(means[1:], [means[0]] * 2, atol=0.05)


class TestClasses:
    @settings(max_examples=30)
    @given(n_samples=st.integers(9, 300), n_classes=st.integers(3, 9), degree=st.integers(1, 5))
    def test_balance_is_exact(self, n_samples, n_classes, degree):
        y = make_multitab_bench(
            n_samples,
            2,
            2,
            degrees=degree,
            task_kinds=["binary", "multiclass"],
            n_classes=n_classes,
            random_state=0,
        ).y
        for task, count in (("y0", 2), ("y1", n_classes)):
            sizes = y[task].value_counts()["count"]
            assert len(sizes) == count
            assert sizes.max() - sizes.min() <= 1

    def test_classes_are_ordered_cuts_of_the_regression_label(self):
        options = {"degrees": [2, 3], "random_state": 4}
        values = make_multitab_bench(999, 3, 2, **options).y
        bench = make_multitab_bench(999, 3, 2, task_kinds=["binary", "multiclass"], n_classes=4, **options)
        assert bench.y.schema == {"y0": pl.Int8, "y1": pl.Enum(["c0", "c1", "c2", "c3"])}
        for task in ("y0", "y1"):
            ordered = bench.y[task].to_physical().gather(values[task].arg_sort())
            assert ordered.is_sorted()

    def test_fresh_rows_keep_the_borders(self):
        train = make_multitab_bench(50, 3, 2, task_kinds="binary", random_state=0)
        test = train.draw(20_000, random_state=0)
        assert test.truth.thresholds == train.truth.thresholds
        cut = np.array(train.truth.thresholds)[:, 0]
        clear = np.abs(test.signal - cut) > 0.06
        np.testing.assert_array_equal((test.signal > cut)[clear], test.y.to_numpy()[clear] == 1)


class TestMissing:
    def test_rates_and_only_the_labels_change(self):
        rates = [0, 0.1, 0.9]
        full = make_multitab_bench(50_000, 4, 3, random_state=0).y
        y = make_multitab_bench(50_000, 4, 3, missing=rates, random_state=0).y
        np.testing.assert_allclose([y[c].is_null().mean() for c in y.columns], rates, atol=0.01)
        for column in y.columns:
            visible = y[column].is_not_null()
            assert y[column].filter(visible).equals(full[column].filter(visible))
        hidden = y.select(pl.all().is_null().cast(float)).to_numpy()
        assert abs(np.corrcoef(hidden[:, 1], hidden[:, 2])[0, 1]) < 0.02
        assert abs(np.corrcoef(hidden[:, 1], full["y1"].to_numpy())[0, 1]) < 0.02

    def test_chain_opens_where_every_task_before_is_positive(self):
        kinds = ["binary", "regression", "binary", "multiclass"]
        options = {"task_kinds": kinds, "random_state": 0}
        full = make_multitab_bench(5_000, 6, 4, **options).y
        y = make_multitab_bench(5_000, 6, 4, chain=[2, 0, 3], **options).y
        clicked = full["y2"] == 1
        bought = clicked & (full["y0"] == 1)
        for column, visible in (("y2", None), ("y1", None), ("y0", clicked), ("y3", bought)):
            expected = full[column] if visible is None else full.select(pl.when(visible).then(column)).to_series()
            assert y[column].equals(expected, null_equal=True)

    def test_chain_follows_labels_that_missing_hides(self):
        options = {"task_kinds": "binary", "chain": [0, 1], "random_state": 0}
        y = make_multitab_bench(20_000, 3, 2, missing=[0.5, 0], **options).y
        plain = make_multitab_bench(20_000, 3, 2, **options).y
        assert y["y1"].equals(plain["y1"], null_equal=True)
        assert y.filter(pl.col("y0").is_null() & pl.col("y1").is_not_null()).height > 4_000


class TestSeeds:
    def test_the_number_of_rows_does_not_change_the_truth(self):
        short, long = (make_multitab_bench(n, 6, 3, random_state=7).truth.W for n in (5, 500))
        np.testing.assert_array_equal(short, long)

    @pytest.mark.parametrize("seed", [7, 8, None])
    def test_fresh_rows_are_other_rows_of_the_same_truth(self, seed):
        train = make_multitab_bench(500, 6, 3, random_state=7)
        drawn = train.draw(500, random_state=seed)
        called = make_multitab_bench(500, 6, 3, weights=train.truth.W, random_state=seed)
        values = set(train.X.to_numpy().ravel().tolist())
        for fresh in (drawn, called):
            np.testing.assert_array_equal(fresh.truth.W, train.truth.W)
            # A few float32 normals repeat by chance; shared rows or shifted streams would give hundreds.
            assert len(values & set(fresh.X.to_numpy().ravel().tolist())) < 20
            assert not fresh.y.equals(train.y)
        if seed is not None:
            assert drawn.X.equals(called.X)
            assert drawn.y.equals(called.y)
