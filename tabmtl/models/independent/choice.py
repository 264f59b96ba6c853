"""The trees of one task: by every configuration that is tried, on rows without those set aside, and on all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from tabmtl.base.schema import warn_user
from tabmtl.base.storage.lightgbm_text import TreeText
from tabmtl.estimators.boosted.rounds import ROWS_TO_SPLIT, Split, refit
from tabmtl.metrics.scores import score_task, undefined_reason
from tabmtl.model_selection import train_valid_split
from tabmtl.model_selection.times import newest_split
from tabmtl.models.independent.folds import MOST_FOLDED, MOST_FOLDS, Folds
from tabmtl.models.independent.grower import Grower
from tabmtl.models.independent.mixture import MANY, Mixed, Mixer
from tabmtl.models.independent.rows import Sample, TaskRows
from tabmtl.targets import Task
from tabmtl.training.watch import Watch

_BAGGING = {"subsample": 0.8, "subsample_freq": 1}

#: Configurations that ``tune`` names; what one does not name is the estimator's own parameter.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "small": {"num_leaves": 8, "min_child_samples": 20, "colsample_bytree": 0.5, "reg_lambda": 1.0, **_BAGGING},
    "mid": {
        "num_leaves": 16,
        "min_child_samples": 50,
        "colsample_bytree": 0.4,
        "reg_lambda": 10.0,
        "cat_smooth": 20.0,
        "cat_l2": 20.0,
        **_BAGGING,
    },
    "default": {},
    "big": {"num_leaves": 63, "min_child_samples": 20, "colsample_bytree": 0.5, "reg_lambda": 5.0, **_BAGGING},
}

#: A task with fewer labels, or of fewer beside its most frequent class, chooses its trees by folds. Of many rows, folds
#: would take too long.
FEW_ROWS, _RARE_ROWS = 600, 100
_FOLDS_OF_MANY = 5  # of rows that several families learn


class Grown(NamedTuple):
    """Trees of one task under one configuration.

    Where rows were held out, ``answers`` are those to them, ``valid_losses`` are those of their labels, and ``score``
    is by the metric of the task. Where folds chose the trees, ``mixed`` has them beside other families. Trees are lost
    where they predict the classes of the folds worse than their shares, which are the model then.
    """

    trees: TreeText
    options: Mapping[str, Any] = MappingProxyType({})
    valid_losses: Sequence[np.ndarray] = ()
    score: float | None = None
    is_lost: bool = False
    answers: np.ndarray | None = None
    mixed: Mixed | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class TreesOfTask:
    """Finds the trees of one task.

    Parameters
    ----------
    grower : Grower
    fraction : float or None
        Share of the rows that is held out to stop the training; None grows all trees.
    seed : int
    mixer : Mixer
    in_folds : bool
        Whether folds judge any number of rows.
    """

    grower: Grower
    fraction: float | None
    seed: int
    mixer: Mixer
    in_folds: bool

    @property
    def task(self) -> Task:
        """The task."""
        return self.grower.task

    @property
    def reads_levels(self) -> bool:
        """Whether the trees may read means of levels, as do those beside other families."""
        return self.mixer.may_mix

    def try_all(self, given: TaskRows, configurations: Sequence[str], watch: Watch) -> dict[str, Grown]:
        """Grow trees by every configuration; rows held out stop the training and judge it.

        Raises
        ------
        NoFreshRowsError
            If rows with times are all of groups that have older ones.
        """
        split = self._split(given)
        if split is None:
            return dict.fromkeys(configurations, self.constant(given))
        if self.grower.takes_few and split.watched is None and self._has_few(split.all):
            return dict.fromkeys(configurations, self._grow_few(split.all, watch))
        rows = split.first
        return {
            name: self._try(rows, split.watched, CONFIGURATIONS[name], watch.part(1 / (len(configurations) - k)))
            for k, name in enumerate(configurations)
        }

    def constant(self, given: TaskRows) -> Grown:
        """Let a constant answer a task none of whose rows can be held out, and warn of it."""
        warn_user(
            f"task {self.task.name!r}: all {len(given.rows)} labelled rows are in one group, of one time, or of groups "
            "that have older rows, so none can be set aside to choose its trees, and it is answered by a constant; "
            "give smaller groups, label rows of it in X_val and y_val, or set early_stopping=False"
        )
        trees = self.grower.grow_constant(Sample.of(given.rows), Watch())
        return Grown(trees, mixed=Mixed(trees))

    def finish(self, given: TaskRows, found: Grown, watch: Watch) -> Mixed:
        """Grow as many trees on all rows, where some were held out, and mix them with other families."""
        if found.mixed is not None:
            return found.mixed
        split = self._split(given)
        assert split is not None  # else a constant answers
        trees = found.trees if split.keep is None else self._refit(split, found, watch)
        if split.watched is None or found.answers is None:
            return Mixed(trees)
        return self.mixer.mix_asked(trees, split, found.answers, watch)

    def _refit(self, split: Split, found: Grown, watch: Watch) -> TreeText:
        grower = self.grower

        def grow(part: Watch) -> list[Grown]:
            rounds = len(found.trees.cut()[1]) // self.task.width
            options = {**found.options, "num_iterations": rounds, "early_stopping_round": 0}
            trees = grower.grow(split.all, None, options, part)
            losses = grower.losses(grower.answer(trees, split.watched.x), split.watched)
            return [found._replace(trees=trees, valid_losses=[losses])]

        name = self.task.name
        return refit([found], grow, watch, f"no fit of all rows of task {name!r}", name)[0].trees

    def _split(self, given: TaskRows) -> Split | None:
        """Return the rows of the task, perhaps with some held out; None where that cannot be, as all are one unit."""
        rows = Sample.of_task(given)
        if self.fraction is None:
            return Split(rows)
        if given.watched is not None and len(given.watched):
            return Split(rows, Sample.of(given.watched))
        has_few = self._has_few(rows)
        if given.are_one_unit and not (has_few and (len(rows) == 1 or not self.grower.takes_few)):
            return None
        if has_few:
            return Split(rows)
        kept, watched = self._set_aside(rows, self.fraction)
        judged = rows.apart(watched)
        return Split(rows, judged.rows(watched), partial(judged.rows, kept))

    def _set_aside(self, rows: Sample, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the rows that find the trees, and of those that judge them."""
        if rows.time is not None:
            return newest_split(rows.y[:, None], (self.task,), fraction, rows.time, group=rows.group)
        rng = np.random.default_rng(self.seed)
        return train_valid_split(rows.y[:, None], (self.task,), fraction, rng, group=rows.group)

    def _has_few(self, rows: Sample) -> bool:
        """Return whether rows are too few, or those of its rarer classes are, to set some aside."""
        if not self.grower.takes_few:
            return len(rows) < ROWS_TO_SPLIT
        if self.in_folds:
            return True
        if len(rows) < MOST_FOLDED and (self.mixer.takes(len(rows)) or self.mixer.has_trees_alone):
            return True
        if not self.task.is_classification or not FEW_ROWS <= len(rows) < MOST_FOLDED:
            return len(rows) < FEW_ROWS
        return 0 < len(rows) - np.bincount(rows.y.astype(np.intp)).max() < _RARE_ROWS

    def _try(self, rows: Sample, held_out: Sample | None, options: dict[str, Any], watch: Watch) -> Grown:
        trees = self.grower.grow(rows, held_out, options, watch)
        if held_out is None:
            return Grown(trees, options)
        answer = self.grower.answer(trees, held_out.x)
        judging = held_out.score_weight, held_out.group
        is_judged = undefined_reason(self.task, held_out.y, *judging) is None
        score = score_task(self.task, held_out.y, answer, *judging) if is_judged else None
        return Grown(trees, options, [self.grower.losses(answer, held_out)], score, answers=answer)

    def _grow_few(self, rows: Sample, watch: Watch) -> Grown:
        if len(rows) == 1:
            return Grown(self.grower.grow_constant(rows, watch))
        few = MOST_FOLDS if len(rows) < MANY or not self.mixer.may_mix else _FOLDS_OF_MANY
        folds = Folds(self.grower, rows, self.seed, few if rows.time is None else _FOLDS_OF_MANY)
        chosen = folds.choose(CONFIGURATIONS["default"], CONFIGURATIONS["mid"], watch)
        trees = folds.bag(chosen, watch)
        mixed = self.mixer.mix_unseen(trees, rows, folds, chosen.answers, watch)
        if mixed.answers is None or folds.beat_constant(self.grower.losses(mixed.answers, folds.judged)):
            return Grown(trees, mixed=mixed)
        is_lost = self.task.is_classification and bool(np.ptp(rows.y))
        constant = self.grower.grow_constant(rows, Watch())
        return Grown(constant, is_lost=is_lost, mixed=mixed.lost(constant, folds.constants()))


def learns_again(n_labels: np.ndarray, may_mix: bool) -> bool:
    """Return whether labels of some task are set aside to choose what then learns all of them."""
    return bool(n_labels.max() >= (MOST_FOLDED if may_mix else FEW_ROWS))
