"""What the estimators on LightGBM share: options of trees, the matrix of their rows, importances by task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import polars as pl
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.forks import count_threads
from tabmtl.base.params import Count, CountOrZero, Jobs, NonNegative, Positive, Share, WholeShare, check_count
from tabmtl.estimators.boosted.border import tree_matrix
from tabmtl.estimators.tables import MultiTaskEstimator

#: Number of leaves that LightGBM takes.
Leaves = Annotated[int, partial(check_count, low=2, high=131_072)]


@dataclass(kw_only=True, eq=False, repr=False)
class LightGBMEstimator(MultiTaskEstimator):
    """Base of the estimators on LightGBM.

    Parameters
    ----------
    learning_rate : float, default=0.05
        Factor of every tree.
    num_leaves : int, default=16
        Maximum number of leaves of a tree.
    min_child_samples : int, default=20
        Smallest number of rows of a leaf, which LightGBM may estimate by the sum of hessians.
    colsample_bytree : float in (0, 1], default=1.0
        Share of the columns that every tree sees, drawn anew for each.
    reg_lambda : float, default=0.1
        L2 penalty of the leaf values. It bounds the values of leaves whose hessian nearly vanishes.
    early_stopping : bool, default=True
        Stop on validation rows. Without X_val and y_val, fit sets ``validation_fraction`` of the rows aside.
    validation_fraction : float in (0, 1), default=0.15
        Share of the rows that early stopping sets aside.
    patience : int, default=30
        Number of rounds without a better validation score after which training ends.
    partial_rounds : int, default=20
        Rounds that `partial_fit` appends, begun at the present answers; no row is set aside for them, and 0 appends
        none. A step of them is as long as the share of the new labels in all that the task has learned from: rows day
        by day move a model about as far as all at once. Their ``reg_lambda`` is at least 5. A round that finds no
        split, as of labels that have all moved, moves the constants of the tasks.
    n_jobs : int, optional
        Threads of LightGBM, as scikit-learn counts them. More than one pays from about 50 000 rows.
    """

    learning_rate: Positive = 0.05
    num_leaves: Leaves = 16
    min_child_samples: Count = 20
    colsample_bytree: WholeShare = 1.0
    reg_lambda: NonNegative = 0.1
    early_stopping: bool = True
    validation_fraction: Share = 0.15
    patience: Count = 30
    partial_rounds: CountOrZero = 20
    n_jobs: Jobs = None

    #: Parameters of earlier releases, with their defaults; a file may have them, if they have these.
    __gone_params__: ClassVar[dict[str, Any]] = {"decay_rate": 1.0, "max_bin": 255}
    _grows: ClassVar[bool] = False

    search_space: ClassVar[dict[str, Any]] = {
        "learning_rate": {"low": 0.01, "high": 0.2, "log": True},
        "num_leaves": {"low": 4, "high": 128, "log": True},
        "min_child_samples": {"low": 5, "high": 100, "log": True},
        "colsample_bytree": {"low": 0.3, "high": 1.0},
        "reg_lambda": {"low": 0.0, "high": 10.0},
    }

    def encode(self, X: Any) -> pl.DataFrame:
        """Encode rows for the plain LightGBM models of the tasks.

        Parameters
        ----------
        X : as in `predict`

        Returns
        -------
        encoded : polars.DataFrame
            Float32 columns under the names of fit, without the task column of a long table: the numeric columns, then
            the categorical ones as codes from 0, levels sorted; missing and unseen are NaN. The models have the columns
            in this order, and in ``feature_name()`` under these names, with ``_`` for signs that LightGBM does not
            take, and numbered if two would be the same. They take this frame from LightGBM 4.7 on. Its ``to_numpy()``
            is faster, and older releases take it too.
        """
        check_is_fitted(self)
        columns = self.coder_.features.columns
        matrix = tree_matrix(self._read_rows(self._preprocessed(X)))
        return pl.DataFrame(matrix, schema=[*columns.numeric, *columns.categorical])

    @property
    def _n_threads(self) -> int:
        return count_threads(self.n_jobs)

    def _tree_options(self) -> dict[str, Any]:
        """Return the options that LightGBM knows by the same names."""
        names = ("learning_rate", "num_leaves", "min_child_samples", "colsample_bytree", "reg_lambda")
        return {name: getattr(self, name) for name in names}
