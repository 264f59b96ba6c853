"""From encoded tables, long and wide, to binned rows whose features and labels belong together."""

import numpy as np
import polars as pl
import pytest

from tabmtl import RMTGBRegressor, Task
from tabmtl.encode import TableCoder
from tabmtl.estimators.boosted.border import Ensemble, subset
from tabmtl.models.rmtgb.targets import bin_labelled, rows_of_tasks

OPTIONS = {"feature_pre_filter": False, "num_threads": 1, "verbosity": -1, "min_data_in_bin": 1}

layouts = pytest.mark.parametrize("layout", ["long", "wide"])


def a_table(layout):
    """Features, labels that are a function of them, the task column; half of the labels are missing."""
    rng = np.random.default_rng(0)
    X = pl.DataFrame({"x": rng.permutation(60) / 7})
    values = np.round(np.sin(X["x"].to_numpy())[:, None] * [1.0, 5.0], 6)
    values[rng.random(values.shape) < 0.5] = np.nan
    if layout == "wide":
        return X, pl.DataFrame(values, ["y0", "y1"], nan_to_null=True), None
    return (
        X.with_columns(pl.Series("t", rng.choice(["a", "b"], 60))),
        pl.Series("y", values[:, 1], nan_to_null=True),
        "t",
    )


def rows_of(X, y, task_column=None, weight=None, tasks=None):
    """The coder, the batch, its labels of the binned rows, and these rows."""
    options = {"force": None, "columns": {}, "encoding": {}}
    coder = TableCoder.fit(X, y, weight, tasks=tasks, task_column=task_column, **options)
    batch = coder.read(X, y, weight)
    binned = bin_labelled(batch, coder.features.columns, OPTIONS)
    return coder, batch, binned.labels, rows_of_tasks(binned, coder, np.arange(len(coder.labels.tasks)))


def learned(rows):
    """Scores of deep trees: the labels, if features and labels belong together."""
    params = OPTIONS | {"learning_rate": 1.0, "num_leaves": 100, "min_data_in_leaf": 1, "min_sum_hessian_in_leaf": 0}
    ensemble = Ensemble(params, rows.data)

    def gradients(scores):
        residuals, hessians = rows.targets.derivatives(rows.scores + rows.targets.at_cells(scores))
        return -rows.targets.at_rows(residuals), rows.targets.at_rows(np.broadcast_to(hessians, residuals.shape))

    for _ in range(3):
        ensemble.update(gradients)
    return rows.scores + rows.targets.at_cells(ensemble.scores())


def test_long_rows_are_the_labelled_ones_sorted_by_task():
    coder, batch, labels, rows = rows_of(*a_table("long"))
    kept = ~np.isnan(batch.y[:, 0])
    order = np.argsort(batch.task[kept], kind="stable")
    np.testing.assert_array_equal(labels.task, batch.task[kept][order])
    np.testing.assert_array_equal(labels.y, batch.y[kept][order])
    assert (labels.x.numbers.shape, rows.data.num_data()) == ((kept.sum(), 0), kept.sum())
    assert list(rows.targets.counts) == list(np.bincount(batch.task[kept]))
    np.testing.assert_allclose(rows.targets.y, ((labels.y - coder.labels.center) / coder.labels.scale)[:, 0])
    np.testing.assert_allclose(learned(rows)[0], rows.targets.y, atol=1e-6)


def test_wide_rows_are_those_with_a_label_of_any_task():
    coder, batch, labels, rows = rows_of(*a_table("wide"))
    kept = ~np.isnan(batch.y).all(axis=1)
    np.testing.assert_array_equal(labels.y, batch.y[kept])
    assert rows.data.num_data() == kept.sum() < 60
    np.testing.assert_array_equal(rows.targets.weight.T, ~np.isnan(labels.y))
    scaled = (labels.y - coder.labels.center) / coder.labels.scale
    np.testing.assert_allclose(rows.targets.y.T, np.nan_to_num(scaled))
    assert not rows.scores.any() and rows.scores.shape == (2, 1, kept.sum())


