"""Torch blocks that two or more networks use, from features to scores. B is the rows, T the tasks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DENSE_ROWS = 200_000  # a larger table is trained in the rows that a batch touches only

M = TypeVar("M", bound=nn.Module)

_BUCKET = 8  # rows; matrix products of fewer take other kernels, which round otherwise
_LEAST_MERGED = 16  # outputs of a layer; narrower products round otherwise than wide ones


def at_least_float32(x: Tensor) -> Tensor:
    """Cast a tensor to float32, unless it is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Widened(nn.Module):
    """Base of the layers that hold those of several networks; see `tabmtl.nn.joined`.

    Attributes
    ----------
    n_networks : int or None
        Number K of networks; None in a network that stands alone.
    """

    n_networks: int | None = None

    def widen(self, n_networks: int) -> None:
        """Take the parameters of K networks, one after the other along their first axis."""
        self.n_networks = n_networks


def shared_copy(network: M) -> M:
    """Return a copy of a network that holds the same tensors, whose layers can be replaced."""
    tensors = chain(network.parameters(), network.buffers())
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})


def take_rows(module: nn.Module, rows: Tensor | Sequence[int], *names: str) -> None:
    """Leave some rows of parameters and buffers of a module; others may hold the same tensors, which stay."""
    for name in names:
        old = getattr(module, name)
        kept = old.detach()[torch.as_tensor(rows, device=old.device)]
        setattr(module, name, nn.Parameter(kept, old.requires_grad) if isinstance(old, nn.Parameter) else kept)


class Dropout(nn.Module):
    """Dropout with masks cut from random bytes, several times cheaper on a CPU than Bernoulli draws.

    The rate is rounded to a multiple of 1/256 and kept values are scaled by the rounded rate, so the mean is
    exactly that of the input. Masks come from torch's default generator. Identity in eval mode.

    Parameters
    ----------
    p : float, default=0.0
        Share of values set to zero, in [0, 1).

    Raises
    ------
    ValueError
        If p is outside [0, 1).

    Examples
    --------
    >>> import torch
    >>> Dropout(0.5)(torch.ones(4)).unique().numel() <= 2
    True
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {p!r}")
        self.p = p
        self._dropped = min(round(256 * p) or int(p > 0), 255)

    def forward(self, x: Tensor) -> Tensor:
        """Drop values of x, of any shape, in training."""
        if not self.training or self._dropped == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        # random_() without bounds never sets the sign bit: every eighth byte would be biased.
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        bytes_ = words.view(torch.uint8)[: x.numel()].view(x.shape)
        # a mask of x's own type needs no cast
        kept = torch.ge(bytes_, self._dropped, out=torch.empty(x.shape, dtype=x.dtype))
        return x * kept.mul_(256 / (256 - self._dropped))

    def extra_repr(self) -> str:
        """Show the rate in the printed module."""
        return f"p={self.p}"


class MLP(nn.Sequential):
    """Linear layers, each followed by ReLU and dropout.

    Parameters
    ----------
    d_in : int
        Width of the input.
    hidden : sequence of int
        Width of each layer; the last one is the width of the output.
    dropout : float, default=0.0
        Share of values dropped after each layer.
    """

    def __init__(self, d_in: int, hidden: Sequence[int], *, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise((d_in, *hidden)):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True), Dropout(dropout)]
        super().__init__(*layers)


class Boundary(nn.Identity):
    """End of the parameters that tasks share: a tensor passes through unchanged, such as a row's vector.

    What balances gradients may cut the graph here, by a hook.
    """


class Members(Widened):
    """Adapters of k members that share the layers above: member m reads x ⊙ r_m.

    The rows of a batch become k B rows, those of the first member first. Factors start as random signs, one for every
    vector along the last axis, such as the embedding of a column. With one member nothing happens.

    Parameters
    ----------
    n_members : int
        Number k of members.
    *shape : int
        Shape of a row's input.

    References
    ----------
    Gorishniy, Kotelnikov and Babenko (2025), "TabM: Advancing Tabular Deep Learning with Parameter-Efficient
    Ensembling", ICLR; its smallest form.
    """

    def __init__(self, n_members: int, *shape: int) -> None:
        super().__init__()
        self.scale = None
        if n_members > 1:
            signs = 2.0 * torch.randint(2, (n_members, *shape[:-1], 1)) - 1
            self.scale = nn.Parameter(signs.repeat_interleave(shape[-1], dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """Take inputs (B, ...) to those of all members (k B, ...); of K networks (K, B, ...) to (K, k B, ...)."""
        if self.scale is None:
            return x
        if self.n_networks is None:
            return (x * self.scale[:, None]).flatten(0, 1)
        return (x[:, None] * self.scale.unflatten(0, (self.n_networks, -1))[:, :, None]).flatten(1, 2)


class _Product(torch.autograd.Function):
    """Product x W of (K, c, d_in) and (K, d_in, d_out); the gradient for W has the memory layout of W.

    Autograd gives a transposed W a gradient that must be copied, which costs more than the product where buckets hold
    few rows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply."""
        ctx.save_for_backward(x, weight)
        return torch.bmm(x, weight) if weight.is_contiguous() else torch.bmm(weight.mT, x.mT).mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients for x and W."""
        x, weight = ctx.saved_tensors
        for_weight = torch.bmm(x.mT, gradient) if weight.is_contiguous() else torch.bmm(gradient.mT, x).mT
        return torch.bmm(gradient, weight.mT), for_weight


