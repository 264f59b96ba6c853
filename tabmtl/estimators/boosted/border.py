"""Border to LightGBM: options, binned rows, and ensembles on gradients from outside."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np

from tabmtl.base.schema import FIRST_LEVEL, Batch, Columns
from tabmtl.base.storage.lightgbm_text import TreeText, is_constant


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


_ZERO = 1e-35  # LightGBM takes smaller numbers for 0


def tree_matrix(batch: Batch) -> np.ndarray:
    """Return encoded rows as LightGBM takes them.

    Returns
    -------
    matrix : ndarray of float32, shape (n, Fn + Fc)
        Numeric values, then codes of the levels from 0; missing and unseen are NaN.
    """
    if not batch.x.codes.shape[1]:
        return np.asarray(batch.x.numbers, dtype=np.float32)
    codes = batch.x.codes.astype(np.float32) - FIRST_LEVEL
    codes[codes < 0] = np.nan
    return np.column_stack([batch.x.numbers, codes])


def dataset(matrix: np.ndarray, columns: Columns, **options: Any) -> lgb.Dataset:
    """Return rows of `tree_matrix` as a data set of LightGBM, given its other arguments."""
    n_numeric = len(columns.numeric)
    categorical = list(range(n_numeric, matrix.shape[1]))
    if options.get("reference") is None and _is_blank(matrix, n_numeric):
        matrix = np.ones_like(matrix)  # LightGBM makes no split of these either, but does not refuse them
    names = plain_names([*columns.numeric, *columns.categorical])
    return lgb.Dataset(matrix, categorical_feature=categorical, feature_name=names, **options)


def _is_blank(matrix: np.ndarray, n_numeric: int) -> bool:
    """Return whether LightGBM refuses the columns, as of the numbers all are 0, and of the levels all are missing."""
    return all(np.isnan(level).all() for level in matrix.T[n_numeric:]) and all(
        (np.abs(number) <= _ZERO).all() for number in matrix.T[:n_numeric]
    )


def bin_rows(
    batch: Batch, columns: Columns, options: dict[str, Any], reference: lgb.Dataset | None = None
) -> lgb.Dataset:
    """Bin rows, once for all ensembles.

    Parameters
    ----------
    batch : Batch
    columns : Columns
    options : dict
        LightGBM's parameters of data.
    reference : lightgbm.Dataset, optional
        Its bins are taken instead of new ones.
    """
    matrix = tree_matrix(batch)
    label = np.zeros(len(matrix), dtype=np.float32)  # a subset demands labels; gradients come from outside
    data = dataset(matrix, columns, label=label, reference=reference, params=options)
    return data.construct()


def bin_labelled_rows(
    batch: Batch, columns: Columns, options: dict[str, Any], reference: lgb.Dataset | None
) -> tuple[Batch, lgb.Dataset]:
    """Bin the rows with a label, as `bin_rows` does, and return them too."""
    index = labelled_rows(batch)
    batch = batch if len(index) == len(batch.y) else batch.rows(index)
    return batch, bin_rows(batch, columns, options, reference)


def labelled_rows(batch: Batch) -> np.ndarray:
    """Find the rows with a label."""
    return np.flatnonzero(~np.isnan(batch.y).all(axis=1))


def subset(data: lgb.Dataset, index: np.ndarray) -> lgb.Dataset:
    """Take some rows of binned data; the data itself if these are all."""
    return data if len(index) == data.num_data() else data.subset(index.tolist()).construct()


def plain_names(names: Sequence[str]) -> list[str]:
    """Return different names without the signs that LightGBM's text and JSON use."""
    plain = [re.sub(r"[^\w.+-]", "_", name) or "_" for name in names]
    return plain if len(set(plain)) == len(plain) else [f"{name}_{j}" for j, name in enumerate(plain)]


def newest_round(booster: lgb.Booster) -> tuple[str, list[str]]:
    """Return the header and the trees of the newest round of a model."""
    newest = max(booster.current_iteration() - 1, 0)
    return TreeText(booster.model_to_string(num_iteration=1, start_iteration=newest)).cut()


