"""A tracking store on sqlite for all tests of a session, models in it, and MLflow's server without the network."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import mlflow
import polars as pl
from mlflow.environment_variables import MLFLOW_EXPERIMENT_ID
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server

JSON, CSV = "application/json", "text/csv"


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Made once, because MLflow takes seconds to make its tables; gone with the process."""
    return tempfile.TemporaryDirectory(prefix="tabmtl-mlflow-")


def store_uri() -> str:
    """Where runs and models are kept."""
    return f"sqlite:///{_folder().name}/mlflow.db"


@contextmanager
def tracking(experiment: str) -> Iterator[None]:
    """Log to an experiment of its own inside."""
    mlflow.set_tracking_uri(store_uri())
    if mlflow.get_experiment_by_name(experiment) is None:
        mlflow.create_experiment(experiment, artifact_location=f"file://{_folder().name}/{experiment}")
    mlflow.set_experiment(experiment)
    try:
        yield
    finally:
        while mlflow.active_run() is not None:
            mlflow.end_run()
        mlflow.set_tracking_uri(None)
        # what set_experiment leaves behind, here and for processes started from here, has no public end
        mlflow.tracking.fluent._active_experiment_id = None
        MLFLOW_EXPERIMENT_ID.unset()


def bodies(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Rows in every format that the server takes: its name to body and content type."""
    names = list(rows[0])
    values = [[row[name] for name in names] for row in rows]
    columns = {name: [row[name] for row in rows] for name in names}
    return {
        "dataframe_records": (json.dumps({"dataframe_records": list(rows)}), JSON),
        "dataframe_split": (json.dumps({"dataframe_split": {"columns": names, "data": values}}), JSON),
        "inputs": (json.dumps({"inputs": columns}), JSON),
        "csv": (pl.DataFrame(columns, strict=False).to_pandas().to_csv(index=False), CSV),
    }


def invoke(model: PyFuncModel, body: str, content_type: str = JSON) -> tuple[int, Any]:
    """Status and answer of the server's code: predictions, or the message of the error."""
    try:
        answer = scoring_server.invocations(body.encode(), content_type, model, model.metadata.get_input_schema())
    except MlflowException as error:
        return error.get_http_status_code(), error.message
    return answer.status, json.loads(answer.response)["predictions"]


class Log:
    """What a run holds."""

    def __init__(self, run_id):
        self.client, self.run_id = mlflow.MlflowClient(), run_id
        self.data = self.client.get_run(run_id).data
        self.params, self.metrics, self.tags = self.data.params, self.data.metrics, self.data.tags

    def series(self, name):
        return [(point.step, point.value) for point in self.client.get_metric_history(self.run_id, name)]

    def files(self, folder=None):
        return {file.path for file in self.client.list_artifacts(self.run_id, folder)}

    def text(self, name):
        with open(self.client.download_artifacts(self.run_id, name)) as file:
            return file.read()

    def inputs(self):
        found = {}
        for data in self.client.get_run(self.run_id).inputs.dataset_inputs:
            tags = {tag.key: tag.value for tag in data.tags}
            found[tags["mlflow.data.context"]] = data.dataset, tags
        return found
