"""Trees of few rows: folds choose their size and number, and whether there are any."""

from __future__ import annotations

from typing import Any

import lightgbm as lgb
import numpy as np

from tabmtl.model_selection.stratify import Strata, deal_groups, deal_rows, number_units
from tabmtl.models.independent.grower import LEAST_TREES, Grower
from tabmtl.models.independent.rows import Sample
from tabmtl.targets import Task
from tabmtl.training.watch import Watch

_MOST_FOLDS = 10
#: Standard errors by which a constant must predict classes better than trees do: its ROC AUC is the worst there is, and
#: log loss tells little of the order. The R² of a constant is no worse than its loss.
_MARGIN = 2.0
#: Trees that one takes for few rows without any choice, about 60 of them.
_FIXED_TREES = {"num_leaves": 7, "min_child_samples": 20, "colsample_bytree": 1.0, "learning_rate": 0.05}


class Folds:
    """Ten folds of the rows of a task, or as many as there are rows or groups."""

    def __init__(self, grower: Grower, rows: Sample, seed: int) -> None:
        fold = _deal(rows, grower.task, seed)
        self._grower, self._rows = grower, rows
        self._pairs = [(rows.rows(fold != f), rows.rows(fold == f), fold == f) for f in range(fold.max() + 1)]

    def choose(self, own: dict[str, Any], large: dict[str, Any], watch: Watch) -> tuple[dict[str, Any] | None, bool]:
        """Choose options by the losses of all rows, each predicted without its own fold; None is a constant.

        Tell also whether trees are lost, where a constant answers several classes.

        Parameters
        ----------
        own : dict
            Options of the estimator's own trees.
        large : dict
            Options of trees with large leaves, which enough rows try too.
        watch : Watch
        """
        grower, rows = self._grower, self._rows
        options: dict[str, Any] | None = None
        least = np.full(len(rows), np.inf)
        for tried in _options(len(rows), own, large):
            rounds, losses = self._try(tried, watch)
            if losses.sum() < least.sum():
                least, options = losses, tried | {"num_iterations": rounds}
            if watch.was_cut:
                break
        for kept, held_out, at in self._pairs:
            least[at] -= grower.constant_losses(kept, held_out)
        excess = least if rows.group is None else np.bincount(rows.group, least)
        is_classification = grower.task.is_classification
        margin = _MARGIN * np.sqrt(np.square(excess).sum()) if is_classification else 0.0
        if excess.sum() < margin:
            return options, False
        return None, is_classification and bool(np.ptp(rows.y))

    def _try(self, options: dict[str, Any], watch: Watch) -> tuple[int, np.ndarray]:
        """Return the best number of rounds, and the losses of all rows (n,)."""
        grower = self._grower
        params = grower.params | options | {"metric": "None"}
        found: list[np.ndarray] = []

        def keep(answers: np.ndarray, _: lgb.Dataset) -> tuple[str, float, bool]:
            found.append(answers)
            return "kept", 0.0, False

        boosters = []
        for kept, held_out, _ in self._pairs:
            data = grower.data(kept, params=params)
            booster = lgb.Booster(params, data)
            boosters.append(booster.add_valid(grower.data(held_out, reference=data, params=params), "valid"))
        grown, best, least, is_done = 0, 0, np.empty(0), False
        while not is_done and grown < grower.n_trees and grown - max(best, LEAST_TREES) < grower.patience:
            losses, grown, is_done = np.empty(len(self._rows)), grown + 1, True
            for booster, (_, held_out, at) in zip(boosters, self._pairs, strict=True):
                is_done &= booster.update()  # true where no row is split
                booster.eval_valid(keep)
                losses[at] = grower.losses(grower.task.kind.of_lightgbm(found.pop()), held_out)
            if grown <= LEAST_TREES or losses.sum() < least.sum():
                best, least = grown, losses
            is_done |= watch.cuts(f"the folds of task {grower.task.name!r}")
        return best, least


def _deal(rows: Sample, task: Task, seed: int) -> np.ndarray:
    """Deal rows, or their groups, to folds."""
    strata, rng = Strata.of(rows.y[:, None], (task,)), np.random.default_rng(seed)
    unit = np.arange(len(rows)) if rows.group is None else number_units(rows.group, (task,))
    n_folds = min(unit.max() + 1, _MOST_FOLDS)
    shares = np.full(n_folds, 1 / n_folds)
    return deal_rows(strata, shares, rng) if rows.group is None else deal_groups(strata, unit, shares, rng)


def _options(n: int, own: dict[str, Any], large: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what n rows try; the first is what one takes without any choice.

    In the smallest trees, next to no rows of a level or value are enough to tell.
    """
    least = {"min_child_samples": 2 if n < 20 else 5, "min_data_in_bin": 1, "min_data_per_group": 1, "cat_smooth": 1.0}
    small = [least | {"num_leaves": num_leaves} for num_leaves in (2, 8)]
    return [_FIXED_TREES, *small, own, *([large] if n >= 2 * large["min_child_samples"] else [])]
