"""Trees of few rows: folds choose their size and number, and whether there are any."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightgbm as lgb
import numpy as np

from tabmtl.model_selection.stratify import Strata, deal_groups, deal_rows, number_units
from tabmtl.model_selection.times import borders, even_blocks, forward_folds, learnable_after, no_fresh_rows
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
#: In the smallest trees, next to no rows of a level or value are enough to tell.
_SMALL_GROUPS = {"min_data_in_bin": 1, "min_data_per_group": 1, "cat_smooth": 1.0}
#: Trees for numbers nearly without noise: a single row tells, and all columns are needed.
_FINE_TREES = _SMALL_GROUPS | {
    "num_leaves": 8,
    "min_child_samples": 1,
    "colsample_bytree": 1.0,
    "reg_lambda": 1.0,
    "learning_rate": 0.1,
    "subsample": 0.8,
    "subsample_freq": 1,
}
#: Share of the loss of a constant below which numbers count as nearly without noise.
_LEAST_NOISE = 0.1
#: Fits of all rows by fine trees, each on draws of its own: there, rows that a fold lacks cost more than noise.
_FINE_FITS = 3


class Chosen(NamedTuple):
    """Options that predict best, their trees of all folds, the number of rounds, and answers and losses (n,) there."""

    options: dict[str, Any]
    boosters: list[lgb.Booster]
    n_rounds: int
    answers: np.ndarray
    losses: np.ndarray


class Dealt(NamedTuple):
    """Which rows every fold learns from, and which it judges, (n,) bool each; and which rows some fold judges."""

    pairs: list[tuple[np.ndarray, np.ndarray]]
    is_judged: np.ndarray

    @classmethod
    def of(cls, rows: Sample, task: Task, seed: int, most: int) -> Dealt:
        """Deal rows to folds; those with times forward in time."""
        if rows.time is None:
            fold = deal(rows, task, seed, most)
            return cls([(fold != f, fold == f) for f in range(fold.max() + 1)], np.ones(len(rows), dtype=bool))
        after = learnable_after(rows.y[:, None], (task,), rows.time)
        found = forward_folds(rows.time, borders(rows.time, even_blocks(len(rows), most), after), rows.group)
        if not found:
            raise ValueError(f"task {task.name!r}: {no_fresh_rows()}")
        places = np.arange(len(rows))
        pairs = [(np.isin(places, kept), np.isin(places, at)) for kept, at in found]
        return cls(pairs, np.any([at for _, at in pairs], axis=0))

    def judged(self, rows: Sample) -> Sample:
        """Return the rows that some fold judges."""
        return rows if self.is_judged.all() else rows.rows(self.is_judged)


class Folds:
    """Folds of the rows of a task, or as many as there are rows or groups; of rows with times, forward in time.

    Attributes
    ----------
    judged : Sample
        Rows that some fold judges: all, or those behind the first block of time.
    """

    def __init__(self, grower: Grower, rows: Sample, seed: int, n_folds: int = MOST_FOLDS) -> None:
        dealt = Dealt.of(rows, grower.task, seed, n_folds)
        self._grower, self._rows, self._is_forward = grower, rows, rows.time is not None
        self.judged = dealt.judged(rows)
        self._dealt, self._at = dealt.pairs, [at[dealt.is_judged] for _, at in dealt.pairs]

    def choose(self, own: dict[str, Any], large: dict[str, Any], watch: Watch) -> Chosen:
        """Choose options by the losses of all rows, each predicted without its own fold.

        Parameters
        ----------
        own : dict
            Options of the estimator's own trees.
        large : dict
            Options of trees with large leaves, which enough rows try too, unless their labels hardly have noise.
        watch : Watch
        """
        n = len(self._rows)
        first, *others = [own] if n >= MOST_FOLDED else [_FIXED_TREES, *_small_trees(n), own]
        best = self._try(first, watch)
        for options in others:
            best = self._better(best, options, watch)
        if n < MOST_FOLDED and self._has_least_noise(best):
            return self._better(best, _FINE_TREES, watch)
        return self._better(best, large, watch) if n >= 2 * large["min_child_samples"] else best

    def bag(self, chosen: Chosen, watch: Watch) -> lgb.Booster:
        """Return one model whose raw scores are the mean of those of the trees of all folds, or of fits of all rows.

        Trees of folds forward in time have learned from fewer rows, and all of them from old ones.
        """
        grower, is_fine = self._grower, chosen.options is _FINE_TREES
        if (is_fine or self._is_forward) and not watch.was_cut:
            fixed = chosen.options | {"num_iterations": chosen.n_rounds}
            seeds = [grower.params["random_state"] + k for k in range(_FINE_FITS if is_fine else 1)]
            fits = [grower.grow(self._rows, None, fixed | {"random_state": seed}, Watch()) for seed in seeds]
            texts = [TreeText(booster.model_to_string()) for booster in fits]
        else:
            pairs = [*zip(chosen.boosters, self._dealt, strict=True)][-1 if self._is_forward else 0 :]
            texts = [grower.text(booster, chosen.n_rounds, self._rows.rows(kept)) for booster, (kept, _) in pairs]
        return lgb.Booster(model_str=TreeText.mean(texts))

    def _better(self, best: Chosen, options: dict[str, Any], watch: Watch) -> Chosen:
        """Return what other options grow if it predicts better; when the time is over, they are not tried."""
        return best if watch.was_cut else min(best, self._try(options, watch), key=lambda each: each.losses.sum())

    def _has_least_noise(self, chosen: Chosen) -> bool:
        """Return whether a task is of numbers, of which trees predict all but a small rest."""
        if self._grower.task.is_classification:
            return False
        constant = self._grower.losses(self.constants(), self.judged)
        return bool(chosen.losses.sum() < _LEAST_NOISE * constant.sum())

    def constants(self) -> np.ndarray:
        """Return the best constant of the other folds as the answer to every row."""
        answers = np.empty(self._grower.task.kind.answer_shape(len(self.judged), self._grower.task.classes))
        for (kept, _), at in zip(self._dealt, self._at, strict=True):
            answers[at] = self._grower.constant(self._rows.rows(kept))
        return answers

    def beat_constant(self, losses: np.ndarray) -> bool:
        """Return whether losses (n,) of the judged rows are those of a model that tells more than a constant."""
        excess = losses - self._grower.losses(self.constants(), self.judged)
        excess = excess if self.judged.group is None else np.bincount(self.judged.group, excess)
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
        for kept, at in self._dealt:  # of whose rows LightGBM keeps bins alone: of wide tables, copies would be large
            data = grower.data(self._rows.rows(kept), params=params)
            booster = lgb.Booster(params, data)
            held_out = grower.data(self._rows.rows(at), reference=data, params=params)
            boosters.append(booster.add_valid(held_out, "valid"))
        grown, best, is_done = 0, 0, False
        least: np.ndarray = np.empty(0)
        answered = least
        while not is_done and grown < grower.n_trees and grown - max(best, LEAST_TREES) < grower.patience:
            grown, is_done = grown + 1, True
            answers = np.empty(grower.task.kind.answer_shape(len(self.judged), grower.task.classes))
            for booster, at in zip(boosters, self._at, strict=True):
                is_done &= booster.update(fobj=grower.gradients)  # true where no row is split
                booster.eval_valid(keep)
                answers[at] = grower.task.kind.of_lightgbm(found.pop())
            losses = grower.losses(answers, self.judged)
            if grown <= LEAST_TREES or losses.sum() < least.sum():
                best, answered, least = grown, answers, losses
            is_done |= watch.cuts(f"the folds of task {grower.task.name!r}")
        return Chosen(options, boosters, best, answered, least)


def deal(rows: Sample, task: Task, seed: int, most: int) -> np.ndarray:
    """Deal rows, or their groups, to folds (n,), unless they have some."""
    if rows.fold is not None and np.ptp(rows.fold):
        return np.unique(rows.fold, return_inverse=True)[1]
    strata, rng = Strata.of(rows.y[:, None], (task,)), np.random.default_rng(seed)
    unit = np.arange(len(rows)) if rows.group is None else number_units(rows.group, (task,))
    n_folds = min(unit.max() + 1, most)
    shares = np.full(n_folds, 1 / n_folds)
    return deal_rows(strata, shares, rng) if rows.group is None else deal_groups(strata, unit, shares, rng)


def _small_trees(n: int) -> list[dict[str, Any]]:
    """Return options of trees with the smallest leaves that n rows allow."""
    least = _SMALL_GROUPS | {"min_child_samples": 2 if n < 20 else 5}
    return [least | {"num_leaves": num_leaves} for num_leaves in (2, 8)]
