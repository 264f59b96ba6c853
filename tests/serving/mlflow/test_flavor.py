"""Logged models: what MLflow is told of them, that they come back whole, and that no pickle is in them."""

import io
import pickle
import sys
import types
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
from conformance import answers, features, mixed_targets, same, tiny
from mlflow.models import Model
from mlflow.types import DataType
from models_at_hand import fitted
from tracking import tracking

import tabmtl
from tabmtl import (
    ESMM,
    RMTGB,
    IndependentTasks,
    ModelFileError,
    MultiTabNetRegressor,
    MultiTaskEnsembleClassifier,
    SharedBottom,
)
from tabmtl.serving.mlflow import as_pyfunc, load_model, log_model, pandas_view, save_model
from tabmtl.serving.mlflow.signature import signature_of

PROBA = {"method": "predict_proba"}


class OwnNet(SharedBottom):
    """A network of a user."""


@pytest.fixture(scope="module")
def net(serve):
    """What serves a network, the network, and its features."""
    estimator, X, _ = fitted(SharedBottom)
    return serve(estimator, X.head(3)), estimator, X


def types_of(schema):
    return {column.name: (column.type, column.required) for column in schema.inputs}


def test_the_signature_names_and_types_all_columns(net):
    signature = net[0].metadata.signature
    number, text = (DataType.double, False), (DataType.string, False)
    numbers = dict.fromkeys(("plain", "holes", "heavy", "count", "constant"), number)
    assert types_of(signature.inputs) == numbers | {"flag": text, "text": text}
    string = (DataType.string, True)
    assert types_of(signature.outputs) == {"late": string, "size": string, "delay": (DataType.double, True)}
    params = [(param.name, param.default) for param in signature.params.params]
    assert params == [("method", "predict"), ("tasks", "")]


def test_columns_given_by_position_are_those_of_fit():
    X = features().select("count", "text", "plain", "flag", "holes")
    estimator = tiny(SharedBottom, columns={"count": "category"}).fit(X, mixed_targets(features()))
    signature = signature_of(estimator)
    names = signature.inputs.input_names()
    assert names == X.columns
    by_position = dict(zip(names, X.iter_columns(), strict=True))  # as spark_udf(...)(*columns) names them
    predicted = as_pyfunc(estimator).predict(pandas_view(pl.DataFrame(by_position), signature))
    assert predicted.to_dict("list") == estimator.predict(X).to_dict(as_series=False)


def test_labels_keep_their_types():
    X = features()
    y = pl.DataFrame({"is": X["plain"] > 0, "n": (X["plain"] > 0.3).cast(pl.Int8), "x": X["plain"].cast(pl.Float32)})
    estimator = tiny(SharedBottom).fit(X, y)
    expected = {"is": DataType.boolean, "n": DataType.long, "x": DataType.double}
    assert {name: kind for name, (kind, _) in types_of(signature_of(estimator).outputs).items()} == expected
    answered = as_pyfunc(estimator).predict(X.to_pandas())
    assert answered.dtypes.astype(str).to_dict() == {"is": "bool", "n": "int64", "x": "float64"}
    assert answered["n"].tolist() == estimator.predict(X)["n"].to_list()
    probabilities = as_pyfunc(estimator).predict(X.to_pandas(), PROBA)
    assert probabilities.columns.tolist() == ["is=False", "is=True", "n=0", "n=1"]


@pytest.mark.parametrize(
    "cls",
    [SharedBottom, RMTGB, IndependentTasks, MultiTaskEnsembleClassifier, ESMM, MultiTabNetRegressor],
)
def test_pyfunc_answers_as_the_estimator_does(serve, cls):
    estimator, X, _ = fitted(cls)
    served = serve(estimator, X.to_pandas().head(2))
    assert type(served.get_raw_model()) is cls
    signature = served.metadata.signature
    view = pandas_view(X, signature)
    predicted = served.predict(view)
    assert predicted.to_dict("list") == estimator.predict(X).to_dict(as_series=False)
    assert types_of(signature.outputs).keys() == set(predicted.columns)
    if cls is MultiTabNetRegressor:
        with pytest.raises(mlflow.MlflowException, match="needs a classification task"):
            served.predict(view, params=PROBA)
        return
    probabilities = estimator.predict_proba(X)
    parts = list(probabilities.values()) if isinstance(probabilities, dict) else probabilities
    found = served.predict(view, params=PROBA)
    np.testing.assert_array_equal(found.to_numpy(), np.concatenate(parts, axis=1))
    classes = [f"{task.name}={label}" for task in estimator.tasks_ for label in task.classes or ()]
    assert found.columns.tolist() == classes


