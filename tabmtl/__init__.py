"""Multi-task learning on tables: one scikit-learn object that learns several targets at once.

Everything loads on first use, so ``import tabmtl`` brings in neither torch nor LightGBM. The public names stand in
``__init__.pyi``.
"""

from importlib import import_module
from typing import Any

from tabmtl.base.lazy import attach

import_module("tabmtl.base.forks")  # which has to see every fork from now on

_load, __dir__, __all__ = attach(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("tabmtl")
    return _load(name)
