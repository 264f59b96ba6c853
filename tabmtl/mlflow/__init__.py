"""MLflow: models in its registry and behind its server, and training runs in its log.

A logged model is the folder that `save` writes, behind MLflow's ``pyfunc``: JSON, safetensors and LightGBM text, no
pickle, so it loads with ``MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false`` too::

    import mlflow
    import tabmtl.mlflow

    with mlflow.start_run():
        tabmtl.mlflow.log_model(model, input_example=X.head(5), registered_model_name="flights")
    same = tabmtl.mlflow.load_model("models:/flights/1")          # the estimator
    mlflow.pyfunc.load_model("models:/flights/1")                  # what serves it

``mlflow models serve -m models:/flights@champion --env-manager local`` answers ``dataframe_split``,
``dataframe_records``, ``inputs`` and CSV with one named value per task; with ``"params": {"method": "predict_proba"}``,
with probabilities under ``<task>=<class>``. Everything loads on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tabmtl.mlflow.callback import MLflowCallback
    from tabmtl.mlflow.flavor import as_pyfunc, load_model, log_model, save_model
    from tabmtl.mlflow.signature import pandas_view

_HOMES = {
    "MLflowCallback": "callback",
    "as_pyfunc": "flavor",
    "load_model": "flavor",
    "log_model": "flavor",
    "pandas_view": "signature",
    "save_model": "flavor",
}

__all__ = ["MLflowCallback", "as_pyfunc", "load_model", "log_model", "pandas_view", "save_model"]


def _load_pyfunc(path: str) -> Any:
    """What serves the model in a folder; MLflow calls this by its name."""
    from tabmtl.mlflow.flavor import as_pyfunc, served_folder
    from tabmtl.storage.persist import load

    return as_pyfunc(load(served_folder(path)))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tabmtl.mlflow' has no attribute {name!r}")
    return getattr(import_module(f"tabmtl.mlflow.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
