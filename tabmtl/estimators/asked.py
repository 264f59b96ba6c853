"""Several fitted estimators asked as one, by rows that are encoded already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tabmtl.schema import Batch


class Together:
    """Fitted estimators of one class that read rows alike, such as those of the folds of an ensemble.

    A class of estimators names by ``_together`` the subclass that asks several of it by fewer calls. It may keep what
    it has made of the estimators.

    Parameters
    ----------
    models : sequence of MultiTaskEstimator
    """

    def __init__(self, models: Sequence[Any]) -> None:
        self.models = models

    def answers(self, X: Any, batch: Batch) -> list[list[np.ndarray]]:
        """Return the answers of every model, with the bits of its own `answer`; of networks up to their rounding.

        A row has the same bits in any batch.

        Parameters
        ----------
        X : frame of n rows
            With the columns of fit, in their order.
        batch : Batch
            The same rows, encoded.
        """
        return [model._outputs(X, batch) for model in self.models]

    def linked(self, scores: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        """Return the answers of every model, given its raw scores (n, width) for every column of y."""
        labels, n_rows = [model.coder_.labels for model in self.models], len(scores[0][0])
        columns = []
        for t, (task, column) in enumerate(zip(labels[0].column_tasks, zip(*scores, strict=True), strict=True)):
            # one call for all models: of few rows, it takes as long as one for each
            rows = np.concatenate(column).astype(np.float64)
            shape = (-1, *[1] * (len(task.kind.answer_shape(n_rows, task.classes)) - 1))
            center, scale = (
                np.repeat(units, n_rows).reshape(shape)
                for units in ([own.center[t] for own in labels], [own.scale[t] for own in labels])
            )
            with np.errstate(over="ignore"):  # 1 / (1 + inf) is 0
                columns.append(np.split(task.kind.answers(rows, center, scale, np), len(labels)))
        return [list(own) for own in zip(*columns, strict=True)]
