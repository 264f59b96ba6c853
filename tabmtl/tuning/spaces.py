"""Search spaces as plain data, and how a study stores their values.

An estimator declares its own space, in its class attribute ``search_space``.

A study stores numbers, text, booleans and None. Choices that are sequences or mappings are stored as JSON, which starts
with a bracket, and so are numbers beside text, because a column of a frame holds one kind; other text among the choices
may be neither. Sequences are read back as tuples. So every storage, and every
frame of trials, returns the values that the trial was fitted with.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import polars as pl
from sklearn.base import BaseEstimator, clone

#: Prefixes of the columns of a frame of trials.
SCORE, PARAM = "score/", "param/"

_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")

Space = Mapping[str, Mapping[str, Any]]


def check_space(est: BaseEstimator, space: Space) -> dict[str, dict[str, Any]]:
    """Check a search space, and return it with choices as a study stores them.

    Raises
    ------
    ValueError
        If it is empty, a name is not a parameter of the estimator, or an entry is malformed.
    """
    name = type(est).__name__
    if not space:
        raise ValueError(f"{name} has nothing to tune: its search_space is empty; name parameters by search_space")
    known = est.get_params()
    unknown = [parameter for parameter in space if parameter not in known]
    if unknown:
        raise ValueError(f"search_space names {unknown}, and the parameters of {name} are {list(known)}")
    return {parameter: _check_entry(parameter, entry) for parameter, entry in space.items()}


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Suggest the parameters of a trial, from a space that `check_space` returned."""
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
    """Return the parameters of an estimator that lie in a space of `check_space`, as a study stores them."""
    values = est.get_params()
    found = {name: _stored(name, entry, values[name]) for name, entry in space.items()}
    return {name: stored[0] for name, stored in found.items() if stored}


def with_params(est: BaseEstimator, found: Any) -> Any:
    """Return an estimator with the parameters that a search found.

    Parameters
    ----------
    est : estimator
        The estimator of the objective; it is not changed.
    found : optuna FrozenTrial, polars DataFrame of one row, or mapping
        A trial, such as ``study.best_trial``; a row of `pareto_front`, such as that of `choose_point`; or parameters.

    Returns
    -------
    estimator
        A clone, not fitted, with the found parameters set.

    Raises
    ------
    ValueError
        If the frame does not have one row, or the estimator lacks a parameter.
    """
    if isinstance(found, pl.DataFrame):
        if found.height != 1:
            raise ValueError(f"expected one row, got {found.height}; choose_point gives one, or filter(trial=...)")
        found = {name: value for name, value in found.row(0, named=True).items() if name.startswith(PARAM)}
    params = found.params if isinstance(found, optuna.trial.FrozenTrial) else found
    marked = {name.removeprefix(PARAM): value for name, value in params.items() if name.startswith(PARAM)}
    return clone(est).set_params(**{name: decode(value) for name, value in (marked or params).items()})


def encode(name: str, value: Any) -> Any:
    """Encode a value as a study stores it.

    Raises
    ------
    ValueError
        If it is not plain data, or is text that starts with a bracket or is a number.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str) and value.startswith(("[", "{")):
        raise ValueError(f"search_space, {name}: text must not start with a bracket, got {value!r}")
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        raise ValueError(f"search_space, {name}: text must not be a number, got {value!r}; give the number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Sequence | Mapping):
        try:
            return json.dumps(value)
        except TypeError:
            pass
    raise ValueError(f"search_space, {name}: choices must be plain data, numbers, text or sequences; got {value!r}")


def decode(stored: Any) -> Any:
    """Return the value that `encode` got, with tuples for lists."""
    if isinstance(stored, str) and (stored.startswith(("[", "{")) or _NUMBER.fullmatch(stored)):
        try:
            stored = json.loads(stored)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"the study holds {stored[:200]!r}, which is no value of a parameter: take another trial of it"
            ) from error
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
    if len(kinds) > 1 and "boolean" in kinds:
        raise ValueError(
            f"search_space, {name}: choices must be numbers, text or sequences, or all booleans, got {choices!r}"
        )
    if len(kinds) > 1:
        stored = [json.dumps(value) if _is_number(value) else value for value in stored]
    if len(set(stored)) < len(stored):
        raise ValueError(f"search_space, {name}: a choice is listed twice: {choices!r}")
    return stored


def _kind(stored: Any) -> str:
    if isinstance(stored, bool):
        return "boolean"
    return "text" if isinstance(stored, str) else "number"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def _stored(name: str, entry: Mapping[str, Any], value: Any) -> list[Any]:
    """Return a value as a study stores it, in a list; none where it lies outside the space."""
    if "choices" not in entry:
        whole = not isinstance(entry["low"], int) or isinstance(value, int | np.integer)
        return [encode(name, value)] if _is_number(value) and whole and entry["low"] <= value <= entry["high"] else []
    try:
        value = encode(name, value)
    except ValueError:
        return []
    forms = (value, json.dumps(value)) if _is_number(value) else (value,)
    return [choice for choice in entry["choices"] if choice in forms]