class RowOwners:
    """The owner of each row (its task, or the group of its task), for layers that every owner has for itself.

    Rows of one owner meet in buckets of equal size. Such a layer is then one batched product over K buckets, in which a
    row meets the layer of its own owner only.

    In evaluation a bucket has 8 places, so that kernels, and with them a row's answer, do not depend on the other rows.
    In training its size follows the batch, and every owner has a bucket: weights are gathered only where an owner has
    more than 8 rows and more than twice the mean. An exported graph, whose shapes must not depend on values, has a
    bucket per row.

    Parameters
    ----------
    owner : Tensor of shape (B,), int64
        At least 0, below ``n_owners``.
    n_owners : int
        Number O of owners. A single one has one bucket of all rows.
    training : bool, default=False

    Examples
    --------
    >>> import torch
    >>> own, factors = RowOwners(torch.tensor([2, 0]), 3), torch.tensor([1.0, 10.0, 100.0])
    >>> own.linear(torch.tensor([[1.0], [5.0]]), factors.view(3, 1, 1, 1))
    tensor([[100.],
            [  5.]])
    """

    def __init__(self, owner: Tensor, n_owners: int, *, training: bool = False) -> None:
        self.owner, self.n_owners, self._training = owner, n_owners, training
        self._rows: Tensor | None = None  # (K c,), of every place; a place without a row repeats one
        self._place: Tensor | None = None  # (B,), of every row
        self._of_bucket: Tensor | None = None  # (K,), the owner of every bucket; None = each owner has one
        self._size = 1
        if n_owners > 1 and (torch.compiler.is_exporting() or not len(owner)):
            self._of_bucket = owner
        elif n_owners > 1:
            self._deal()

    @property
    def shared(self) -> RowOwners:
        """The same rows with one owner in common."""
        return RowOwners(torch.zeros_like(self.owner), 1, training=self._training)

    def first(self, k: int) -> RowOwners:
        """The first of k equal parts of the rows, such as those of k members."""
        if k == 1:
            return self
        return RowOwners(self.owner.unflatten(0, (k, -1))[0], self.n_owners, training=self._training)

    def _deal(self) -> None:
        """Deal the rows of every owner to buckets."""
        counts = torch.bincount(self.owner, minlength=self.n_owners)
        mean = -(-len(self.owner) // self.n_owners)
        self._size = min(int(counts.max()), max(_BUCKET, 2 * mean)) if self._training else _BUCKET
        n_buckets = (counts - 1) // self._size + 1
        # a single bucket, too, would take another kernel
        n_buckets[: None if self._training else 2].clamp_(min=1)
        order = self.owner.argsort(stable=True)
        starts, first_place = counts.cumsum(0) - counts, (n_buckets.cumsum(0) - n_buckets) * self._size
        rank = torch.arange(len(order), device=order.device)
        self._place = torch.empty_like(order)
        self._place[order] = rank + (first_place - starts)[self.owner[order]]
        owners = torch.arange(self.n_owners, device=order.device)
        of_bucket = owners.repeat_interleave(n_buckets)
        self._rows = order.new_zeros(len(of_bucket) * self._size).index_copy(0, self._place, rank)
        if not self._training or len(of_bucket) > self.n_owners:
            self._of_bucket = of_bucket

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply the owner's n linear layers to the n parts of every row.

        Parameters
        ----------
        x : Tensor of shape (B, n d_in)
        weight : Tensor of shape (O, n, d_in, d_out)
            Contiguous, or such a one with the last two axes swapped, is quickest.
        bias : Tensor of shape (O, n, d_out), optional

        Returns
        -------
        Tensor of shape (B, n d_out)
        """
        weight = self._of(weight) if weight.is_contiguous() else self._of(weight.mT).mT
        n = weight.shape[1]
        x = self._spread(x).unflatten(2, (n, -1)).transpose(1, 2).flatten(0, 1)  # (K n, c, d_in)
        x = self._product(x, weight.flatten(0, 1))
        if bias is not None:
            x = x + self._of(bias).flatten(0, 1)[:, None]
        return self._collect(x.unflatten(0, (-1, n)).transpose(1, 2).flatten(2))

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Products (K, c, d_out) of (K, c, d_in) and (K, d_in, d_out)."""
        if self._training and not torch.is_autocast_enabled(x.device.type):  # autograd knows what autocast has cast
            return _Product.apply(x, weight)
        if self.n_owners == 1:
            return torch.bmm(x, weight)
        return torch.bmm(weight.mT, x.mT).mT  # kernels round 8 columns alike, but not 8 rows

    def _spread(self, x: Tensor) -> Tensor:
        """Rows (B, D) in buckets (K, c, D)."""
        if self._rows is None:
            return x[None] if self._of_bucket is None else x[:, None]
        return x.index_select(0, self._rows).unflatten(0, (-1, self._size))

    def _collect(self, x: Tensor) -> Tensor:
        """Rows (B, D) from buckets (K, c, D)."""
        return x.flatten(0, 1) if self._place is None else x.flatten(0, 1).index_select(0, self._place)

    def _of(self, parameter: Tensor) -> Tensor:
        """The part of a parameter (O, ...) that is the owner's of each bucket, (K, ...)."""
        return parameter if self._of_bucket is None else parameter.index_select(0, self._of_bucket)


class StackedLinear(nn.Module):
    """Several linear layers of equal shape, as one batched matrix product.

    Parameters
    ----------
    n_layers, d_in, d_out : int
        Number of layers, and width of the input and the output of each.
    """

    def __init__(self, n_layers: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_layers, d_in, d_out))
        self.bias = nn.Parameter(torch.empty(n_layers, d_out))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(d_in**-0.5), d_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Apply layer i to x[i] of (n_layers, B, d_in)."""
        return torch.baddbmm(self.bias[:, None], x, self.weight)

    def restrict(self, layers: Tensor | Sequence[int]) -> None:
        """Leave some of the layers only, in this order."""
        take_rows(self, layers, "weight", "bias")


class TaskLinear(StackedLinear):
    """One linear layer per task, for layers that the loss of their own task alone reaches.

    If other tasks read its outputs too, as in a cross-stitch network, use a `StackedLinear`.
    """

    task_specific = True  # gradient balancing leaves its parameters to their own tasks

    def forward(self, x: Tensor, own: RowOwners | None = None) -> Tensor:
        """Apply layer t to x[t] of (T, B, d_in), or to (B, d_in) the layer of every row's own task."""
        if own is None:
            return super().forward(x)
        return own.linear(x, self.weight[:, None], self.bias[:, None])


