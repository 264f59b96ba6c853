"""What R-MTGB decides on validation rows is not decided by chance, nor by the scale of another task."""

import numpy as np
import polars as pl
import pytest

from tabmtl import RMTGB, IndependentTasks, Task
from tabmtl.models.rmtgb.evidence import is_better
from tabmtl.synth import make_outlier_tasks


@pytest.mark.all_faces  # ten seconds
@pytest.mark.parametrize("scale", [1, 1000])
def test_a_task_is_not_drowned_by_those_of_a_larger_scale(scale):
    """Beside the score of one LightGBM per task; the task's mean scores 0."""
    bench = make_outlier_tasks(267, 300, n_tasks=6, n_outliers=1, random_state=0)
    odd = bench.outliers[0]

    def scaled(X, y):
        return y * pl.select(pl.when(X["task"] == odd).then(1).otherwise(scale)).to_series()

    options = {"task_column": "task", "random_state": 0}
    models = RMTGB(**options), IndependentTasks(families=("lightgbm",), **options)
    one, two = (model.fit(bench.X, scaled(bench.X, bench.y)) for model in models)
    y_test = scaled(bench.X_test, bench.y_test)
    score, alone = (model.score_tasks(bench.X_test, y_test)[odd] for model in (one, two))
    assert score > alone - 0.02 > 0.8


@pytest.mark.all_faces  # two fits of ten tasks
def test_the_score_is_the_one_that_was_checked():
    """The fit of all rows holds the θ of the fit with rows set aside."""
    bench = make_outlier_tasks(random_state=0)
    rng = np.random.default_rng(0)
    hidden = pl.Series(rng.random(len(bench.X)) < 0.15)
    model = RMTGB(task_column="task", random_state=0)
    table = model.fit(bench.X, bench.y).outlier_score_
    assert table["check_labels"].sum() < len(bench.X) / 2
    outliers = table.filter(pl.col("task").is_in(bench.outliers))
    assert (outliers["check_loss"] < outliers["check_loss_if_normal"]).all()
    given = model.fit(
        bench.X.filter(~hidden), bench.y.filter(~hidden), X_val=bench.X.filter(hidden), y_val=bench.y.filter(hidden)
    )
    assert (given.outlier_score_["outlier_score"] > 0.5).to_list() == bench.is_outlier.tolist()


def test_a_gain_beyond_chance_in_all_tasks_counts_for_all():
    rng = np.random.default_rng(0)
    losses = [rng.exponential(size=40) for _ in range(6)]
    assert is_better(losses, [loss + 0.5 for loss in losses]).all()
    assert not is_better(losses, [loss - 0.5 * loss for loss in losses]).any()


def test_one_task_that_gains_goes_alone_and_the_others_stay():
    rng = np.random.default_rng(0)
    losses = [rng.exponential(size=60) for _ in range(6)]
    others = [loss * factor for loss, factor in zip(losses, [0.7] * 5 + [9], strict=True)]
    assert is_better(losses, others).tolist() == [False] * 5 + [True]
    million = [1e-6, 1e6, 1, 1, 1, 1e3]  # units play no part
    assert is_better(
        [loss * unit for loss, unit in zip(losses, million, strict=True)],
        [loss * unit for loss, unit in zip(others, million, strict=True)],
    ).tolist() == [False] * 5 + [True]


def test_few_labels_and_none_at_all_decide_nothing():
    nothing = np.zeros(0)
    assert is_better([nothing, nothing], [nothing, nothing]).tolist() == [False, False]
    assert is_better([np.ones(1), nothing], [np.full(1, 9.0), nothing]).tolist() == [False, False]


def test_chance_alone_lets_few_tasks_go():
    """40 tasks whose losses differ by noise, 50 times: the gain of all is above its error in a sixth of the draws."""
    rng = np.random.default_rng(0)
    went = []
    for _ in range(50):
        losses = 5 + rng.exponential(size=(40, 12))
        went.append(is_better(list(losses), list(losses + 0.3 * rng.normal(size=(40, 12)))).mean())
    assert 0 < np.mean(went) < 0.3


def test_small_tasks_split_their_categories():
    """A level decides all; block 3 alone, 40 rows a task. The mean of a task scores 0."""
    rng = np.random.default_rng(0)
    level = rng.integers(0, 6, 800)
    X = pl.DataFrame(
        {"level": pl.Series(list("abcdef")).gather(level), "task": np.repeat(np.arange(20), 40).astype(str)}
    )
    y = pl.Series("y", np.array([0, 3, 1, 5, 2, 9])[level] + 0.1 * rng.normal(size=800))
    options = {"n_estimators_shared": 0, "n_estimators_outlier": 0, "early_stopping": False, "random_state": 0}
    assert RMTGB(task_column="task", **options).fit(X, y).score(X, y) > 0.9


@pytest.mark.parametrize("subsample", [0.1, 0.9])
def test_a_share_of_one_row_is_that_row(subsample):
    X = pl.DataFrame({"a": np.arange(61.0), "task": ["p"] * 30 + ["q"] * 30 + ["r"]})
    model = RMTGB(task_column="task", subsample=subsample, early_stopping=False, n_estimators_task=5, random_state=0)
    assert np.isfinite(model.fit(X, np.arange(61.0)).predict(X)).all()


def test_validation_rows_may_lack_all_tasks_of_a_loss():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 3))
    y = pl.DataFrame({"cost": X[:, 0], "price": X[:, 1], "late": X[:, 2] > 0})
    y_val = y[80:].with_columns(late=pl.lit(None, dtype=pl.Boolean))
    model = RMTGB(n_estimators_task=5, random_state=0).fit(X[:80], y[:80], X_val=X[80:], y_val=y_val)
    assert model.block_rounds_.filter(pl.col("task") == "late")["own"].item() == 5  # nothing stops it
    with pytest.raises(ValueError, match="y_val has no label"):
        RMTGB().fit(X[:80], y[:80], X_val=X[80:], y_val=y_val.clear(40))


def test_tasks_of_one_row_each_are_fitted():
    X = pl.DataFrame({"a": np.arange(60.0), "task": np.arange(60).astype(str)})
    model = RMTGB(task_column="task", n_estimators_task=5, random_state=0).fit(X, np.arange(60.0))
    assert np.corrcoef(model.predict(X), np.arange(60.0))[0, 1] > 0.9


def test_weights_of_tasks_count_by_their_ratios():
    X = np.random.default_rng(0).normal(size=(200, 4))
    y = pl.DataFrame({"one": X[:, 0] + X[:, 1], "two": X[:, 0] - X[:, 2]})

    def predicted(first, second):
        options = dict.fromkeys(("n_estimators_shared", "n_estimators_outlier", "n_estimators_task"), 10)
        tasks = [Task(name=n, kind="regression", weight=w) for n, w in (("one", first), ("two", second))]
        return RMTGB(tasks=tasks, **options, random_state=0).fit(X, y).predict(X).to_numpy()

    np.testing.assert_array_equal(predicted(1e-6, 1e-6), predicted(1, 1))
    np.testing.assert_allclose(predicted(2, 6), predicted(1, 3))
    assert not np.allclose(predicted(1, 9), predicted(1, 1))


@pytest.mark.parametrize("n_tasks", [1, 2, 5])
def test_equal_losses_are_no_gain(n_tasks):
    losses = [np.full(60, 0.5)] * n_tasks
    assert not is_better(losses, losses).any()
