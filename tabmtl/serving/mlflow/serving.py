"""Models behind MLflow's ``pyfunc`` and its server: rows as the wire sends them, and one named value per task."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any

import mlflow.pyfunc
import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import polars as pl
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import scoring_server

from tabmtl.base.schema import warn_user
from tabmtl.columns.category import text_of
from tabmtl.encode.read import read_features, read_values
from tabmtl.estimators.asked import part_of
from tabmtl.estimators.predicting import check_levels, check_named_classes, check_named_levels
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.sessions.log import to_polars
from tabmtl.sessions.recommender import Recommender

if TYPE_CHECKING:
    from tabmtl.encode import LabelCoder, TableCoder
    from tabmtl.targets import Task

METHODS = ("predict", "predict_proba", "predict_quantiles", "predict_interval")
#: Module whose ``_load_pyfunc`` loads our models.
LOADER = "tabmtl.serving.mlflow"
# text that MLflow's server makes of a null and of NaN in a column of text, in the format ``inputs``
_NULLS = ("None", "nan")
_BOOLEANS = {"true": ("True", "TRUE", "1"), "false": ("False", "FALSE", "0")}
_SHOWN = 20


class TableModel:
    """A fitted multi-task estimator behind ``pyfunc``.

    Parameters
    ----------
    estimator : MultiTaskEstimator
    """

    def __init__(self, estimator: MultiTaskEstimator) -> None:
        self.estimator = estimator
        self._wire = _Wire(estimator.coder_)

    def get_raw_model(self) -> MultiTaskEstimator:
        """Return the estimator itself."""
        return self.estimator

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Predict rows.

        Parameters
        ----------
        model_input : frame of pandas, polars or pyarrow, or mapping of columns
            With the columns of fit, in any order; further ones are ignored. Numbers may have any type of numbers.
        params : mapping, optional
            ``{"method": "predict"}``, the default, ``{"method": "predict_proba"}``, ``{"method": "predict_quantiles"}``
            or ``{"method": "predict_interval", "level": 0.9}``, for a model that was conformalized. ``"tasks"`` names
            the tasks that are answered, separated by commas, ``"click,buy"``; a name that holds a comma stands in
            double quotes. Without it, or where it is empty, all are.

        Returns
        -------
        pandas DataFrame of shape (n, T), or (n, K) of probabilities or quantiles
            One column per task, or one per class of every classification task, which is named ``<task>=<class>``, or
            one per level of every task with several, ``<task>_q<level>``, or those of ``predict_interval``. In the long
            layout, one column, or one per class or level, under the name of the target.

        Raises
        ------
        MlflowException
            Which the server answers with status 400, if a row does not fit; it names the column.
        """
        with bad_request():
            asked = params or {}
            method = asked.get("method") or "predict"
            if method not in METHODS:
                raise ValueError(f"the parameter method must be one of {list(METHODS)}, got {method!r}")
            names, wire = _names(asked.get("tasks")), self._wire_of_now()
            labels = wire.labels_of(names)
            _check_method(method, labels.tasks, are_named=names is not None)
            rows = wire.read(model_input)
            if method == "predict_interval":
                level = asked.get("level")
                found = self.estimator.predict_interval(rows, level=0.9 if level is None else level, tasks=names)
                return found if isinstance(found, pd.DataFrame) else _to_pandas(found)
            # a class of the user may have an `answer` of its own
            outputs = self.estimator.__answers__(rows, names)
            if method == "predict_quantiles":
                return _to_pandas(labels.quantiles(outputs)[0])
            if method == "predict_proba":
                return pd.DataFrame(labels.probabilities(outputs))
            return _to_pandas(labels.decode(outputs))

    def _wire_of_now(self) -> _Wire:
        """Return how rows are read and answers decoded; a model that has learned on has another coder."""
        wire = self._wire
        if wire.coder is not self.estimator.coder_:
            wire = self._wire = _Wire(self.estimator.coder_)
        return wire


class _Wire:
    """How the rows of a request are read, and the answers decoded, by one coder.

    Parameters
    ----------
    coder : TableCoder
    """

    def __init__(self, coder: TableCoder) -> None:
        self.coder, self.labels = coder, coder.labels.in_frames()
        self.spellings = {name: _spellings(known) for name, known in coder.levels.items()}

    def labels_of(self, names: tuple[str, ...] | None) -> LabelCoder:
        """Return the encoding of some tasks, all for None; the last few are kept."""
        if names is None:
            return self.labels
        labels = self.labels
        return part_of(self, names, lambda: labels.of(labels.places(names)))

    def read(self, rows: Any) -> Any:
        """Return rows as the estimator takes them, with the levels of fit in the spelling of fit."""
        coder = self.coder
        given = _columns(rows, coder.names)
        if coder.preprocessing is None:
            frame = read_features(given)[0]
            frame = frame.collect() if isinstance(frame, pl.LazyFrame) else frame
        else:
            frame = read_values(given)
        frame = frame[list(coder.names)]
        respelled = [_respell(frame[name], others) for name, others in self.spellings.items()]
        if changed := [series for series in respelled if series is not None]:
            frame = frame.with_columns(changed)
        return coder.as_given(frame)  # names that fit did not see would make scikit-learn warn


