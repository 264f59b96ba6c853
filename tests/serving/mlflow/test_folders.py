"""Folders of logged models: read where they lie, and nothing outside of them."""

import os
import shutil
import sys
import types
from pathlib import Path

import mlflow
import pytest
import yaml
from conformance import answers, same
from models_at_hand import fitted
from parted import Team, fitted_team, part_of
from tracking import tracking

import tabmtl
from tabmtl import ModelFileError, SharedBottom
from tabmtl.serving.mlflow import as_pyfunc, load_model, log_model, pandas_view, save_model
from tabmtl.serving.mlflow.flavor import served_folder


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder that MLflow has written; not to be changed."""
    folder = tmp_path_factory.mktemp("stored") / "model"
    save_model(fitted(SharedBottom)[0], folder)
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    return Path(shutil.copytree(stored, tmp_path / "model"))


def forge(folder, data):
    """Let MLmodel name other data."""
    described = yaml.safe_load((folder / "MLmodel").read_text())
    described["flavors"]["python_function"]["data"] = data
    (folder / "MLmodel").write_text(yaml.safe_dump(described))


OUTSIDE = ["{tmp}/other", "../other", "data/../../other", "data/model/../../../other", "/", "{tmp}/model/data/model"]


@pytest.mark.parametrize("data", OUTSIDE)
def test_data_outside_are_refused(folder, tmp_path, data):
    shutil.copytree(folder / "data" / "model", tmp_path / "other")
    forge(folder, data.format(tmp=tmp_path))
    with pytest.raises(ModelFileError, match=r"leads out of its folder.* expected a folder beside MLmodel"):
        load_model(folder)
    if data != OUTSIDE[-1]:  # its own
        with pytest.raises(ModelFileError, match="is not the data of the model that names it"):
            mlflow.pyfunc.load_model(str(folder))


@pytest.mark.parametrize("name", ["data", "data/model"])
def test_a_folder_that_is_a_link_is_refused(folder, tmp_path, name):
    (folder / name).rename(tmp_path / "other")
    (folder / name).symlink_to(tmp_path / "other")
    for load in (load_model, mlflow.pyfunc.load_model):
        with pytest.raises(ModelFileError, match="leads out of its folder: it was edited, or a link was put there"):
            load(str(folder))


def test_a_file_that_is_a_link_is_refused_where_the_model_lies_here(stored, tmp_path):
    estimator, X, _ = fitted(SharedBottom)
    with tracking("folders"), mlflow.start_run() as run:
        info = log_model(estimator, "net", registered_model_name="folders")
        root = Path(mlflow.artifacts.download_artifacts(artifact_uri=info.model_uri))
        file = next((root / "data" / "model").glob("arrays-*"))
        file.rename(tmp_path / "arrays")
        file.symlink_to(tmp_path / "arrays")
        for uri in (root, root.as_uri(), info.model_uri, "models:/folders/1"):
            with pytest.raises(ModelFileError, match="is a link"):
                load_model(uri)
        file.unlink()
        (tmp_path / "arrays").rename(file)
        for uri in (info.model_uri, f"runs:/{run.info.run_id}/net"):
            assert same(answers(load_model(uri), X), answers(estimator, X))


@pytest.mark.all_faces
def test_a_model_made_of_models_is_logged_registered_and_served(tmp_path, monkeypatch):
    team, X, _ = fitted_team()
    loader = types.ModuleType("team_loader")
    loader._load_pyfunc = lambda path: as_pyfunc(tabmtl.load(served_folder(path), cls=Team))
    monkeypatch.setitem(sys.modules, "team_loader", loader)
    with tracking("teams"), mlflow.start_run() as run:
        info = log_model(team, "team", registered_model_name="teams", input_example=X, loader_module="team_loader")
        for uri in (info.model_uri, "models:/teams/1", f"runs:/{run.info.run_id}/team"):
            assert same(answers(load_model(uri, cls=Team), X), answers(team, X))
        served = mlflow.pyfunc.load_model("models:/teams/1").predict(pandas_view(X, info.signature))
        assert served["delay"].to_list() == team.predict(X)["delay"].to_list()
        with pytest.raises(ModelFileError, match="cls=Team"):
            load_model(info.model_uri)
        root = Path(mlflow.artifacts.download_artifacts(artifact_uri=info.model_uri))
        part = part_of(root / "data" / "model")
        part.rename(tmp_path / "part")
        part.symlink_to(tmp_path / "part")
        with pytest.raises(ModelFileError, match="is a link"):
            load_model(info.model_uri, cls=Team)


def test_a_model_on_this_machine_is_not_copied(folder, monkeypatch):
    estimator, X, _ = fitted(SharedBottom)
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", None)
    monkeypatch.chdir(folder.parent)
    (folder.parent / "latest").symlink_to(folder)
    before = sorted(folder.rglob("*"))
    for uri in (folder, str(folder), folder.as_uri(), "model", f"{folder}{os.sep}", "latest"):
        assert same(answers(load_model(uri), X), answers(estimator, X))
    assert sorted(folder.rglob("*")) == before


UNREADABLE = ["", "[]", "flavors: 3", "flavors: {python_function: 3}", "a: [", "!!python/x y"]
UNREADABLE.append(r'flavors: {python_function: {loader_module: tabmtl.serving.mlflow, data: "data/\0"}}')


@pytest.mark.parametrize("described", UNREADABLE)
def test_what_is_no_description_of_a_model_is_refused(folder, described):
    (folder / "MLmodel").write_text(described)
    with pytest.raises(ValueError, match=r"is not a model logged by tabmtl\.serving\.mlflow"):
        load_model(folder)
    with pytest.raises(ValueError, match="nowhere is not a model"):
        load_model(folder / "nowhere")
