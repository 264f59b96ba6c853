"""What a training leaves in MLflow's log."""

import json
import sys

import mlflow
import numpy as np
import polars as pl
import pytest
import recommenders
from conformance import features, fitted, long_table, mixed_targets, tiny
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name
from tracking import Log, tracking

from tabmtl import RMTGB, MMoE, MultiTaskEnsemble, SharedBottom
from tabmtl.mlflow import MLflowCallback
from tabmtl.mlflow.callback import metric_name
from tabmtl.schema import TabmtlWarning
from tabmtl.targets import Task

X, X_VAL = features(200), features(150, seed=1)
Y, Y_VAL = mixed_targets(X), mixed_targets(X_VAL, seed=1)


@pytest.fixture(autouse=True, scope="module")
def _store():
    with tracking("callback"):
        yield


@pytest.fixture(scope="module")
def logged():
    """A logged training of a mixture of experts, and its estimator."""
    with mlflow.start_run() as run:
        callback = MLflowCallback()
        model = tiny(MMoE, on_epoch=callback, epochs=3).fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
        callback.log_fitted(model, X, Y, X_val=X_VAL, y_val=Y_VAL, reference={"late": 0.5, "size": 0.4, "delay": 0.2})
    return Log(run.info.run_id), model


def test_every_epoch_is_logged_under_the_names_of_the_history(logged):
    log, model = logged
    history = model.history_
    assert history.height == 3
    for name in history.columns[1:]:
        assert log.series(name) == list(enumerate(history[name]))
    assert "val/late/roc_auc" in log.metrics
    assert "val/delay/r2" in log.metrics


def test_parameters_are_those_of_fit_and_the_schema_is_a_file_and_a_tag(logged):
    log, model = logged
    assert json.loads(log.tags["tabmtl.tasks"]) == ["late", "size", "delay"]
    assert log.tags["tabmtl.estimators.base"] == "MMoE"
    assert (log.params["class"], log.params["epochs"]) == ("MMoE", "3")
    assert log.params["n_experts"] == str(model.n_experts)
    assert "on_epoch" not in log.params
    schema = json.loads(log.text("schema.json"))
    assert [Task(**task) for task in schema["tasks"]] == list(model.tasks_)
    assert schema["categorical"] == {"flag": {"levels": 2}, "text": {"levels": 3}}
    assert schema["numeric"]["holes"] == {"missing in fit": True}


def test_the_data_sets_are_logged_with_all_targets(logged):
    inputs = logged[0].inputs()
    assert set(inputs) == {"training", "validation"}
    data, tags = inputs["training"]
    assert json.loads(tags["targets"]) == ["late", "size", "delay"]
    assert json.loads(data.profile)["num_rows"] == 200
    columns = [column["name"] for column in json.loads(data.schema)["mlflow_colspec"]]
    assert columns == [*X.columns, *Y.columns]
    assert data.digest != inputs["validation"][0].digest


def test_final_scores_come_with_their_intervals_and_a_gain_over_the_reference(logged):
    log, model = logged
    scores = model.score_tasks(X_VAL, Y_VAL)
    assert log.metrics["final/late/roc_auc"] == pytest.approx(scores["late"])
    assert log.metrics["final/delay/r2"] == pytest.approx(scores["delay"])
    assert log.metrics["final/score"] == pytest.approx(np.mean(list(scores.values())))
    assert log.metrics["gain/late"] == pytest.approx(100 * (scores["late"] - 0.5) / 0.5)
    assert "gain_delta_m" in log.metrics and "Δm" in log.text("gain.txt")
    table = json.loads(log.text("scores.json"))
    assert table["columns"] == model.score_intervals(X_VAL, Y_VAL).columns
    assert [row[0] for row in table["data"]] == ["late", "size", "delay"]


def test_the_plots_are_logged_and_closed(logged):
    from matplotlib import pyplot

    log, model = logged
    assert log.files("plots") == {"plots/history.png", "plots/experts.png", "plots/gain.png"}
    before = pyplot.get_fignums()  # other tests may have left some
    with mlflow.start_run() as run:
        MLflowCallback().log_fitted(model, X, Y)
    assert Log(run.info.run_id).files("plots") == {"plots/history.png", "plots/experts.png"}
    assert pyplot.get_fignums() == before


def log_of(estimator, *data, **options):
    with mlflow.start_run() as run:
        MLflowCallback().log_fitted(estimator, *data, **options)
    return Log(run.info.run_id)


def test_boosted_trees_have_final_scores_only():
    table, y = long_table()
    model = tiny(RMTGB, task_column="school").fit(table, y)
    log = log_of(model, table, y, X_val=table, y_val=y)
    assert set(log.metrics) == {"final/east/r2", "final/north/r2", "final/west/r2", "final/score"}
    assert json.loads(log.text("schema.json"))["task_column"] == "school"
    assert log.files("plots") == {"plots/outliers.png"}
    assert json.loads(log.inputs()["training"][1]["targets"]) == ["grade"]


