"""The run of a callback: who makes and ends it, what an outage of the store costs, and which rows it takes."""

from contextlib import nullcontext
from copy import deepcopy

import mlflow
import pytest
import recommenders
from conformance import features, fitted, mixed_targets, tiny
from sklearn.base import clone
from tracking import Log, tracking

from tabmtl import MMoE, SharedBottom
from tabmtl.mlflow import MLflowCallback
from tabmtl.schema import TabmtlWarning

X, X_VAL = features(200), features(150, seed=1)
Y, Y_VAL = mixed_targets(X), mixed_targets(X_VAL, seed=1)


@pytest.fixture(autouse=True, scope="module")
def _store():
    with tracking("callback"):
        yield


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
        assert len(caught) == 1
        assert len(asked) == 3
        with pytest.raises(mlflow.MlflowException, match="store down"):
            callback.log_fitted(model, X, Y)
        down(False)
        callback.log_fitted(model, X, Y, plots=False)
    assert model.history_.height == 3
    assert Log(run.info.run_id).series("val/score") == list(enumerate(model.history_["val/score"]))


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
