"""Tables with outlier tasks: what is drawn, in which order, what an outlier changes, and what is refused."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabmtl.synth import make_outlier_tasks

REGRESSION_KINDS = ["shared", "own", "flipped", "shuffled", "shifted", "noisy"]
SMALL = {"n_train": 40, "n_test": 30, "n_features": 3, "n_tasks": 5, "random_state": 3}


def released(seed, n_train=300, n_test=1000, d=5, n_tasks=10, n_outliers=2, classes=False, weight=0.9):
    """The released setting written down again: train X, y, tasks; test X, y; and the number of attempts."""
    rng = np.random.default_rng(seed)

    def function():
        w = rng.standard_normal((500, d)) / (0.25 * d)
        b = rng.uniform(0, 2 * np.pi, 500)
        a = rng.standard_normal(500) * np.sqrt(2 / 500)
        return lambda x: np.cos(x @ w.T + b) @ a

    attempts, balanced = 0, False
    while not balanced:
        attempts += 1
        common, far = function(), function()
        xs, ys = [], []
        for t in range(n_tasks):
            own = function()
            x = rng.uniform(-1, 1, (n_train + n_test, d))
            rng.standard_normal(n_train + n_test)
            main = far if t >= n_tasks - n_outliers else common
            y = weight * main(x) + (0.1 if weight == 0.9 else 1 - weight) * own(x)
            xs.append(x)
            ys.append((y > 0).astype(float) if classes else y)
        balanced = not classes or all(0.1 <= y.mean() <= 0.9 for y in ys)
    order = rng.permutation(n_tasks * n_train)
    train_x, test_x = (np.concatenate([x[part] for x in xs]) for part in (slice(n_train), slice(n_train, None)))
    train_y, test_y = (np.concatenate([y[part] for y in ys]) for part in (slice(n_train), slice(n_train, None)))
    tasks = np.repeat(np.arange(n_tasks), n_train)[order]
    return (train_x[order], train_y[order], tasks), (test_x, test_y), attempts


def assert_same(data, reference):
    (train_x, train_y, tasks), (test_x, test_y), _ = reference
    np.testing.assert_array_equal(data.X.drop("task").to_numpy(), train_x)
    np.testing.assert_array_equal(data.X_test.drop("task").to_numpy(), test_x)
    np.testing.assert_array_equal(data.X["task"].str.slice(1).cast(int).to_numpy(), tasks)
    np.testing.assert_allclose(data.y.to_numpy(), train_y, rtol=0, atol=1e-12)
    np.testing.assert_allclose(data.y_test.to_numpy(), test_y, rtol=0, atol=1e-12)


def unlike(first, second):
    """Names of the tasks whose train labels, and whose test labels, differ."""
    assert first.X.equals(second.X)
    assert first.X_test.equals(second.X_test)
    return [
        set(X["task"].filter(a != b))
        for X, a, b in ((first.X, first.y, second.y), (first.X_test, first.y_test, second.y_test))
    ]


class TestReleasedSetting:
    def test_defaults_are_drawn_in_the_released_order(self):
        assert_same(make_outlier_tasks(random_state=0), released(0))

    def test_classes_are_drawn_anew_until_balanced(self):
        sizes = {"n_train": 40, "n_test": 30, "n_tasks": 6}
        attempts = []
        for seed in range(5):
            reference = released(seed, d=2, n_outliers=1, classes=True, **sizes)
            attempts.append(reference[-1])
            assert_same(
                make_outlier_tasks(n_features=2, n_outliers=1, target="classification", random_state=seed, **sizes),
                reference,
            )
        assert max(attempts) > 1

    @pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
    def test_scenarios_without_outliers(self, weight):
        data = make_outlier_tasks(20, 10, n_tasks=3, n_outliers=0, common=weight, random_state=1)
        assert_same(data, released(1, 20, 10, n_tasks=3, n_outliers=0, weight=weight))
        assert data.outliers == ()
        assert not data.is_outlier.any()
        x = np.random.default_rng(0).uniform(-1, 1, (50, 5))
        first, second, _ = (function(x) for function in data.functions.values())
        assert np.array_equal(first, second) == (weight == 1)


class TestFrames:
    @settings(max_examples=25)
    @given(
        n_train=st.integers(1, 20),
        n_test=st.integers(0, 20),
        n_features=st.integers(1, 6),
        n_tasks=st.integers(1, 12),
        kind=st.sampled_from(REGRESSION_KINDS),
        data=st.data(),
    )
    def test_names_dtypes_and_sizes(self, n_train, n_test, n_features, n_tasks, kind, data):
        n_outliers = data.draw(st.integers(0, n_tasks - 1))
        drawn = make_outlier_tasks(
            n_train, n_test, n_features, n_tasks, n_outliers=n_outliers, outlier_kind=kind, random_state=0
        )
        schema = {**{f"x{j}": pl.Float64 for j in range(n_features)}, "task": pl.String}
        names = list(drawn.functions)
        for X, y, n_rows in ((drawn.X, drawn.y, n_train), (drawn.X_test, drawn.y_test, n_test)):
            assert X.schema == schema
            assert (y.name, y.dtype, len(y)) == ("y", pl.Float64, n_tasks * n_rows)
            assert sorted(X["task"]) == [name for name in names for _ in range(n_rows)]
        assert names == sorted(names)
        assert len(names) == n_tasks
        assert drawn.outliers == tuple(names[n_tasks - n_outliers :])
        assert drawn.is_outlier.tolist() == [False] * (n_tasks - n_outliers) + [True] * n_outliers


class TestOutliers:
    @pytest.mark.parametrize("kind", REGRESSION_KINDS)
    def test_only_outliers_change(self, kind):
        none = make_outlier_tasks(**SMALL, n_outliers=0)
        data = make_outlier_tasks(**SMALL, outlier_kind=kind)
        train_only = kind in ("shuffled", "noisy")
        assert unlike(none, data) == [{"t3", "t4"}, set() if train_only else {"t3", "t4"}]
        assert unlike(none, make_outlier_tasks(**SMALL, outlier_kind=kind, strength=0.0)) == [set(), set()]

    def test_shared_outliers_have_one_function_and_own_ones_have_two(self):
        x = np.random.default_rng(0).uniform(-1, 1, (50, 3))
        for kind, equal in (("shared", True), ("own", False)):
            data = make_outlier_tasks(**SMALL, outlier_kind=kind, common=1.0)
            values = [function(x) for function in data.functions.values()]
            assert np.array_equal(values[0], values[2])
            assert not np.allclose(values[0], values[3])
            assert np.array_equal(values[3], values[4]) == equal

    @pytest.mark.parametrize("strength", [0.25, 1.0])
    def test_flipped_and_shifted_outliers_by_their_strength(self, strength):
        plain = make_outlier_tasks(**SMALL, n_outliers=0, common=1.0)
        odd = plain.X_test["task"].is_in(["t3", "t4"])
        options = {**SMALL, "common": 1.0, "strength": strength}
        flipped = make_outlier_tasks(**options, outlier_kind="flipped").y_test
        shifted = make_outlier_tasks(**options, outlier_kind="shifted").y_test
        np.testing.assert_allclose(flipped.filter(odd), (1 - 2 * strength) * plain.y_test.filter(odd), atol=1e-12)
        np.testing.assert_allclose(shifted.filter(odd), plain.y_test.filter(odd) + 2 * strength, atol=1e-12)

    @pytest.mark.parametrize("strength", [0.5, 1.0])
    def test_noisy_and_shuffled_outliers_by_their_strength(self, strength):
        sizes = {"n_train": 4000, "n_test": 0, "n_tasks": 2, "n_outliers": 1, "random_state": 0}
        plain = make_outlier_tasks(**sizes, strength=0.0)
        odd = plain.X["task"] == "t1"
        truth = plain.y.filter(odd).to_numpy()
        noisy = make_outlier_tasks(**sizes, outlier_kind="noisy", strength=strength).y.filter(odd).to_numpy()
        shuffled = make_outlier_tasks(**sizes, outlier_kind="shuffled", strength=strength).y.filter(odd).to_numpy()
        assert np.std(noisy - truth) == pytest.approx(2 * strength, rel=0.05)
        np.testing.assert_array_equal(np.sort(shuffled), np.sort(truth))
        assert np.mean(shuffled != truth) == pytest.approx(strength, abs=0.01)
        assert np.corrcoef(shuffled, truth)[0, 1] == pytest.approx(1 - strength, abs=0.05)

    def test_noise_reaches_all_rows_and_nothing_else_changes(self):
        plain, noisy = (make_outlier_tasks(2000, 1000, n_tasks=3, noise=n, random_state=0) for n in (0.0, 0.5))
        assert plain.X.equals(noisy.X)
        for a, b in ((plain.y, noisy.y), (plain.y_test, noisy.y_test)):
            assert (a - b).std() == pytest.approx(0.5, rel=0.05)
        np.testing.assert_allclose(noisy.signal(noisy.X_test), plain.y_test, atol=1e-12)

    def test_classes_of_flipped_outliers_are_the_other_ones(self):
        # Without own parts the flipped tasks are as balanced as the others, so both draw equally often.
        options = {**SMALL, "target": "classification", "common": 1.0}
        flipped = make_outlier_tasks(**options, outlier_kind="flipped")
        plain = make_outlier_tasks(**options, n_outliers=0)
        assert plain.y.dtype == pl.Int8
        assert unlike(plain, flipped) == [{"t3", "t4"}] * 2
        odd = plain.X["task"].is_in(["t3", "t4"])
        assert (plain.y.filter(odd) + flipped.y.filter(odd) == 1).all()


class TestTruth:
    def test_signal_is_the_label_without_noise_in_any_order(self):
        data = make_outlier_tasks(**SMALL, outlier_kind="shifted")
        np.testing.assert_allclose(data.signal(data.X), data.y, atol=1e-12)
        X = data.X_test.sample(fraction=1, shuffle=True, seed=0)
        order = pl.arange(data.X_test.height, eager=True).sample(fraction=1, shuffle=True, seed=0)
        np.testing.assert_allclose(data.signal(X.select(reversed(X.columns))), data.y_test.gather(order), atol=1e-12)

    def test_signal_of_an_unknown_task_is_refused(self):
        data = make_outlier_tasks(**SMALL)
        with pytest.raises(ValueError, match="a task must be one of t0, t1, t2, t3, t4, got 'z'"):
            data.signal(data.X.with_columns(task=pl.lit("z")))

    @pytest.mark.parametrize("target", ["regression", "classification"])
    def test_fresh_rows_follow_the_same_functions(self, target):
        data = make_outlier_tasks(**SMALL, target=target)
        X, y = data.draw(7, random_state=3)
        assert X.schema == data.X.schema
        assert (y.name, y.dtype) == ("y", data.y.dtype)
        assert X["task"].to_list() == [name for name in data.functions for _ in range(7)]
        expected = data.signal(X) if target == "regression" else data.signal(X) > 0
        np.testing.assert_allclose(y, expected, atol=1e-12)
        old = set(data.X["x0"]) | set(data.X_test["x0"])
        assert not old & set(X["x0"])
        assert X.equals(data.draw(7, random_state=3)[0])

    def test_fresh_rows_carry_the_noise(self):
        data = make_outlier_tasks(**SMALL, noise=0.5)
        X, y = data.draw(2000, random_state=0)
        assert np.std(y.to_numpy() - data.signal(X)) == pytest.approx(0.5, rel=0.05)
