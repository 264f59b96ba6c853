"""Small networks of one table, always of the same weights, and its rows, for the formulas of papers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tabmtl import AITM, APEM, ESMM, PLE, STEM, AdaTT, HoME, MMoE, MultiTabNet, SharedBottom
from tabmtl.base.schema import Columns
from tabmtl.columns import Features
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
#: Steps of a funnel, and what lies beside it.
STEPS = [Task(name=name, kind="binary", classes=(0, 1)) for name in ("click", "buy", "keep")]
_CHAIN = ["click", "buy"]
#: Every network, without noise, for wide and for long tables of these tasks.
WIDE = [
    SharedBottom(hidden=(8,), dropout=0.0),
    SharedBottom(hidden=(8,), numeric_embedding="none", n_members=2, dropout=0.0),
    SharedBottom(hidden=(8,), sequence_pooling="mean", dropout=0.0),
    MMoE(dropout=0.0),
    PLE(dropout=0.0),
    HoME(dropout=0.0),
    APEM(dropout=0.0),
    STEM(dropout=0.0),
    AdaTT(dropout=0.0),
    MultiTabNet(dropout=0.0, n_members=2),
    AITM(task_chain=_CHAIN, dropout=0.0),
    ESMM(task_chain=_CHAIN, dropout=0.0),
]
LONG = [model.__class__(**{**model.get_params(), "task_column": "task"}) for model in WIDE[:-2]]


def network_of(model: Any, tasks: Sequence[Task] = TASKS, columns: Columns = COLUMNS) -> Any:
    """The network of an unfitted estimator, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model._network(columns, tasks).double().eval()


def network_of_lists(model: Any, columns: Columns, seed: int = 0) -> Any:
    """The network of one of `WIDE` and `LONG`, in float32; drawn are also the vectors that begin at 0."""
    network = network_of(model, STEPS, columns).float()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in network.named_parameters():
            if name.endswith(("empty", "missing")):
                nn.init.normal_(parameter)
    return network


def own_tasks(model: Any, n: int = 6) -> torch.Tensor | None:
    """The tasks of the rows of a long table."""
    return None if model.task_column is None else torch.arange(n) % len(STEPS)


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
