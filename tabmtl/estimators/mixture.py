"""Estimators with a mixture of experts as their network: common options, and the use of every expert."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from tabmtl.base.params import CountOrZero, Rate
from tabmtl.base.schema import Batch, warn_user
from tabmtl.estimators.network import NetworkState, VectorEstimator
from tabmtl.nn.embeddings import EMBEDDING_STD
from tabmtl.nn.experts import Activation, Experts, Norm
from tabmtl.nn.layers import Towers
from tabmtl.targets import Task
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
    dropout : float in [0, 1), default=0.0
        Share of hidden values dropped in training, in heads and in experts that are MLPs.

    Attributes
    ----------
    expert_utilisation_ : polars DataFrame
        Mean gate weight of every expert, over at most 10 000 training rows: columns ``level`` (1 is next to the input),
        ``gate`` (a task, or in brackets a part that several tasks share), ``expert`` and ``weight``. The weights of a
        gate sum to 1, except those of HoME's gate over a single own expert. An expert that a gate may not see has no
        row. In the long layout, the mean is over the rows of the task. With members, the rows of all members count.
    experts_ : polars DataFrame
        State of every expert on the same rows: ``level``, ``expert``, ``zero_rate`` (share of zeros among its outputs),
        ``std`` (standard deviation of an output over rows, mean over outputs), ``top_weight`` (the largest mean weight
        that a gate gives it), and ``dead``. An expert is dead with more than 90 % zeros, no variation, or a top weight
        below 1 %. The weights do not judge `AdaTT`, whose tasks also use their own experts without a gate. In a long
        table, an expert with fewer than 50 rows is not judged.
    dead_expert_rate_ : float
        Share of the experts that are dead.
    """

    head_hidden: CountOrZero = 64
    dropout: Rate = 0.0

    search_space: ClassVar[dict[str, Any]] = VectorEstimator.search_space | {
        "head_hidden": {"choices": (0, 32, 64, 128)},
        "dropout": {"low": 0.0, "high": 0.5},
    }

    _embedding_std = EMBEDDING_STD
    _stored: ClassVar[type] = MixtureState

    def _heads(self, d_in: int, tasks: Sequence[Task]) -> Towers:
        """Return heads with the options of this estimator."""
        widths, dropout = [task.width for task in tasks], self.dropout
        return Towers(d_in, widths, hidden=self.head_hidden, dropout=dropout, n_members=self.n_members)

    def _inspect(self, network: nn.Module, batch: Batch) -> dict[str, Any]:
        rows = torch.arange(0, len(batch), -(-len(batch) // _INSPECTED_ROWS), device=batch.x.numbers.device)
        rows = rows[: len(rows) // 8 * 8 or None]  # a slice is filled up to eight rows by repetition
        utilisation, experts = measure_experts(network, batch.rows(rows))
        if len(rows) >= _ROWS_TO_JUDGE:
            cure = ", expert_norm='batch' with activation='silu'" if hasattr(self, "expert_norm") else ""
            _warn_of_collapse(experts, f"a lower learning_rate{cure}, or fewer experts")
        rate = float(experts["dead"].mean())  # type: ignore[arg-type]
        return {"expert_utilisation_": utilisation, "experts_": experts, "dead_expert_rate_": rate}


@dataclass(kw_only=True, eq=False, repr=False)
class ExpertEstimator(MixtureEstimator):
    """Base of the mixtures of MLPs.

    Parameters
    ----------
    expert_norm : {"batch", "layer", "none"}, default="batch"
        Normalisation of the outputs of each expert, over the rows of a batch or over their width. Batch normalisation
        predicts by running statistics, so a row's prediction does not depend on other rows. In a long table, experts
        at the same place of different tasks share their statistics.
    activation : {"relu", "silu"}, default="relu"
        Activation of the experts; "silu" is Swish.
    """

    expert_norm: Norm = "batch"
    activation: Activation = "relu"

    search_space: ClassVar[dict[str, Any]] = MixtureEstimator.search_space | {
        "expert_norm": {"choices": ("batch", "layer", "none")},
        "activation": {"choices": ("relu", "silu")},
    }

    def _experts(self, counts: Sequence[int], d_in: int, hidden: Sequence[int]) -> Experts:
        """Return experts with the options of this estimator."""
        return Experts(counts, d_in, hidden, norm=self.expert_norm, activation=self.activation, dropout=self.dropout)


class _Mean:
    """Mean over rows of a function of a module's outputs; 0 where no row has such an output.

    Parameters
    ----------
    module : Module
        Gives (B, *shape, ...); or, for each row, the places in ``shape`` that its ``index`` names.
    function : callable
        Takes the outputs to numbers of the same leading axes.
    shape : tuple of int
    """

    def __init__(self, module: nn.Module, function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
        self._function, self._shape = function, shape
        self._total: Any = torch.zeros(())
        self._rows: Any = torch.zeros((), dtype=torch.int64)
        self.handle = module.register_forward_hook(self._add)

    def _add(self, module: Any, inputs: Any, output: Tensor) -> None:
        values = self._function(output.detach()).double()
        index = module.index(*inputs) if hasattr(module, "index") else None
        if index is None:
            total, rows = values.sum(dim=0), torch.full(self._shape, len(values))
        else:
            n, values = math.prod(self._shape), values.flatten(0, len(self._shape))
            total = values.new_zeros(n, *values.shape[1:]).index_add(0, index.flatten(), values)
            total = total.unflatten(0, self._shape)
            rows = torch.bincount(index.flatten(), minlength=n).view(self._shape)
        self._total, self._rows = self._total + total.cpu(), self._rows + rows.cpu()

    @property
    def rows(self) -> np.ndarray:
        """Numbers of rows, in the shape."""
        return self._rows.numpy()

    @property
    def value(self) -> np.ndarray:
        """Means (*shape, ...)."""
        total = self._total.numpy()
        return total / np.maximum(self.rows, 1).reshape(self._shape + (1,) * (total.ndim - len(self._shape)))


def measure_experts(network: nn.Module, batch: Batch) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Measure mean gate weights, and the state of every expert, on some rows.

    Parameters
    ----------
    network : torch.nn.Module
        With ``levels``, ``gates_decide`` and ``heads`` of :class:`tabmtl.nn.task_network.TaskNetwork`.
    batch : Batch
        Tensors.

    Returns
    -------
    utilisation, experts : polars DataFrame
        As :class:`MixtureEstimator` documents them.
    """
    levels: list[tuple[nn.Module, list[Any]]] = network.levels  # type: ignore[assignment]
    heads: Any = network.heads
    measured = []
    with ExitStack() as stack:
        for experts, gates in levels:
            shape = (len(gates[0].expert_names),)
            functions = (lambda x: (x.abs() <= 1e-6).float().mean(dim=2), lambda x: x, lambda x: x.double().square())
            means = [_Mean(experts, function, shape) for function in functions]
            means += [_Mean(gate, lambda weights: weights, (len(gate.gate_names), *shape)) for gate in gates]
            for taken in means:
                stack.enter_context(taken.handle)
            measured.append(means)
        represent_rows(network, batch, fill=False)
    used, states = [], []
    for level, ((_, gates), means) in enumerate(zip(levels, measured, strict=True), start=1):
        names = gates[0].expert_names
        for gate, of_gate in zip(gates, means[3:], strict=True):
            sees = getattr(gate, "sees", torch.tensor(True)).cpu().numpy()
            g, e = np.nonzero(sees & (of_gate.rows > 0))
            own = {"gate": [gate.gate_names[i] for i in g], "expert": [names[i] for i in e]}
            used.append(pl.DataFrame({"level": [level] * len(g)} | own | {"weight": of_gate.value[g, e]}))
        zeros, mean, square, *weights = (each.value for each in means)
        std = np.sqrt(np.maximum(square - mean**2, 0)).mean(axis=1)
        top = np.vstack(weights).max(axis=0)
        unused = (top < _UNUSED_WEIGHT) & bool(network.gates_decide)
        dead = (zeros > _COLLAPSED_ZEROS) | (std < 1e-6) | unused
        dead &= means[0].rows >= min(_ROWS_TO_JUDGE, len(batch)) * heads.n_members
        facts = {"zero_rate": zeros, "std": std, "top_weight": top, "dead": dead}
        states.append(pl.DataFrame({"level": [level] * len(names), "expert": names} | facts))
    return pl.concat(used), pl.concat(states)


def _warn_of_collapse(experts: pl.DataFrame, cure: str) -> None:
    collapsed = experts.filter("dead", (pl.col("zero_rate") > _COLLAPSED_ZEROS) | (pl.col("std") < 1e-6))
    if len(collapsed):
        names = [f"{name!r} (level {level})" for level, name in collapsed.select("level", "expert").iter_rows()]
        warn_user(
            f"{len(names)} of {len(experts)} experts have collapsed: more than 90 % of their outputs are 0, or none "
            f"varies: {', '.join(names[:5])}{' ...' * (len(names) > 5)}; try {cure}; see experts_"
        )
