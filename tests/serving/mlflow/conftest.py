"""What serves a model that MLflow has saved."""

import mlflow
import pytest

from tabmtl.serving.mlflow import save_model


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """A function that saves an estimator, and loads what serves it."""

    def serve(estimator, input_example=None):
        folder = tmp_path_factory.mktemp("served") / "model"
        save_model(estimator, folder, input_example=input_example)
        return mlflow.pyfunc.load_model(str(folder))

    return serve
