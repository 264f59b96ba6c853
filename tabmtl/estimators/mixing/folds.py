"""Folds of rows, by which every model answers rows that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tabmtl.model_selection.stratify import Strata, deal_groups, deal_rows, number_units
from tabmtl.targets import Task


def deal(
    y: np.ndarray,
    tasks: Sequence[Task],
    task: np.ndarray | None,
    group: np.ndarray | None,
    n_folds: int,
    seed: int,
) -> np.ndarray:
    """Deal rows, or their groups, to folds (n,), so that every fold has its share of the labels of every task."""
    strata, rng = Strata.of(y, tasks, task), np.random.default_rng(seed)
    unit = np.arange(len(y)) if group is None else number_units(group, tasks)
    n_folds = min(int(unit.max()) + 1, n_folds)
    shares = np.full(n_folds, 1 / n_folds)
    return deal_rows(strata, shares, rng) if group is None else deal_groups(strata, unit, shares, rng)
