"""Blocks of mixtures of experts: batched experts, and masked gates.

Shapes: B rows, D width of an input, E experts of width H, G gates, T tasks. If only a row's own task is computed (see
`tabmtl.nn.layers.RowOwners`), a row has S experts and K gates: those that all tasks share, and those of its owners.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tabmtl.base.ranks import ALONE, Ranks
from tabmtl.nn.layers import Dropout, RowOwners, StackedLinear, Widened, at_least_float32, take_rows

Norm = Literal["batch", "layer", "none"]
Activation = Literal["relu", "silu"]


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of (B, E H) that takes its running statistics where a batch has one row, or none.

    The running statistics are the mean over the first ten batches, and then follow with momentum 0.1. Predictions use
    statistics that training settles after every epoch, see `tabmtl.training.table_loop.settle_statistics`.

    Outputs (B, S H) of each row's own S experts are normalised place by place over the rows of all tasks, and then
    scaled and shifted by the parameters of these experts. A batch has few rows of a task, and moments of two or three
    rows teach nothing. The first S H of the running statistics belong to the S places.
    """

    _batches = 0
    group = ALONE  # in training, that of `statistics_of`

    def restrict(self, experts: Sequence[int], n_experts: int) -> None:
        """Leave the channels of some of the experts only, in this order."""
        rows = _rows_of(experts, self.num_features // n_experts)
        take_rows(self, rows, "weight", "bias", "running_mean", "running_var")
        self.num_features = len(rows)

    def reset_running_stats(self) -> None:
        """Forget all batches."""
        super().reset_running_stats()
        self._batches = 0

    def forward(self, x: Tensor, experts: Tensor | None = None) -> Tensor:
        """Normalise every channel over the rows; ``experts`` (B, S) names the experts of each row, by default all."""
        weight, bias = (self.weight, self.bias) if experts is None else (None, None)
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, variance = self.running_mean[: x.shape[1]], self.running_var[: x.shape[1]]
        n_rows = x.shape[0]
        if self.training and self.group.size > 1:
            n_rows, own_mean, own_variance = _moments(x.detach(), self.group)
        if not self.training or n_rows <= 1:
            x = F.batch_norm(x, mean, variance, weight, bias, eps=self.eps)
        else:
            momentum = 0.0
            if self.momentum != 0:  # 0 where balancing looks twice at a batch; None is the mean of all batches
                self._batches += 1
                momentum = max(self.momentum or 0.0, 1 / self._batches)
            if self.group.size == 1:
                x = F.batch_norm(x, mean, variance, weight, bias, training=True, momentum=momentum, eps=self.eps)
            else:
                mean.lerp_(own_mean, momentum)
                variance.lerp_(own_variance * (n_rows / (n_rows - 1)), momentum)
                rate = (own_variance + self.eps).rsqrt_()
                x = _Normalized.apply(x, weight, bias, own_mean, rate, n_rows, self.group)
        return x if experts is None else _scale_and_shift(x, self.weight, self.bias, experts)


def _moments(x: Tensor, group: Ranks) -> tuple[int, Tensor, Tensor]:
    """Return the number of the rows of all ranks, and mean and variance (C,) of every channel over them.

    They meet in one message, in float64. A rank's own squares are centred before, so that no digit of float32 is lost.
    """
    own = x.new_zeros((2, x.shape[1]), dtype=torch.float64)  # mean, and mean square
    if len(x):
        mean, variance = torch.batch_norm_update_stats(at_least_float32(x), None, None, 0.0)
        own[0] = mean
        own[1] = own[0].square().add_(variance)
    sums = group.sum(torch.cat([own.mul_(len(x)).flatten(), own.new_tensor([len(x)])]))
    n_rows = int(sums[-1])
    mean, square = sums[:-1].div_(max(n_rows, 1)).view(2, -1)
    variance = square.sub_(mean.square()).clamp_(min=0)
    dtype = torch.promote_types(x.dtype, torch.float32)
    return n_rows, mean.to(dtype), variance.to(dtype)


class _Normalized(torch.autograd.Function):
    """(x - mean) rate weight + bias, by mean and rate (C,) of the rows of all ranks; n_rows is their number.

    The gradients of weight and bias are those of the own rows, since gradients meet later.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        rate: Tensor,
        n_rows: int,
        group: Ranks,
    ) -> Tensor:
        """Normalise, scale and shift in one pass."""
        scale = rate if weight is None else rate * weight
        ctx.save_for_backward(x, mean, rate, scale)
        ctx.is_affine, ctx.n_rows, ctx.group = weight is not None, n_rows, group
        shift = -mean * scale if bias is None else torch.addcmul(bias, mean, scale, value=-1)
        return torch.addcmul(shift, x, scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients, by sums over all ranks in one message."""
        x, mean, rate, scale = ctx.saved_tensors
        values, g = at_least_float32(x), at_least_float32(gradient)
        own = values.new_zeros((2, x.shape[1]))  # for weight and bias
        if len(x):
            # torch's own kernel, half the time of plain sums; the gradients of a weight do not depend on it, but its
            # shape is asked for on a GPU
            any_weight, sums_only = rate, (False, True, True)
            _, own[0], own[1] = torch.ops.aten.native_batch_norm_backward(
                g, values, any_weight, None, None, mean, rate, True, 0.0, sums_only
            )
        of_weight, of_bias = ctx.group.sum(own.clone()) / ctx.n_rows
        slope = -scale * rate * of_weight
        shift = -(scale * of_bias + slope * mean)
        found = torch.addcmul(shift, values, slope).addcmul_(g, scale)  # in place: new memory costs more
        return found.to(x.dtype), *(own if ctx.is_affine else (None, None)), None, None, None, None


@contextmanager
def statistics_of(group: Ranks, network: nn.Module) -> Iterator[None]:
    """Let batch normalisation in a network take its moments over the rows of all ranks inside."""
    norms = [] if group.size == 1 else [module for module in network.modules() if isinstance(module, BatchNorm)]
    for norm in norms:
        norm.group = group
    try:
        yield
    finally:
        for norm in norms:
            norm.group = ALONE


class LayerNorm(nn.Module):
    """Layer normalisation of every expert by itself, (B, E H) to the same."""

    def __init__(self, n_experts: int, width: int) -> None:
        super().__init__()
        self.shape = (n_experts, width)
        self.weight = nn.Parameter(torch.ones(self.shape))
        self.bias = nn.Parameter(torch.zeros(self.shape))

    def restrict(self, experts: Sequence[int], n_experts: int) -> None:
        """Leave some of the experts only, in this order."""
        take_rows(self, experts, "weight", "bias")
        self.shape = (len(experts), self.shape[1])

    def forward(self, x: Tensor, experts: Tensor | None = None) -> Tensor:
        """Normalise every expert's outputs in every row; ``experts`` (B, S) names the experts of each row."""
        x = F.layer_norm(x.unflatten(1, (-1, self.shape[1])), self.shape[1:])
        if experts is not None:
            return _scale_and_shift(x.flatten(1), self.weight, self.bias, experts)
        return torch.addcmul(self.bias, x, self.weight).flatten(1)


def _scale_and_shift(x: Tensor, weight: Tensor, bias: Tensor, experts: Tensor) -> Tensor:
    """Scale and shift outputs (B, S H) by the parameters (E H) of each row's experts (B, S)."""
    shape = (-1, x.shape[1] // experts.shape[1])
    weight, bias = (p.view(shape).index_select(0, experts.flatten()).view(x.shape) for p in (weight, bias))
    return torch.addcmul(bias, x, weight)


def _rows_of(experts: Sequence[int], width: int) -> Tensor:
    """Return the rows of some experts, where each has as many as the width."""
    return (torch.tensor(experts)[:, None] * width + torch.arange(width)).flatten()


class Experts(Widened):
    """E MLPs of equal shape in buckets; a layer is Linear, normalisation of every expert, activation, dropout.

    The experts of a bucket read one input: their first layers are one wide matrix product. The later layers of all
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
        Normalisation of every expert's outputs by itself: over the rows of the batch, or over its width.
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
        self.norms = nn.ModuleList()
        if norm == "batch":
            self.norms.extend(BatchNorm(self.n_experts * width) for width in hidden)
        elif norm == "layer":
            self.norms.extend(LayerNorm(self.n_experts, width) for width in hidden)
        self.activation = nn.SiLU() if activation == "silu" else nn.ReLU()
        self.dropout = Dropout(dropout)

    @property
    def bucket(self) -> Tensor:
        """Index (E,) of every expert's bucket."""
        return torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))

    def names(self, buckets: Sequence[str]) -> list[str]:
        """Return the names of the experts, made from the names of their buckets."""
        return [f"{bucket} {i}" for bucket, count in zip(buckets, self.counts, strict=True) for i in range(count)]

    def forward(self, inputs: Sequence[Tensor], owners: Sequence[RowOwners] | None = None) -> Tensor:
        """Apply the experts.

        Parameters
        ----------
        inputs : sequence of Tensor of shape (B, D)
            One per bucket, or one for all; with ``owners`` one for each of these. One (K, B, D) of K networks.
        owners : sequence of RowOwners, optional
            The owners of the buckets. The first of them, with O owners, takes the first O buckets, which have equal
            counts; the second takes the next ones, and so on. Only the experts of a row's owners are applied to it.

        Returns
        -------
        Tensor of shape (B, E, H), or (B, S, H), or (B, K E, H)
            Buckets in order.
        """
        if owners is not None:
            return self._apply_own(inputs, owners)
        n_experts = (self.n_networks or 1) * self.n_experts
        x = wide_linear(self.first, inputs, self._sizes)
        x = self._finish(0, x if self.n_networks is None else x.transpose(0, 1).flatten(1))
        for i, layer in enumerate(self.later, start=1):
            x = layer(x.unflatten(1, (n_experts, -1)).transpose(0, 1))
            x = self._finish(i, x.transpose(0, 1).flatten(1))
        return x.view(x.shape[0], n_experts, self.width)

    def index(self, inputs: Sequence[Tensor], owners: Sequence[RowOwners] | None = None) -> Tensor | None:
        """Return the S of all E experts that are applied to each row, (B, S); None means all."""
        if owners is None:
            return None
        found, start = [], 0
        for owner, (n_owners, count) in zip(owners, self._shapes(owners), strict=True):
            found.append(start + owner.owner[:, None] * count + torch.arange(count, device=owner.owner.device))
            start += n_owners * count
        return torch.cat(found, dim=1)

    def restrict(self, buckets: Sequence[int]) -> list[int]:
        """Leave the experts of some buckets only, in this order; return their places among the experts before."""
        first = [0, *accumulate(self.counts)]
        places = [i for bucket in buckets for i in range(first[bucket], first[bucket + 1])]
        self.keep(places, [self.counts[bucket] for bucket in buckets])
        return places

    def keep(self, places: Sequence[int], counts: Sequence[int]) -> None:
        """Leave some experts only, in this order; ``counts`` are those of the buckets then."""
        hidden = self.first.out_features // self.n_experts
        take_rows(self.first, _rows_of(places, hidden), "weight", "bias")
        self.first.out_features = len(places) * hidden
        for layer in self.later:
            layer.restrict(places)  # type: ignore[operator]
        for norm in self.norms:
            norm.restrict(places, self.n_experts)  # type: ignore[operator]
        self.counts, self.n_experts = tuple(counts), len(places)
        self._sizes = [count * hidden for count in self.counts]

    def follow(self) -> None:
        """Let widths be those of the layers, some units of which are cut."""
        hidden = len(self.first.bias) // self.n_experts
        self._sizes = [count * hidden for count in self.counts]
        last: Any = self.later[-1] if self.later else None
        self.width = hidden if last is None else last.bias.shape[1]

    def _shapes(self, owners: Sequence[RowOwners]) -> list[tuple[int, int]]:
        """Return the number of owners, and of the experts of each, for every kind of owners."""
        firsts = accumulate((owner.n_owners for owner in owners[:-1]), initial=0)
        return [(owner.n_owners, self.counts[first]) for owner, first in zip(owners, firsts, strict=True)]

    def _apply_own(self, inputs: Sequence[Tensor], owners: Sequence[RowOwners]) -> Tensor:
        """Return the outputs (B, S, H) of each row's own experts."""
        experts, shapes = self.index(inputs, owners), self._shapes(owners)
        sizes = [n_owners * count for n_owners, count in shapes]
        inputs = [x.repeat(1, count) for x, (_, count) in zip(inputs, shapes, strict=True)]
        bias: Any = self.first.bias
        first = (self.first.weight.unflatten(0, (self.n_experts, -1)), bias.view(self.n_experts, -1))
        for i, (weight, bias) in enumerate([first, *((layer.weight, layer.bias) for layer in self.later)]):
            parameters = zip(weight.split(sizes), bias.split(sizes), shapes, strict=True)
            stacked = [(w.unflatten(0, shape), b.unflatten(0, shape)) for w, b, shape in parameters]
            layers = zip(owners, inputs, stacked, strict=True)
            parts = [owner.linear(x, w if i else w.mT, b) for owner, x, (w, b) in layers]
            x = self._finish(i, torch.cat(parts, dim=1), experts)
            inputs = x.split([part.shape[1] for part in parts], dim=1)
        return x.unflatten(1, (-1, self.width))

    def _finish(self, layer: int, x: Tensor, experts: Tensor | None = None) -> Tensor:
        if self.norms:
            x = self.norms[layer](x, experts)
        return self.dropout(self.activation(x))


