"""Trees of few rows: folds choose their size and number, and whether there are any."""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter
from typing import Any, NamedTuple

import lightgbm as lgb
import numpy as np

from tabmtl.base.storage.lightgbm_text import TreeText
from tabmtl.model_selection.stratify import deal
from tabmtl.model_selection.times import (
    NoFreshRowsError,
    borders,
    even_blocks,
    forward_folds,
    learnable_after,
    no_fresh_rows,
)
from tabmtl.models.independent.grower import LEAST_TREES, Grower
from tabmtl.models.independent.rows import Sample
from tabmtl.targets import Task
from tabmtl.training.watch import Watch

MOST_FOLDS = 10
#: Labels from which folds would take too long, unless they are given; then they try large trees alone.
MOST_FOLDED = 5_000
#: Standard errors by which a constant must predict classes better than trees do: its ROC AUC is the worst there is, and
#: log loss tells little of the order. The R² of a constant is no worse than its loss.
_MARGIN = 2.0
#: Rows from which small trees take steps of twice the length.
_MANY = 600
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


class Tried(NamedTuple):
    """Trees of all folds by options, which read some means of levels, and their losses (rounds, folds)."""

    options: dict[str, Any]
    reading: str
    boosters: list[lgb.Booster]
    losses: np.ndarray

    def best(self, losses: np.ndarray) -> tuple[float, int]:
        """Return the least of losses (rounds,), and its round; few trees are chosen by chance."""
        first = min(LEAST_TREES, len(losses)) - 1
        at = first + int(np.argmin(losses[first:]))
        return float(losses[at]), at + 1

    @property
    def loss(self) -> float:
        """The least loss of all folds."""
        return self.best(self.losses.sum(axis=1))[0]


class Chosen(NamedTuple):
    """Trees that predict best: options, means of levels and rounds for all rows, and those of every fold.

    No label of a fold has chosen its trees, which gave the answers to it.
    """

    options: dict[str, Any]
    reading: str
    n_rounds: int
    texts: list[TreeText]
    answers: np.ndarray


class Dealt(NamedTuple):
    """Rows in folds.

    Attributes
    ----------
    rows : Sample
        Whose means of levels leave out one fold each.
    pairs : list of pairs of ndarray of bool, shape (n,)
        Rows that every fold learns from, and those that it judges.
    is_judged : ndarray of bool, shape (n,)
        Whether some fold judges a row.
    held : list of int
        Number of the fold whose labels no mean of a level holds.
    """

    rows: Sample
    pairs: list[tuple[np.ndarray, np.ndarray]]
    is_judged: np.ndarray
    held: list[int]

    @classmethod
    def of(cls, rows: Sample, task: Task, seed: int, most: int) -> Dealt:
        """Deal rows to folds; those with times forward in time."""
        if rows.time is None:
            return cls._dealt(rows, task, seed, most)
        after = learnable_after(rows.y[:, None], (task,), rows.time)
        found = forward_folds(rows.time, borders(rows.time, even_blocks(len(rows), most), after), rows.group)
        if not found:
            raise NoFreshRowsError(f"task {task.name!r}: {no_fresh_rows()}")
        places = np.arange(len(rows))
        pairs = [(np.isin(places, kept), np.isin(places, at)) for kept, at in found]
        return cls(rows, pairs, np.any([at for _, at in pairs], axis=0), [-1] * len(pairs))

    @classmethod
    def _dealt(cls, rows: Sample, task: Task, seed: int, most: int) -> Dealt:
        fold = rows.fold if rows.levels is None else rows.levels.fold[rows.numbers]
        if fold is None or not np.ptp(fold):  # of a table without folds, or all in one of them
            fold = deal(rows.y[:, None], (task,), None, rows.group, most, seed)
            rows = replace(rows, levels=None)
        elif fold.max() >= most:
            fold = fold % most
            rows = replace(rows, levels=rows.levels and rows.levels.modulo(most))
        held = np.unique(fold).tolist()
        return cls(rows, [(fold != f, fold == f) for f in held], np.ones(len(rows), dtype=bool), held)

    @property
    def judged(self) -> Sample:
        """The rows that some fold judges."""
        return self.rows if self.is_judged.all() else self.rows.rows(self.is_judged)

    @property
    def at(self) -> list[np.ndarray]:
        """Which of the judged rows every fold judges."""
        return [at[self.is_judged] for _, at in self.pairs]


