"""Closed forms of MultiTab-Bench against quadrature, simulation and the best predictors written out."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from tabmtl.synth import make_multitab_bench
from tabmtl.synth.multitab_truth import power_sum

MEANS = {1: 0, 2: 1, 3: 1, 4: 4, 5: 4}
VARIANCES = {1: 1, 2: 3, 3: 24, 4: 144, 5: 1329}


def explained_variance(y, predicted):
    return 1 - np.var(y - predicted, axis=0) / np.var(y, axis=0)


class TestClosedForms:
    @pytest.mark.parametrize("degree", MEANS)
    def test_mean_and_variance(self, degree):
        truth = make_multitab_bench(1, 4, 2, degrees=degree, noise=0.5, random_state=0).truth
        np.testing.assert_allclose(truth.mean, MEANS[degree])
        np.testing.assert_allclose(truth.variance, VARIANCES[degree] + 0.25)
        np.testing.assert_allclose(truth.score_ceiling, 1 - 0.25 / (VARIANCES[degree] + 0.25))

    @settings(max_examples=20)
    @given(
        degrees=st.tuples(st.integers(1, 8), st.integers(1, 8)),
        rho=st.floats(-1, 1),
        noise=st.floats(0, 3),
    )
    def test_moments_equal_gauss_hermite_quadrature(self, degrees, rho, noise):
        truth = make_multitab_bench(1, 3, 2, correlation=rho, degrees=degrees, noise=noise).truth
        nodes, weights = np.polynomial.hermite_e.hermegauss(20)
        weights /= math.sqrt(2 * math.pi)
        first, second = np.meshgrid(nodes, nodes, indexing="ij")
        both = np.outer(weights, weights)
        y0 = power_sum(first, degrees[0])
        y1 = power_sum(rho * first + math.sqrt(1 - rho**2) * second, degrees[1])
        mean = [np.sum(both * y) for y in (y0, y1)]
        size = math.sqrt(truth.variance.prod())
        np.testing.assert_allclose(truth.mean, mean, rtol=1e-8, atol=1e-8)
        covariance = np.sum(both * y0 * y1) - mean[0] * mean[1]
        assert truth.covariance[0, 1] == pytest.approx(covariance, abs=1e-8 * size)
        assert truth.variance[0] == pytest.approx(np.sum(both * y0**2) - mean[0] ** 2 + noise**2)

    @pytest.mark.parametrize("standardize", [False, True])
    def test_moments_equal_simulation(self, standardize):
        bench = make_multitab_bench(
            400_000, 8, 4, degrees=[1, 2, 3, 4], noise=0.5, standardize=standardize, random_state=0
        )
        y, truth = bench.y.to_numpy(), bench.truth
        deviation = np.sqrt(truth.variance)
        np.testing.assert_allclose(y.mean(axis=0) / deviation, truth.mean / deviation, atol=0.01)
        np.testing.assert_allclose(y.var(axis=0), truth.variance, rtol=0.06)
        np.testing.assert_allclose(np.corrcoef(y.T), truth.correlation, atol=0.01)
        residual = y - bench.signal
        np.testing.assert_allclose(residual.std(axis=0), 0.5 / truth.scale, rtol=0.01)
        if standardize:
            np.testing.assert_allclose(truth.variance, 1)
            np.testing.assert_allclose(truth.mean, 0)

    def test_linear_line_of_the_default_table_and_ols_on_it(self):
        train = make_multitab_bench(20_000, random_state=0)
        test = train.draw(20_000, random_state=1)
        line = train.truth.linear_score
        np.testing.assert_allclose(line, [1, 0.667, 0.333, 0.667, 0.111, 0.333, 0.667], atol=5e-4)
        assert line.mean() == pytest.approx(0.540, abs=5e-4)
        ols = LinearRegression().fit(train.X.to_numpy(), train.y.to_numpy())
        scores = explained_variance(test.y.to_numpy(), ols.predict(test.X.to_numpy()))
        np.testing.assert_allclose(scores, line, atol=0.04)
        assert scores.mean() == pytest.approx(0.540, abs=0.015)


BINS = {0: 2, 1: 3, 4: 7}


@pytest.fixture(scope="module")
def binned():
    return make_multitab_bench(200_000, 5, 3, degrees=[1, 2, 3], noise=0.2, categorical=BINS, random_state=2)


class TestCategoricalCeilings:
    def test_ceiling_is_what_the_best_function_of_the_features_explains(self, binned):
        truth = binned.truth
        # Rows that share all a model can see: Cov(y, y of the twin) = Var(E[y | features]), with no model fitted.
        rng = np.random.default_rng(0)
        x = rng.standard_normal((10**6, 5))
        twin = x.copy()
        for j, n_bins in BINS.items():
            bins = np.searchsorted(np.quantile(x[:, j], np.arange(1, n_bins) / n_bins), x[:, j])
            for k in range(n_bins):
                inside = np.flatnonzero(bins == k)
                twin[inside, j] = x[rng.permutation(inside), j]
        for w, degree, ceiling, variance in zip(
            truth.W, truth.degrees, truth.score_ceiling, truth.variance, strict=True
        ):
            shared = np.cov(power_sum(x @ w, degree), power_sum(twin @ w, degree))[0, 1]
            assert ceiling == pytest.approx(shared / variance, abs=0.02)
            assert ceiling < 1 - 0.2**2 / variance - 0.01

    def test_linear_line_is_what_ols_on_indicators_explains(self, binned):
        design = binned.X.to_dummies([f"x{j}" for j in BINS]).to_numpy().astype(float)
        y = binned.y.to_numpy()
        scores = explained_variance(y, LinearRegression().fit(design, y).predict(design))
        np.testing.assert_allclose(scores, binned.truth.linear_score, atol=0.02)


class TestClassCeilings:
    @pytest.mark.parametrize("noise", [0, 0.01, 1.5])
    @pytest.mark.parametrize("standardize", [False, True])
    def test_ceiling_equals_the_auc_of_the_true_probabilities(self, noise, standardize):
        kinds = ["binary", "multiclass", "binary", "multiclass"]
        bench = make_multitab_bench(
            20_000,
            5,
            4,
            degrees=[1, 2, 3, 1],
            noise=noise,
            task_kinds=kinds,
            standardize=standardize,
            random_state=1,
        )
        ceilings, lines = bench.truth.score_ceiling, bench.truth.linear_score
        z = bench.X.to_numpy().astype(float) @ bench.truth.W.T
        for t, kind in enumerate(kinds):
            y = bench.y[f"y{t}"].to_physical().to_numpy()
            chance = self.chances(bench, t)
            if kind == "binary":
                found = roc_auc_score(y, chance[:, 1])
                line = max(a := roc_auc_score(y, z[:, t]), 1 - a)
            else:
                found = roc_auc_score(y, chance, multi_class="ovr", average="macro")
                aucs = [roc_auc_score(y == k, z[:, t]) for k in range(3)]
                line = np.mean([max(a, 1 - a) for a in aucs])
            assert ceilings[t] == pytest.approx(found, abs=0.01)
            assert lines[t] == pytest.approx(line, abs=0.015)
            assert lines[t] <= ceilings[t] + 1e-5 <= 1 + 2e-5

    @staticmethod
    def chances(bench, t):
        spread = max(bench.truth.noise[t] / bench.truth.scale[t], 1e-12)
        cdf = np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))
        below = [cdf((cut - bench.signal[:, t]) / spread) for cut in bench.truth.thresholds[t]]
        return np.diff([np.zeros_like(below[0]), *below, np.ones_like(below[0])], axis=0).T
