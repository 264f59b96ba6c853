"""MLflow's description of the columns of a model, and frames with these columns."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import pandas as pd
import polars as pl
import polars.selectors as cs
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array

from tabmtl.base.storage.named import describe_kind
from tabmtl.columns.tags import inner_of
from tabmtl.columns.values import served_type
from tabmtl.encode.read import read_features, read_targets, read_values, without_columns
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.sessions.log import to_polars
from tabmtl.sessions.recommender import Recommender

_LAZY_ROWS = 10_000


def signature_of(estimator: MultiTaskEstimator | Recommender, input_example: Any = None) -> ModelSignature:
    """Return the signature of a fitted estimator for MLflow: named and typed columns and parameters.

    Numbers are ``double``, whole ones too: MLflow's ``long`` takes no null. Categories are ``string``, those of whole
    numbers and booleans too: MLflow's server reads a null of a ``boolean`` column as False. It casts to ``string`` only
    in the format ``inputs``, so true and 3 arrive unchanged. Lists are arrays of text, of
    ``long`` or of ``double``; MLflow's server reads lists of several lengths in all formats but ``inputs`` and CSV.
    Every feature may be null, so all are optional to MLflow;
    :class:`tabmtl.serving.mlflow.serving.TableModel` raises the error for a missing column. The output is that of
    ``predict``, since a signature describes one method only.

    Columns are those of X in fit. Dates and times are ``string`` too, in ISO 8601; durations are ``double``, seconds.

    Columns stand in the order of fit. Spark's ``spark_udf`` gives the columns that it is called with the names of the
    signature by their position: in another order, it would score wrong columns without an error.

    Parameters
    ----------
    estimator : fitted estimator of the package
    input_example : frame, optional
        A click log, from which sessions, times and orders take their types. Without one, sessions and times are
        ``string`` (numbers, or ISO 8601 text), and orders ``double``. MLflow's server reads no ``datetime``
        from CSV, and takes a number there for nanoseconds.

    Returns
    -------
    ModelSignature
    """
    if isinstance(estimator, Recommender):
        return _recommender_signature(estimator, input_example)
    coder = estimator.coder_
    labels, values = coder.labels, coder.values_of_fit()
    types = {name: _type_of(served_type(values.get(name, "text"))) for name in coder.names}
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(kind, name, required=name == coder.task_column) for name, kind in types.items()
    ]
    params = [ParamSpec("method", DataType.string, "predict"), ParamSpec("tasks", DataType.string, "")]
    if labels.decisions is not None and labels.decisions.conformal is not None:
        params.append(ParamSpec("level", DataType.double, 0.9))
    answered = zip(labels.names, labels.dtypes, strict=True)
    return ModelSignature(
        inputs=Schema(inputs),
        outputs=Schema([ColSpec(_type_of(dtype), name) for name, dtype in answered]),
        params=ParamSchema(params),
    )


def schema_of(estimator: MultiTaskEstimator | Recommender) -> dict[str, Any]:
    """Describe the inputs and outputs of a model as plain values."""
    facts: dict[str, Any] = {"estimator": type(estimator).__name__, "tabmtl": version("tabmtl")}
    if isinstance(estimator, Recommender):
        return facts | {"columns": asdict(estimator.columns_), "n_items": estimator.n_items_}
    coder, columns = estimator.coder_, estimator.coder_.features.columns
    if coder.preprocessing is not None:
        facts["columns for the preprocessor"] = coder.values_of_fit()
    categories = zip(columns.categorical, columns.levels, strict=True)
    return facts | {
        "tasks": [asdict(task) | {"kind": describe_kind(task.kind, {})} for task in estimator.tasks_],
        "task_column": coder.task_column,
        "numeric": dict(zip(columns.numeric, [{"missing in fit": held} for held in columns.has_missing], strict=True)),
        "categorical": {name: {"levels": len(levels)} for name, levels in categories},
    }


def rows_of(estimator: MultiTaskEstimator | Recommender, X: Any, y: Any) -> tuple[pl.DataFrame, list[str]]:
    """Return rows with their targets as one frame of types that MLflow can name, and the names of the targets.

    Of a LazyFrame, which may not fit in memory, the first 10 000 rows.
    """
    if isinstance(estimator, Recommender):
        frame = to_polars(X, "the click log")
    else:
        frame = read_features(without_columns(X, estimator.coder_.dropped))[0]
    frame = frame.head(_LAZY_ROWS).collect() if isinstance(frame, pl.LazyFrame) else frame
    targets: list[str] = []
    if y is not None and isinstance(estimator, MultiTaskEstimator):
        labels, origin = read_targets(y)
        if not origin.named:
            labels = labels.rename(dict(zip(labels.columns, estimator.coder_.labels.names, strict=True)))
        taken = {name: f"{name} (target)" for name in labels.columns if name in frame.columns}
        labels = labels.head(frame.height).rename(taken)
        frame, targets = pl.concat([frame, labels], how="horizontal"), labels.columns
    return frame.with_columns(
        (cs.categorical() | cs.enum() | cs.by_dtype(pl.Null)).cast(pl.String),
        cs.unsigned_integer().cast(pl.Int64, strict=False),
        cs.decimal().cast(pl.Float64),
        cs.date().cast(pl.Datetime),
        cs.time().dt.to_string("iso:strict"),
        cs.duration().dt.total_microseconds() / 1e6,
        cs.datetime(time_zone="*").dt.replace_time_zone(None),
    ), targets


def pandas_view(X: Any, signature: ModelSignature) -> pd.DataFrame:
    """Return a frame as MLflow expects it for a model: pandas, with the columns of the signature and their types.

    MLflow stores an example of the input in this form, and needs it of models that load by a module of your own, which
    it checks itself: it takes no polars frame, and refuses pandas' int64 where the signature has ``double``, and its
    bool where it has ``string``. Models that load by this package take any frame.

    Parameters
    ----------
    X : polars DataFrame or LazyFrame, pandas DataFrame, pyarrow Table, or array-like of shape (n, p)
        Columns that the signature does not name are left out.
    signature : ModelSignature

    Returns
    -------
    pandas DataFrame
        Of the same rows; null is NaN in numbers and None elsewhere.

    Raises
    ------
    ValueError
        If X lacks a column.

    Examples
    --------
    >>> import polars as pl
    >>> from mlflow.models import ModelSignature
    >>> from mlflow.types import ColSpec, Schema
    >>> signature = ModelSignature(Schema([ColSpec("double", "size"), ColSpec("string", "new")]))
    >>> pandas_view(pl.DataFrame({"new": [True, None], "size": [1, 2]}), signature).to_dict("list")
    {'size': [1.0, 2.0], 'new': [True, None]}
    """
    columns = read_values(X)
    specs, names = signature.inputs.inputs, columns.columns
    missing = [spec.name for spec in specs if spec.name not in names]
    if missing:
        raise ValueError(f"X lacks the columns {missing}; it has {names}: the model was fitted on all of them")
    return pd.DataFrame({spec.name: _view(columns[spec.name], spec.type) for spec in specs})


def _recommender_signature(estimator: Recommender, input_example: Any) -> ModelSignature:
    columns = estimator.columns_
    example = {} if input_example is None else dict(read_values(input_example).schema)
    types = {columns.session: DataType.string, columns.item: _type_of(estimator.item_ids_.dtype)}
    types |= {columns.time: DataType.string} if columns.time is not None else {}
    types |= {columns.order: DataType.double} if columns.order is not None else {}
    for name in types:
        if name in example and name != columns.item:
            types[name] = _type_of(example[name])
    outputs = {
        columns.session: types[columns.session],
        "rank": DataType.long,
        columns.item: types[columns.item],
        "score": DataType.double,
    }
    params = [ParamSpec("k", DataType.long, 20), ParamSpec("exclude_seen", DataType.boolean, False)]
    return ModelSignature(
        inputs=Schema([ColSpec(kind, name) for name, kind in types.items()]),
        outputs=Schema([ColSpec(kind, name) for name, kind in outputs.items()]),
        params=ParamSchema(params),
    )


def _type_of(dtype: pl.DataType) -> Any:
    """Return MLflow's name of a type."""
    inner = inner_of(dtype)
    if inner is not None:
        return Array(_type_of(inner))
    if dtype == pl.Boolean:
        return DataType.boolean
    if dtype.is_integer():
        return DataType.long
    if dtype.is_numeric():
        return DataType.double
    return DataType.datetime if dtype.is_temporal() else DataType.string


def _view(series: pl.Series, kind: DataType) -> Any:
    """Cast a column to MLflow's type; a column that does not fit stays, for MLflow's error to name it."""
    dtype = series.dtype
    is_number = dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)
    if kind == DataType.double and is_number:
        return series.cast(pl.Float64).to_numpy()
    if kind == DataType.long and dtype.is_integer() and not series.null_count():
        return series.cast(pl.Int64).to_numpy()
    if kind == DataType.datetime and dtype.is_temporal():
        return series.cast(pl.Datetime("ns")).to_numpy()
    if kind == DataType.double and dtype == pl.Duration:
        return (series.dt.total_microseconds() / 1e6).to_numpy()
    if kind == DataType.string and dtype.is_temporal() and dtype != pl.Duration:
        series = series.dt.to_string("iso:strict")
    return pl.Series(series.to_list(), dtype=pl.Object).to_numpy()
