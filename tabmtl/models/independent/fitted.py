"""Models of single tasks as they were fitted: their answers, and what further rows and tasks make of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from tabmtl.base.forks import count_threads
from tabmtl.base.schema import Batch, Columns
from tabmtl.base.storage.lightgbm_text import TreeText
from tabmtl.encode import LabelCoder, TableCoder
from tabmtl.estimators.asked import part_of
from tabmtl.estimators.boosted.border import tree_matrix
from tabmtl.estimators.boosted.gain import feature_gains
from tabmtl.estimators.boosted.walk import booster_of, predict, rewritten
from tabmtl.estimators.mixing.levels import LevelMeans
from tabmtl.models.independent.asked import AskedTasks
from tabmtl.models.independent.foreign import Foreign
from tabmtl.models.independent.mixture import FAMILIES, Learned, Mixture
from tabmtl.targets import Task

Model = Learned | Foreign


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedTasks:
    """Models of single tasks as they were fitted, frozen.

    Attributes
    ----------
    tasks : tuple of Task
    models : tuple of TreeText, Mixture or Foreign
        One for each task.
    configuration : str
    configuration_scores, leaderboard : polars.DataFrame
        As `IndependentTasks` has them.
    levels : LevelMeans or None
        Means of levels that models may read.
    n_labels : tuple of int or None
        Labels that each model has learned from; None in a file of an earlier release.
    """

    tasks: tuple[Task, ...]
    models: tuple[Model, ...]
    configuration: str
    configuration_scores: pl.DataFrame
    leaderboard: pl.DataFrame
    levels: LevelMeans | None = None
    n_labels: tuple[int, ...] | None = None

    @property
    def estimators(self) -> dict[str, Any]:
        """A Booster, a mixture or an estimator of scikit-learn, by task."""
        return {task.name: self.estimator(t) for t, task in enumerate(self.tasks)}

    def estimator(self, t: int) -> Any:
        """Return what `estimators` has for a task, and read no other model."""
        model = self.models[t]
        return booster_of(model) if isinstance(model, TreeText) else getattr(model, "base", model)

    @property
    def family_weights(self) -> pl.DataFrame:
        """The weight of every family in the answers to a task."""
        alone = (1.0, *[0.0] * (len(FAMILIES) - 1))
        rows = [model.weights if isinstance(model, Mixture) else alone for model in self.models]
        names = pl.Series("task", [task.name for task in self.tasks])
        return pl.DataFrame(rows, [*FAMILIES], orient="row").insert_column(0, names)

    @property
    def trees(self) -> tuple[TreeText | None, ...]:
        """The models that are trees alone, as a file keeps them.

        Raises
        ------
        TypeError
            If a model is one of scikit-learn.
        """
        for model in self.models:
            if isinstance(model, Foreign):
                raise TypeError(
                    f"save writes LightGBM models and networks; the model of task {model.task.name!r} is a "
                    f"{type(model.base).__name__}, which only pickle could write: use joblib.dump, or skops, on files "
                    "you trust"
                )
        return tuple(rewritten(model) if isinstance(model, TreeText) else None for model in self.models)

    @property
    def mixtures(self) -> tuple[Mixture | None, ...]:
        """The models that are mixtures."""
        return tuple(model if isinstance(model, Mixture) else None for model in self.models)

    @property
    def has_foreign(self) -> bool:
        """Whether some model is one of scikit-learn."""
        return any(isinstance(model, Foreign) for model in self.models)

    def columns(self, columns: Columns) -> Columns:
        """Return the columns of a table as the models have them."""
        return columns if self.levels is None else self.levels.columns(columns)

    def extended(self, rows: Batch) -> Batch:
        """Return rows with the means of their levels, if some model may read them."""
        return rows if self.levels is None else self.levels.extended(rows)

    def answer(
        self, rows: Batch, labels: LabelCoder, how: Any, X: Any = None, places: tuple[int, ...] | None = None
    ) -> list[np.ndarray]:
        """Return answers; see `tabmtl.estimators.model.Fitted`."""
        matrix, n_threads = tree_matrix(self.extended(rows)), count_threads(how.n_jobs)
        if rows.task is not None:
            output = np.empty(self.tasks[0].kind.answer_shape(len(rows), self.tasks[0].classes))
            for t in np.unique(rows.task).tolist():
                own = np.flatnonzero(rows.task == t)
                output[own] = self._answer(t, X, matrix[own], n_threads, own)
            return [output]
        places = tuple(range(len(self.tasks))) if places is None else places
        models = [model for t in places if not isinstance(model := self.models[t], Foreign)]
        if len(rows) <= AskedTasks.most_rows and len(models) == len(places):
            asked = part_of(self, places, lambda: AskedTasks([self.tasks[t] for t in places], models))
            return asked.answers(matrix)
        return [self._answer(t, X, matrix, n_threads) for t in places]

    def gains(self, columns: Columns) -> dict[str, np.ndarray]:
        """Return the gains (T, F) of the columns of a table in all models.

        Raises
        ------
        TypeError
            If a model is one of scikit-learn.
        """
        found, n_features = [], self.columns(columns).n_features
        for model in self.models:
            if isinstance(model, Foreign):
                raise TypeError(
                    f"gain_importances needs models of families, and that of task {model.task.name!r} is a "
                    f"{type(model.base).__name__}: say tabmtl.permutation_importances(model, X, y)"
                )
            if isinstance(model, Mixture):
                own = model.gains(n_features)
            else:
                own = feature_gains(model.cut()[1], n_features)[:, 0]
            found.append(own if self.levels is None else self.levels.gains(own, len(columns.numeric)))
        return {"all": np.stack(found)}

    def onward(self, models: Mapping[int, Model], rows: Batch, n_new: np.ndarray) -> FittedTasks:
        """Return the models with those that went on by rows, given how many labels of each task these have."""
        return replace(
            self,
            models=tuple(models.get(t, own) for t, own in enumerate(self.models)),
            levels=self.levels and self.levels.added(rows),
            n_labels=tuple(map(int, self.n_known(n_new) + n_new)),
        )

    def n_known(self, n_new: np.ndarray) -> np.ndarray:
        """Return how many labels each model has learned from; for an older file, as many as there are new ones."""
        return n_new if self.n_labels is None else np.array(self.n_labels)

    def with_tasks(self, more: FittedTasks) -> FittedTasks:
        """Return the models with those of further tasks behind."""
        return replace(
            self,
            tasks=self.tasks + more.tasks,
            models=self.models + more.models,
            configuration_scores=pl.concat([self.configuration_scores, more.configuration_scores], how="diagonal"),
            leaderboard=pl.concat([self.leaderboard, more.leaderboard]),
            n_labels=self.n_labels and self.n_labels + (more.n_labels or ()),
        )

    def without(self, t: int, coder: TableCoder) -> FittedTasks:
        """Return the models without that of a task."""
        is_left = pl.col("task") != self.tasks[t].name
        return replace(
            self,
            tasks=self.tasks[:t] + self.tasks[t + 1 :],
            models=self.models[:t] + self.models[t + 1 :],
            configuration_scores=self.configuration_scores.filter(is_left),
            leaderboard=self.leaderboard.filter(is_left),
            levels=self.levels and self.levels.without(t),
            n_labels=self.n_labels and self.n_labels[:t] + self.n_labels[t + 1 :],
        )

    def _answer(self, t: int, X: Any, matrix: np.ndarray, n_threads: int, rows: np.ndarray | None = None) -> np.ndarray:
        task, model = self.tasks[t], self.models[t]
        if isinstance(model, Foreign):
            return model.answer(X, len(matrix), rows)
        if isinstance(model, Mixture):
            return model.answer(task, matrix, n_threads)
        return task.kind.of_lightgbm(predict(model, matrix, n_threads))
