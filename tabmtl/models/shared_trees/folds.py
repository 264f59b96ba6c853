"""Shared trees that grow in several folds at once, each with the rounds that suit the judged rows of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tabmtl.models.shared_trees.growth import Growing, Growth, Rows, Schedule, gains, grow_together, pays


class FoldRows(NamedTuple):
    """Rows of a fold to grow on, and those that are judged."""

    rows: Rows
    judged: Rows


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

    def grow(self) -> list[Growth]:
        """Grow the trees of all tasks."""
        return _grow(self.folds, self.schedules)

    def finish(self, shared: Sequence[Growth], t: int) -> list[Growth | None]:
        """Grow trees for one task alone after the shared ones, in every fold; None where they do not pay in others.

        A fold without labels of the task to grow on or to judge gets none.
        """
        of_task = [
            (fold.rows.of_task(t, growth.scores), fold.judged.of_task(t, growth.valid_scores))
            for fold, growth in zip(self.folds, shared, strict=True)
        ]
        usable = [k for k, (rows, judged) in enumerate(of_task) if rows is not None and judged is not None]
        found: list[Growth | None] = [None] * len(self.folds)
        if len(usable) < 2:
            return found
        folds = [FoldRows(*of_task[k]) for k in usable]
        grown = _grow(folds, [self.schedules[k].of_one_task(None) for k in usable])
        gained = [gains(fold.judged, growth) for fold, growth in zip(folds, grown, strict=True)]
        for i, k in enumerate(usable):
            if pays(np.concatenate([*gained[:i], *gained[i + 1 :]])):
                found[k] = grown[i]
        return found


def _grow(folds: Sequence[FoldRows], schedules: Sequence[Schedule]) -> list[Growth]:
    growths = [Growing(schedule, *fold) for fold, schedule in zip(folds, schedules, strict=True)]
    grow_together(schedules[0], growths)
    return [each.finish() for each in growths]
