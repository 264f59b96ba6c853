"""Every estimator the package lists, in a tiny form; the tables and comparisons are those of `tabmtl.testing`."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import polars as pl
from lightgbm import LGBMClassifier, LGBMRegressor

import tabmtl
import tabmtl.models
from tabmtl import IndependentTasks
from tabmtl.estimators.boosted import BoostedEstimator
from tabmtl.estimators.funnel import FunnelEstimator, TowerEstimator
from tabmtl.estimators.mixture import ExpertEstimator, MixtureEstimator
from tabmtl.estimators.network import MemberEstimator, NetworkEstimator, VectorEstimator
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.testing import answers, features, largest_gap, long_table, mixed_targets, same
from tabmtl.testing.small import SMALL, small
from tabmtl.testing.subject import FUNNEL, Subject

__all__ = ["answers", "features", "largest_gap", "long_table", "mixed_targets", "same"]

#: Of an ensemble: few trees, which learn fast.
CANDIDATES = {
    "alone": tabmtl.IndependentTasks(
        classifier=LGBMClassifier(n_estimators=20, num_leaves=8),
        regressor=LGBMRegressor(n_estimators=20, num_leaves=8, learning_rate=0.3),
    ),
    "together": tabmtl.SharedTrees(n_estimators=20, n_estimators_task=0, num_leaves=8),
}
#: Given to an estimator where it has the parameter, beside the small options.
TINY: dict[str, Any] = SMALL | {"unknown_task": "error", "models": CANDIDATES}
#: Of models by LightGBM alone, which look for the number of trees by ten folds of so few rows.
FEW_ROUNDS = {"learning_rate": 0.3, "patience": 5, "families": ("lightgbm",)}


def _listed() -> Iterator[type[MultiTaskEstimator]]:
    """Estimators among the names the package exports, and all classes of its models."""
    modules = [f"tabmtl.models.{module.name}" for module in pkgutil.iter_modules(tabmtl.models.__path__)]
    for found in [getattr(tabmtl, name) for name in tabmtl.__all__] + [
        value for module in modules for value in vars(import_module(module)).values()
    ]:
        if isinstance(found, type) and issubclass(found, MultiTaskEstimator):
            yield found


def subclasses(cls: type) -> set[type]:
    """All classes derived from one, however far."""
    found = set(cls.__subclasses__())
    return found.union(*(subclasses(child) for child in found))


#: Derived from to make estimators, and none themselves.
BASES = {
    MultiTaskEstimator,
    BoostedEstimator,
    NetworkEstimator,
    MemberEstimator,
    FunnelEstimator,
    TowerEstimator,
    VectorEstimator,
    MixtureEstimator,
    ExpertEstimator,
}
#: All estimators: the exported ones, the classes in tabmtl.models, and whatever else is derived from the base.
ESTIMATORS = sorted(set(_listed()) - BASES, key=lambda cls: cls.__name__)
#: Those whose tasks must hold a funnel: `tiny` names its steps, and `targets_for` has them.
FUNNELS = [cls for cls in ESTIMATORS if issubclass(cls, TowerEstimator)]
#: All others, which take targets of any kind, or of the kind of their face.
FREE = [cls for cls in ESTIMATORS if cls not in FUNNELS]
MIXED = [cls for cls in FREE if cls._target_kind is None]
FACES = [cls for cls in FREE if cls._target_kind is not None]
NETWORKS = [cls for cls in MIXED if issubclass(cls, NetworkEstimator)]


def tiny(cls: type[MultiTaskEstimator], **params: Any) -> Any:
    """An estimator in its tiny form; parameters it does not have are left out."""
    own = FUNNEL if cls in FUNNELS else FEW_ROUNDS if issubclass(cls, IndependentTasks) else {}
    return small(cls, **(TINY | own | params))


def targets_for(cls: type[MultiTaskEstimator], X: pl.DataFrame) -> pl.DataFrame:
    """Targets of the kinds that the face of an estimator takes, two at least."""
    return Subject(tiny(cls)).targets(X)
