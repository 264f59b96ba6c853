"""Sums of experts by gates that weigh a few of them: experts compute only the rows that chose them.

Shapes: B rows, G gates, E experts of width H; P places, those of the rows of one expert after those of another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tabmtl.nn.experts import Experts, Gates, mix
from tabmtl.nn.layers import Boundary, RowOwners

_MOST_CHOSEN = 0.5  # share of the experts; with more, one product of all takes about as long
_ROW_MULTIPLE, _LEAST_ROWS = 8, 16  # of an expert, so that no product rounds a row by the number of the others


def weighed(
    gates: Sequence[Gates],
    weights: Tensor,
    experts: Experts,
    inputs: Sequence[Tensor],
    output: Boundary,
    owners: Sequence[RowOwners] | None = None,
) -> Tensor:
    """Sum the outputs of experts by the weights of gates.

    In evaluation, an expert computes no row for which its weights are 0, if gates leave out many experts. Whether they
    do is told by their form, not by the rows, since the two ways round differently.

    Parameters
    ----------
    gates : sequence of Gates
        That gave the weights: one, or several whose weights are added.
    weights : Tensor of shape (B, G, E)
    experts : Experts
    inputs : sequence of Tensor of shape (B, D)
        Those of the experts.
    output : Boundary
        After the experts.
    owners : sequence of RowOwners, optional
        Those of the experts; then all experts of a row's owners are computed.

    Returns
    -------
    Tensor of shape (B, G, H)
    """
    if owners is None and leaves_out(gates, experts, weights.shape):
        return mix_chosen(weights, experts, inputs)
    return mix(weights, output(experts(inputs, owners)), experts.n_networks)


@contextmanager
def all_computed(network: nn.Module) -> Iterator[None]:
    """Let the experts of a network compute all rows inside, also those without weight."""
    found = [module for module in network.modules() if isinstance(module, Experts)]
    for experts in found:
        experts.computes_all = True
    try:
        yield
    finally:
        for experts in found:
            experts.computes_all = False


def leaves_out(gates: Sequence[Gates], experts: Experts, shape: Sequence[int]) -> bool:
    """Tell whether gates of a shape (B, G, ...) choose so few experts for a row that the others are left out."""
    if all(own.top_k is None for own in gates) or experts.computes_all or experts.n_networks is not None:
        return False
    if torch.compiler.is_exporting() or not shape[0] or any(part.training for part in (experts, *experts.norms)):
        return False
    of_a_row = shape[1] / len(gates[0].gate_names)  # less than 1 where a row has the gates of its own task only
    chances = [math.prod(chances) ** of_a_row for chances in zip(*(own.left_out for own in gates), strict=True)]
    return 1 - sum(chances) / len(chances) <= _MOST_CHOSEN


def mix_chosen(weights: Tensor, experts: Experts, inputs: Sequence[Tensor]) -> Tensor:
    """Return the sums (B, G, H), by products of each expert with the rows that a gate gives it a weight for."""
    n_rows, n_gates, n_experts = weights.shape
    used = (weights != 0).any(dim=1)
    counts = used.sum(dim=0).tolist()
    sizes = [max(_LEAST_ROWS, count + -count % _ROW_MULTIPLE) if count else 0 for count in counts]
    starts, ranks = (list(accumulate(numbers, initial=0))[:-1] for numbers in (sizes, counts))
    shift = torch.tensor([start - rank for start, rank in zip(starts, ranks, strict=True)], device=weights.device)
    expert, row = used.mT.nonzero().unbind(dim=1)
    place = torch.arange(len(row), device=row.device) + shift[expert]
    rows = row.new_zeros(sum(sizes)).index_copy(0, place, row)  # a place without a row takes the first one
    place_of = row.new_zeros(n_experts * n_rows).index_copy(0, expert * n_rows + row, place)
    chosen = weights.flatten().nonzero()[:, 0]  # in order of rows, of their gates, and of the experts of these
    bag, expert = chosen // n_experts, chosen % n_experts
    ends = (weights != 0).sum(dim=2).flatten().cumsum(0)
    mixed = F.embedding_bag(
        place_of[expert * n_rows + bag // n_gates],
        experts.apply_to(inputs, rows, sizes).to(weights.dtype),
        F.pad(ends[:-1], (1, 0)),
        mode="sum",
        per_sample_weights=weights.flatten()[chosen],
    )
    return mixed.unflatten(0, (n_rows, n_gates))