@layouts
def test_rows_of_a_task_keep_features_and_labels_together(layout):
    rows = rows_of(*a_table(layout))[-1]
    rows.scores += np.arange(rows.targets.y.shape[-1]) / 10
    for t in range(2):
        own, index = rows.of_task(t, np.array([0.5])), rows.targets.rows_of(t)
        np.testing.assert_array_equal(own.scores[0], index / 10 + 0.5)
        assert own.data.num_data() == len(index) < rows.data.num_data()
        np.testing.assert_allclose(learned(own)[0], own.targets.y, atol=1e-6)


def test_the_rows_of_some_tasks_are_those_with_their_labels():
    X, y, _ = a_table("wide")
    y = y.with_columns(late=pl.when(pl.int_range(60) < 20).then(y["y0"].fill_null(1) > 0))
    coder, batch, *_ = rows_of(X, y)
    rows = rows_of_tasks(bin_labelled(batch, coder.features.columns, OPTIONS), coder, np.array([2]))
    assert (rows.targets.kind.name, rows.targets.n_tasks, rows.data.num_data()) == ("binary", 1, 20)
    np.testing.assert_array_equal(rows.targets.y[0], batch.y[:20, 2])


@layouts
def test_weights_of_labels_and_of_tasks_are_kept(layout):
    X, y, task_column = a_table(layout)
    weight = np.random.default_rng(0).uniform(0.5, 2, 60)
    tasks = [Task(name="y" if layout == "long" else "y1", kind="regression", weight=3.0)]
    tasks += [Task(name="y0", kind="regression")] * (layout == "wide")
    _, _, labels, rows = rows_of(X, y, task_column, weight, tasks)
    np.testing.assert_allclose(np.atleast_2d(rows.targets.weight).T, labels.weight)
    if layout == "long":  # the tasks of one target weigh the same, which changes nothing
        assert rows.targets.task_weight is None
    else:
        np.testing.assert_array_equal(rows.targets.task_weight, [0.5, 1.5])
    assert rows_of(X, y, task_column)[-1].targets.task_weight is None


@layouts
def test_only_plain_residuals_are_fitted_by_lightgbm_itself(layout):
    """A wide row has several labels, and weights change the hessian; shared rows have other residuals for each task."""
    X, y, task_column = a_table(layout)
    rows = rows_of(X, y, task_column)[-1]
    rows.scores += 0.25
    own = rows.of_task(0, np.zeros(1))
    np.testing.assert_allclose(own.plain_residuals(), own.targets.y - 0.25)
    if layout == "wide":
        assert rows.plain_residuals() is None
    else:
        np.testing.assert_allclose(rows.plain_residuals(), rows.targets.y - 0.25)
    weighted = rows_of(X, y, task_column, np.linspace(1, 2, 60))[-1]
    assert weighted.plain_residuals() is None
    assert weighted.of_task(0, np.zeros(1)).plain_residuals() is None
    whole = rows_of(X, pl.DataFrame({"y0": X["x"], "y1": -X["x"]}))[-1].of_task(0, np.zeros(1))
    assert whole.is_shared and whole.plain_residuals() is None


def test_all_rows_are_the_data_itself():
    data = rows_of(*a_table("wide"))[-1].data
    assert subset(data, np.arange(data.num_data())) is data
    assert subset(data, np.arange(3)).num_data() == 3


def test_a_task_of_weight_0_does_not_stop_the_others():
    X, y, _ = a_table("wide")
    tasks = [Task(name="y0", kind="regression"), Task(name="y1", kind="regression", weight=0.0)]
    model = RMTGBRegressor(tasks=tasks, n_estimators_task=5, random_state=0).fit(X, y)
    assert np.isfinite(model.predict(X).to_numpy()).all()
