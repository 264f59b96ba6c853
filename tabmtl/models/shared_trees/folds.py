"""Shared trees that grow in several folds at once, each with the rounds that suit the judged rows of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from tabmtl.base.schema import Batch
from tabmtl.encode import TableCoder
from tabmtl.models.shared_trees.growth import Growing, Growth, Rows, Schedule, gains, grow_together, pays

_PATIENCE = 20  # of trees of a task alone at most: where they pay, nearly every one does


class FoldRows(NamedTuple):
    """Rows of a fold to grow on, and those that are judged."""

    rows: Rows
    judged: Rows


def fold_rows(coder: TableCoder, rows: Batch, judged: Batch, params: dict[str, Any]) -> FoldRows:
    """Bin the rows of a fold, given LightGBM's parameters of data."""
    binned = Rows.read(coder, rows, params)
    return FoldRows(binned, Rows.read(coder, judged, params, binned.data))


class Chosen(NamedTuple):
    """Shared trees, and those of each task alone after them: as they were grown, or as they are to be grown again."""

    shared: Growth
    own: list[Growth | None]


class InFolds(NamedTuple):
    """Growths of all folds, and a growth of which the leaders and the best rounds by all judged rows are meant."""

    by_fold: list[Growth | None]
    whole: Growth | None


@dataclass(frozen=True, eq=False)
class GrowthInFolds:
    """Trees of the same tasks in folds.

    Parameters
    ----------
    folds : sequence of FoldRows
        Two or more.
    schedules : sequence of Schedule
        One for each fold, which differ in seeds.
    """

    folds: Sequence[FoldRows]
    schedules: Sequence[Schedule]

    def grow(self) -> tuple[list[Growth], Growth]:
        """Grow the trees of all tasks; return those of the folds, and one with the rounds by all judged rows."""
        growths = [Growing(schedule, *fold) for fold, schedule in zip(self.folds, self.schedules, strict=True)]
        rounds = grow_together(self.schedules[0], growths)
        grown = [each.finish() for each in growths]
        assert rounds is not None  # there are judged rows
        return grown, max(grown, key=lambda each: len(each.leaders))._replace(rounds=rounds)

    def finish(self, shared: Sequence[Growth], t: int) -> InFolds:
        """Grow trees for one task alone after the shared ones, in every fold; None where they do not pay in others.

        A fold without labels of the task to grow on or to judge gets none.
        """
        found: list[Growth | None] = [None] * len(self.folds)
        parts = self._of_task(t, [(growth.scores, growth.valid_scores) for growth in shared])
        if len(parts) < 2:
            return InFolds(found, None)
        schedules = [self.schedules[k].of_one_task() for k in parts]
        patience = min(schedules[0].patience or _PATIENCE, _PATIENCE)
        schedules = [replace(each, patience=patience) for each in schedules]
        grown, whole = GrowthInFolds([*parts.values()], schedules).grow()
        gained = [gains(fold.judged, growth) for fold, growth in zip(parts.values(), grown, strict=True)]
        for i, k in enumerate(parts):
            if pays(np.concatenate([*gained[:i], *gained[i + 1 :]])):
                found[k] = grown[i]
        return InFolds(found, whole if pays(np.concatenate(gained)) else None)

    def compare(self, shared: Sequence[Growth], after: InFolds, t: int) -> InFolds | None:
        """Grow trees for one task from its constant on; None unless they are better than its shared ones, and `after`.

        They are if they lower the losses of the judged labels by more than two standard errors. A constant never is:
        trees of others whose answers are too sure still rank the rows.
        """
        sums = [(fold.rows.targets.sums, fold.judged.targets.sums) for fold in self.folds]
        starts = [tuple(each.at_rows(growth.start) for each in own) for own, growth in zip(sums, shared, strict=True)]
        begun, ended = self._of_task(t, starts), self._of_task(t, [(own.scores, own.valid_scores) for own in shared])
        if len(begun) < len(self.folds):
            return None
        schedules = [replace(each.of_one_task(), params=each.params) for each in self.schedules]
        grown, whole = GrowthInFolds([*begun.values()], schedules).grow()
        gained = []
        for k, (growth, own) in enumerate(zip(grown, after.by_fold, strict=True)):
            known = ended[k].judged if own is None else ended[k].judged._replace(scores=own.valid_scores)
            gained.append(gains(known, growth))
        return InFolds([*grown], whole) if whole.rounds[0] and pays(np.concatenate(gained)) else None

    def _of_task(self, t: int, scores: Sequence[tuple[np.ndarray | None, ...]]) -> dict[int, FoldRows]:
        """Take the rows with a label of a task, and its scores among those of all, of the folds that have both."""
        found = {}
        for k, (fold, (grown, judged)) in enumerate(zip(self.folds, scores, strict=True)):
            own, other = fold.rows.of_task(t, grown), fold.judged.of_task(t, judged)
            if own is not None and other is not None:
                found[k] = FoldRows(own, other)
        return found


def choose(folds: GrowthInFolds, alone: GrowthInFolds | None, scarce: Sequence[int]) -> tuple[Chosen, Chosen]:
    """Grow trees in folds; return those of the first fold, and those to be grown of all rows by what all folds say.

    Parameters
    ----------
    folds : GrowthInFolds
    alone : GrowthInFolds, optional
        The same with the options of trees of a task alone; None grows none.
    scarce : sequence of int
        Tasks whose trees of their own are chosen by all folds, and that drop the shared ones where trees of the task
        alone are better. For others the first fold chooses.
    """
    grown, whole = folds.grow()
    function = folds.folds[0].rows.targets.sums.function
    first, again = Chosen(grown[0], []), Chosen(whole, [])
    if alone is None:
        return first, again
    for t in range(len(whole.rounds)):
        if t in scarce:
            after = alone.finish(grown, t)
            other = alone.compare(grown, after, t) if len(whole.rounds) > 1 else None
            if other is not None:
                first, again = (each._replace(shared=without(each.shared, t, function)) for each in (first, again))
                after = other
            pair = after.by_fold[0], after.whole
        else:
            known = alone.schedules[0].finish_one(*folds.folds[0], grown[0], t)
            pair = known, known
        for each, own in zip((first, again), pair, strict=True):
            each.own.append(own if own is not None and own.rounds[0] else None)
    return first, again


def without(growth: Growth, t: int, function: np.ndarray) -> Growth:
    """Return a growth in which a task has no trees, given the task of every output."""
    rounds = growth.rounds.copy()
    rounds[t] = 0
    return growth._replace(rounds=rounds, values=[np.where(function == t, 0.0, own) for own in growth.values])
