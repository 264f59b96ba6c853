"""Models of several tasks asked together, for few rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightgbm as lgb
import numpy as np

from tabmtl.estimators.asked import forget_parts, part_of
from tabmtl.estimators.boosted.gain import feature_gains
from tabmtl.estimators.boosted.joined import FEW_ROWS, JoinedModels
from tabmtl.models.independent.additive import Curves
from tabmtl.models.independent.mixture import Mixture
from tabmtl.processes.ranks import Ranks
from tabmtl.storage.lightgbm_text import TreeText
from tabmtl.targets import Task

#: What this package learns a task by.
Learned = lgb.Booster | Mixture


class AskedTasks:
    """Models of several tasks, whose trees answer by one call of LightGBM, and their curves by one sum.

    Parameters
    ----------
    models : sequence of Booster or Mixture
        One for each task.

    Attributes
    ----------
    most_rows : int
        Of more rows, each model answers as fast by itself.
    """

    most_rows: ClassVar[int] = FEW_ROWS

    def __init__(self, models: Sequence[Learned]) -> None:
        self.models = [*models]
        self._texts = [_texts(model) for model in models]
        self._trees = JoinedModels([text for texts in self._texts for text in texts if text is not None])
        curves = [model.additive for model in models if isinstance(model, Mixture) and model.additive is not None]
        self._curves, self._ends = Curves(curves) if curves else None, np.cumsum([len(own.intercept) for own in curves])

    @classmethod
    def of(cls, estimator: Any, places: tuple[int, ...], models: Sequence[Learned]) -> AskedTasks:
        """Return what asks the models of some columns of y, kept as long as the estimator has these models."""
        asked = part_of(estimator, places, lambda: cls(models))
        if any(own is not model for own, model in zip(asked.models, models, strict=True)):
            forget_parts(estimator)  # it has gone on since then, and its former models would stay in memory
            asked = part_of(estimator, places, lambda: cls(models))
        return asked

    def answers(self, tasks: Sequence[Task], x: np.ndarray) -> list[np.ndarray]:
        """Return values (n,) or probabilities (n, K) of rows of `tree_matrix` for every task."""
        said = iter(self._trees.predict(x))
        scores = iter([] if self._curves is None else np.split(self._curves.scores(x), self._ends[:-1], axis=1))
        found = []
        for task, model, texts in zip(tasks, self.models, self._texts, strict=True):
            if isinstance(model, Mixture):
                boosted, means, more = (None if text is None else next(said) for text in texts)
                found.append(model.mix(task, boosted, means, None if model.additive is None else next(scores), more))
            else:
                found.append(task.kind.of_lightgbm(next(said)))
        return found


def _texts(model: Learned) -> list[TreeText | None]:
    if isinstance(model, Mixture):
        return [model.lightgbm, model.extra_trees, model.more]
    return [TreeText(model.model_to_string())]


def gains_of(task: str, model: Any, n_features: int) -> np.ndarray:
    """Return the gains (F,) of columns in the model of a task.

    Raises
    ------
    AttributeError
        If the model is one of scikit-learn.
    """
    if isinstance(model, Mixture):
        return model.gains(n_features)
    if isinstance(model, lgb.Booster):
        return feature_gains(TreeText(model.model_to_string()).cut()[1], n_features)[:, 0]
    raise AttributeError(
        f"importances_ needs models of families, and that of task {task!r} is a {type(model).__name__}: say "
        "tabmtl.inspection.feature_importances(model, X, y)"
    )


def gathered(models: Mapping[int, lgb.Booster], group: Ranks) -> dict[int, lgb.Booster]:
    """Return the models of all ranks of a group, by the numbers of their tasks."""
    parts = group.gather({t: booster.model_to_string() for t, booster in models.items()})
    texts = {t: text for part in parts for t, text in part.items()}
    return {t: lgb.Booster(model_str=texts[t]) for t in sorted(texts)}
