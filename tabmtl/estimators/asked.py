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
