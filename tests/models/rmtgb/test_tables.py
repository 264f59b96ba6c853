"""R-MTGB reads the same table wide or long, with or without labels, and at any level and scale of y."""

import numpy as np
import polars as pl
import pytest
from conformance import features, mixed_targets

from tabmtl import RMTGB
from tabmtl.synth import make_outlier_tasks

SHORT = {"n_estimators_shared": 10, "n_estimators_outlier": 20, "n_estimators_task": 10, "random_state": 0}
NAMES = ["a", "b", "c"]


def wide_table(n=200, hidden=0.4):
    """Few values in every feature, and targets of mean 0 and standard deviation 1 with holes."""
    rng = np.random.default_rng(0)
    X = pl.DataFrame({f"x{j}": rng.integers(0, 10, n).astype(float) for j in range(4)})
    signal = np.sin(X["x0"]) + X["x1"] * X["x2"] / 20
    columns = {}
    for sign, name in zip((1, 1, -1), NAMES, strict=True):
        values = sign * signal.to_numpy() + 0.3 * rng.normal(size=n)
        values[rng.random(n) < hidden] = np.nan
        columns[name] = (values - np.nanmean(values)) / np.nanstd(values)
    return X, pl.DataFrame(columns).fill_nan(None)


def melted(X, Y):
    """A row per label."""
    parts = [X.with_columns(task=pl.lit(name), y=Y[name]).filter(Y[name].is_not_null()) for name in Y.columns]
    return pl.concat(parts).sample(fraction=1.0, shuffle=True, seed=0)


@pytest.mark.all_faces  # seven seconds
def test_another_level_of_y_moves_the_predictions_by_as_much():
    bench = make_outlier_tasks(n_tasks=5, n_train=100, n_test=50, random_state=0)
    plain = RMTGB(task_column="task", random_state=0).fit(bench.X, bench.y).predict(bench.X_test)
    moved = RMTGB(task_column="task", random_state=0).fit(bench.X, bench.y + 1000).predict(bench.X_test)
    assert (moved - 1000 - plain).abs().max() < 1e-6 * bench.y.std()
    scaled = RMTGB(task_column="task", random_state=0).fit(bench.X, bench.y * 1000).predict(bench.X_test)
    assert (scaled / 1000 - plain).abs().max() < 1e-6 * bench.y.std()


@pytest.mark.parametrize("theta_step", ["scale-free", "sum"])
@pytest.mark.parametrize("own", [0, 10])
def test_a_wide_table_with_nulls_is_the_same_as_one_row_per_label(own, theta_step):
    """Where all targets have one mean and one spread, and leaves may be small.

    Four leaves, so that none is so small that LightGBM's guess of its rows, from their labels, is below one.
    """
    X, Y = wide_table()
    options = {**SHORT, "n_estimators_task": own, "theta_step": theta_step}
    options |= {"early_stopping": False, "min_child_samples": 1, "num_leaves": 4}
    wide = RMTGB(**options).fit(X, Y)
    table = melted(X, Y)
    long = RMTGB(task_column="task", **options).fit(table.drop("y"), table["y"])
    assert wide.block_rounds_.equals(long.block_rounds_)
    scores = [estimator.outlier_score_["outlier_score"].to_numpy() for estimator in (wide, long)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)
    assert scores[0].max() > 0.5  # the third target is the others' opposite
    said = wide.predict(X)
    for name in NAMES:
        np.testing.assert_allclose(said[name], long.predict(X.with_columns(task=pl.lit(name))), atol=1e-6)


@pytest.mark.parametrize("layout", ["wide", "long"])
def test_rows_without_any_label_change_nothing(layout):
    X, Y = wide_table()
    options = {"early_stopping": False, **SHORT}
    if layout == "long":
        X = X.with_columns(task=pl.Series(NAMES).gather(np.arange(len(X)) % 3))
        Y, options["task_column"] = Y["a"], "task"
        labelled = Y.is_not_null()
    else:
        labelled = Y.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
    strange = X.with_columns(pl.selectors.float() + 0.5)  # values that would move the bins
    mixed = X.with_columns(X[name].zip_with(labelled, strange[name]) for name in X.columns)
    assert 0 < (~labelled).sum() < len(X)
    whole = RMTGB(**options).fit(mixed, Y).predict(X)
    assert RMTGB(**options).fit(X.filter(labelled), Y.filter(labelled)).predict(X).equals(whole)


def test_every_target_of_a_mixed_table_is_learned_on_its_labelled_rows():
    """The commoner class and the mean, on the same rows, reach an AUC of 0.5 and an R² of 0."""
    X = features(500)
    Y = mixed_targets(X)
    estimator = RMTGB(random_state=0).fit(X, Y)
    assert estimator.outlier_score_["n_labels"].to_list() == [len(Y) - Y[name].null_count() for name in Y.columns]
    new = features(300, seed=1)
    scores = estimator.score_tasks(new, mixed_targets(new, seed=1))
    assert scores["late"] > 0.9
    assert scores["size"] > 0.85
    assert scores["delay"] > 0.8


def test_given_validation_rows_are_no_training_rows():
    X, Y = wide_table(n=300)
    estimator = RMTGB(**SHORT).fit(X[:200], Y[:200], X_val=X[200:], y_val=Y[200:])
    assert estimator.outlier_score_["n_labels"].to_list() == [200 - Y[name][:200].null_count() for name in NAMES]
    checked = estimator.outlier_score_["check_labels"].to_list()
    assert checked == [100 - Y[name][200:].null_count() for name in NAMES]
    with pytest.raises(ValueError, match="y_val has no label to stop on"):
        RMTGB(**SHORT).fit(X[:200], Y[:200], X_val=X[200:], y_val=Y[200:].clear(100))