#: Gradients and hessians (width, n) float32 from raw scores (width, n).
Gradients = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Ensemble:
    """A growing ensemble of one or several outputs.

    Parameters
    ----------
    params : dict
        LightGBM's parameters, without objective and number of classes.
    data : lightgbm.Dataset
        The rows to grow on.
    valid : lightgbm.Dataset, optional
        Rows whose scores are followed.
    width : int, default=1
        Number of outputs; every round grows one tree for each.
    target : ndarray of shape (n,), optional
        Fit this by squared error instead of gradients from outside; a fifth faster, as the hessian is constant. Then
        the data serves no other ensemble that still grows.

    Attributes
    ----------
    follows_target : bool
        Whether rounds fit the target; once False, they follow the gradients from outside.
    """

    def __init__(
        self,
        params: Mapping[str, Any],
        data: lgb.Dataset,
        valid: lgb.Dataset | None = None,
        *,
        width: int = 1,
        target: np.ndarray | None = None,
    ) -> None:
        self.width, self._data, self._has_target = width, data, target is not None
        self.rounds, self.follows_target = 0, target is not None
        if target is not None:
            data.set_label(target.astype(np.float32))
            # else a first round without a split becomes a tree of the mean
            data.set_init_score(np.zeros(len(target)))
        own = {"objective": "none" if target is None else "regression", "metric": "None", "num_class": width}
        if data.num_data() * params.get("bagging_fraction", 1.0) < 1:
            own["bagging_freq"] = 0  # LightGBM draws no row, and ends
        self.booster = lgb.Booster({**params, **own}, data)
        if valid is not None:
            self.booster.add_valid(valid, "valid")

    def update(self, gradients: Gradients) -> None:
        """Grow one round of trees, on the gradients at the current scores or on the target.

        A round without any split does not count in ``rounds``.
        """

        def objective(scores: np.ndarray, _: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
            gradient, hessian = gradients(self._by_output(scores))
            return (gradient[0], hessian[0]) if self.width == 1 else (gradient.T, hessian.T)

        self.rounds += not self.booster.update(fobj=None if self.follows_target else objective)

    def idle_outputs(self) -> np.ndarray:
        """Return for which outputs the newest round with a split found none: (width,)."""
        return np.array([is_constant(tree) for tree in newest_round(self.booster)[1]])

    def scores(self, *, of_valid: bool = False) -> np.ndarray:
        """Return raw scores (width, n) of the rows grown on, or of the followed ones; valid until the next round."""
        found: list[np.ndarray] = []

        def keep(scores: np.ndarray, _: lgb.Dataset) -> tuple[str, float, bool]:
            found.append(scores)
            return "kept", 0.0, False

        (self.booster.eval_valid if of_valid else self.booster.eval_train)(keep)
        return self._by_output(found[0])

    def roll_back(self, rounds: int) -> None:
        """Roll back to `rounds` rounds."""
        for _ in range(self.rounds - rounds):
            self.booster.rollback_one_iter()
        self.rounds = min(self.rounds, rounds)

    def finish(self, n_ensembles: int = 1) -> Grown:
        """Return the grown trees as `n_ensembles` ensembles; other ensembles may use the data then."""
        if self._has_target:
            self._data.set_field("init_score", None)
        header, trees = TreeText(self.booster.model_to_string(num_iteration=-1)).cut()
        size = self.width // n_ensembles
        ensembles: list[list[str]] = [[] for _ in range(n_ensembles)]
        # LightGBM keeps trees of one leaf, of value 0, from a first round without a split
        for i, tree in enumerate(trees[len(trees) - self.rounds * self.width :]):
            ensembles[i % self.width // size].append(tree)
        gains = self.booster.feature_importance("gain")
        return Grown(rounds=self.rounds, header=header, ensembles=ensembles, gains=gains)

    def _by_output(self, scores: np.ndarray) -> np.ndarray:
        return scores[None] if self.width == 1 else scores.T


@dataclass(frozen=True, kw_only=True)
class Grown:
    """Finished ensembles as LightGBM's text.

    Attributes
    ----------
    rounds : int
    header : str
        Text before the trees of a model.
    ensembles : list of list of str
        Their trees, round after round.
    gains : ndarray of shape (n_features,)
        Total gain of all splits on every feature.
    """

    rounds: int
    header: str
    ensembles: list[list[str]]
    gains: np.ndarray
