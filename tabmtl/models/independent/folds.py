"""Trees of few rows: folds choose their size and number, and whether there are any."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightgbm as lgb
import numpy as np

from tabmtl.model_selection.stratify import Strata, deal_groups, deal_rows, number_units
from tabmtl.models.independent.grower import LEAST_TREES, Grower
from tabmtl.models.independent.rows import Sample
from tabmtl.storage.lightgbm_text import TreeText
from tabmtl.targets import Task
from tabmtl.training.watch import Watch

MOST_FOLDS = 10
#: Labels from which folds would take too long, unless they are given; then they try large trees alone.
MOST_FOLDED = 5_000
#: Standard errors by which a constant must predict classes better than trees do: its ROC AUC is the worst there is, and
#: log loss tells little of the order. The R² of a constant is no worse than its loss.
_MARGIN = 2.0
#: Trees that one takes for few rows without any choice, about 60 of them.
_FIXED_TREES = {"num_leaves": 7, "min_child_samples": 20, "colsample_bytree": 1.0, "learning_rate": 0.05}


class Chosen(NamedTuple):
    """Trees of all folds by the options that predict best, the number of rounds, and answers and losses (n,) there."""

    boosters: list[lgb.Booster]
    n_rounds: int
    answers: np.ndarray
    losses: np.ndarray


class Folds:
    """Folds of the rows of a task, or as many as there are rows or groups."""

    def __init__(self, grower: Grower, rows: Sample, seed: int, n_folds: int = MOST_FOLDS) -> None:
        fold = deal(rows, grower.task, seed, n_folds)
        self._grower, self._rows = grower, rows
        self._pairs = [(rows.rows(fold != f), rows.rows(fold == f), fold == f) for f in range(fold.max() + 1)]

    def choose(self, own: dict[str, Any], large: dict[str, Any], watch: Watch) -> Chosen:
        """Choose options by the losses of all rows, each predicted without its own fold.

        Parameters
        ----------
        own : dict
            Options of the estimator's own trees.
        large : dict
            Options of trees with large leaves, which enough rows try too.
        watch : Watch
        """
        first, *others = _options(len(self._rows), own, large)
        best = self._try(first, watch)
        for options in others:
            if watch.was_cut:
                break
            best = min(best, self._try(options, watch), key=lambda each: each.losses.sum())
        return best

    def bag(self, chosen: Chosen) -> lgb.Booster:
        """Return one model of the trees of all folds, whose raw scores are the mean of theirs."""
        pairs = zip(chosen.boosters, self._pairs, strict=True)
        texts = [self._grower.text(booster, chosen.n_rounds, kept) for booster, (kept, *_) in pairs]
        return lgb.Booster(model_str=TreeText.mean(texts))

    def constants(self) -> np.ndarray:
        """Return the best constant of the other folds as the answer to every row."""
        answers = np.empty(self._grower.task.kind.answer_shape(len(self._rows), self._grower.task.classes))
        for kept, _, at in self._pairs:
            answers[at] = self._grower.constant(kept)
        return answers

    def beat_constant(self, losses: np.ndarray) -> bool:
        """Return whether losses (n,) of the rows are those of a model that tells more than a constant."""
        excess = losses - self._grower.losses(self.constants(), self._rows)
        excess = excess if self._rows.group is None else np.bincount(self._rows.group, excess)
        is_classification = self._grower.task.is_classification
        margin = _MARGIN * np.sqrt(np.square(excess).sum()) if is_classification else 0.0
        return bool(excess.sum() < margin)

    def _try(self, options: dict[str, Any], watch: Watch) -> Chosen:
        """Grow trees by options in all folds, and find the best number of rounds."""
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
        grown, best, is_done = 0, 0, False
        least: np.ndarray = np.empty(0)
        answered = least
        while not is_done and grown < grower.n_trees and grown - max(best, LEAST_TREES) < grower.patience:
            grown, is_done = grown + 1, True
            answers = np.empty(grower.task.kind.answer_shape(len(self._rows), grower.task.classes))
            for booster, (_, _, at) in zip(boosters, self._pairs, strict=True):
                is_done &= booster.update(fobj=grower.gradients)  # true where no row is split
                booster.eval_valid(keep)
                answers[at] = grower.task.kind.of_lightgbm(found.pop())
            losses = grower.losses(answers, self._rows)
            if grown <= LEAST_TREES or losses.sum() < least.sum():
                best, answered, least = grown, answers, losses
            is_done |= watch.cuts(f"the folds of task {grower.task.name!r}")
        return Chosen(boosters, best, answered, least)


def deal(rows: Sample, task: Task, seed: int, most: int) -> np.ndarray:
    """Deal rows, or their groups, to folds (n,), unless they have some."""
    if rows.fold is not None and np.ptp(rows.fold):
        return np.unique(rows.fold, return_inverse=True)[1]
    strata, rng = Strata.of(rows.y[:, None], (task,)), np.random.default_rng(seed)
    unit = np.arange(len(rows)) if rows.group is None else number_units(rows.group, (task,))
    n_folds = min(unit.max() + 1, most)
    shares = np.full(n_folds, 1 / n_folds)
    return deal_rows(strata, shares, rng) if rows.group is None else deal_groups(strata, unit, shares, rng)


def _options(n: int, own: dict[str, Any], large: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what n rows try; of few, the first is what one takes without any choice.

    In the smallest trees, next to no rows of a level or value are enough to tell.
    """
    least = {"min_child_samples": 2 if n < 20 else 5, "min_data_in_bin": 1, "min_data_per_group": 1, "cat_smooth": 1.0}
    small = [least | {"num_leaves": num_leaves} for num_leaves in (2, 8)]
    if n >= MOST_FOLDED:
        return [own, large]
    return [_FIXED_TREES, *small, own, *([large] if n >= 2 * large["min_child_samples"] else [])]
