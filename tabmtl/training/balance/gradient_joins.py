"""Joins of gradients: one update of the gradients of several tasks, by their inner products.

Shapes: n active tasks, P numbers in a gradient. `tabmtl.training.balance` has the formulas and their sources.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tabmtl.processes.ranks import ALONE, Ranks

_MGDA_GAP, _MGDA_MAX_STEPS = 1e-6, 1_000
_RANK_TOLERANCE = 1e-6  # gradients in float32 know no smaller eigenvalue
_EPS = 1e-12

Aggregate = Callable[[Tensor], Tensor]


def normalize_rows(rows: Tensor, group: Ranks = ALONE) -> Tensor:
    """Scale all rows (n, P) to one length, the mean of their lengths; zero rows stay zero.

    In a group, here and in the joins, ranks hold parts of the rows, of other numbers of columns.
    """
    if group.size == 1:
        norms = rows.norm(dim=1, keepdim=True)
    else:
        norms = group.sum(rows.square().sum(dim=1, keepdim=True)).sqrt()
    return rows * (norms.mean() / (norms + _EPS))


def pcgrad(rows: Tensor, group: Ranks = ALONE) -> Tensor:
    """Sum the rows (n, P), each without its conflict with another (Yu et al., 2020).

    From a row g_i, for every other row g_j in random order, its part along g_j is taken away where their inner
    product is negative. The order comes from torch's global generator.
    """
    return _combined(rows, _pcgrad_weights, group)


def _pcgrad_weights(gramian: Tensor) -> Tensor:
    # every row is a combination of all: line i of the mix; all rows meet their k-th other row together
    n = len(gramian)
    mix = torch.eye(n, dtype=gramian.dtype)
    orders = torch.stack([torch.randperm(n) for _ in range(n)], dim=1)
    lines = torch.arange(n)
    for others in orders:
        inner = (mix * gramian[others]).sum(dim=1)
        conflicts = (inner < 0) & (others != lines)
        mix[lines, others] -= torch.where(conflicts, inner / gramian.diagonal()[others], 0.0)
    return mix.sum(dim=0)


def mgda(rows: Tensor, group: Ranks = ALONE) -> Tensor:
    """Return the shortest of the weighted means of the rows (n, P) (Désidéri, 2012; Sener and Koltun, 2018).

    A mean, not a sum: the update is at most as long as the shortest row.
    """
    return _combined(rows, _mgda_weights, group)


def _mgda_weights(gramian: Tensor) -> Tensor:
    """Run Frank-Wolfe, which each time moves weight from the row that costs most to the one that costs least."""
    weights = torch.full((len(gramian),), 1 / len(gramian), dtype=gramian.dtype)
    smallest = gramian.diagonal().min()
    for _ in range(_MGDA_MAX_STEPS):
        slope = gramian @ weights
        low, high = slope.argmin(), torch.where(weights > 0, slope, -torch.inf).argmax()
        gap = slope[high] - slope[low]
        if gap <= _MGDA_GAP * smallest:
            break
        curvature = gramian[low, low] + gramian[high, high] - 2 * gramian[low, high]
        step = torch.minimum(gap / curvature.clamp(min=_EPS * smallest), weights[high])
        weights[low] += step
        weights[high] -= step
    return weights


def imtl_g(rows: Tensor, group: Ranks = ALONE) -> Tensor:
    """Return the weighted sum of the rows (n, P) with equal projections on all of them (Liu et al., 2021).

    The absolute weights sum to 1. The paper lets the weights themselves sum to 1: the same where none is negative,
    and uphill for every task where their sum is.
    """
    return _combined(rows, _imtl_g_weights, group)


def _imtl_g_weights(gramian: Tensor) -> Tensor:
    norms = gramian.diagonal().sqrt()
    cosines = gramian / norms / norms[:, None]
    weights = torch.linalg.pinv(cosines, rtol=_RANK_TOLERANCE, hermitian=True).sum(dim=1) / norms
    return weights / (weights.abs().sum() + _EPS / norms.min())


def _combined(rows: Tensor, weigh: Callable[[Tensor], Tensor], group: Ranks) -> Tensor:
    """Return a weighted sum of rows, weighted by their inner products; a zero row does not count."""
    gramian = group.sum((rows @ rows.T).double().cpu())
    live = gramian.diagonal() > 0
    weights = gramian.new_zeros(len(rows))
    if live.any():
        weights[live] = weigh(gramian[live][:, live])
    return weights.to(rows) @ rows


def join_all(aggregate: Aggregate, rows: Tensor, group: Ranks = ALONE) -> Tensor:
    """Return this rank's part of a join of the whole rows, by any aggregator."""
    if group.size == 1:
        return aggregate(rows)
    parts = [part.to(rows.device) for part in group.gather(rows.cpu())]
    joined = aggregate(torch.cat(parts, dim=1))
    first = sum(part.shape[1] for part in parts[: group.rank])
    return joined[first : first + rows.shape[1]]


#: Joins of gradients, by the name of their method.
GRADIENT_JOINS: dict[str, Callable[..., Tensor]] = {"pcgrad": pcgrad, "mgda": mgda, "imtl_g": imtl_g}
