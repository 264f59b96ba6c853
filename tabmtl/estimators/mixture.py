"""Estimators whose network is a mixture of experts: their common options, and who uses which expert."""

from __future__ import annotations

import warnings
from abc import abstractmethod
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


class TaskNetwork(nn.Module):
    """Base of the networks that give every task features of its own; a subclass gives `task_features`.

    Attributes
    ----------
    heads : Towers
    levels : list of (Module, list of Module)
        Of a mixture of experts. Per level its experts, which give (B, E, H), and its gates, which give weights
        (B, G, E) and have ``gate_names`` and ``expert_names``.
    gates_decide : bool
        Whether experts reach tasks through these gates alone, so that without weight an expert is dead.
    """

    batch_dependent = False
    gates_decide = True
    heads: Towers
    levels: Sequence[tuple[nn.Module, Sequence[nn.Module]]]

    @abstractmethod
    def task_features(self, x_num: Tensor, x_cat: Tensor) -> Tensor:
        """Features (B, T, H) that the heads read."""

    def represent(self, x_num: Tensor, x_cat: Tensor, task: Tensor | None = None) -> Tensor:
        """Features of all tasks side by side (B, T H), or of each row's own task (B, H)."""
        features = self.task_features(x_num, x_cat)
        if task is None:
            return features.flatten(1)
        return features[torch.arange(task.shape[0], device=task.device), task]

    def forward(self, x_num: Tensor, x_cat: Tensor, task: Tensor | None = None) -> list[Tensor]:
        """Score rows.

        Parameters
        ----------
        x_num : Tensor of shape (B, Fn), float32
            Standardised values, NaN where missing.
        x_cat : Tensor of shape (B, Fc), int32
            Codes.
        task : Tensor of shape (B,), int64, optional
            For task-per-row data the task of each row.

        Returns
        -------
        list of Tensor
            (B, width) raw scores per task; with ``task``, one tensor with each row's own.
        """
        if task is None:
            return self.heads(self.task_features(x_num, x_cat))
        return self.heads(self.represent(x_num, x_cat, task), task)


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
        no row.
    experts_ : polars DataFrame
        State of every expert on the same rows: ``level``, ``expert``, ``zero_rate`` (share of its outputs that are
        0), ``std`` (standard deviation of an output over rows, mean over outputs), ``top_weight`` (the largest mean
        weight that a gate gives it), and ``dead``: more than 90 % zeros, no variation, or a top weight below 1 %
        (but for `AdaTT`, whose tasks use their own experts without a gate too).
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
        normalisation predicts by running statistics, so a row's prediction does not depend on other rows.
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
    """Mean over rows of what a module's output becomes by a function."""

    def __init__(self, module: nn.Module, function: Any) -> None:
        self.total: Tensor | float = 0.0
        self.rows = 0
        self._function = function
        self.handle = module.register_forward_hook(self._add)

    def _add(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.total = self.total + self._function(output.detach()).double().sum(dim=0)
        self.rows += len(output)

    @property
    def value(self) -> np.ndarray:
        return torch.as_tensor(self.total / self.rows).cpu().numpy()


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
            means = [_Mean(experts, lambda x: (x.abs() <= 1e-6).float().mean(dim=2)), _Mean(experts, lambda x: x)]
            means += [_Mean(experts, lambda x: x.double().square())]
            means += [_Mean(gate, lambda weights: weights) for gate in gates]
            for taken in means:
                stack.callback(taken.handle.remove)
            measured.append(means)
        represent_rows(network, batch)
    used: list[dict[str, Any]] = []
    states: list[dict[str, Any]] = []
    for level, ((_, gates), means) in enumerate(zip(levels, measured, strict=True), start=1):
        zeros, mean, square, *weights = (each.value for each in means)
        std = np.sqrt(np.maximum(square - mean**2, 0)).mean(axis=1)
        top = np.max(np.vstack(weights), axis=0)
        for gate, weight in zip(gates, weights, strict=True):
            sees = getattr(gate, "sees", torch.ones(weight.shape, dtype=torch.bool)).cpu().numpy()
            for g, e in zip(*np.nonzero(sees), strict=True):
                names = {"level": level, "gate": gate.gate_names[g], "expert": gate.expert_names[e]}
                used.append(names | {"weight": float(weight[g, e])})
        for e, name in enumerate(gates[0].expert_names):
            unused = network.gates_decide and top[e] < _UNUSED_WEIGHT
            dead = bool(zeros[e] > _COLLAPSED_ZEROS or std[e] < 1e-6 or unused)
            facts = {"zero_rate": float(zeros[e]), "std": float(std[e]), "top_weight": float(top[e]), "dead": dead}
            states.append({"level": level, "expert": name} | facts)
    return pl.DataFrame(used), pl.DataFrame(states)


def _warn_of_collapse(experts: pl.DataFrame, cure: str) -> None:
    collapsed = experts.filter((pl.col("zero_rate") > _COLLAPSED_ZEROS) | (pl.col("std") < 1e-6))
    if len(collapsed):
        names = [f"{name!r} (level {level})" for level, name in collapsed.select("level", "expert").iter_rows()]
        warnings.warn(
            f"{len(names)} of {len(experts)} experts have collapsed: more than 90 % of their outputs are 0, or none "
            f"varies: {', '.join(names[:5])}{' ...' * (len(names) > 5)}; try {cure}; see experts_",
            TabmtlWarning,
            stacklevel=2,
        )