def test_an_ensemble_has_its_leaderboard():
    model = tiny(MultiTaskEnsemble).fit(X, Y)
    log = log_of(model, X, Y, X_val=X_VAL, y_val=Y_VAL, reference=model.estimators_["alone"][0])
    assert log.files("plots") == {"plots/leaderboard.png", "plots/gain.png"}
    assert log.params["models"] == "alone: IndependentTasks, together: SharedTrees"
    scores = model.score_tasks(X_VAL, Y_VAL)
    assert log.metrics["final/late/roc_auc"] == scores["late"]
    assert {"gain/late", "gain/size", "gain/delay"} <= set(log.metrics)


@pytest.mark.parametrize(
    "convert", [pl.DataFrame.clone, pl.DataFrame.lazy, pl.DataFrame.to_pandas, pl.DataFrame.to_arrow]
)
def test_data_sets_of_all_libraries_are_alike(convert):
    model, table, y = fitted(SharedBottom)
    table = table.with_columns(pl.col("text").cast(pl.Categorical), pl.col("count").cast(pl.UInt8))
    log = log_of(model, convert(table), y if convert is pl.DataFrame.lazy else convert(y), plots=False)
    data, tags = log.inputs()["training"]
    assert json.loads(data.profile)["num_rows"] == len(table)
    kinds = {column["name"]: column["type"] for column in json.loads(data.schema)["mlflow_colspec"]}
    assert (kinds["text"], kinds["count"]) == ("string", "long")
    assert json.loads(tags["targets"]) == ["late", "size", "delay"]
    assert not {"scores.json", "plots"} & log.files()


@pytest.mark.filterwarnings("ignore::tabmtl.schema.TargetInFeaturesWarning")
def test_arrays_have_names_too_and_a_target_may_be_called_as_a_feature():
    array = X.select("plain", "constant").to_numpy()
    model = tiny(SharedBottom).fit(array, array[:, 0])
    assert json.loads(log_of(model, array, array[:, 0], plots=False).inputs()["training"][1]["targets"]) == ["y"]
    frame = X.select("plain", "constant")
    model = tiny(SharedBottom).fit(frame, frame["plain"])
    tags = log_of(model, frame, frame["plain"], plots=False).inputs()["training"][1]
    assert json.loads(tags["targets"]) == ["plain (target)"]


def test_many_tasks_are_logged_too():
    names = [f"school with a name of some length, number {i:03}" for i in range(200)]
    table = pl.DataFrame({"x": np.arange(800.0) % 7, "school": names * 4})
    y = table["x"].rename("grade") * 3 + pl.int_range(800, eager=True) % 5
    model = tiny(RMTGB, task_column="school", n_estimators_task=0).fit(table, y)
    log = log_of(model, table, y, X_val=table, y_val=y, plots=False)
    assert len([name for name in log.metrics if name.startswith("final/school with a name")]) == 200
    assert log.tags["tabmtl.tasks"].startswith(f'["{names[0]}", "{names[1]}"')  # MLflow cuts what is too long
    assert len(json.loads(log.text("schema.json"))["tasks"]) == 200


def test_sessions_are_logged_too():
    with mlflow.start_run() as run:
        callback = MLflowCallback()
        model = recommenders.tiny("M2TRec", on_epoch=callback).fit(recommenders.TRAIN, items=recommenders.ITEMS)
        callback.log_fitted(model, recommenders.TRAIN, X_val=recommenders.TEST)
    log = Log(run.info.run_id)
    assert log.series("val/mrr_at_20") == list(enumerate(model.history_["val/mrr@20"]))
    assert log.metrics["final/mrr_at_20"] == pytest.approx(model.score(recommenders.TEST))
    assert json.loads(log.text("schema.json"))["columns"]["item"] == "item_id"
    assert set(log.inputs()) == {"training", "validation"}


def test_undefined_scores_are_left_out():
    with mlflow.start_run() as run:
        assert not MLflowCallback()({"epoch": 4.0, "val/a/r2": None, "val/b/r2": 0.5})
    assert Log(run.info.run_id).metrics == {"val/b/r2": 0.5}


def test_another_callback_is_asked_to_stop():
    with mlflow.start_run() as run:
        seen = []
        callback = MLflowCallback(on_epoch=lambda record: seen.append(record) or len(seen) == 2)
        model = tiny(SharedBottom, on_epoch=callback, epochs=5).fit(X, Y)
    assert model.history_.height == len(seen) == 2
    assert len(Log(run.info.run_id).series("val/score")) == 2


def test_without_matplotlib_the_rest_is_logged(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    model = fitted(SharedBottom)[0]
    with pytest.warns(TabmtlWarning, match=r"the plots are not logged: .*tabmtl\[plot\]"):
        log = log_of(model, X, Y)
    assert "schema.json" in log.files()


ODD = ["p(x)=1", "p(x) 1", "a/b", "a:2f:b", "..", ".", "", ":", "50%", "a\nb", "x" * 400, "x" * 401]


@example(ODD)
@given(st.lists(st.text(), unique=True))
def test_names_of_metrics_are_legal_and_one_to_one(names):
    found = [metric_name(f"val/{name}/r2") for name in names]
    for name in found:
        _validate_metric_name(name)
        assert len(name) <= 250
    assert len(set(found)) == len(names)
    for plain in ("val/late/r2", "val/größe/r2", "val/a b/r2", "val/loss"):
        assert metric_name(plain) == plain