class Gates(Widened):
    """G gates over E experts: softmax(W_g x_g) over the experts that a gate sees, exactly 0 for all others.

    A gate has no parameters for experts that it does not see.

    Parameters
    ----------
    d_in : int
        Width of a gate's input.
    gates, experts : sequence of str
        Names, for `expert_utilisation_`.
    sees : Tensor of bool, shape (G, E), optional
        The experts that a gate sees, at least one; all by default.
    has : Tensor of bool, shape (O, E), optional
        The S experts of each owner of rows; all by default. Each owner has one gate, in order.
    shared : int, optional
        Index of a further gate, which all owners share.
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
    rank: Tensor
    own: Tensor

    def __init__(
        self,
        d_in: int,
        gates: Sequence[str],
        experts: Sequence[str],
        sees: Tensor | None = None,
        *,
        has: Tensor | None = None,
        shared: int | None = None,
        task_specific: bool = True,
    ) -> None:
        super().__init__()
        self.gate_names, self.expert_names = tuple(gates), tuple(experts)
        self.task_specific = task_specific
        sees = torch.ones(len(gates), len(experts), dtype=torch.bool) if sees is None else sees
        self.register_buffer("sees", sees, persistent=False)
        places, rank = _places_and_ranks(sees)
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("rank", rank, persistent=False)
        of_all = set() if shared is None else {shared}
        own_gates = torch.tensor([sorted({g} | of_all) for g in range(len(gates)) if g != shared])  # (O, K)
        has = sees.new_ones(len(own_gates), len(experts)) if has is None else has
        own_experts = has.nonzero()[:, 1].view(len(has), 1, -1)
        self.register_buffer("own", own_gates[:, :, None] * len(experts) + own_experts, persistent=False)
        self.n_seen = sees.sum(dim=1).tolist()
        self.linear = nn.Linear(d_in, sum(self.n_seen))

    def restrict(self, gates: Sequence[int], experts: Sequence[int]) -> None:
        """Leave some gates of a wide table only, and some experts, among them all that these gates see."""
        pairs = torch.tensor(gates)[:, None] * len(self.expert_names) + torch.tensor(experts)
        pairs = pairs.to(self.sees.device)
        rank, self.sees = self.rank[pairs], self.sees.flatten()[pairs]
        take_rows(self.linear, rank[self.sees], "weight", "bias")
        self.linear.out_features = len(self.linear.bias)
        self.gate_names = tuple(self.gate_names[i] for i in gates)
        self.expert_names = tuple(self.expert_names[i] for i in experts)
        self.places, self.rank = _places_and_ranks(self.sees)
        self.n_seen = self.sees.sum(dim=1).tolist()
        self.own = self.own[:0]  # rows of a long table have no place here

    def keep(self, experts: Sequence[int]) -> None:
        """Leave some experts only, in this order, at least one that each gate sees.

        In a long table, each owner of rows keeps as many.

        Raises
        ------
        ValueError
            If a gate sees none of them.
        """
        if not self.sees[:, list(experts)].any(dim=1).all():
            raise ValueError("each gate needs an expert that it sees, and one would see none")
        pairs, n = self.own, len(self.expert_names)
        self.restrict(range(len(self.gate_names)), experts)
        place = pairs.new_full((n,), -1)
        place[list(experts)] = torch.arange(len(experts), device=pairs.device)
        left = place[pairs[:, 0] % n]  # (O, S)
        counts = (left >= 0).sum(dim=1)
        if len(counts) and bool((counts == counts[0]).all()):
            of_owner = left[left >= 0].view(len(left), 1, -1)
            self.own = pairs[:, :, :1] // n * len(experts) + of_owner

    def forward(self, x: Tensor | Sequence[Tensor], own: RowOwners | None = None) -> Tensor:
        """Weigh the experts.

        Parameters
        ----------
        x : Tensor of shape (B, D), or G of them
            The input of all gates, or of each; with ``own`` K of them. One (N, B, D) of N networks.
        own : RowOwners, optional
            The owner of every row, whose K gates weigh the S experts of that owner.

        Returns
        -------
        Tensor of shape (B, G, E), or (B, K, S), or (B, N G, E)
            Rows sum to 1.
        """
        inputs = [x] if isinstance(x, Tensor) else x
        if own is None:
            return self._weigh(self._logits(inputs), self.sees)
        return self._weigh(self._own_logits(inputs, own), self.sees.flatten()[self.own[own.owner]])

    def index(self, x: Tensor | Sequence[Tensor], own: RowOwners | None = None) -> Tensor | None:
        """Return the places (B, K, S) of a row's weights among all G E; None means all."""
        return None if own is None else self.own[own.owner]

    def _weigh(self, logits: Tensor, sees: Tensor) -> Tensor:
        """Turn logits, minus infinity where a gate does not see, into weights."""
        return gate_softmax(logits, training=self.training)

    def _logits(self, inputs: Sequence[Tensor]) -> Tensor:
        logits = wide_linear(self.linear, inputs, self.n_seen)
        if self.n_networks is not None:  # whose gates see all experts
            return logits.transpose(0, 1).unflatten(2, (len(self.gate_names), -1)).flatten(1, 2)
        shape = (logits.shape[0], len(self.gate_names), len(self.expert_names))
        if len(self.places) < shape[1] * shape[2]:
            hidden = logits.new_full((shape[0], shape[1] * shape[2]), -torch.inf)
            logits = hidden.index_copy(1, self.places, logits)
        return logits.view(shape)

    def _own_logits(self, inputs: Sequence[Tensor], own: RowOwners) -> Tensor:
        rank, sees = self.rank[self.own], self.sees.flatten()[self.own]  # (O, K, S)
        weight = self.linear.weight.index_select(0, rank.flatten()).unflatten(0, rank.shape)
        bias = self.linear.bias.index_select(0, rank.flatten()).view(rank.shape)
        x = torch.cat(list(inputs), dim=1) if len(inputs) > 1 else inputs[0].repeat(1, rank.shape[1])
        logits = own.linear(x, weight.mT, bias.masked_fill(~sees, -torch.inf))
        return logits.unflatten(1, rank.shape[1:])


