"""Options of the estimators on LightGBM, and its limits for few rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

from tabmtl.params import Count, Jobs, NonNegative, Positive, Share, WholeShare, check_count
from tabmtl.processes.forks import count_threads

#: Most logits that a leaf adds, before the learning rate: LightGBM's ``max_delta_step``. It floors the hessian of a
#: leaf at 1 / LONGEST_STEP of its gradient. A Newton step of rows whose class has the probability p is 1 / p, so a few
#: rows of a rare class would send every row of their leaf out of reach.
LONGEST_STEP = 20.0

#: Number of leaves that LightGBM takes.
Leaves = Annotated[int, partial(check_count, low=2, high=131_072)]


@dataclass(kw_only=True, eq=False, repr=False)
class LightGBMOptions:
    """Parameters of the estimators on LightGBM.

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
    n_jobs: Jobs = None

    search_space: ClassVar[dict[str, Any]] = {
        "learning_rate": {"low": 0.01, "high": 0.2, "log": True},
        "num_leaves": {"low": 4, "high": 128, "log": True},
        "min_child_samples": {"low": 5, "high": 100, "log": True},
        "colsample_bytree": {"low": 0.3, "high": 1.0},
        "reg_lambda": {"low": 0.0, "high": 10.0},
    }

    @property
    def _n_threads(self) -> int:
        return count_threads(self.n_jobs)

    def _tree_options(self) -> dict[str, Any]:
        """Return the options that LightGBM knows by the same names."""
        names = ("learning_rate", "num_leaves", "min_child_samples", "colsample_bytree", "reg_lambda")
        return {name: getattr(self, name) for name in names}


def least_level_rows(n_rows: int) -> int:
    """Return how many rows a level of a category must have to be split on: LightGBM's 100, or a tenth of few rows."""
    return max(1, min(100, n_rows // 10))


def small_limits(params: Mapping[str, Any], n_rows: int) -> dict[str, Any]:
    """Return LightGBM's parameters of trees, with its limits on small leaves and groups scaled to few rows."""
    least = max(1, min(params["min_child_samples"], n_rows // 10))
    return {
        **params,
        "min_child_samples": least,
        "num_leaves": max(2, min(params["num_leaves"], 2 * n_rows // least)),  # beyond, memory is kept for nothing
        "min_data_per_group": least_level_rows(n_rows),
        "cat_smooth": min(10, n_rows / 100),
        "cat_l2": min(10, n_rows / 100),
    }
