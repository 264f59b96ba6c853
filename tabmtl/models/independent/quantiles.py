"""The trees of a task with several levels: those of every level by themselves, then all as one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import NamedTuple, TypeVar

import numpy as np

from tabmtl.base.storage.lightgbm_text import TreeText, constant_tree
from tabmtl.models.independent.choice import Grown, TreesOfTask
from tabmtl.models.independent.mixture import Mixed
from tabmtl.models.independent.rows import TaskRows
from tabmtl.targets import Task
from tabmtl.training.watch import Watch

T = TypeVar("T")


class GrownQuantiles(NamedTuple):
    """Trees of every level under one configuration, as `Grown` has those of a task."""

    task: Task
    levels: list[Grown]

    @property
    def score(self) -> float | None:
        """The mean of the scores of the levels, which are judged on the same rows."""
        scores = [level.score for level in self.levels if level.score is not None]
        return float(np.mean(scores)) if scores else None

    @property
    def is_lost(self) -> bool:
        """Whether the trees of a level predict worse than a constant, which is said of classes alone."""
        return any(level.is_lost for level in self.levels)

    @property
    def answers(self) -> np.ndarray | None:
        """Quantiles (n, L) of the rows that judged the trees, in order."""
        several = (level.answers if level.mixed is None else level.mixed.answers for level in self.levels)
        found = [answers for answers in several if answers is not None]
        return self.task.kind.of_lightgbm(np.stack(found, axis=1)) if found else None


@dataclass(frozen=True, kw_only=True, eq=False)
class TreesOfQuantiles:
    """Finds the trees of every level of a task.

    Parameters
    ----------
    task : Task
    levels : sequence of TreesOfTask
    """

    task: Task
    levels: Sequence[TreesOfTask]

    @property
    def reads_levels(self) -> bool:
        """Whether the trees may read means of levels."""
        return self.levels[0].reads_levels

    def try_all(self, given: TaskRows, configurations: Sequence[str], watch: Watch) -> dict[str, GrownQuantiles]:
        """Grow trees of every level by every configuration."""
        tried = self._each(lambda k, part: self.levels[k].try_all(given, configurations, part), watch)
        return {name: GrownQuantiles(self.task, [level[name] for level in tried]) for name in configurations}

    def constant(self, given: TaskRows) -> GrownQuantiles:
        """Let constants answer, as `TreesOfTask.constant` does."""
        return GrownQuantiles(self.task, [level.constant(given) for level in self.levels])

    def finish(self, given: TaskRows, found: GrownQuantiles, watch: Watch) -> Mixed:
        """Grow as many trees on all rows, where some were held out; return the model of all levels, and its answers.

        A level with fewer rounds than others has trees that add nothing in the last ones.
        """

        each = self._each(lambda k, part: self.levels[k].finish(given, found.levels[k], part), watch)
        # a lone quantile is learned by LightGBM alone, so that none is a mixture
        texts = [own.model for own in each]
        rounds = zip_longest(*(text.cut()[1] for text in texts), fillvalue=constant_tree(0.0))
        header, _ = texts[0].cut()
        model = TreeText.joined(header, chain.from_iterable(rounds), len(texts))
        return Mixed(model, found.answers, each[0].numbers)

    def _each(self, do: Callable[[int, Watch], T], watch: Watch) -> list[T]:
        """Do something for every level, within its share of the time that is left."""
        n = len(self.levels)
        return [do(k, watch.part(1 / (n - k))) for k in range(n)]
