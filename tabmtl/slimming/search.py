"""The widths with the least loss within a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tabmtl.nn.units import cut, head_multiply_adds, multiply_adds
from tabmtl.params import check_share, is_number, near
from tabmtl.slimming.shares import Shares, kept_by

_SPARE = 1e-9  # of a budget, so that rounding does not refuse the whole network


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
        Loss of a task beyond that of the whole network, over the latter, by the shared share and by its own.
    shared_cost : ndarray of shape (S,)
        Multiplications of a row outside of heads.
    head_cost : ndarray of shape (S, S, T)
        Those with the weights of each head, by the shared share and by its own.
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
        of_others = np.nanmean(excess, axis=2, keepdims=True) if np.isfinite(excess).any() else 0.0
        excess = np.where(np.isfinite(excess), excess, of_others)  # of a task without a label
        shared_cost, head_cost = np.zeros(n), np.zeros((n, n, len(names)))
        for s, shared in enumerate(shares):
            for c, own in enumerate(shares):
                groups = network.units()
                smaller = cut(network, groups, kept_by(groups, Shares(shared, (own,) * len(names))))
                heads = np.array(head_multiply_adds(smaller.heads) or [0] * len(names), dtype=float)
                head_cost[s, c] = heads / (len(names) if is_long else 1)
                shared_cost[s] = multiply_adds(smaller, is_long=is_long) - head_cost[s, c].sum()
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
        cost = self.shared_cost[:, None] + self.head_cost.sum(axis=2)
        whole = cost[-1, -1]
        check_share("budget", budget, whole=True)
        least = self.shared_cost + self.head_cost.min(axis=1).sum(axis=1)
        if least.min() > budget * whole * (1 + _SPARE):
            raise ValueError(
                f"budget={budget} is below the smallest network, which takes {_rounded_up(least.min() / whole)} of the "
                f"multiplications of the whole one at slim={tuple(self.shares)}; raise the budget, or fit with smaller "
                "shares in slim"
            )
        return self._solve(budget * whole * (1 + _SPARE), weight)

    def _solve(self, most: float, weight: np.ndarray) -> Shares:
        """Choose a shared share s, and for each task t a share c: a number of 0 or 1 for every s, and every (s, c, t).

        In a long table, the tasks are one.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp

        loss, cost, n = self.excess * weight, self.head_cost, len(self.shares)
        if self.is_long:
            loss, cost = loss.sum(axis=2, keepdims=True), cost.sum(axis=2, keepdims=True)
        n_tasks = loss.shape[2]
        every = np.arange(n * n * n_tasks).reshape(n, n, n_tasks)
        one_shared = np.concatenate([np.ones(n), np.zeros(every.size)])
        budget = np.concatenate([self.shared_cost, cost.ravel()]) / most
        one_each = np.zeros((n * n_tasks, n + every.size))
        for row, (s, t) in enumerate(np.ndindex(n, n_tasks)):
            one_each[row, s] = -1
            one_each[row, n + every[s, :, t]] = 1
        found = milp(
            np.concatenate([np.zeros(n), loss.ravel()]),
            integrality=np.ones(n + every.size),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_shared, 1, 1),
                LinearConstraint(budget, -np.inf, 1),
                LinearConstraint(one_each, 0, 0),
            ],
            options={"mip_rel_gap": 0.0},
        )
        s = int(np.argmax(found.x[:n]))
        own = np.argmax(found.x[n:].reshape(n, n, n_tasks)[s], axis=0)
        tasks = tuple(self.shares[c] for c in own)
        return Shares(self.shares[s], tasks * len(self.names) if self.is_long else tasks)

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
        return np.array([float(given.get(name, 1.0)) for name in self.names])


def _rounded_up(share: float) -> float:
    """Return a share that is allowed, in three digits."""
    return math.ceil(share * 1000) / 1000
