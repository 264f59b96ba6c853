"""The widths with the least loss within a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl

from tabmtl.nn.units import cut, head_multiply_adds, multiply_adds
from tabmtl.params import check_share, is_number, near
from tabmtl.slimming.shares import Shares, kept_by

_DIVERGED = 1e9  # excess of a network whose loss is not finite, which is taken where nothing else is within a budget


@dataclass(frozen=True, eq=False)
class Choices:
    """Widths that may be chosen, with what they cost.

    Attributes
    ----------
    shares : list of float
        S shares, rising.
    names : list of str
        Names of the T tasks.
    excess : ndarray of shape (S, S, T)
        Loss of a task beyond that of the whole network, over the size of the latter, by the shared share and by its
        own; of a task without labels, the mean of the others.
    shared_cost : ndarray of int64, of shape (S,)
        Multiplications of a row outside of heads; in a long table, 0.
    head_cost : ndarray of int64, of shape (S, S, T)
        Those with the weights of each head, by the shared share and by its own; in a long table, where tasks have one
        share, of shape (S, S, 1): all of a row.
    is_long : bool
        Whether all tasks have one share.
    """

    shares: list[float]
    names: list[str]
    excess: np.ndarray
    shared_cost: np.ndarray
    head_cost: np.ndarray
    is_long: bool

    @classmethod
    def of(cls, network: Any, losses: pl.DataFrame, *, is_long: bool) -> Choices:
        """Return the choices of a network with measured losses."""
        shares, names = losses["shared"].unique().sort().to_list(), losses["task"].unique(maintain_order=True).to_list()
        n = len(shares)
        found = losses["loss"].fill_null(math.nan).to_numpy().reshape(n, n, len(names))
        whole = found[-1, -1]
        excess = (found - whole) / np.maximum(np.abs(whole), 1e-12)
        excess = np.nan_to_num(excess, nan=_DIVERGED, posinf=_DIVERGED)
        has_labels = ~np.isnan(whole)
        of_others = excess[:, :, has_labels].mean(axis=2, keepdims=True) if has_labels.any() else 0.0
        excess = np.where(has_labels, excess, of_others)
        shared_cost = np.zeros(n, dtype=np.int64)
        head_cost = np.zeros((n, n, 1 if is_long else len(names)), dtype=np.int64)
        for s, shared in enumerate(shares):
            for c, own in enumerate(shares):
                groups = network.units()
                smaller = cut(network, groups, kept_by(groups, Shares(shared, (own,) * len(names))))
                total = multiply_adds(smaller, is_long=is_long)
                heads = [total] if is_long else head_multiply_adds(smaller.heads) or [0] * len(names)
                head_cost[s, c] = heads
                shared_cost[s] = total - sum(heads)
        return cls(shares, names, excess, shared_cost, head_cost, is_long)

    def best(self, budget: float, prefer: Mapping[str, float] | None) -> Shares:
        """Return the shares with the least sum of losses within a budget.

        Parameters
        ----------
        budget : float
            Share of the multiplications of the whole network.
        prefer : mapping of str to float, optional
            Weights of the losses of tasks; others have 1.

        Raises
        ------
        ValueError
            If no choice is within the budget, or a weight does not fit.
        """
        weight = self._weights(prefer)
        check_share("budget", budget, whole=True)
        whole = int(self.shared_cost[-1] + self.head_cost[-1, -1].sum())
        most = math.floor(Fraction(str(budget)) * whole)  # 0.29 of 100 is 29, which floats miss
        least = int((self.shared_cost + self.head_cost.min(axis=1).sum(axis=1)).min())
        if least > most:
            raise ValueError(
                f"budget={budget} is below the smallest network, which takes {-(-least * 1000 // whole) / 1000} of the "
                f"multiplications of the whole one at slim={tuple(self.shares)}; raise the budget, or fit with smaller "
                "shares in slim"
            )
        return self._solve(most, weight)

    def _solve(self, most: int, weight: np.ndarray) -> Shares:
        """Choose a shared share, and one for each head: of all within the budget, by the loss and then by the cost."""
        loss = self.excess * weight
        if self.is_long:
            loss = loss.sum(axis=2, keepdims=True)
        found = []
        for s, shared in enumerate(self.shares):
            sums = _least_sums(self.head_cost[s], loss[s], most - int(self.shared_cost[s]))
            if sums is not None:
                of_all, cost, own = sums
                found.append((of_all, int(self.shared_cost[s]) + cost, shared, own))
        _, _, shared, own = min(found)
        tasks = tuple(self.shares[c] for c in own)
        return Shares(shared, tasks * len(self.names) if self.is_long else tasks)

    def _weights(self, prefer: Mapping[str, float] | None) -> np.ndarray:
        """Return the weights (T,) of the tasks."""
        given = {} if prefer is None else prefer
        if not isinstance(given, Mapping):
            raise ValueError(
                f"prefer must map names of tasks to weights, such as {{{self.names[0]!r}: 2}}, got {prefer!r}"
            )
        for name, weight in given.items():
            if name not in self.names:
                raise ValueError(
                    f"prefer names no task {name!r}{near(str(name), self.names)}; the tasks are {self.names}"
                )
            if not is_number(weight) or not 0 <= weight < math.inf:
                raise ValueError(
                    f"prefer: the weight of {name!r} must be a finite number of at least 0, got {weight!r}"
                )
        found = np.array([float(given.get(name, 1.0)) for name in self.names])
        if not found.any():
            raise ValueError(f"prefer gives every task the weight 0, got {prefer!r}; one task at least must count")
        return found


def _least_sums(cost: np.ndarray, loss: np.ndarray, most: int) -> tuple[float, int, list[int]] | None:
    """Choose a row in each column with the least sum of losses, and among these of costs, within a sum of costs.

    Column by column, those sums stay that no other beats in both.

    Parameters
    ----------
    cost, loss : ndarray of shape (S, T)
        Costs are whole numbers.
    most : int

    Returns
    -------
    loss, cost, rows : (float, int, list of int), or None where nothing is within the costs
    """
    costs, losses, rows = np.zeros(1, dtype=np.int64), np.zeros(1), np.zeros((1, 0), dtype=np.int64)
    for own_cost, own_loss in zip(cost.T, loss.T, strict=True):
        before, own = (places.ravel() for places in np.indices((len(costs), len(own_cost))))
        costs, losses = costs[before] + own_cost[own], losses[before] + own_loss[own]
        order = np.lexsort((losses, costs))
        order = order[costs[order] <= most]
        least_so_far = np.minimum.accumulate(np.append(np.inf, losses[order]))
        order = order[losses[order] < least_so_far[:-1]]
        costs, losses = costs[order], losses[order]
        rows = np.column_stack([rows[before[order]], own[order]])
    return None if len(costs) == 0 else (float(losses[-1]), int(costs[-1]), rows[-1].tolist())