def test_pyfunc_answers_quantiles(serve):
    estimator, X, _ = fitted(tabmtl.SharedTreesRegressor, tasks={"delay": "quantiles"})
    served = serve(estimator, X.to_pandas().head(2))
    view = pandas_view(X, served.metadata.signature)
    assert served.predict(view)["delay"].to_list() == estimator.predict(X)["delay"].to_list()
    quantiles = served.predict(view, params={"method": "predict_quantiles"})
    assert quantiles.to_dict("list") == estimator.predict_quantiles(X).to_dict(as_series=False)
    with pytest.raises(mlflow.MlflowException, match="needs a classification task"):
        served.predict(view, params=PROBA)


def test_arrays_have_columns_by_number(serve):
    X = np.random.default_rng(0).normal(size=(80, 3))
    estimator = tiny(SharedBottom).fit(X, X[:, :2])
    served = serve(estimator, X[:2])
    signature = served.metadata.signature
    assert signature.inputs.input_names() == ["x0", "x1", "x2"]
    predicted = served.predict(pandas_view(X, signature))
    assert predicted.columns.tolist() == ["y0", "y1"]
    np.testing.assert_array_equal(predicted.to_numpy(), estimator.predict(X))


@pytest.mark.parametrize("library", ["polars", "lazy", "pandas", "csv", "pyarrow", "columns"])
def test_pyfunc_takes_frames_of_all_libraries_and_whole_numbers_of_any_type(net, library):
    served, _, X = net
    expected = served.predict(pandas_view(X, served.metadata.signature))
    frames = {
        "polars": lambda: X.with_columns(pl.col("count").cast(pl.UInt8)),
        "lazy": X.lazy,
        "pandas": X.to_pandas,
        "csv": lambda: pd.read_csv(io.StringIO(X.write_csv())),
        "pyarrow": X.to_arrow,
        "columns": lambda: X.to_dict(as_series=False),
    }
    frame = frames[library]()
    pd.testing.assert_frame_equal(served.predict(frame), expected, rtol=1e-6)
    if library in ("lazy", "pandas", "pyarrow"):
        pd.testing.assert_frame_equal(served.predict(pandas_view(frame, served.metadata.signature)), expected)
    with pytest.raises(mlflow.MlflowException, match="no column 'plain'"):
        served.predict(X.drop("plain") if library == "polars" else X.drop("plain").to_pandas())
    with pytest.raises(mlflow.MlflowException, match="'plain'"):
        served.predict(X.with_columns(plain=pl.lit("tall")))


def test_mlflow_evaluates_one_task(net):
    served, estimator, X = net
    y = estimator.predict(X)["delay"] + 1.0
    with tracking("evaluated"):
        found = mlflow.models.evaluate(
            served,
            X.with_columns(truth=y).to_pandas(),
            targets="truth",
            predictions="delay",
            model_type="regressor",
            evaluator_config={"log_model_explainability": False},
        )
    assert found.metrics["mean_absolute_error"] == pytest.approx(1)


def test_models_of_other_loaders_are_checked_by_mlflow(net):
    schema = net[0].metadata.get_input_schema()
    with pytest.raises(mlflow.MlflowException, match="to be DataFrame"):
        mlflow.pyfunc._enforce_schema(net[2], schema, "mlflow.sklearn")
    assert mlflow.pyfunc._enforce_schema(net[2], schema, "tabmtl.serving.mlflow") is net[2]


def test_an_alias_leads_to_a_version_that_has_its_tags(net, monkeypatch):
    found = {}
    move = mlflow.MlflowClient.set_registered_model_alias

    def watched(client, name, alias, version):
        found[alias] = client.get_model_version(name, version).tags
        move(client, name, alias, version)

    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", watched)
    with tracking("tags"):
        log_model(net[1], "net", registered_model_name="tagged", alias="auto", version_tags={"rows": "new"})
        version = mlflow.MlflowClient().get_model_version_by_alias("tagged", "champion")
    assert found["champion"]["rows"] == version.tags["rows"] == "new"