class Folds:
    """Folds of the rows of a task, or as many as there are rows or groups; of rows with times, forward in time.

    Attributes
    ----------
    judged : Sample
        Rows that some fold judges: all, or those behind the first block of time.
    """

    def __init__(self, grower: Grower, rows: Sample, seed: int, n_folds: int = MOST_FOLDS) -> None:
        self._dealt = Dealt.of(rows, grower.task, seed, n_folds)
        self._grower, self._rows, self._is_forward = grower, self._dealt.rows, rows.time is not None
        self.judged = self._dealt.judged

    @property
    def numbers(self) -> np.ndarray:
        """Fold (m,) that judges each judged row."""
        return np.stack(self._dealt.at).argmax(axis=0)

    def choose(self, own: dict[str, Any], large: dict[str, Any], watch: Watch) -> Chosen:
        """Choose options for each fold by the losses of the others, of which every row is predicted without its fold.

        Parameters
        ----------
        own : dict
            Options of the estimator's own trees.
        large : dict
            Options of trees with large leaves, which enough rows try too, unless their labels hardly have noise.
        watch : Watch
        """
        n = len(self._rows)
        first, *others = [own] if n >= MOST_FOLDED else [*self._small_trees(n), own]
        tried = [self._try(first, "none", watch)]

        def best() -> Tried:
            return min(tried, key=lambda each: each.loss)

        # LightGBM knows the means of its own levels, and of many labels needs no others
        for reading in self._rows.readings[1 : 2 if n < _MANY else 1]:
            tried += [] if watch.was_cut else [self._try(first, reading, watch)]
        reading = best().reading
        for options in others:
            tried += [] if watch.was_cut else [self._try(options, reading, watch)]
        if n < MOST_FOLDED and self._has_least_noise(best().loss):
            others = [_FINE_TREES]
        else:
            others = [large] if n >= 2 * large["min_child_samples"] else []
        for options in others:
            tried += [] if watch.was_cut else [self._try(options, reading, watch)]
        return self._settled(tried)

    def _small_trees(self, n: int) -> list[dict[str, Any]]:
        """Return options of small trees: of a usual size, and with the smallest leaves that n rows allow."""
        least = _SMALL_GROUPS | {"min_child_samples": 2 if n < 20 else 5}
        several = [_FIXED_TREES, *(least | {"num_leaves": num_leaves} for num_leaves in (2, 8))]
        if n < _MANY:
            return several
        usual = self._grower.params["learning_rate"]  # of many rows, longer steps are as good
        return [each | {"learning_rate": 2 * each.get("learning_rate", usual)} for each in several]

    def _settled(self, tried: list[Tried]) -> Chosen:
        """Return the best trees of all folds, and for every fold the trees that suit the others."""
        texts: list[TreeText] = []
        answers = np.empty(self._grower.task.kind.answer_shape(len(self.judged), self._grower.task.classes))
        for f, ((kept, asked), at) in enumerate(zip(self._dealt.pairs, self._dealt.at, strict=True)):
            found = [(*each.best(each.losses.sum(axis=1) - each.losses[:, f]), each) for each in tried]
            _, n_rounds, own = min(found, key=itemgetter(0))
            texts.append(self._grower.text(own.boosters[f], n_rounds, self._rows.rows(kept)))
            x = self._filled(own.reading, f).x[asked]
            answers[at] = self._grower.answer(texts[-1], x)
        best = min(tried, key=lambda each: each.loss)
        return Chosen(best.options, best.reading, best.best(best.losses.sum(axis=1))[1], texts, answers)

    def _filled(self, reading: str, f: int) -> Sample:
        return self._rows.filled(reading, self._dealt.held[f])

    def bag(self, chosen: Chosen, watch: Watch) -> TreeText:
        """Return one model whose raw scores are the mean of those of the trees of all folds, or of fits of all rows.

        Trees of folds forward in time have learned from fewer rows, and all of them from old ones.
        """
        grower, is_fine = self._grower, chosen.options is _FINE_TREES
        if (is_fine or self._is_forward) and not watch.was_cut:
            fixed = chosen.options | {"num_iterations": chosen.n_rounds}
            seeds = [grower.params["random_state"] + k for k in range(_FINE_FITS if is_fine else 1)]
            rows = self._rows.filled(chosen.reading)
            texts = [grower.grow(rows, None, fixed | {"random_state": seed}, Watch()) for seed in seeds]
        else:
            texts = chosen.texts[-1 if self._is_forward else 0 :]
        return TreeText.mean(texts)

    def _has_least_noise(self, loss: float) -> bool:
        """Return whether a task is of numbers, of which trees with some loss predict all but a small rest."""
        if self._grower.task.is_classification:
            return False
        constant = self._grower.losses(self.constants(), self.judged)
        return bool(loss < _LEAST_NOISE * constant.sum())

    def constants(self) -> np.ndarray:
        """Return the best constant of the other folds as the answer to every row."""
        answers = np.empty(self._grower.task.kind.answer_shape(len(self.judged), self._grower.task.classes))
        for (kept, _), at in zip(self._dealt.pairs, self._dealt.at, strict=True):
            answers[at] = self._grower.constant(self._rows.rows(kept))
        return answers

    def beat_constant(self, losses: np.ndarray) -> bool:
        """Return whether losses (n,) of the judged rows are those of a model that tells more than a constant."""
        excess = losses - self._grower.losses(self.constants(), self.judged)
        excess = excess if self.judged.group is None else np.bincount(self.judged.group, excess)
        is_classification = self._grower.task.is_classification
        margin = _MARGIN * np.sqrt(np.square(excess).sum()) if is_classification else 0.0
        return bool(excess.sum() < margin)

    def _try(self, options: dict[str, Any], reading: str, watch: Watch) -> Tried:
        """Grow trees by options in all folds, until no further rounds predict better."""
        grower, judged = self._grower, self.judged
        params = grower.params | options | {"metric": "None"}
        found: list[np.ndarray] = []

        def keep(answers: np.ndarray, _: lgb.Dataset) -> tuple[str, float, bool]:
            found.append(answers)
            return "kept", 0.0, False

        boosters = []
        for f, (kept, at) in enumerate(self._dealt.pairs):
            rows = self._filled(reading, f)  # of which LightGBM keeps bins alone: of wide tables, copies would be large
            data = grower.data(rows.rows(kept), params=params)
            booster = lgb.Booster(params, data)
            held_out = grower.data(rows.rows(at), reference=data, params=params)
            boosters.append(booster.add_valid(held_out, "valid"))
        best, least, is_done, losses = 0, np.inf, False, list[list[float]]()
        answers = np.empty(grower.task.kind.answer_shape(len(judged), grower.task.classes))
        while not is_done and len(losses) < grower.n_trees and len(losses) - max(best, LEAST_TREES) < grower.patience:
            is_done = True
            for booster, at in zip(boosters, self._dealt.at, strict=True):
                is_done &= booster.update(fobj=grower.gradients)  # true where no row is split
                booster.eval_valid(keep)
                answers[at] = grower.task.kind.of_lightgbm(found.pop())
            of_rows = grower.losses(answers, judged)
            losses.append([of_rows[at].sum() for at in self._dealt.at])
            if len(losses) <= LEAST_TREES or sum(losses[-1]) < least:
                best, least = len(losses), sum(losses[-1])
            is_done |= watch.cuts(f"the folds of task {grower.task.name!r}")
        return Tried(options, reading, boosters, np.array(losses))