class SessionModel:
    """A fitted recommender behind ``pyfunc``.

    Parameters
    ----------
    recommender : Recommender
    """

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender
        columns, items = recommender.columns_, recommender.item_ids_
        self._spellings = {columns.session: _spellings(())}
        if items.dtype == pl.String:
            self._spellings[columns.item] = _spellings([text for text in _NULLS if text in items])

    def get_raw_model(self) -> Recommender:
        """Return the recommender itself."""
        return self.recommender

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Recommend items for the next click of every session.

        Parameters
        ----------
        model_input : frame
            One row per click, with the columns of fit. Times are dates, seconds, or ISO 8601 text.
        params : mapping, optional
            ``k`` (20) and ``exclude_seen`` (False), as `Recommender.recommend` has them.

        Returns
        -------
        pandas DataFrame
            The session, ``rank`` from 1, the item, and its score, higher is better.

        Raises
        ------
        MlflowException
            Which the server answers with status 400, if a click does not fit; it names the column.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None}
        columns = self.recommender.columns_
        with bad_request():
            log = to_polars(_columns(model_input, list(columns.roles.values())), "the click log").lazy().collect()
            for name, spellings in self._spellings.items():
                respelled = _respell(log[name], spellings) if log[name].dtype == pl.String else None
                log = log if respelled is None else log.with_columns(respelled)
            if columns.time is not None and log[columns.time].dtype == pl.String:
                log = log.with_columns(_times(log[columns.time]))
            found = self.recommender.recommend(log, given.get("k", 20), exclude_seen=given.get("exclude_seen", False))
        return _to_pandas(found)


def leave_checks_to_the_model() -> None:
    """Make ``mlflow.pyfunc`` and its server leave the checks of names, types and nulls to our models.

    ``mlflow.pyfunc`` would refuse a frame that is not of pandas, whole numbers of 64 bits where the signature has
    ``double``, and booleans where it has ``string``. Its server still reads the formats of a request by the signature,
    but we see its records before pandas fills them up with NaN. Models of other loaders are checked as ever. Under a
    release of MLflow without one of these functions, a warning says that its checks hold for ours too.
    """
    _wrap(mlflow.pyfunc, "_enforce_schema", _enforce_of_others)
    _wrap(scoring_server, "_parse_json_data", _parse_whole)


