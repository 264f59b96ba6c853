"""Random functions of tasks: their values, weights and balance."""

import numpy as np
import pytest

from tabmtl.synth.outlier_functions import TaskFunction, add_functions, draw_tasks, mix


class TestTaskFunction:
    @pytest.mark.parametrize("rows", [0, 1, 2**11, 2**11 + 1])
    def test_any_number_of_rows_gives_the_plain_sum(self, rows):
        rng = np.random.default_rng(0)
        parts = [(weight, rng.normal(size=(7, 3)), rng.normal(size=7), rng.normal(size=7)) for weight in (0.3, -2.0)]
        x = rng.normal(size=(rows, 3))
        expected = 5 + sum(weight * np.cos(x @ W.T + b) @ a for weight, W, b, a in parts)
        np.testing.assert_allclose(TaskFunction(terms=tuple(parts), level=5.0)(x), expected, rtol=1e-12)


class TestMix:
    def test_the_released_weights_are_exact(self):
        assert mix("shared", 0.0, 0.9) == (0.9, 0.0, 0.0, 0.1, 0.0)
        assert mix("shared", 1.0, 0.9) == (0.0, 0.9, 0.0, 0.1, 0.0)

    @pytest.mark.parametrize("kind", ["shared", "own", "flipped", "shuffled", "shifted", "noisy"])
    def test_no_strength_makes_a_task_like_any_other(self, kind):
        assert mix(kind, 0.0, 0.6) == (0.6, 0.0, 0.0, 0.4, 0.0)

    @pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
    def test_another_function_keeps_the_variance(self, strength):
        for kind in ("shared", "own"):
            weights = mix(kind, strength, 0.8)
            assert weights.far + weights.aside == pytest.approx(0.8 * strength)
            assert np.hypot(weights.common, weights.far + weights.aside) == pytest.approx(0.8)


class TestDraw:
    def test_variance_over_draws_is_one(self):
        mixes = [mix("own", 1.0, 1.0)] * 200
        streams = (np.random.default_rng(seed) for seed in (0, 1))
        functions, x, values = draw_tasks(mixes, (20, 2), 0.0, *streams)
        add_functions(functions, x, values)
        assert np.mean(values**2) == pytest.approx(1, abs=0.1)
        assert np.mean(values) == pytest.approx(0, abs=0.1)

    def test_balance_counts_both_sides_of_zero(self):
        def straight(level):
            return TaskFunction(terms=(), level=level)

        x = np.zeros((1, 10, 2))
        for n_positive, enough in ((0, False), (1, True), (9, True), (10, False)):
            values = np.where(np.arange(10) < n_positive, 1.0, -1.0)[None]
            assert add_functions([straight(0.0)], x, values, rarest=0.1) is enough
        values = np.zeros((1, 10))
        assert add_functions([straight(3.0)], x, values)
        np.testing.assert_array_equal(values, 3.0)
