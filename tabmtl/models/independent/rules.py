"""Rules for the parameters of models of single tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn.base import BaseEstimator

from tabmtl.base.params import near
from tabmtl.models.independent.choice import CONFIGURATIONS
from tabmtl.models.independent.mixture import FAMILIES
from tabmtl.targets import Task


def check_tune(name: str, value: Any) -> None:
    """Raise a ValueError unless a value is "all", or names configurations, each once."""
    _check_names(name, value, [*CONFIGURATIONS])


def check_families(name: str, value: Any) -> None:
    """Raise a ValueError unless a value is "all", or names families with LightGBM among them."""
    _check_names(name, value, [*FAMILIES])
    if value != "all" and FAMILIES[0] not in value:
        raise ValueError(f"{name} must have {FAMILIES[0]!r} among them, which the others are added to, got {value!r}")


def _check_names(name: str, value: Any, known: list[str]) -> None:
    names = known if str(value) == "all" else value
    is_listed = isinstance(names, list | tuple)
    if wrong := [each for each in names if each not in known or names.count(each) > 1] if is_listed else [str(value)]:
        hint = "" if wrong[0] in known else near(wrong[0], ["all", *known])
        raise ValueError(f"{name} must be 'all', or hold names of {known}, each once, got {value!r}{hint}")


def check_foreign(task: Task, base: BaseEstimator) -> None:
    """Raise a ValueError if a task has several levels or is monotone, as models of scikit-learn cannot answer it."""
    if task.kind.levels:
        raise ValueError(
            f"task {task.name!r} has the levels {task.kind.levels}, and {type(base).__name__} answers one value a row; "
            "leave regressor out, since LightGBM learns a model for each level, or declare a task of one value, as "
            "'regression' is"
        )
    if task.monotone:
        raise ValueError(
            f"task {task.name!r} has monotone={task.monotone}, which is for LightGBM; give {base!r} a parameter of its "
            "own for it, if it has one, and leave monotone out"
        )


def check_estimator(name: str, value: Any) -> None:
    """Raise a TypeError unless a value is an estimator, or None."""
    if value is not None and (isinstance(value, type) or not (hasattr(value, "fit") and hasattr(value, "get_params"))):
        raise TypeError(f"{name} must be an estimator such as RandomForestRegressor(), or None, got {value!r}")


def check_together(given: Sequence[str], families: Any, tune: Any, early_stopping: bool) -> None:
    """Raise a ValueError if parameters contradict each other: given estimators, named families and configurations."""
    if families and given:
        raise ValueError(f"families={families!r} are models of its own; leave out {given[0]}, or families")
    if families and not early_stopping:
        raise ValueError(f"families={families!r} needs rows to weigh them by; set early_stopping=True, or leave it out")
    if tune and given:
        raise ValueError(f"tune={tune!r} chooses among LightGBM models of its own; leave out {given[0]}, or tune")
    if tune and not early_stopping:
        raise ValueError(f"tune={tune!r} needs validation rows; set early_stopping=True, or leave tune out")
