"""MLflow: models in its registry and behind its server, and training runs in its log.

A logged model is the folder that `save` writes, behind MLflow's ``pyfunc``: JSON, safetensors and LightGBM text, no
pickle, so it loads with ``MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false`` too::

    import mlflow
    import tabmtl.serving.mlflow

    with mlflow.start_run():
        tabmtl.serving.mlflow.log_model(model, input_example=X.head(5), registered_model_name="flights")
    same = tabmtl.serving.mlflow.load_model("models:/flights/1")          # the estimator
    mlflow.pyfunc.load_model("models:/flights/1").predict(X)       # what serves it; X of pandas, polars or pyarrow

``mlflow models serve -m models:/flights@champion --env-manager local`` answers ``dataframe_split``,
``dataframe_records``, ``inputs`` and CSV with one named value per task; with ``"params": {"method": "predict_proba"}``,
with probabilities under ``<task>=<class>``, with ``"predict_quantiles"`` with quantiles under ``<task>_q<level>``, and
with ``"predict_interval"``, and a ``"level"``, with the intervals of a model that was conformalized. With
``"tasks": "late,size"``, it answers these tasks alone. Everything loads on first use.
"""

from typing import Any

from tabmtl.base.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)


def _load_pyfunc(path: str) -> Any:
    """Load the served model of a folder; MLflow calls this function by its name."""
    from tabmtl.base.storage.persist import load
    from tabmtl.serving.mlflow.flavor import as_pyfunc, served_folder
    from tabmtl.serving.mlflow.serving import leave_checks_to_the_model

    leave_checks_to_the_model()
    return as_pyfunc(load(served_folder(path)))
