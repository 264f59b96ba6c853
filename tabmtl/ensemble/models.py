"""The models that an ensemble tries: the rules for given ones, and the reference among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabmtl.base.lazy import exported
from tabmtl.base.params import check_choice, check_params
from tabmtl.columns.declared import encoder_of
from tabmtl.encode.preprocessing import by_preprocessor
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.models.independent import IndependentTasks
from tabmtl.models.rmtgb import RMTGB
from tabmtl.models.shared_trees import SharedTrees

#: Names in the leaderboard that no model may have: the linear models, and the mixture.
LINEAR, MIXTURE = "LinearStack", "MultiTaskEnsemble"
#: Names of sets of models.
SIZES = ("fast", "best")
_TAKEN = (LINEAR, MIXTURE, "task")  # which is a column of the weights
_REFERENCE = "IndependentTasks"


def check_models(name: str, value: Any) -> None:
    """Raise an error unless a value names a set, or maps names to estimators of several tasks with good parameters."""
    if isinstance(value, str):
        check_choice(name, value, SIZES)
        return
    if not isinstance(value, dict) or not value:
        raise TypeError(
            f"{name} must be one of {[*SIZES]}, or map names to estimators, such as {{'SharedTrees': SharedTrees()}}, "
            f"got {value!r}"
        )
    for key, model in value.items():
        if not isinstance(key, str) or key in _TAKEN:
            raise ValueError(f"{name} must have names of text other than {', '.join(_TAKEN)}, got {key!r}")
        check_estimator(f"{name}[{key!r}]", model)
        check_params(model, f"{name}[{key!r}]")
        has_encoder = encoder_of(model.columns) is not None
        if has_encoder or model.preprocessor is not None:
            own, cure = ("an encoder of text", "columns") if has_encoder else ("a preprocessor", "preprocessor")
            raise ValueError(
                f"{name}[{key!r}] has {own}, and all models of an ensemble read the same columns: give it to the "
                f"ensemble, MultiTaskEnsemble({cure}=...)"
            )


def check_estimator(name: str, model: Any) -> None:
    """Raise a TypeError that has the cure, unless a model is an estimator of several tasks."""
    if not isinstance(model, MultiTaskEstimator):
        cure = "wrap one of scikit-learn: IndependentTasks(classifier=..., regressor=...)"
        cure = by_preprocessor(model).removeprefix("; ") or cure
        if isinstance(model, type) and issubclass(model, MultiTaskEstimator):
            cure = f"that is the class; write {model.__name__}()"
        raise TypeError(f"{name} must be an estimator of this package, or derived from one, got {model!r}; {cure}")


def named_set(size: str) -> dict[str, MultiTaskEstimator]:
    """Return the models that a name stands for, unfitted, in the order in which they are tried."""
    # The folds average models already: short steps, restarts, members and epochs of patience are not worth their time.
    few: dict[str, MultiTaskEstimator] = {_REFERENCE: IndependentTasks(), "SharedTrees": SharedTrees(learning_rate=0.1)}
    if size == "fast":
        return few
    return few | {"RMTGB": RMTGB(), "SharedBottom": exported("SharedBottom")(n_members=4, restarts=0, patience=3)}


def candidates(models: str | Mapping[str, MultiTaskEstimator]) -> dict[str, MultiTaskEstimator]:
    """Return given models, or those of a set, single-task ones first; a reference is added where there is none."""
    found = named_set(models) if isinstance(models, str) else models
    single = {name: each for name, each in found.items() if isinstance(each, IndependentTasks)}
    if not single:
        own = _REFERENCE
        while own in found:
            own += "_"
        single = {own: IndependentTasks()}
    return single | {name: each for name, each in found.items() if name not in single}
