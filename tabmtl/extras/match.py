"""What models need to be merged: one class, one base, and the same columns, levels and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.storage.stored import fingerprint
from tabmtl.estimators.base import unfitted
from tabmtl.estimators.network import NetworkEstimator

_CURE = "fine-tune copies of the base with warm_start=True"


def check_models(base: Any, models: Any) -> None:
    """Raise an error unless all models are networks that may have been fine-tuned from the base.

    Raises
    ------
    TypeError, ValueError
        The message names the model by its place in the list, what differs, and the cure.
    """
    if not isinstance(models, Sequence) or isinstance(models, str) or not models:
        raise ValueError(f"models must be a list of networks that were fine-tuned from the base, got {models!r}")
    for name, model in [("base", base), *((f"models[{k}]", model) for k, model in enumerate(models))]:
        if not isinstance(model, NetworkEstimator):
            raise TypeError(f"{name} must be a network of this package, such as SharedBottom(), got {model!r}")
        check_is_fitted(model, msg=f"{name} is a %(name)s that is not fitted; fit it, or {_CURE}")
    for k, model in enumerate(models):
        name = f"models[{k}]"
        if type(model) is not type(base):
            raise TypeError(f"{name} is a {type(model).__name__}, and the base a {type(base).__name__}; {_CURE}")
        _check_columns(name, base, model)
        _check_tasks(name, base, model)
        _check_network(name, base, model)
    _check_distances(base, models)


def _check_columns(name: str, base: NetworkEstimator, model: NetworkEstimator) -> None:
    ours, theirs = base.coder_, model.coder_
    if ours.names != theirs.names:
        differ = _difference(ours.names, theirs.names)
        raise ValueError(f"{name} has other columns than the base: {differ}; {_CURE} on the columns of the base")
    known = theirs.features.columns
    for column, levels in zip(ours.features.columns.categorical, ours.features.columns.levels, strict=True):
        found = dict(zip(known.categorical, known.levels, strict=True)).get(column)
        if found is not None and found != levels:
            raise ValueError(
                f"the levels of column {column!r} in {name} and the base grew apart: {_difference(levels, found)}; let "
                f"the base learn all levels first, by rows that hold them, or make new ones missing, and {_CURE}"
            )
    if fingerprint(ours.features) != fingerprint(theirs.features):
        raise ValueError(f"{name} reads the columns of X otherwise than the base, such as by other scales; {_CURE}")


def _difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """Say what a model lacks of the base, and has besides."""
    lacks, adds = ([each for each in a if each not in b] for a, b in ((ours, theirs), (theirs, ours)))
    said = [f"{what} {those[:5]}" for what, those in (("it lacks", lacks), ("it alone has", adds)) if those]
    return " and ".join(said) or "they come in another order"


def _check_tasks(name: str, base: NetworkEstimator, model: NetworkEstimator) -> None:
    ours, theirs = ([task.at(None) for task in own.tasks_] for own in (base, model))
    names = [[task.name for task in own] for own in (ours, theirs)]
    if names[0] != names[1]:
        raise ValueError(
            f"{name} has the tasks {names[1]}, and the base {names[0]}; {_CURE}, with null labels of the other tasks"
        )
    for task, found in zip(ours, theirs, strict=True):
        if (task.kind, task.classes) != (found.kind, found.classes):
            raise ValueError(
                f"task {task.name!r} of {name} is {found.kind} with the classes {found.classes}, and that of the base "
                f"{task.kind} with {task.classes}; let the base learn all classes first, and {_CURE} of it"
            )
    if not all(
        np.array_equal(getattr(base.coder_.labels, units), getattr(model.coder_.labels, units))
        for units in ("center", "scale")
    ):
        raise ValueError(f"{name} has other units of numeric targets than the base; {_CURE}")


def _check_network(name: str, base: NetworkEstimator, model: NetworkEstimator) -> None:
    of_training = {field.name for field in fields(NetworkEstimator)}
    ours, theirs = (unfitted(own).get_params(deep=False) for own in (base, model))
    for param, value in ours.items():
        if param not in of_training and not param.endswith("dropout") and repr(value) != repr(theirs[param]):
            raise ValueError(f"{name} has {param}={theirs[param]!r}, and the base {value!r}; {_CURE}")
    shapes = [{weight: array.shape for weight, array in own.weights_.items()} for own in (base, model)]
    if shapes[0] != shapes[1]:
        differ = next(weight for weight in {**shapes[0], **shapes[1]} if shapes[0].get(weight) != shapes[1].get(weight))
        raise ValueError(
            f"{name} has the weight {differ!r} of shape {shapes[1].get(differ)}, and the base {shapes[0].get(differ)}; "
            f"{_CURE}"
        )


def _check_distances(base: NetworkEstimator, models: Sequence[NetworkEstimator]) -> None:
    """Raise an error if nothing was trained, or most weights of a model are farther from the base's than 0 is.

    Files do not tell which base a model began at. Weights of another random seed are about √2 of their length away.
    """
    # scales begin at 1 in any network, biases at about 0, and buffers do not learn
    named = base.fitted_network()[0].named_parameters()
    names = [name for name, weight in named if weight.ndim > 1 and name.endswith("weight")]
    lengths = np.array([np.linalg.norm(base.weights_[name]) for name in names])
    moves = np.array(
        [[np.linalg.norm(model.weights_[name] - base.weights_[name]) for name in names] for model in models]
    )
    for k, n_far in enumerate((moves > lengths).sum(axis=1).tolist()):
        if 2 * n_far > len(names):
            raise ValueError(
                f"models[{k}] is as far from the base as if it had begun elsewhere: {n_far} of its {len(names)} weight "
                f"matrices have moved by more than their own length; {_CURE}, in fewer or smaller steps"
            )
    if not moves.any():
        raise ValueError(f"no model has learned anything since the base: their weights are equal; {_CURE}")
