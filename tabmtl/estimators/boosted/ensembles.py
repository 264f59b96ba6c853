"""Ensembles that grow on gradients from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np

from tabmtl.storage.lightgbm_text import TreeText

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
        self.rounds = 0
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

        self.rounds += not self.booster.update(fobj=None if self._has_target else objective)

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
