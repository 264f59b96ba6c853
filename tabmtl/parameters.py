"""Hyper-parameters as JSON and back: plain values, tasks and LightGBM estimators, nothing that is or opens anything."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from tabmtl.schema import Task

MOST_JOBS = 1_024  # threads that a file may ask for: where the system refuses one, OpenMP ends the process

_LIGHTGBM = ("LGBMClassifier", "LGBMRegressor")
# LightGBM's parameters, under all their names, that open files or connections when an estimator is fitted
_OPENING = (
    *("data", "data_filename", "train", "train_data", "train_data_file", "valid", "valid_data", "valid_data_file"),
    *("valid_filenames", "test", "test_data", "test_data_file", "config", "config_file", "task", "task_type"),
    *("input_model", "model_input", "model_in", "output_model", "model_output", "model_out", "snapshot_freq"),
    *("save_period", "save_binary", "is_save_binary", "is_save_binary_file", "output_result", "predict_result"),
    *("prediction_result", "predict_name", "prediction_name", "pred_name", "name_pred", "convert_model"),
    *("convert_model_file", "convert_model_language", "forcedsplits_filename", "forced_splits_filename"),
    *("forced_splits_file", "forced_splits", "fs", "forcedbins_filename", "parser_config_file", "machines", "workers"),
    *("nodes", "machine_list_filename", "machine_list_file", "machine_list", "mlist", "num_machines", "num_machine"),
    *("local_listen_port", "local_port", "port", "time_out"),
)
_JOBS = ("n_jobs", "num_threads", "num_thread", "nthread", "nthreads")
# LightGBM gets all its parameters as one line of key=value, which a blank in a value would add to
_WORD = re.compile(r"[\w.,:+\[\]-]*")
_SURROGATE = re.compile("[\ud800-\udfff]")


def to_json(name: str, value: Any) -> Any:
    """A hyper-parameter as JSON; what is no plain value is tagged by its type.

    Of a LightGBM estimator, what would open a file or a connection is left out.

    Raises
    ------
    TypeError
        If the value is neither plain, nor a Task, nor a LightGBM estimator.
    ValueError
        If a parameter of a LightGBM estimator holds more than one word, too many threads are asked for, or a text holds
        half a surrogate pair.
    """
    _check_jobs({name: value})
    if isinstance(value, str) and _SURROGATE.search(value):
        raise ValueError(f"the parameter {name}={value!r} holds half a surrogate pair, which no file can; take it out")
    if isinstance(value, np.random.RandomState):
        return None  # a loaded model draws nothing
    if isinstance(value, np.ndarray | np.generic):
        return to_json(name, value.tolist())
    if isinstance(value, Task):
        return {"task": {field.name: to_json(name, getattr(value, field.name)) for field in fields(value)}}
    if type(value).__module__.startswith("lightgbm.") and type(value).__name__ in _LIGHTGBM:
        params = {key: item for key, item in value.get_params().items() if key not in _OPENING}
        _check_lightgbm(params, name)
        return {"lightgbm": {"class": type(value).__name__, "params": to_json(name, params)}}
    if isinstance(value, tuple):
        return {"tuple": [to_json(name, item) for item in value]}
    if isinstance(value, list):
        return [to_json(name, item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {to_json(name, key): to_json(name, item) for key, item in value.items()}}
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise TypeError(
        f"the parameter {name}={value!r} cannot be saved without pickle; set it to a plain value "
        "(number, text, list, dict with text keys, or Task) before saving"
    )


def from_json(value: Any) -> Any:
    """The hyper-parameter that `to_json` described.

    Raises
    ------
    ValueError
        If `to_json` never described it.
    """
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "task":
        return Task(**{key: from_json(item) for key, item in content.items()})
    if tag == "tuple":
        return tuple(from_json(item) for item in content)
    if tag == "lightgbm" and content["class"] in _LIGHTGBM:
        import lightgbm

        params = from_json(content["params"])
        _check_lightgbm(params, "lightgbm")
        return getattr(lightgbm, content["class"])(**params)
    if tag == "dict":
        return {key: from_json(item) for key, item in content.items()}
    raise ValueError(f"a parameter is tagged {tag!r}, which this release does not know")


def read_params(described: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of an estimator that `to_json` described one by one."""
    params = {name: from_json(value) for name, value in described.items()}
    _check_jobs(params)
    return params


def _check_jobs(params: Mapping[str, Any]) -> None:
    for name in _JOBS:
        jobs = params.get(name)
        if jobs is not None and not (isinstance(jobs, int | np.integer) and 0 < abs(int(jobs)) <= MOST_JOBS):
            raise ValueError(f"{name} must be a whole number from 1 to {MOST_JOBS}, or negative, got {jobs!r}")


def _check_lightgbm(params: Any, where: str) -> None:
    """Refuse parameters of a LightGBM estimator that hold or would open anything but plain settings."""
    for name, value in params.items():
        if name in _OPENING or not name.isidentifier():
            raise ValueError(f"{where}: LightGBM's {name} opens files or connections, which a saved model must not")
        if not all(_WORD.fullmatch(word) for word in _words(value)):
            raise ValueError(f"{where}: LightGBM's {name} must be a number, a word or a list of them, got {value!r}")
    _check_jobs(params)


def _words(value: Any) -> Iterator[str]:
    """All texts in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _words(item)
