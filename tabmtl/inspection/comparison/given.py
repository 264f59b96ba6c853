"""The models of a comparison, as they are given, and as estimators of several tasks."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor

from tabmtl.base.params import check_params, near
from tabmtl.base.schema import listed
from tabmtl.encode import take_rows
from tabmtl.encode.preprocessing import by_preprocessor
from tabmtl.ensemble.models import check_estimator
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.models.independent import IndependentTasks
from tabmtl.targets import Task

_LONGEST = 60  # characters of a model in an error
_LONGEST_NAME = 80  # of one that is named by its parameters
_FIRST_ROWS = 200  # in which most tasks have labels


def named_models(models: Any) -> dict[str, Any]:
    """Return the models by name, as they are given.

    Raises
    ------
    TypeError, ValueError
        If there is none, or a name is no text.
    """
    if isinstance(models, Mapping):
        found = dict(models)
    elif isinstance(models, Sequence) and not isinstance(models, str):
        found = dict(_by_class(models))
    else:
        raise TypeError(f"models must map names to estimators, be a list of them, or None, got {models!r}")
    if not found:
        raise ValueError("models is empty; give at least one, or None for the default ones")
    for name in found:
        if not isinstance(name, str) or not name:
            raise TypeError(f"models must have names of text, got {name!r}")
    return found


def _by_class(models: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield models with the names of their classes, where one comes again with parameters, or a number if alike."""
    classes = [type(model).__name__ for model in models]
    written = [" ".join(repr(model).split()).removesuffix("()") for model in models]
    names = [
        text if classes.count(name) > 1 and len(text) <= _LONGEST_NAME else name
        for name, text in zip(classes, written, strict=True)
    ]
    for i, (name, model) in enumerate(zip(names, models, strict=True)):
        number = names[: i + 1].count(name)
        yield (name if number == 1 else f"{name} {number}"), model


def as_estimator(name: str, model: Any) -> MultiTaskEstimator:
    """Return a model as an estimator of several tasks: one of scikit-learn learns each task alone.

    Raises
    ------
    TypeError
        If it is neither, or holds an estimator of several tasks, which would learn each task alone.
    """
    if isinstance(model, type):
        raise TypeError(f"the model {name!r} is the class {model.__name__}; write {model.__name__}()")
    if not isinstance(model, MultiTaskEstimator) and isinstance(model, BaseEstimator):
        inside = [each for each in model.get_params().values() if isinstance(each, MultiTaskEstimator)]
        if inside:
            ours, outer = type(inside[0]).__name__, type(model).__name__
            cure = by_preprocessor(model) or f"; give {ours} itself, with the parameters to compare"
            raise TypeError(f"the model {name!r} is a {outer} around {ours}, whose tasks compare cannot ask for{cure}")
        if is_classifier(model):
            return IndependentTasks(classifier=model)
        if is_regressor(model):
            return IndependentTasks(regressor=model)
    check_estimator(f"the model {name!r}", model)
    return model


def with_params(name: str, model: MultiTaskEstimator, params: Mapping[str, Any], own: Sequence[str]) -> Any:
    """Return a copy of a model with the parameters that all models get, which are checked with its own.

    Parameters
    ----------
    name : str
    model : MultiTaskEstimator
    params : mapping of str to object
    own : sequence of str
        Names of the parameters that are for the comparison itself.
    """
    known = model.get_params(deep=False)
    for param in params:
        if param not in known:
            raise ValueError(
                f"{name} has no parameter {param!r}{near(param, [*own, *known])}; compare sets those that every model "
                "has, so set others on a model itself"
            )
    prepared = clone(model).set_params(**params)
    check_params(prepared, name)
    return prepared


def check_kinds(name: str, given: Any, tasks: Sequence[Task]) -> None:
    """Raise a ValueError that has the cure if a model of scikit-learn is for one sort of targets, and some are not."""
    if isinstance(given, MultiTaskEstimator):
        return
    own, other = ("classifier", "regressor") if is_classifier(given) else ("regressor", "classifier")
    others = [task for task in tasks if task.is_classification != (own == "classifier")]
    if others:
        text = repr(given)
        text = text if len(text) < _LONGEST else f"models[{name!r}]"
        made = f"IndependentTasks({own}={text}, {other}={_counterpart(given)})"
        kind = "multiclass" if own == "classifier" else "regression"
        raise ValueError(
            f"the model {name!r} is a {own}, and some targets need a {other}: "
            f"{listed([f'{task.name} ({task.kind})' for task in others], 5)}; give {made}, or declare the kinds, "
            f"tasks={{{others[0].name!r}: {kind!r}}}"
        )


def check_reads_text(model: MultiTaskEstimator, X: Any, y: Any) -> None:
    """Raise the error of a model of scikit-learn that reads no text, by a fit of the first rows.

    Only models without others inside are asked: they refuse text before they learn, and those that read it learn few
    rows at once. Any other error waits for the fit of all rows.
    """
    bases = [model.classifier, model.regressor] if isinstance(model, IndependentTasks) else []
    given = [base for base in bases if base is not None]
    is_plain = all(
        type(base).__module__.startswith("sklearn.")
        and not any(isinstance(value, BaseEstimator) for value in base.get_params().values())
        for base in given
    )
    if not (given and is_plain):
        return
    first = np.arange(min(len(X), _FIRST_ROWS))
    try:
        with warnings.catch_warnings(action="ignore"):
            clone(model).fit(take_rows(X, first), take_rows(y, first))
    except Exception as error:
        if "could not convert string to float" in str(error.__cause__):
            raise


def _counterpart(model: Any) -> str:
    """Return the call of the class for the other sort of targets, if the module of the model has it."""
    cls = type(model)
    for one, other in (("Classifier", "Regressor"), ("Regressor", "Classifier")):
        name = cls.__name__.removesuffix(one) + other
        if cls.__name__.endswith(one) and hasattr(sys.modules[cls.__module__], name):
            return f"{name}()"
    return "..."
