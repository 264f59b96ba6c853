"""What a training leaves in MLflow's log; who makes and ends a run, and what an outage of the store costs."""

import json
import sys
from contextlib import nullcontext
from copy import deepcopy

import mlflow
import numpy as np
import polars as pl
import pytest
import recommenders
from conformance import features, mixed_targets, tiny
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name
from models_at_hand import fitted
from sklearn.base import clone
from tracking import Log, tracking

from tabmtl import RMTGB, MMoE, MultiTaskEnsemble, SharedBottom
from tabmtl.base.schema import TabmtlWarning
from tabmtl.serving.mlflow import MLflowCallback
from tabmtl.serving.mlflow.callback import metric_name
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
    assert [Task.of_file(**task) for task in schema["tasks"]] == list(model.tasks_)
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
    model, table, y = fitted(RMTGB, "long")
    log = log_of(model, table, y, X_val=table, y_val=y)
    assert set(log.metrics) == {"final/east/r2", "final/north/r2", "final/west/r2", "final/score"}
    assert json.loads(log.text("schema.json"))["task_column"] == "school"
    assert log.files("plots") == set()
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


@pytest.mark.filterwarnings("ignore::tabmtl.base.schema.TargetInFeaturesWarning")
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


def test_a_callback_keeps_its_run():
    with mlflow.start_run() as outer:
        callback = MLflowCallback()
        callback({"epoch": 0.0, "val/score": 0.1})
    with mlflow.start_run():
        deepcopy(callback)({"epoch": 1.0, "val/score": 0.2})
    assert callback.run_id == outer.info.run_id
    assert Log(outer.info.run_id).series("val/score") == [(0, 0.1), (1, 0.2)]


def test_a_run_that_the_callback_makes_is_its_own_and_ends():
    model, X, y = fitted(SharedBottom)
    callbacks = [MLflowCallback(), MLflowCallback()]
    for callback in (*callbacks, deepcopy(MLflowCallback())):
        callback({"epoch": 0.0, "val/score": 0.3})
        assert mlflow.active_run() is None
        run = mlflow.get_run(callback.run_id)
        assert run.info.status == "RUNNING"
        assert run.info.experiment_id == mlflow.get_experiment_by_name("callback").experiment_id
        assert run.data.tags["mlflow.user"]
    for callback, cls in zip(callbacks, (SharedBottom, MMoE), strict=True):
        model = tiny(cls).fit(X, y)
        callback.log_fitted(model, X, y, plots=False)
        assert mlflow.get_run(callback.run_id).info.status == "FINISHED"
        assert Log(callback.run_id).params["class"] == cls.__name__
    assert len({callback.run_id for callback in callbacks}) == 2


def test_clones_make_a_run_each_and_the_search_goes_on():
    callback = MLflowCallback()
    estimators = [clone(tiny(SharedBottom, on_epoch=callback, epochs=1)).fit(X, Y) for _ in range(2)]
    runs = {estimator.on_epoch.run_id for estimator in estimators}
    assert len(runs) == 2
    assert {len(Log(run).series("val/score")) for run in runs} == {1}
    assert callback.run_id is None


def test_a_run_of_somebody_else_stays_open():
    model, X, y = fitted(SharedBottom)
    experiment = mlflow.get_experiment_by_name("callback").experiment_id
    run_id = mlflow.MlflowClient().create_run(experiment).info.run_id
    with mlflow.start_run() as active:
        for callback in (MLflowCallback(), MLflowCallback(run_id=run_id)):
            callback.log_fitted(model, X, y, plots=False)
            assert mlflow.get_run(callback.run_id).info.status == "RUNNING"
        assert mlflow.active_run().info.run_id == active.info.run_id


@pytest.fixture
def down(monkeypatch):
    """A function that lets the store answer or not, and the number of times that it was asked in vain."""
    asked, log_batch = [], mlflow.MlflowClient.log_batch

    def fail(*args, **kwargs):
        asked.append(args)
        raise mlflow.MlflowException("store down")

    def set_down(is_down):
        monkeypatch.setattr(mlflow.MlflowClient, "log_batch", fail if is_down else log_batch)
        return asked

    return set_down


def test_a_store_that_is_down_costs_no_training(down):
    asked = down(True)
    with mlflow.start_run() as run:
        callback = MLflowCallback()
        with pytest.warns(TabmtlWarning, match="epoch 0 is not logged yet.* MLflow says store down") as caught:
            model = tiny(SharedBottom, on_epoch=callback, epochs=3).fit(X, Y)
        assert len([each for each in caught if each.category is TabmtlWarning]) == 1
        assert len(asked) == 3
        with pytest.raises(mlflow.MlflowException, match="store down"):
            callback.log_fitted(model, X, Y)
        down(False)
        callback.log_fitted(model, X, Y, plots=False)
    assert model.history_.height == 3
    assert Log(run.info.run_id).series("val/score") == list(enumerate(model.history_["val/score"]))


@pytest.mark.all_faces
def test_what_waits_is_logged_with_the_next_epoch_and_once(down):
    many = {f"val/{i}/r2": i / 7 for i in range(2500)}
    with mlflow.start_run() as run:
        callback = MLflowCallback()
        for epoch, is_down in enumerate([False, True, True, False, True]):
            down(is_down)
            begins = epoch in (1, 4)
            with pytest.warns(TabmtlWarning, match=f"epoch {epoch} is not") if begins else nullcontext():
                callback({"epoch": float(epoch), **many})
            assert len(Log(run.info.run_id).series("val/7/r2")) == {0: 1, 1: 1, 2: 1, 3: 4, 4: 4}[epoch]
        down(False)
        callback.flush()
        callback.flush()
    log = Log(run.info.run_id)
    assert log.series("val/7/r2") == [(epoch, 1.0) for epoch in range(5)]
    assert len(log.series("val/2499/r2")) == 5


def test_a_run_that_cannot_be_made_is_made_later(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("no route")

    callback = MLflowCallback(on_epoch=lambda record: True)
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "create_run", fail)
        with pytest.warns(TabmtlWarning, match="no route"):
            assert callback({"epoch": 0.0, "val/score": 0.1})
    assert callback({"epoch": 1.0, "val/score": 0.2})
    assert Log(callback.run_id).series("val/score") == [(0, 0.1), (1, 0.2)]


CLICKS = recommenders.TEST
REFUSED = [
    ("SharedBottom", {"X_val": X_VAL}, "got X_val alone; give y_val too"),
    ("SharedBottom", {"y_val": Y_VAL}, "got y_val alone; give X_val too"),
    ("SharedBottom", {"y_val": Y_VAL, "reference": {"late": 0.5}}, "got y_val alone; give X_val too"),
    ("SharedBottom", {"reference": {"late": 0.5}}, "give X_val and y_val"),
    ("SequentialRules", {"y_val": Y_VAL}, "leave y_val and reference out"),
    ("SequentialRules", {"X_val": CLICKS, "reference": {"late": 0.5}}, "leave y_val and reference out"),
]


@pytest.mark.parametrize(("name", "given", "said"), REFUSED)
def test_validation_rows_have_features_and_targets(name, given, said):
    callback = MLflowCallback()
    is_table = name == "SharedBottom"
    model, rows = (fitted(SharedBottom)[0], (X, Y)) if is_table else (recommenders.fitted(name), (recommenders.TRAIN,))
    with pytest.raises(ValueError, match=said):
        callback.log_fitted(model, *rows, **given)
    assert callback.run_id is None
