"""Blocks of mixtures of experts: batched experts, and masked gates.

Shapes: B rows, D width of an input, E experts of width H, G gates, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tabmtl.nn.layers import Dropout, StackedLinear

Norm = Literal["batch", "layer", "none"]
Activation = Literal["relu", "silu"]


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of (B, C) that takes its running statistics where a batch has one row.

    The running statistics are the mean over the first ten batches, and then follow with momentum 0.1. What predicts are
    the statistics that training settles after every epoch, see `tabmtl.training.table_loop.settle_statistics`.
    """

    _batches = 0

    def reset_running_stats(self) -> None:
        """Forget all batches."""
        super().reset_running_stats()
        self._batches = 0

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every channel over the rows."""
        if not self.training or len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        momentum = 0.0
        if self.momentum != 0:  # it is 0 where balancing looks twice at a batch, and None is the mean of all batches
            self._batches += 1
            momentum = max(self.momentum or 0.0, 1 / self._batches)
        statistics = (self.running_mean, self.running_var)
        return F.batch_norm(x, *statistics, self.weight, self.bias, training=True, momentum=momentum, eps=self.eps)


class _LayerNorm(nn.Module):
    """Layer normalisation of every expert by itself, (B, E H) to the same."""

    def __init__(self, n_experts: int, width: int) -> None:
        super().__init__()
        self.shape = (n_experts, width)
        self.weight = nn.Parameter(torch.ones(self.shape))
        self.bias = nn.Parameter(torch.zeros(self.shape))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the outputs of every expert in every row."""
        x = F.layer_norm(x.view(-1, *self.shape), self.shape[1:])
        return torch.addcmul(self.bias, x, self.weight).flatten(1)


