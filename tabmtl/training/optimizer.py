"""Optimiser of a whole network: dense parameters, tables with few rows per step, and the average of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.adamw import adamw

from tabmtl.base.ranks import ALONE, Ranks
from tabmtl.nn.embeddings import FeatureTokenizer
from tabmtl.nn.experts import LayerNorm
from tabmtl.training.checkpoint import check_like

_TABLE_RATE = 25  # times the learning rate; see the class
_EPSILON = 1e-8
PLATEAU_FACTOR = 1 / 3  # of the learning rate at a plateau
_SWAPPED = 2**22  # weights that are swapped at once
_UNDECAYED = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, LayerNorm)


class Optimizer:
    """AdamW for dense parameters, row-wise Adagrad for tables with sparse gradients, and a moving average of both.

    Dense parameters are stepped by AdamW. Its weight decay is of matrices that are called ``weight``: not of biases,
    normalisation, embeddings of columns, and vectors with names of their own, such as task tokens. A table with
    sparse gradients (`tabmtl.nn.embeddings.CategoricalEmbedding` makes one of a table of many rows) is stepped in the
    rows that a batch has touched and nowhere else,

        G_r <- G_r + mean(g_r²),    w_r <- w_r - 25 lr g_r / (sqrt(G_r) + 1e-8),

    with one number G_r a row and no weight decay. Its rate is a multiple of AdamW's, since AdamW moves a rare row
    on for many steps after its gradient, in all about 30 times as far as the first of them.

    The average of all weights, a <- d a + (1 - d) w with d = min(``average_decay``, (1 + t) / (10 + t)) after step t,
    is exact for tables too: a row whose weight has stood still is caught up when it is touched next, or read; a second
    number a row says how far it has come.

    Parameters
    ----------
    network : torch.nn.Module
    weight_decay : float
        Weight decay of AdamW.
    average_decay : float
        Decay of the average; 0 makes it the weights themselves.
    clip_norm : float, optional
        Bound on the length of the gradient of all dense parameters together; a longer one is shortened to it.
    group : Ranks, optional
        Processes that take the same steps, along the sum of their gradients.
    n_networks : int, default=1
        Networks that are one by `tabmtl.nn.joined`. Each takes steps by itself, at its rate, with its gradient clipped.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        weight_decay: float,
        average_decay: float,
        clip_norm: float | None = None,
        group: Ranks = ALONE,
        n_networks: int = 1,
    ) -> None:
        sparse = [m.weight for m in network.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse]
        dense = [p for p in network.parameters() if p.requires_grad and not any(p is table for table in sparse)]
        self._group = group
        self._tables = [_Table(table, group) for table in sparse]
        self._adam = _AdamW(decay_groups(network, dense, weight_decay))
        self._dense, self._clip_norm = dense, clip_norm
        self._weights = [p.detach() for p in dense]
        self._average = [weight.clone() for weight in self._weights]
        self._average_decay = average_decay
        self._steps, self._log_decay, self._factors = 0, 0.0, [1.0] * n_networks

    def step(self, learning_rate: float) -> None:
        """Move the weights along their gradients, clear these, and update the average."""
        if self._group.size > 1:
            self._sum_gradients()
        if self._clip_norm is not None and len(self._factors) == 1:
            nn.utils.clip_grad_norm_(self._dense, self._clip_norm)
        elif self._clip_norm is not None:
            _clip_apart(self._dense, self._clip_norm, len(self._factors))
        self._adam.step(learning_rate, self._factors)
        self._steps += 1
        decay = averaging_decay(self._average_decay, self._steps)
        torch._foreach_lerp_(self._average, self._weights, 1 - decay)
        before, self._log_decay = self._log_decay, self._log_decay + math.log(decay)
        for table in self._tables:
            table.step(_TABLE_RATE * (learning_rate * self._factors[0]), before, self._log_decay)

    def _sum_gradients(self) -> None:
        """Sum the gradients of all ranks, in one bucket; who has none says so by the last numbers."""
        present = self._weights[0].new_tensor([float(p.grad is not None) for p in self._dense])
        own = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in self._dense]
        bucket = self._group.sum(torch.cat([*own, present]))
        *parts, present = bucket.split([*(p.numel() for p in self._dense), len(self._dense)])
        for p, part, is_present in zip(self._dense, parts, present.tolist(), strict=True):
            p.grad = part.view_as(p) if is_present else None

    def restart(self, number: int = 0) -> None:
        """Go on from the weights that a network was given, as their own average, with a third of the rate."""
        self._factors[number] *= PLATEAU_FACTOR
        n = len(self._factors)
        for average, weight in zip(self._average, self._weights, strict=True):
            _part(average, n, number).copy_(_part(weight, n, number))
        for table in self._tables:
            table.restart(self._log_decay)

    @torch.no_grad()
    def keep(self, numbers: Sequence[int]) -> None:
        """Leave some of the networks, whose weights the parameters already are."""
        n = len(self._factors)
        self._average = [_kept(average, n, numbers) for average in self._average]
        self._adam.keep(n, numbers)
        self._weights = [p.detach() for p in self._dense]
        self._factors = [self._factors[k] for k in numbers]

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on, besides the weights of the network."""
        return {
            "adam": self._adam.state(),
            "average": self._average,
            "tables": [table.state() for table in self._tables],
            "steps": self._steps,
            "log_decay": self._log_decay,
            "factor": self._factors[0],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, whose arrays are of numpy."""
        check_like(state, self.state() | {"adam": self._adam.like(state["adam"])}, "its optimizer")
        self._adam.restore(state["adam"])
        copy_arrays(self._average, state["average"])
        for table, of_table in zip(self._tables, state["tables"], strict=True):
            table.restore(of_table)
        self._steps, self._log_decay, self._factors = state["steps"], state["log_decay"], [state["factor"]]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the network inside, in exchange for its own."""
        for table in self._tables:
            table.catch_up(self._log_decay)
        weights = [*self._weights, *(table.weight for table in self._tables)]
        average = [*self._average, *(table.average for table in self._tables)]
        _swap(weights, average)
        try:
            yield
        finally:
            _swap(weights, average)


class _AdamW:
    """AdamW by the fused kernel of torch. The class of torch would load its compiler: two seconds of a first fit.

    Parameters
    ----------
    groups : sequence of (list of Parameter, float)
        Parameters and their weight decay. They are numbered through all groups.
    """

    def __init__(self, groups: Sequence[tuple[list[nn.Parameter], float]]) -> None:
        self._groups = groups
        self._parameters = [p for parameters, _ in groups for p in parameters]
        self.moments: dict[nn.Parameter, dict[str, Tensor]] = {}  # of parameters that had a gradient

    @torch.no_grad()
    def step(self, learning_rate: float, factors: Sequence[float]) -> None:
        """Move parameters along their gradients, those of each network at its factor of the rate, and clear these."""
        for parameters, weight_decay in self._groups:
            moved = [[p, p.grad, *self.moments_of(p).values()] for p in parameters if p.grad is not None]
            if len({*factors}) == 1:
                _move_by_adamw(moved, learning_rate * factors[0], weight_decay)
            else:
                _move_apart(moved, learning_rate, factors, weight_decay)
        for p in self._parameters:
            p.grad = None

    def keep(self, n: int, numbers: Sequence[int]) -> None:
        """Leave the moments of some of n networks."""
        for moments in self.moments.values():
            for kind in ("exp_avg", "exp_avg_sq"):
                moments[kind] = _kept(moments[kind], n, numbers)

    def moments_of(self, p: nn.Parameter) -> dict[str, Tensor]:
        if p not in self.moments:
            step = torch.zeros((), dtype=torch.float32, device=p.device)
            self.moments[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        return self.moments[p]

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the moments of parameters, by their numbers."""
        return {str(i): self.moments[p] for i, p in enumerate(self._parameters) if p in self.moments}

    def like(self, state: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
        """Begin with moments of 0 for the parameters in a state, and return these."""
        numbers = {str(i): p for i, p in enumerate(self._parameters)}
        return {number: self.moments_of(numbers[number]) for number in state if number in numbers}

    def restore(self, state: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Go on from moments of numpy, by the numbers of their parameters."""
        self.moments.clear()
        for number, moments in self.like(state).items():
            copy_arrays(list(moments.values()), [state[number][name] for name in moments])


def _clip_apart(parameters: Sequence[nn.Parameter], most: float, n: int) -> None:
    """Shorten the gradient of each of n networks that is longer."""
    gradients = [p.grad.view(n, -1) for p in parameters if p.grad is not None]
    lengths = torch.stack([torch.linalg.vector_norm(own, dim=1) for own in gradients])
    factors = (most / (torch.linalg.vector_norm(lengths, dim=0) + 1e-6)).clamp_(max=1.0)
    if (factors < 1).any():
        for own in gradients:
            own.mul_(factors[:, None])


def _part(tensor: Tensor, n: int, number: int) -> Tensor:
    """Return the part of a tensor that belongs to one of n networks."""
    return tensor if n == 1 else tensor.unflatten(0, (n, -1))[number]


def _kept(tensor: Tensor, n: int, numbers: Sequence[int]) -> Tensor:
    """Return the parts of a tensor that belong to some of n networks."""
    return tensor.unflatten(0, (n, -1))[[*numbers]].flatten(0, 1)


def _move_apart(
    moved: Sequence[Sequence[Tensor]], learning_rate: float, factors: Sequence[float], weight_decay: float
) -> None:
    """Move the weights of each network at its factor of the rate, as `_move_by_adamw` does."""
    for factor in {*factors}:
        parts = []
        for number, own in enumerate(factors):
            if own == factor:
                for weight, gradient, step, *moments in moved:
                    part, *others = (_part(each, len(factors), number) for each in (weight, gradient, *moments))
                    parts.append([part, others[0], step.clone(), *others[1:]])
        _move_by_adamw(parts, learning_rate * factor, weight_decay)
    for _, _, step, *_ in moved:
        step += 1


def _move_by_adamw(moved: Sequence[Sequence[Tensor]], learning_rate: float, weight_decay: float) -> None:
    """Move weights along their gradients; each comes with its gradient, the number of its steps, and its moments."""
    if not moved:
        return
    weights, gradients, steps, means, squares = (list(part) for part in zip(*moved, strict=True))
    adamw(
        weights,
        gradients,
        means,
        squares,
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=learning_rate,
        weight_decay=weight_decay,
        eps=_EPSILON,
        maximize=False,
    )


def _swap(first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    """Swap the values of tensors, some at a time: a copy of all would take the memory of the weights once more."""
    if sum(one.numel() for one in first) > _SWAPPED and (len(first) > 1 or len(first[0]) > 1):
        if len(first) == 1:
            first, second = first[0].chunk(2), second[0].chunk(2)
        half = len(first) // 2
        _swap(first[:half], second[:half])
        _swap(first[half:], second[half:])
        return
    own = [one.clone() for one in first]
    torch._foreach_copy_([*first], [*second])
    torch._foreach_copy_([*second], own)


def averaging_decay(most: float, steps: int) -> float:
    """Return the decay of the average of weights after some steps: less in the first ones."""
    return max(min(most, (1 + steps) / (10 + steps)), 1e-30)


class _Table:
    """Table with sparse gradients: its Adagrad state, and its average as of every row's own last step."""

    def __init__(self, parameter: Tensor, group: Ranks) -> None:
        self._group = group
        self.parameter, self.weight = parameter, parameter.detach()
        self.average = self.weight.clone()
        self.square = self.weight.new_zeros(len(self.weight))
        self._caught_up = self.weight.new_zeros(len(self.weight), dtype=torch.float64)  # sum of log decays by then

    def step(self, rate: float, log_before: float, log_after: float) -> None:
        """Take one step in the rows of the gradient; the sums of log decays are those before and after it."""
        gradient = self._gradient()
        if gradient is None:
            return
        rows, values = _sum_rows(gradient)
        square = self.square.index_select(0, rows).add_(values.square().mean(dim=1))
        weight, average = self.weight.index_select(0, rows), self.average.index_select(0, rows)
        stood_still = torch.exp(log_before - self._caught_up.index_select(0, rows)).to(weight.dtype)
        average.sub_(weight).mul_(stood_still[:, None]).add_(weight)
        weight.sub_(values.mul_((rate / (square.sqrt() + _EPSILON))[:, None]))
        average.lerp_(weight, 1 - math.exp(log_after - log_before))
        self.square.index_copy_(0, rows, square)
        self.weight.index_copy_(0, rows, weight)
        self.average.index_copy_(0, rows, average)
        self._caught_up.index_fill_(0, rows, log_after)

    def _gradient(self) -> Tensor | None:
        """Take the gradient from the parameter; of a group, the sum of those of all ranks, which touch other rows."""
        gradient, self.parameter.grad = self.parameter.grad, None
        if self._group.size == 1:
            return gradient
        own = None
        if gradient is not None:
            rows, values = _sum_rows(gradient)
            own = rows.cpu(), values.cpu()
        found = [part for part in self._group.gather(own) if part is not None]
        if not found:
            return None
        rows, values = (torch.cat(part).to(self.weight.device) for part in zip(*found, strict=True))
        return torch.sparse_coo_tensor(rows[None], values, self.weight.shape, check_invariants=False)

    def state(self) -> list[Tensor]:
        return [self.average, self.square, self._caught_up]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        copy_arrays(self.state(), arrays)

    def restart(self, log_now: float) -> None:
        """Make the weights of this step their own average."""
        self.average.copy_(self.weight)
        self._caught_up.fill_(log_now)

    def catch_up(self, log_now: float) -> None:
        """Update the average of all rows to this step."""
        stood_still = torch.exp(log_now - self._caught_up).to(self.weight.dtype)
        self.average.sub_(self.weight).mul_(stood_still[:, None]).add_(self.weight)
        self._caught_up.fill_(log_now)


def copy_arrays(tensors: Sequence[Tensor], arrays: Sequence[np.ndarray]) -> None:
    """Copy arrays into tensors of the same shapes."""
    for tensor, array in zip(tensors, arrays, strict=True):
        tensor.copy_(torch.tensor(array))


def decay_groups(
    network: nn.Module, dense: list[nn.Parameter], weight_decay: float
) -> list[tuple[list[nn.Parameter], float]]:
    """Deal parameters to those with weight decay and those without."""
    tokenizers = [m for m in network.modules() if isinstance(m, FeatureTokenizer)]
    embeddings = {id(p) for m in tokenizers for p in m.parameters()}
    embeddings -= {id(p) for m in tokenizers if m.vectors is not None for p in m.vectors.parameters()}
    weights = {id(m.weight) for m in network.modules() if hasattr(m, "weight") and not isinstance(m, _UNDECAYED)}
    decayed, others = list[nn.Parameter](), list[nn.Parameter]()
    for p in dense:
        is_decayed = p.ndim > 1 and id(p) in weights and id(p) not in embeddings
        (decayed if is_decayed else others).append(p)
    return [(decayed, weight_decay), (others, 0.0)]


def _sum_rows(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a sparse gradient, each once and in order, and their values (R, e)."""
    if gradient.device.type != "cpu":
        gradient = gradient.coalesce()
        return gradient.indices()[0], gradient.values()
    # torch's coalesce is several times slower: sort (row, place) as one number
    rows, values = gradient._indices()[0], gradient._values()
    keys = (rows << 32) + torch.arange(len(rows))
    keys.numpy().sort()
    order, rows = keys & 0xFFFFFFFF, keys >> 32
    new = torch.ones(len(rows), dtype=torch.bool)
    new[1:] = rows[1:] != rows[:-1]
    first = new.nonzero()[:, 0]
    return rows[first], F.embedding_bag(order, values, first, mode="sum")