def test_the_estimator_comes_back(net, tmp_path):
    _, estimator, X = net
    with tracking("models"):
        info = log_model(estimator, "net", input_example=X.head(2), registered_model_name="net", alias="auto")
        for alias in ("auto", "mine"):
            log_model(estimator, "net", registered_model_name="net", alias=alias)
        assert mlflow.MlflowClient().get_registered_model("net").aliases == {"champion": 1, "challenger": 2, "mine": 3}
        for options in ({"alias": "auto"}, {"version_tags": {"rows": "new"}}):
            with pytest.raises(ValueError, match=f"{next(iter(options))}=.* is for a registered model"):
                log_model(estimator, **options)
        for uri in (info.model_uri, "models:/net/1", "models:/net@champion"):
            assert same(answers(load_model(uri), X), answers(estimator, X))
    save_model(estimator, tmp_path / "model")
    assert same(answers(load_model(tmp_path / "model"), X), answers(estimator, X))


def test_nothing_is_pickled_or_unpickled(net, monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle was used")

    _, estimator, X = net
    save_model(estimator, tmp_path / "first")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    served = mlflow.pyfunc.load_model(str(tmp_path / "first"))
    predicted = served.predict(pandas_view(X, served.metadata.signature))
    assert predicted["late"].tolist() == estimator.predict(X)["late"].to_list()
    save_model(estimator, tmp_path / "model", input_example=X.head(2))
    suffixes = {file.suffix for file in (tmp_path / "model").rglob("*") if file.is_file()}
    assert suffixes == {"", ".json", ".safetensors", ".txt", ".yaml"}
    assert not any(file.read_bytes().startswith(b"\x80") for file in (tmp_path / "model").rglob("*.*"))


def test_requirements_are_told_and_never_inferred(net, monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("requirements were inferred")

    monkeypatch.setattr(mlflow.models, "infer_pip_requirements", refuse)
    save_model(net[1], tmp_path / "model")
    lines = (tmp_path / "model" / "requirements.txt").read_text().split()
    assert f"tabmtl=={version('tabmtl')}" in lines
    assert f"polars=={version('polars')}" in lines
    assert {line.partition("==")[0] for line in lines} >= {"mlflow", "torch", "lightgbm", "safetensors"}
    assert not any("optuna" in line or "+" in line for line in lines)
    save_model(net[1], tmp_path / "other", pip_requirements=["mlflow", "tabmtl"], metadata={"table": "flights"})
    assert Model.load(str(tmp_path / "other")).metadata == {"table": "flights"}
    assert (tmp_path / "other" / "requirements.txt").read_text().split() == ["mlflow", "tabmtl"]


TWICE = pl.DataFrame({"a": ["b=c", "d"] * 60, "a=b": ["c", "e"] * 60})
REFUSED = [
    (TypeError, r"OwnNet is no class of tabmtl.*loader_module=", lambda _, path: save_model(fitted(OwnNet)[0], path)),
    (TypeError, "expected an estimator of tabmtl, got dict", lambda net, path: save_model({}, path)),
    (ValueError, "not fitted", lambda net, path: save_model(SharedBottom(), path)),
    (ValueError, "be called 'a=b=c'", lambda net, path: save_model(tiny(SharedBottom).fit(features(), TWICE), path)),
    (
        ValueError,
        r"X lacks the columns",
        lambda net, _: pandas_view(net[2][["text"]], net[0].metadata.signature),
    ),
]


@pytest.mark.parametrize(("error", "message", "call"), REFUSED)
def test_what_cannot_be_saved_or_viewed_is_refused(net, error, message, call, tmp_path):
    with pytest.raises(error, match=message):
        call(net, tmp_path / "model")
    assert not Path(tmp_path / "model").exists()
    Model(model_id="0").save(str(tmp_path / "MLmodel"))
    with pytest.raises(ValueError, match=r"is not a model logged by tabmtl\.serving\.mlflow"):
        load_model(tmp_path)


def test_a_class_of_the_user_needs_a_loader_of_the_user(tmp_path, monkeypatch):
    estimator, X, _ = fitted(OwnNet)
    with pytest.raises(TypeError, match=r"OwnNet is no class of tabmtl.*loader_module="):
        save_model(estimator, tmp_path / "model")
    loader = types.ModuleType("own_loader")
    loader._load_pyfunc = lambda path: as_pyfunc(tabmtl.load(path, cls=OwnNet))
    monkeypatch.setitem(sys.modules, "own_loader", loader)
    save_model(estimator, tmp_path / "model", loader_module="own_loader")
    served = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert type(served.get_raw_model()) is OwnNet
    assert same(answers(load_model(tmp_path / "model", cls=OwnNet), X), answers(estimator, X))
    with pytest.raises(ModelFileError, match="cls=OwnNet"):
        load_model(tmp_path / "model")
