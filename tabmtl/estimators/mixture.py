"""Estimators whose network is a mixture of experts: their common options, and who uses which expert."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from tabmtl.estimators.network import NetworkState, VectorEstimator
from tabmtl.nn.embeddings import EMBEDDING_STD
from tabmtl.nn.experts import Activation, Experts, Norm
from tabmtl.nn.layers import Towers
from tabmtl.params import CountOrZero, Rate
from tabmtl.schema import Batch, TabmtlWarning, Task
from tabmtl.training.predict import represent_rows

_INSPECTED_ROWS = 10_000
_COLLAPSED_ZEROS = 0.9  # the HoME paper's example of a collapsed expert
_UNUSED_WEIGHT = 0.01
_ROWS_TO_JUDGE = 50  # fewer rows say little about an expert


@dataclass(frozen=True, kw_only=True, eq=False)
class MixtureState(NetworkState):
    """Fitted attributes that the file of a mixture keeps."""

    expert_utilisation_: pl.DataFrame
    experts_: pl.DataFrame
    dead_expert_rate_: float


@dataclass(kw_only=True, eq=False, repr=False)
class MixtureEstimator(VectorEstimator):
    """Base of the estimators whose tasks weigh the outputs of experts, which read the row's embeddings.

    Parameters
    ----------
    head_hidden : int, default=64
        Width of a head's hidden layer; 0 leaves one linear layer per task.
    dropout : float, default=0.3
        Share of hidden values dropped in training, in heads and in experts that are MLPs.

    Attributes
    ----------
    expert_utilisation_ : polars DataFrame
        Mean gate weight of every expert, over up to 10 000 training rows of all tasks: columns ``level`` (1 is nearest
        to the input), ``gate`` (a task, or in brackets what several tasks share), ``expert`` and ``weight``. The
        weights of a gate sum to 1 (but for HoME's gate over a single own expert); experts that a gate may not see have
        no row. In the long layout a mean is over the rows that have both gate and expert: those of the task.
    experts_ : polars DataFrame
        State of every expert on the same rows: ``level``, ``expert``, ``zero_rate`` (share of its outputs that are
        0), ``std`` (standard deviation of an output over rows, mean over outputs), ``top_weight`` (the largest mean
        weight that a gate gives it), and ``dead``: more than 90 % zeros, no variation, or a top weight below 1 %
        (but for `AdaTT`, whose tasks use their own experts without a gate too). An expert of a long table that fewer
        than 50 of the rows have is not judged.
    dead_expert_rate_ : float
        Share of the experts that are dead.
    """

    head_hidden: CountOrZero = 64
    dropout: Rate = 0.3

    search_space: ClassVar[dict[str, Any]] = VectorEstimator.search_space | {
        "head_hidden": {"choices": (0, 32, 64, 128)},
        "dropout": {"low": 0.0, "high": 0.5},
    }

    _embedding_std = EMBEDDING_STD
    _stored: ClassVar[type] = MixtureState

    def _heads(self, d_in: int, tasks: Sequence[Task]) -> Towers:
        """Heads with the options of this estimator."""
        return Towers(d_in, [task.width for task in tasks], hidden=self.head_hidden, dropout=self.dropout)

    def _inspect(self, network: nn.Module, batch: Batch) -> dict[str, Any]:
        rows = torch.arange(0, len(batch), -(-len(batch) // _INSPECTED_ROWS), device=batch.x_num.device)
        rows = rows[: len(rows) // 8 * 8 or None]  # a slice is filled up to eight rows by repetition
        utilisation, experts = measure_experts(network, batch.rows(rows))
        if len(rows) >= _ROWS_TO_JUDGE:
            cure = ", expert_norm='batch' with activation='silu'" if hasattr(self, "expert_norm") else ""
            _warn_of_collapse(experts, f"a lower learning_rate{cure}, or fewer experts")
        rate = float(experts["dead"].mean())  # type: ignore[arg-type]
        return {"expert_utilisation_": utilisation, "experts_": experts, "dead_expert_rate_": rate}


@dataclass(kw_only=True, eq=False, repr=False)
class ExpertEstimator(MixtureEstimator):
    """Base of the mixtures whose experts are MLPs.

    Parameters
    ----------
    expert_norm : {"batch", "layer", "none"}, default="batch"
        Normalisation of every expert's outputs by itself, over the rows of a batch or over their width. Batch
        normalisation predicts by running statistics, so a row's prediction does not depend on other rows. In a long
        table an expert of a task shares its statistics with the experts in its place of all other tasks, each applied
        to the rows of its task.
    activation : {"relu", "silu"}, default="relu"
        Of the experts; "silu" is Swish.
    """

    expert_norm: Norm = "batch"
    activation: Activation = "relu"

    search_space: ClassVar[dict[str, Any]] = MixtureEstimator.search_space | {
        "expert_norm": {"choices": ("batch", "layer", "none")},
        "activation": {"choices": ("relu", "silu")},
    }

    def _experts(self, counts: Sequence[int], d_in: int, hidden: Sequence[int]) -> Experts:
        """Experts with the options of this estimator."""
        return Experts(counts, d_in, hidden, norm=self.expert_norm, activation=self.activation, dropout=self.dropout)


class _Mean:
    """Means of what a module's output becomes by a function, each over the rows that have it; 0 if none has.

    Parameters
    ----------
    module : Module
        Gives (B, *shape, ...), or of a row's places in ``shape`` those that its ``index`` names.
    function : callable
    shape : tuple of int
    """

    def __init__(self, module: nn.Module, function: Any, shape: tuple[int, ...]) -> None:
        self._function, self._shape = function, shape
        self._total: Tensor | float = 0.0
        self._rows: Tensor | int = 0
        self.handle = module.register_forward_hook(self._add)

    def _add(self, module: Any, inputs: Any, output: Tensor) -> None:
        values = self._function(output.detach()).double()
        index = module.index(*inputs) if hasattr(module, "index") else None
        if index is None:
            total, rows = values.sum(dim=0), torch.full(self._shape, len(values), device=values.device)
        else:
            n, values = math.prod(self._shape), values.flatten(0, len(self._shape))
            total = values.new_zeros(n, *values.shape[1:]).index_add(0, index.flatten(), values)
            total, rows = (
                total.unflatten(0, self._shape),
                torch.bincount(index.flatten(), minlength=n).view(self._shape),
            )
        self._total, self._rows = self._total + total, self._rows + rows

    @property
    def rows(self) -> np.ndarray:
        """Numbers of rows, in that shape."""
        return torch.as_tensor(self._rows).cpu().numpy()

    @property
    def value(self) -> np.ndarray:
        """Means (*shape, ...)."""
        total = torch.as_tensor(self._total).cpu().numpy()
        return total / np.maximum(self.rows, 1).reshape(self._shape + (1,) * (total.ndim - len(self._shape)))


def measure_experts(network: nn.Module, batch: Batch) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Mean gate weights, and the state of every expert, on some rows.

    Parameters
    ----------
    network : torch.nn.Module
        With ``levels`` and ``gates_decide`` of :class:`TaskNetwork`.
    batch : Batch
        Tensors.

    Returns
    -------
    utilisation, experts : polars DataFrame
        As :class:`MixtureEstimator` documents them.
    """
    levels: list[tuple[nn.Module, list[Any]]] = network.levels  # type: ignore[assignment]
    with ExitStack() as stack:
        measured = []
        for experts, gates in levels:
            shape = (len(gates[0].expert_names),)
            means = [_Mean(experts, lambda x: (x.abs() <= 1e-6).float().mean(dim=2), shape)]
            means += [_Mean(experts, function, shape) for function in (lambda x: x, lambda x: x.double().square())]
            means += [_Mean(gate, lambda weights: weights, (len(gate.gate_names), *shape)) for gate in gates]
            for taken in means:
                stack.callback(taken.handle.remove)
            measured.append(means)
        represent_rows(network, batch, fill=False)
    used: list[dict[str, Any]] = []
    states: list[dict[str, Any]] = []
    for level, ((_, gates), means) in enumerate(zip(levels, measured, strict=True), start=1):
        zeros, mean, square, *weights = (each.value for each in means)
        std = np.sqrt(np.maximum(square - mean**2, 0)).mean(axis=1)
        top = np.max(np.vstack(weights), axis=0)
        for gate, weight, measured_weight in zip(gates, weights, means[3:], strict=True):
            sees = getattr(gate, "sees", torch.ones(weight.shape, dtype=torch.bool)).cpu().numpy()
            for g, e in zip(*np.nonzero(sees & (measured_weight.rows > 0)), strict=True):
                names = {"level": level, "gate": gate.gate_names[g], "expert": gate.expert_names[e]}
                used.append(names | {"weight": float(weight[g, e])})
        for e, name in enumerate(gates[0].expert_names):
            unused = network.gates_decide and top[e] < _UNUSED_WEIGHT
            judged = means[0].rows[e] >= min(_ROWS_TO_JUDGE, len(batch))
            dead = bool(judged and (zeros[e] > _COLLAPSED_ZEROS or std[e] < 1e-6 or unused))
            facts = {"zero_rate": float(zeros[e]), "std": float(std[e]), "top_weight": float(top[e]), "dead": dead}
            states.append({"level": level, "expert": name} | facts)
    return pl.DataFrame(used), pl.DataFrame(states)


def _warn_of_collapse(experts: pl.DataFrame, cure: str) -> None:
    collapsed = experts.filter("dead", (pl.col("zero_rate") > _COLLAPSED_ZEROS) | (pl.col("std") < 1e-6))
    if len(collapsed):
        names = [f"{name!r} (level {level})" for level, name in collapsed.select("level", "expert").iter_rows()]
        warnings.warn(
            f"{len(names)} of {len(experts)} experts have collapsed: more than 90 % of their outputs are 0, or none "
            f"varies: {', '.join(names[:5])}{' ...' * (len(names) > 5)}; try {cure}; see experts_",
            TabmtlWarning,
            stacklevel=2,
        )
