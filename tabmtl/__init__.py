"""Multi-task learning on tables: one scikit-learn object that learns several targets at once.

Everything loads on first use, so ``import tabmtl`` brings in neither torch nor LightGBM.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tabmtl.metrics.scores import MultitaskGain, multitask_gain
    from tabmtl.model_selection.folds import MultiTaskKFold, make_multitask_scorer
    from tabmtl.models.adatt import AdaTT, AdaTTClassifier, AdaTTRegressor
    from tabmtl.models.aitm import AITM
    from tabmtl.models.apem import APEM, APEMClassifier, APEMRegressor
    from tabmtl.models.esmm import ESMM
    from tabmtl.models.home import HoME, HoMEClassifier, HoMERegressor
    from tabmtl.models.independent import IndependentTasks, IndependentTasksClassifier, IndependentTasksRegressor
    from tabmtl.models.mmoe import MMoE, MMoEClassifier, MMoERegressor
    from tabmtl.models.multitabnet import MultiTabNet, MultiTabNetClassifier, MultiTabNetRegressor
    from tabmtl.models.ple import PLE, PLEClassifier, PLERegressor
    from tabmtl.models.rmtgb import RMTGB, RMTGBClassifier, RMTGBRegressor
    from tabmtl.models.shared_bottom import SharedBottom, SharedBottomClassifier, SharedBottomRegressor
    from tabmtl.models.stem import STEM, STEMClassifier, STEMRegressor
    from tabmtl.onnx.coder import OnnxCoder
    from tabmtl.schema import TabmtlWarning, Task
    from tabmtl.storage.persist import ModelFileError, load

_HOMES = {
    "onnx.coder": ("OnnxCoder",),
    "metrics": ("MultitaskGain", "multitask_gain"),
    "model_selection": ("MultiTaskKFold", "make_multitask_scorer"),
    "models.adatt": ("AdaTT", "AdaTTClassifier", "AdaTTRegressor"),
    "models.aitm": ("AITM",),
    "models.apem": ("APEM", "APEMClassifier", "APEMRegressor"),
    "models.esmm": ("ESMM",),
    "models.home": ("HoME", "HoMEClassifier", "HoMERegressor"),
    "models.independent": ("IndependentTasks", "IndependentTasksClassifier", "IndependentTasksRegressor"),
    "models.mmoe": ("MMoE", "MMoEClassifier", "MMoERegressor"),
    "models.multitabnet": ("MultiTabNet", "MultiTabNetClassifier", "MultiTabNetRegressor"),
    "models.ple": ("PLE", "PLEClassifier", "PLERegressor"),
    "models.rmtgb": ("RMTGB", "RMTGBClassifier", "RMTGBRegressor"),
    "models.shared_bottom": ("SharedBottom", "SharedBottomClassifier", "SharedBottomRegressor"),
    "models.stem": ("STEM", "STEMClassifier", "STEMRegressor"),
    "schema": ("TabmtlWarning", "Task"),
    "storage.persist": ("ModelFileError", "load"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

import_module("tabmtl.forks")  # which has to see every fork from now on

__all__ = [
    "AITM",
    "APEM",
    "ESMM",
    "PLE",
    "RMTGB",
    "STEM",
    "APEMClassifier",
    "APEMRegressor",
    "AdaTT",
    "AdaTTClassifier",
    "AdaTTRegressor",
    "HoME",
    "HoMEClassifier",
    "HoMERegressor",
    "IndependentTasks",
    "IndependentTasksClassifier",
    "IndependentTasksRegressor",
    "MMoE",
    "MMoEClassifier",
    "MMoERegressor",
    "ModelFileError",
    "MultiTabNet",
    "MultiTabNetClassifier",
    "MultiTabNetRegressor",
    "MultiTaskKFold",
    "MultitaskGain",
    "OnnxCoder",
    "PLEClassifier",
    "PLERegressor",
    "RMTGBClassifier",
    "RMTGBRegressor",
    "STEMClassifier",
    "STEMRegressor",
    "SharedBottom",
    "SharedBottomClassifier",
    "SharedBottomRegressor",
    "TabmtlWarning",
    "Task",
    "load",
    "make_multitask_scorer",
    "multitask_gain",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("tabmtl")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tabmtl' has no attribute {name!r}")
    return getattr(import_module(f"tabmtl.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
