"""Small networks of one table, always of the same weights, and its rows, for the formulas of papers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tabmtl.columns import Features
from tabmtl.schema import Columns
from tabmtl.targets import Task

COLUMNS = Columns(
    numeric=("a", "b"),
    categorical=("c",),
    levels=(("x", "y", "z"),),
    has_missing=(True, False),
    bins=((-1.0, 0.0, 1.0), (-2.0, 2.0)),
)
TASKS = [
    Task(name="delay", kind="regression"),
    Task(name="size", kind="multiclass", classes=("s", "m", "l")),
    Task(name="late", kind="binary", classes=(0, 1)),
]


def network_of(model: Any, tasks: Sequence[Task] = TASKS, columns: Columns = COLUMNS) -> Any:
    """The network of an unfitted estimator, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model._network(columns, tasks).double().eval()


def rows(n: int = 6) -> Features:
    """Rows with a missing number and all codes, that of unseen levels among them."""
    generator = torch.Generator().manual_seed(0)
    x_num = torch.randn(n, 2, generator=generator).double()
    x_num[0, 0] = torch.nan
    return Features(numbers=x_num, codes=torch.randint(0, 5, (n, 1), generator=generator, dtype=torch.int32))


def expert(experts: nn.Module, e: int, x: torch.Tensor) -> torch.Tensor:
    """Output of one expert of two layers without normalisation."""
    first, later = experts.first, experts.later[0]
    width = later.weight.shape[1]
    own = slice(e * width, (e + 1) * width)
    return F.relu(F.relu(x @ first.weight[own].T + first.bias[own]) @ later.weight[e] + later.bias[e])


def n_parameters(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(parameter.numel() for parameter in module.parameters())