def _places_and_ranks(sees: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of the pairs (G, E) that see, and the rank of every pair among these."""
    return sees.flatten().nonzero()[:, 0], (sees.flatten().cumsum(0) - 1).clamp(min=0)


def restrict_level(experts: Experts, gates: Sequence[Gates], kept: Sequence[int]) -> list[int]:
    """Leave some gates of a level of a wide table only, and the buckets of experts that these see.

    Parameters
    ----------
    experts : Experts
    gates : sequence of Gates
        That weigh these experts, each as many times.
    kept : sequence of int
        Numbers of the gates that stay, in order.

    Returns
    -------
    buckets : list of int
        The numbers of those that stay, among all before.
    """
    seen = torch.stack([own.sees[list(kept)].any(dim=0) for own in gates]).any(dim=0)
    buckets = experts.bucket[seen.cpu()].unique().tolist()
    places = experts.restrict(buckets)
    for own in gates:
        own.restrict(kept, places)
    return buckets


def gate_softmax(logits: Tensor, *, training: bool) -> Tensor:
    """Return the softmax of logits (B, G, E) over the experts.

    In training it is vectorised over the rows, twice as fast on a CPU for few experts. The last rows are then rounded
    differently. Predictions must not depend on a row's place, and go row by row.
    """
    if training:
        return logits.permute(1, 2, 0).softmax(dim=1).permute(2, 0, 1).contiguous()
    return logits.softmax(dim=2)


def wide_linear(linear: nn.Linear, inputs: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Apply several linear layers that one holds: part k of the outputs reads input k.

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


def mix(weights: Tensor, experts: Tensor, n_networks: int | None = None) -> Tensor:
    """Sum experts (B, E, H) by gate weights (B, G, E) to (B, G, H), network by network where there are several."""
    if n_networks is None:
        return torch.bmm(weights, experts)
    weights, experts = (part.unflatten(1, (n_networks, -1)).flatten(0, 1) for part in (weights, experts))
    return torch.bmm(weights, experts).unflatten(0, (-1, n_networks)).flatten(1, 2)
