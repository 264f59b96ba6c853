"""Search spaces as plain data: what trials suggest, and how a study keeps it.

A study keeps numbers, text, booleans and None. Choices that are sequences or mappings are kept as JSON, which starts
with a bracket, as no other text among the choices may; read back, sequences are tuples. So what a trial was fitted with
is what a study of any storage, and a frame of its trials, gives back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import polars as pl
from sklearn.base import BaseEstimator, clone

#: Of the columns of a frame of trials.
SCORE, PARAM = "score/", "param/"

Space = Mapping[str, Mapping[str, Any]]


def check_space(est: BaseEstimator, space: Space) -> dict[str, dict[str, Any]]:
    """A search space as it is searched: choices as a study keeps them.

    Raises
    ------
    ValueError
        If there is nothing to search, a name is no parameter of the estimator, or an entry has not the form.
    """
    name = type(est).__name__
    if not space:
        raise ValueError(f"{name} has nothing to tune: its search_space is empty; name parameters by search_space")
    known = est.get_params()
    unknown = [parameter for parameter in space if parameter not in known]
    if unknown:
        raise ValueError(f"search_space names what {name} does not have: {unknown}; its parameters are {list(known)}")
    return {parameter: _check_entry(parameter, entry) for parameter, entry in space.items()}


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Parameters of a trial, from a space that `check_space` gave."""
    params: dict[str, Any] = {}
    for name, entry in space.items():
        if "choices" in entry:
            params[name] = decode(trial.suggest_categorical(name, entry["choices"]))
        elif isinstance(entry["low"], int):
            params[name] = trial.suggest_int(name, **entry)
        else:
            params[name] = trial.suggest_float(name, **entry)
    return params


def current(est: BaseEstimator, space: Space) -> dict[str, Any]:
    """Parameters that an estimator has, as far as a space that `check_space` gave holds them, as a study keeps them."""
    values = est.get_params()
    return {name: encode(name, values[name]) for name, entry in space.items() if _holds(name, entry, values[name])}


def with_params(est: BaseEstimator, found: Any) -> Any:
    """An estimator with the parameters that a search found.

    Parameters
    ----------
    est : estimator
        What was searched for; not changed.
    found : optuna FrozenTrial, polars DataFrame of one row, or mapping
        A trial, such as ``study.best_trial``; a row of `pareto_front`, such as `choose_point` gives; or parameters.

    Returns
    -------
    estimator
        A clone, not fitted, of which only what was searched differs.

    Raises
    ------
    ValueError
        If there is not one row, or a parameter that the estimator does not have.
    """
    if isinstance(found, pl.DataFrame):
        if found.height != 1:
            raise ValueError(f"expected one row, got {found.height}; choose_point gives one, or filter(trial=...)")
        found = found.row(0, named=True)
    params = found.params if isinstance(found, optuna.trial.FrozenTrial) else found
    marked = {name.removeprefix(PARAM): value for name, value in params.items() if name.startswith(PARAM)}
    return clone(est).set_params(**{name: decode(value) for name, value in (marked or params).items()})


def encode(name: str, value: Any) -> Any:
    """A value as a study keeps it.

    Raises
    ------
    ValueError
        If it is not plain data, or text that starts with a bracket.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str) and value.startswith(("[", "{")):
        raise ValueError(f"search_space, {name}: text must not start with a bracket, got {value!r}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Sequence | Mapping):
        try:
            return json.dumps(value)
        except TypeError:
            pass
    raise ValueError(f"search_space, {name}: choices must be plain data, numbers, text or sequences; got {value!r}")


def decode(stored: Any) -> Any:
    """What `encode` was given, with tuples for lists."""
    if isinstance(stored, str) and stored.startswith(("[", "{")):
        return _tuples(json.loads(stored))
    return _tuples(stored)


def _tuples(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_tuples, value))
    return {name: _tuples(part) for name, part in value.items()} if isinstance(value, dict) else value


def _check_entry(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    if set(entry) == {"choices"}:
        return {"choices": _check_choices(name, entry["choices"])}
    if not {"low", "high"} <= set(entry) <= {"low", "high", "log", "step"}:
        raise ValueError(
            f"search_space, {name}: expected low and high, with log or step, or choices alone, got {dict(entry)}"
        )
    low, high = entry["low"], entry["high"]
    if not (_is_number(low) and _is_number(high) and low <= high):
        raise ValueError(f"search_space, {name}: expected finite numbers low <= high, got {low!r} and {high!r}")
    if entry.get("log") and (low <= 0 or "step" in entry):
        raise ValueError(f"search_space, {name}: a log scale needs low above 0 and no step, got {dict(entry)}")
    whole = isinstance(low, int | np.integer) and isinstance(high, int | np.integer)
    number: type = int if whole else float
    return {**entry, "low": number(low), "high": number(high)}


def _check_choices(name: str, choices: Any) -> list[Any]:
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not len(choices):
        raise ValueError(f"search_space, {name}: choices must be a sequence of values, got {choices!r}")
    stored = [encode(name, choice) for choice in choices]
    kinds = {_kind(value) for value in stored if value is not None}
    if len(kinds) > 1:
        raise ValueError(
            f"search_space, {name}: choices must be all numbers, all text or sequences, or all booleans, "
            f"got {choices!r}"
        )
    if len(set(stored)) < len(stored):
        raise ValueError(f"search_space, {name}: a choice is listed twice: {choices!r}")
    return stored


def _kind(stored: Any) -> str:
    if isinstance(stored, bool):
        return "boolean"
    return "text" if isinstance(stored, str) else "number"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def _holds(name: str, entry: Mapping[str, Any], value: Any) -> bool:
    if "choices" not in entry:
        whole = not isinstance(entry["low"], int) or isinstance(value, int | np.integer)
        return _is_number(value) and whole and bool(entry["low"] <= value <= entry["high"])
    try:
        stored = encode(name, value)
    except ValueError:
        return False
    return stored in entry["choices"]
