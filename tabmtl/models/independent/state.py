"""What a file keeps of the models of single tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import polars as pl

from tabmtl.base.storage.lightgbm_text import TreeText
from tabmtl.estimators.mixing.judged import leaderboard
from tabmtl.estimators.mixing.levels import LevelMeans
from tabmtl.estimators.tables import TableState
from tabmtl.models.independent.mixture import Mixture


@dataclass(frozen=True, kw_only=True, eq=False)
class IndependentState(TableState):
    """Fitted attributes that a file keeps: for every task, in their order, trees or a mixture."""

    _trees: tuple[TreeText | None, ...]
    _mixtures: tuple[Mixture | None, ...]
    configuration_: str
    configuration_scores_: pl.DataFrame
    _n_labels: tuple[int, ...] | None = None  # that each task has learned from

    _levels: LevelMeans | None = None
    leaderboard_: pl.DataFrame = field(default_factory=partial(leaderboard, []))

    #: Fields that files of earlier releases lack.
    later_fields: ClassVar[tuple[str, ...]] = (*TableState.later_fields, "n_labels", "levels", "leaderboard_")

    def __post_init__(self) -> None:
        super().__post_init__()
        tasks, columns = self.coder_.labels.tasks, self.coder_.features.columns
        if self._levels is not None:
            self._levels.check(columns, tasks)
            columns = self._levels.columns(columns)
        if self._n_labels is not None and (len(self._n_labels) != len(tasks) or min(self._n_labels) < 0):
            raise ValueError(f"n_labels is {self._n_labels}, expected {len(tasks)} counts of labels")
        pairs = [*zip(self._trees, self._mixtures, strict=True)]
        if len(pairs) != len(tasks) or any((trees is None) == (mixture is None) for trees, mixture in pairs):
            raise ValueError(f"each of the {len(tasks)} tasks needs either trees or a mixture")
        for task, (trees, mixture) in zip(tasks, pairs, strict=True):
            expected = (len(columns.numeric), len(columns.categorical), task.width)
            texts = [trees] if mixture is None else [mixture.lightgbm, mixture.extra_trees, mixture.more]
            fits = all(text.shape[:2] == (columns.n_features, task.width) for text in texts if text is not None)
            if mixture is not None and mixture.additive is not None:
                fits &= mixture.additive.shape == expected
            if not fits:
                raise ValueError(
                    f"a model of task {task.name!r} has other columns or outputs than the table, expected "
                    f"{expected[0]} numeric columns, {expected[1]} columns of levels and {expected[2]} outputs"
                )
