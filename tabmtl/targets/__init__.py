"""Targets: a task, and the kinds of its values, one file each."""

from tabmtl.targets.binary import Binary
from tabmtl.targets.focal import Focal
from tabmtl.targets.gamma import Gamma
from tabmtl.targets.huber import Huber
from tabmtl.targets.kind import Kind
from tabmtl.targets.multiclass import Multiclass
from tabmtl.targets.ordinal import Ordinal
from tabmtl.targets.poisson import Poisson
from tabmtl.targets.quantile import Quantile
from tabmtl.targets.quantiles import Quantiles
from tabmtl.targets.regression import Regression
from tabmtl.targets.task import KINDS, Task, Tasks, find_kind, kind_blocks
from tabmtl.targets.tweedie import Tweedie

__all__ = [
    "KINDS",
    "Binary",
    "Focal",
    "Gamma",
    "Huber",
    "Kind",
    "Multiclass",
    "Ordinal",
    "Poisson",
    "Quantile",
    "Quantiles",
    "Regression",
    "Task",
    "Tasks",
    "Tweedie",
    "find_kind",
    "kind_blocks",
]