def _wrap(module: ModuleType, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a function of a module by a wrapper, which gets it as its first argument, once."""
    function = vars(module).get(name)
    if function is None:
        warn_user(
            f"this release of MLflow has no {module.__name__}.{name}, so it checks frames for our models by its own "
            "rules, and may refuse frames that they take"
        )
    elif not hasattr(function, "__wrapped__"):
        vars(module)[name] = wraps(function)(partial(wrapper, function))


def _enforce_of_others(enforce: Any, data: Any, input_schema: Any, flavor: str | None = None) -> Any:
    return data if flavor == LOADER else enforce(data, input_schema, flavor)


def _parse_whole(parse: Any, data: Any, metadata: Any, input_schema: Any) -> Any:
    """Parse a request in JSON as MLflow does, if all records and rows for one of our models are whole."""
    if metadata.flavors.get("python_function", {}).get("loader_module") == LOADER:
        found = data
        with suppress(json.JSONDecodeError, UnicodeDecodeError):  # which MLflow tells
            found = data if isinstance(data, dict) else json.loads(data)
        data, given = (found, found) if isinstance(found, dict) else (data, {})
        with bad_request():
            for form in ("dataframe_records", "instances"):
                _check_records(given.get(form), input_schema.input_names(), form)
            _check_split(given.get("dataframe_split"))
    return parse(data, metadata, input_schema)


def _check_records(records: Any, names: Sequence[str], form: str) -> None:
    """Raise a ValueError that names a record without a column that another one has; all without it are told later."""
    if not isinstance(records, list) or not all(isinstance(record, Mapping) for record in records):
        return
    known = set[str]().union(*records)
    asked = [name for name in names if name in known]
    for place, record in enumerate(records, 1):
        missing = [name for name in asked if name not in record]
        if missing:
            raise ValueError(
                f"record {place} of the {len(records)} {form} lacks {_listed(missing)}, which others have; write null "
                "where a value is missing"
            )


def _check_split(split: Any) -> None:
    """Raise a ValueError that names a row of fewer values than there are columns."""
    if not isinstance(split, dict) or not all(isinstance(split.get(key), list) for key in ("columns", "data")):
        return
    n_columns = len(split["columns"])
    for place, row in enumerate(split["data"], 1):
        if isinstance(row, list) and len(row) < n_columns:
            raise ValueError(
                f"row {place} of dataframe_split has {len(row)} of {n_columns} values; write null where one is missing"
            )


@contextmanager
def bad_request() -> Iterator[None]:
    """Turn an error of the input into the one that the server answers with status 400."""
    try:
        yield
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error


def _names(text: Any) -> tuple[str, ...] | None:
    """Return the names of tasks in the text of a request; None if it asks for all."""
    if text is None or text == "":
        return None
    if not isinstance(text, str):
        raise TypeError(f"the parameter tasks must be text, names of tasks separated by commas, got {text!r}")
    try:
        return tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True)))
    except csv.Error as error:
        raise ValueError(f"the parameter tasks must be names of tasks separated by commas, got {text!r}") from error


def _check_method(method: str, tasks: Sequence[Task], *, are_named: bool) -> None:
    """Raise a ValueError unless tasks have the answer that a method gives: one of them, or all if they are named."""
    if method == "predict_proba":
        if are_named:
            check_named_classes(tasks)
        elif not any(task.is_classification for task in tasks):
            raise ValueError("the method predict_proba needs a classification task; all tasks are regressions")
    elif method == "predict_quantiles":
        (check_named_levels if are_named else check_levels)(tasks)


def _columns(rows: Any, names: Sequence[str]) -> Any:
    """Return the named columns of a frame, in any order."""
    if not isinstance(rows, pd.DataFrame):
        return _columns_of_other(rows, names)
    given = list(rows.columns)
    _check_there(given, names)
    return rows if len(given) == len(names) else rows[list(names)]  # for a row, pandas takes as long as the rest


def _columns_of_other(rows: Any, names: Sequence[str]) -> Any:
    """Return the named columns of what is no pandas frame, such as the arrays that the format ``inputs`` becomes."""
    if isinstance(rows, Mapping):
        is_row = not any(isinstance(value, list | np.ndarray) for value in rows.values())
        return _columns(pd.DataFrame([rows] if is_row else dict(rows)), names)
    if isinstance(rows, list | np.ndarray | pd.Series):
        _check_records(rows, names, "records")
        return _columns(pd.DataFrame(rows), names)
    frame = nw.from_native(rows)
    _check_there(frame.collect_schema().names(), names)
    return frame.select(*names).to_native()


def _check_there(given: Sequence[str], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(
            f"the input has no column {_listed(missing)}; "
            f"give all {len(names)} columns by name, with null where a value is missing "
            "(dataframe_records, dataframe_split, inputs or CSV; not instances)"
        )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(map(repr, names[:_SHOWN]))}{', ...' if names[_SHOWN:] else ''}"


def _spellings(levels: Sequence[str]) -> dict[str, str | None]:
    """Return other spellings of a level: JSON and CSV have True, 1 and 3.0 where fit saw true and 3."""
    known = set(levels)
    found: dict[str, str | None] = dict.fromkeys(_NULLS)
    found |= {f"{level}.0": level for level in levels if level.lstrip("-").isdecimal()}
    if known <= _BOOLEANS.keys():
        found |= {text: level for level in levels for text in _BOOLEANS[level]}
    return {text: level for text, level in found.items() if text not in known}


def _respell(series: pl.Series, spellings: Mapping[str, str | None]) -> pl.Series | None:
    """Return levels in the spelling of fit; None if they are."""
    if series.dtype.is_nested():
        return None  # the model refuses it in its own words
    is_text = series.dtype == pl.String
    texts = series if is_text else series.to_frame().select(text_of(series.name, series.dtype)).to_series()
    values = texts.to_list()
    if is_text and spellings.keys().isdisjoint(values):
        return None
    return pl.Series(series.name, [spellings.get(value, value) for value in values], dtype=pl.String)


def _times(series: pl.Series) -> pl.Series:
    """Turn times from text into seconds."""
    texts = series.to_pandas()
    seconds = pd.to_numeric(texts, errors="coerce")
    dates = pd.to_datetime(texts.where(seconds.isna()), errors="coerce", utc=True, format="ISO8601")
    wrong = texts[texts.notna() & seconds.isna() & dates.isna() & ~texts.isin(_NULLS)]
    if len(wrong):
        raise ValueError(f"the time column {series.name!r} must hold seconds or ISO 8601 dates, got {wrong.iloc[0]!r}")
    since = (dates - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    return pl.Series(series.name, seconds.where(seconds.notna(), since).to_numpy(np.float64), nan_to_null=True)


def _to_pandas(frame: pl.DataFrame) -> pd.DataFrame:
    """Return predictions as pandas, in plain numbers, booleans and texts."""
    return pd.DataFrame({series.name: _values(series) for series in frame.iter_columns()})


def _values(series: pl.Series) -> Any:
    if series.dtype.is_float():
        return series.cast(pl.Float64).to_numpy()
    if series.dtype.is_integer():
        return series.cast(pl.Int64).to_numpy()
    return series.to_list()
