"""Estimators by name, with parameters as text: the options ``--model``, ``--set`` and ``--seed``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tabmtl.sessions
from tabmtl.pipelines.terminal import near, pairs

#: Parameters that other options of the command line rule.
_ELSEWHERE = {
    "random_state": "--seed",
    "tasks": "--target",
    "columns": "--column",
}
_ELSEWHERE |= {f"{name}_column": f"--{name}-column" for name in ("task", "session", "item", "time", "order")}

#: Public names of models, where packages list their names.
_MODEL = re.compile(r"^from \.(?:models|ensemble|blend|knn|m2trec|popularity|rules)\S* import ([A-Z]\w+) as", re.M)

#: Parameters that hold code or models.
_OBJECTS = ("on_epoch", "classifier", "regressor", "preprocessor")


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """An estimator by name, with the parameters to set.

    Parameters
    ----------
    model : str, optional
        Such as MMoE; default MultiTaskEnsemble(models="fast"), of sweep and --shards SharedTrees.
    set : list of str
        NAME=VALUE: a parameter of the model, in JSON or text, such as num_leaves=15; may be repeated.
    seed : int
        Random seed of the model and of the search.
    """

    model: str | None = None
    set: list[str] = field(default_factory=list)
    seed: int = 0

    def named(self, default: str) -> ModelChoice:
        """Return the choice with this model where none is named."""
        return replace(self, model=self.model or default)

    @property
    def params(self) -> dict[str, Any]:
        """The settings as values.

        Raises
        ------
        ValueError
            If a setting is not ``name=value``, or its parameter has an option of its own.
        """
        found = {name: _value(text) for name, text in pairs(self.set, "--set").items()}
        for name in found.keys() & _ELSEWHERE.keys():
            raise ValueError(f"use {_ELSEWHERE[name]} instead of --set {name}")
        return found


def recommends(name: str) -> bool:
    """Return whether a model learns from click logs, by its name; no model is loaded.

    Raises
    ------
    ValueError
        If there is none; the message names those that are near, or all.
    """
    stubs = [Path(each.__path__[0], "__init__.pyi") for each in (tabmtl, tabmtl.sessions)]
    of_tables, of_clicks = (_MODEL.findall(stub.read_text(encoding="utf-8")) for stub in stubs)
    known = [*of_tables, *of_clicks]
    if name not in known:
        plain = [word for word in known if not word.endswith(("Classifier", "Regressor"))]
        raise ValueError(f"there is no model {name!r}: {near(name, plain)}")
    return name in of_clicks


def make(cls: Any, choice: ModelChoice, facts: Mapping[str, Any]) -> Any:
    """Make the chosen estimator, not fitted; without a name, the first model: each task alone and all together, mixed.

    Parameters
    ----------
    cls : type
        Of the model.
    choice : ModelChoice
    facts : mapping of str to value
        Parameters that follow from the data; those that the class does not have are left out, and those that the user
        has set are kept.

    Raises
    ------
    ValueError
        If a parameter is unknown, its value is out of range, or the seed is.
    """
    from tabmtl.base.params import check_jobs, check_params

    known, params = cls._get_param_names(), choice.params
    settable = [name for name in known if name not in _ELSEWHERE and name not in _OBJECTS]
    for name in params:
        if name in known and name in _OBJECTS:
            raise ValueError(f"--set {name}: it is code or a model, given in Python, {cls.__name__}({name}=...)")
        if name not in settable:
            other = "; those of others need --model, such as SharedTrees" if choice.model is None else ""
            raise ValueError(f"{cls.__name__} has no parameter {name!r} to set: {near(name, settable)}{other}")
    if not 0 <= choice.seed < 2**31:
        raise ValueError(f"--seed must be a whole number from 0 to 2147483647, got {choice.seed}")
    given: dict[str, Any] = {"random_state": choice.seed, **facts}
    if choice.model is None:
        given["models"] = "fast"
    estimator = cls(**{name: value for name, value in given.items() if name in known} | params)
    check_params(estimator)
    check_jobs("n_jobs", params.get("n_jobs"))
    return estimator


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