def with_classes(weights: Tensor, width: int) -> Tensor:
    """Return weights (..., width) of a last layer, given those of fewer classes; new ones begin as their mean."""
    new = weights.mean(dim=-1, keepdim=True)
    return torch.cat([weights, new.expand(*weights.shape[:-1], width - weights.shape[-1])], dim=-1)


class Towers(Widened):
    """The heads of all tasks, each Linear(d_in, hidden), ReLU, dropout, Linear(hidden, width).

    Tasks of equal width share a batched product, so no head is padded. Members share the hidden layer of a head; its
    last layer is every member's own.

    Parameters
    ----------
    d_in : int
        Width of the features.
    widths : sequence of int
        Number of scores of each task.
    hidden : int or None, default=64
        Width of the hidden layer; 0 or None leaves one linear layer per task.
    dropout : float, default=0.0
        Share of hidden values dropped in training.
    n_members : int, default=1
        Number k of members, see :class:`Members`.

    Examples
    --------
    >>> import torch
    >>> [scores.shape[1] for scores in Towers(8, [1, 5])(torch.zeros(3, 8))]
    [1, 5]
    """

    def __init__(
        self, d_in: int, widths: Sequence[int], *, hidden: int | None = 64, dropout: float = 0.0, n_members: int = 1
    ) -> None:
        super().__init__()
        self.n_tasks, self.n_members, self._widths = len(widths), n_members, tuple(widths)
        self.hidden = TaskLinear(self.n_tasks, d_in, hidden) if hidden else None
        self.dropout = Dropout(dropout)
        self._merged: tuple[Tensor, Tensor] | None = None
        self._groups = by_width(widths)
        self.out = nn.ModuleList(
            TaskLinear(len(group) * n_members, hidden or d_in, widths[group[0]]) for group in self._groups
        )

    def widen(self, n_networks: int) -> None:
        """Take the heads of K networks as those of K T tasks."""
        super().widen(n_networks)
        widths = self._widths * n_networks
        self.n_tasks, self._groups = len(widths), by_width(widths)

    def restrict(self, tasks: Sequence[int]) -> None:
        """Leave the heads of some tasks only, in this order."""
        place = {
            t: (layer, k) for group, layer in zip(self._groups, self.out, strict=True) for k, t in enumerate(group)
        }
        self.n_tasks, self._widths = len(tasks), tuple(self._widths[t] for t in tasks)
        if self.hidden is not None:
            self.hidden.restrict(tasks)
        self._groups, kept = by_width(self._widths), []
        for group in self._groups:
            layer: Any = place[tasks[group[0]]][0]
            members = range(self.n_members)
            layer.restrict([place[tasks[t]][1] * self.n_members + m for t in group for m in members])
            kept.append(layer)
        self.out = nn.ModuleList(kept)

    def grown_layers(self, before: Towers, layers: Sequence[Any]) -> list[Tensor]:
        """Return weights (G k, ..., width) of the last layers of these heads, given those of heads with fewer classes.

        Parameters
        ----------
        before : Towers
            Of the same tasks.
        layers : sequence of Tensor
            Weights or biases of its last layers.
        """
        of_task: dict[int, Tensor] = {}
        for group, layer in zip(before._groups, layers, strict=True):
            of_task.update(zip(group, layer.unflatten(0, (-1, before.n_members)).unbind(), strict=True))
        return [torch.cat([with_classes(of_task[t], self._widths[t]) for t in group]) for group in self._groups]

    @property
    def d_in(self) -> int:
        """Width of the features."""
        return next(self.parameters()).shape[1]

    def layers_of_tasks(self) -> list[tuple[str, int, str, tuple[int, ...]]]:
        """Return for every task the name of its hidden layer, its place there, and name and places of its last one.

        A last layer has a place for every member. There is nothing without hidden layers.
        """
        if self.hidden is None:
            return []
        found = {
            t: ("hidden", t, f"out.{g}", tuple(range(k * self.n_members, (k + 1) * self.n_members)))
            for g, group in enumerate(self._groups)
            for k, t in enumerate(group)
        }
        return [found[t] for t in range(self.n_tasks)]

    def merge(self) -> None:
        """Keep the hidden layers of each of K networks as one too, whose tasks may share features, to answer rows.

        The weights must stay as they are then.
        """
        if self.hidden is None or self.hidden.weight.shape[2] < _LEAST_MERGED:
            return
        weight, bias = (own.unflatten(0, (self.n_networks or 1, -1)) for own in self.hidden.parameters())
        self._merged = weight.detach().transpose(1, 2).flatten(2), bias.detach().flatten(1)[:, None]

    def forward(self, z: Tensor, own: RowOwners | None = None) -> list[Tensor]:
        """Score features shared by all tasks (B, d_in) or each task's own (B, T, d_in).

        Parameters
        ----------
        z : Tensor of shape (B, d_in) or (B, T, d_in)
            Features; (B, d_in) where ``own`` is given, and (B, K, d_in) where the tasks of each of K networks share
            them. With members k B in place of B.
        own : RowOwners, optional
            The own task of every row. All tasks then have one width.

        Returns
        -------
        list of Tensor
            (B, width), or with members (B, k, width), per task, in task order; with ``own``, one tensor that holds each
            row's own scores.
        """
        if own is not None:
            return [self._score_own(self.represent(z, own), own)]
        return self.score(self.represent(z))

    def represent(self, z: Tensor, own: RowOwners | None = None) -> Tensor:
        """Return what the last layers read, (T, B, hidden), or with ``own`` (B, hidden), given what `forward` takes."""
        if own is not None:
            return z if self.hidden is None else self.dropout(F.relu(self.hidden(z, own), inplace=True))
        z = z.transpose(0, 1) if z.ndim == 3 else z.expand(self.n_tasks, *z.shape)  # (T, B, d_in), or (K, B, d_in)
        n_sharing = self.n_tasks // len(z)
        if n_sharing > 1 and self._merged is not None:
            weight, bias = self._merged
            return torch.baddbmm(bias, z, weight).relu_().unflatten(2, (n_sharing, -1)).transpose(1, 2).flatten(0, 1)
        z = z if n_sharing == 1 else z.repeat_interleave(n_sharing, dim=0)
        return z if self.hidden is None else self.dropout(F.relu(self.hidden(z), inplace=True))

    def score(self, z: Tensor) -> list[Tensor]:
        """Return the scores of every task, as `forward` does, given what `represent` returns."""
        scores: dict[int, Tensor] = {}
        for group, layer in zip(self._groups, self.out, strict=True):
            of_group = z if len(group) == self.n_tasks else torch.stack([z[t] for t in group])
            scores.update(zip(group, self._score(of_group, layer).unbind(), strict=True))
        return [scores[t] for t in range(self.n_tasks)]

    def _score(self, z: Tensor, layer: nn.Module) -> Tensor:
        """Score the features of some tasks, (G, k B, h) to (G, B, k, width)."""
        if self.n_members == 1:
            return layer(z)
        shape = (len(z), self.n_members)
        return layer(z.unflatten(1, (shape[1], -1)).flatten(0, 1)).unflatten(0, shape).transpose(1, 2)

    def _score_own(self, z: Tensor, own: RowOwners) -> Tensor:
        """Score features (k B, h) of every row's own task, to (B, k, width)."""
        k = self.n_members
        layer: Any = self.out[0]
        if k == 1:
            return layer(z, own)
        z = z.unflatten(0, (k, -1)).transpose(0, 1).flatten(1)  # (B, k h)
        weight, bias = (parameter.unflatten(0, (-1, k)) for parameter in (layer.weight, layer.bias))
        return own.first(k).linear(z, weight, bias).unflatten(1, (k, -1))


def by_width(widths: Sequence[Any]) -> list[list[int]]:
    """Return the numbers of the tasks of every width, the least first."""
    return [[t for t, w in enumerate(widths) if w == width] for width in sorted(set(widths))]