class Experts(nn.Module):
    """E MLPs of equal shape in buckets; each layer is Linear, normalisation of every expert, activation, dropout.

    The first layers of a bucket's experts, which read one input, are one wide matrix product; the later layers of all
    experts are one batched product.

    Parameters
    ----------
    counts : sequence of int
        Number of experts of each bucket. Zero is allowed.
    d_in : int
        Width D of an input.
    hidden : sequence of int
        Width of each layer of an expert; the last one is H.
    norm : {"batch", "layer", "none"}, default="none"
        Normalisation of every expert's outputs by itself: each over the rows of the batch, or over its width.
    activation : {"relu", "silu"}, default="relu"
        SiLU(x) = x sigmoid(x), also called Swish.
    dropout : float, default=0.0
        Share of values dropped after each layer.

    Attributes
    ----------
    n_experts, width : int
        E and H.

    Examples
    --------
    >>> import torch
    >>> x = torch.zeros(5, 8)
    >>> Experts([4], 8, [16, 3])([x]).shape
    torch.Size([5, 4, 3])
    >>> Experts([2, 1, 1], 8, [3])([x, x + 1, x + 2]).shape
    torch.Size([5, 4, 3])
    """

    def __init__(
        self,
        counts: Sequence[int],
        d_in: int,
        hidden: Sequence[int],
        *,
        norm: Norm = "none",
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.counts, self.n_experts, self.width = tuple(counts), sum(counts), hidden[-1]
        self.first = nn.Linear(d_in, self.n_experts * hidden[0])
        self._sizes = [count * hidden[0] for count in counts]
        self.later = nn.ModuleList(StackedLinear(self.n_experts, before, after) for before, after in pairwise(hidden))
        self.norms = nn.ModuleList(self._norm(norm, width) for width in hidden)
        self.activation = nn.SiLU() if activation == "silu" else nn.ReLU()
        self.dropout = Dropout(dropout)

    @property
    def bucket(self) -> Tensor:
        """Index (E,) of every expert's bucket."""
        return torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))

    def names(self, buckets: Sequence[str]) -> list[str]:
        """Names of the experts, by the names of their buckets."""
        return [f"{bucket} {i}" for bucket, count in zip(buckets, self.counts, strict=True) for i in range(count)]

    def _norm(self, norm: Norm, width: int) -> nn.Module:
        if norm == "batch":
            return BatchNorm(self.n_experts * width)
        return _LayerNorm(self.n_experts, width) if norm == "layer" else nn.Identity()

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Apply the experts.

        Parameters
        ----------
        inputs : sequence of Tensor of shape (B, D)
            One per bucket, or one for all.

        Returns
        -------
        Tensor of shape (B, E, H)
            Buckets in order.
        """
        x = self._finish(0, wide_linear(self.first, inputs, self._sizes))
        for i, layer in enumerate(self.later, start=1):
            x = layer(x.view(x.shape[0], self.n_experts, -1).transpose(0, 1))
            x = self._finish(i, x.transpose(0, 1).flatten(1))
        return x.view(x.shape[0], self.n_experts, self.width)

    def _finish(self, layer: int, x: Tensor) -> Tensor:
        return self.dropout(self.activation(self.norms[layer](x)))


class Gates(nn.Module):
    """G gates over E experts, softmax(W_g x_g) over those that a gate sees, exactly 0 for all others.

    A gate has no parameters for experts that it does not see.

    Parameters
    ----------
    d_in : int
        Width of a gate's input.
    gates, experts : sequence of str
        Names, for `expert_utilisation_`.
    sees : Tensor of bool, shape (G, E), optional
        Which experts a gate sees; all by default. Every gate sees one at least.
    task_specific : bool, default=True
        Whether every gate belongs to one task, so that gradient balancing leaves it alone.

    Examples
    --------
    >>> import torch
    >>> sees = torch.tensor([[True, False], [True, True]])
    >>> gates = Gates(4, ["click", "like"], ["own", "shared"], sees)
    >>> gates(torch.zeros(1, 4)).count_nonzero(dim=2)
    tensor([[1, 2]])
    """

    sees: Tensor
    places: Tensor

    def __init__(
        self,
        d_in: int,
        gates: Sequence[str],
        experts: Sequence[str],
        sees: Tensor | None = None,
        *,
        task_specific: bool = True,
    ) -> None:
        super().__init__()
        self.gate_names, self.expert_names = tuple(gates), tuple(experts)
        self.task_specific = task_specific
        sees = torch.ones(len(gates), len(experts), dtype=torch.bool) if sees is None else sees
        self.register_buffer("sees", sees, persistent=False)
        self.register_buffer("places", sees.flatten().nonzero()[:, 0], persistent=False)
        self.n_seen = sees.sum(dim=1).tolist()
        self.linear = nn.Linear(d_in, sum(self.n_seen))

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Weigh the experts.

        Parameters
        ----------
        x : Tensor of shape (B, D), or G of them
            The input of all gates, or of each.

        Returns
        -------
        Tensor of shape (B, G, E)
            Rows sum to 1.
        """
        return gate_softmax(self._logits(x), training=self.training)

    def _logits(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Logits (B, G, E), minus infinity where a gate does not see."""
        logits = wide_linear(self.linear, [x] if isinstance(x, Tensor) else x, self.n_seen)
        shape = (logits.shape[0], len(self.gate_names), len(self.expert_names))
        if len(self.places) < shape[1] * shape[2]:
            hidden = logits.new_full((shape[0], shape[1] * shape[2]), -torch.inf)
            logits = hidden.index_copy(1, self.places, logits)
        return logits.view(shape)


def gate_softmax(logits: Tensor, *, training: bool) -> Tensor:
    """Softmax over the experts of logits (B, G, E).

    In training it is vectorised over the rows: on a CPU twice as fast for few experts. Its last rows are then rounded
    otherwise than the rest, so predictions, which must not depend on a row's place, go row by row.
    """
    if training:
        return logits.permute(1, 2, 0).softmax(dim=1).permute(2, 0, 1).contiguous()
    return logits.softmax(dim=2)


def wide_linear(linear: nn.Linear, inputs: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Several linear layers held by one: part k of its outputs reads input k.

    Parameters
    ----------
    linear : Linear
        With sum(sizes) outputs.
    inputs : sequence of Tensor of shape (B, D)
        One per part, or one for all; the same object for all is one matrix product.
    sizes : sequence of int
        Number of outputs of each part.

    Returns
    -------
    Tensor of shape (B, sum(sizes))
    """
    if all(x is inputs[0] for x in inputs):
        return linear(inputs[0])
    parts = zip(inputs, linear.weight.split(list(sizes)), linear.bias.split(list(sizes)), strict=True)
    return torch.cat([F.linear(*part) for part, size in zip(parts, sizes, strict=True) if size], dim=1)


def mix(weights: Tensor, experts: Tensor) -> Tensor:
    """Sum of experts (B, E, H) by gate weights (B, G, E): (B, G, H)."""
    return torch.bmm(weights, experts)
