"""Models of several tasks asked together, for few rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from tabmtl.estimators.boosted.joined import FEW_ROWS, JoinedModels
from tabmtl.models.independent.additive import Curves
from tabmtl.models.independent.mixture import Learned, Mixture
from tabmtl.targets import Task


class AskedTasks:
    """Models of several tasks, whose trees answer by one call of LightGBM, and their curves by one sum.

    Parameters
    ----------
    tasks : sequence of Task
    models : sequence of TreeText or Mixture
        One for each task.

    Attributes
    ----------
    most_rows : int
        Of more rows, each model answers as fast by itself.
    """

    most_rows: ClassVar[int] = FEW_ROWS

    def __init__(self, tasks: Sequence[Task], models: Sequence[Learned]) -> None:
        self.tasks, self.models = tasks, models
        self._texts = [
            (own.lightgbm, own.extra_trees, own.more) if isinstance(own, Mixture) else (own,) for own in models
        ]
        self._trees = JoinedModels([text for texts in self._texts for text in texts if text is not None])
        curves = [model.additive for model in models if isinstance(model, Mixture) and model.additive is not None]
        self._curves, self._ends = Curves(curves) if curves else None, np.cumsum([len(own.intercept) for own in curves])

    def answers(self, x: np.ndarray) -> list[np.ndarray]:
        """Return values (n,) or probabilities (n, K) of rows of `tree_matrix` for every task."""
        said = iter(self._trees.predict(x))
        scores = iter([] if self._curves is None else np.split(self._curves.scores(x), self._ends[:-1], axis=1))
        found = []
        for task, model, texts in zip(self.tasks, self.models, self._texts, strict=True):
            if isinstance(model, Mixture):
                boosted, means, more = (None if text is None else next(said) for text in texts)
                found.append(model.mix(task, boosted, means, None if model.additive is None else next(scores), more))
            else:
                found.append(task.kind.of_lightgbm(next(said)))
        return found
