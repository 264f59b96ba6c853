"""The fitted functions of the tasks that share some, in one LightGBM model, and their predictions for one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from typing import Annotated, Any

import lightgbm as lgb
import numpy as np
import polars as pl
from scipy.special import expit

from tabmtl.base.forks import count_threads
from tabmtl.base.schema import Batch, Columns
from tabmtl.base.storage.lightgbm_text import TreeText, constant_tree, scale_tree
from tabmtl.base.storage.stored import Stored
from tabmtl.encode import LabelCoder, TableCoder
from tabmtl.estimators.asked import part_of
from tabmtl.estimators.boosted.border import Grown, tree_matrix
from tabmtl.estimators.boosted.gain import feature_gains
from tabmtl.estimators.boosted.joined import FEW_ROWS, JoinedSums
from tabmtl.estimators.boosted.walk import Walk, walks_together

_LEAST_TASKS = 3  # fewer tasks have no meaningful majority


@dataclass(frozen=True, kw_only=True, eq=False)
class Forest:
    """Several ensembles over the same features in one LightGBM model, one after the other.

    Attributes
    ----------
    offsets : ndarray of int64, shape (E + 1,)
        Ensemble e has the iterations from ``offsets[e]`` up to ``offsets[e + 1]``.
    text : TreeText
        LightGBM's text of the whole, which `Ensemble` wrote.
    """

    offsets: Annotated[np.ndarray, Stored("i8", "E+1", offsets="R")]
    text: Annotated[TreeText, Stored(shape="F K R 0")]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def join(cls, grown: Sequence[Grown], width: int) -> Forest:
        """Join all ensembles over the same features, each with ``width`` outputs, to one model."""
        ensembles = [trees for each in grown for trees in each.ensembles]
        offsets = np.cumsum([0, *(len(trees) // width for trees in ensembles)], dtype=np.int64)
        return cls(offsets=offsets, text=TreeText.joined(grown[0].header, chain.from_iterable(ensembles), width))

    def restricted(self, ensembles: Sequence[int | None]) -> Forest:
        """Return some ensembles only, in this order; None is one without trees."""
        header, trees = self.text.cut()
        own = [[] if ensemble is None else self.own_trees(trees, ensemble) for ensemble in ensembles]
        offsets = np.cumsum([0, *(len(each) // self.width for each in own)], dtype=np.int64)
        return Forest(offsets=offsets, text=TreeText.joined(header, chain.from_iterable(own), self.width))

    @cached_property
    def booster(self) -> lgb.Booster:
        """The model of all ensembles."""
        return lgb.Booster(model_str=self.text)

    @cached_property
    def outputs(self) -> np.ndarray:
        """The output of every tree, (M,): those of the first ensemble come first."""
        ensemble = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        return (self.width * ensemble[:, None] + np.arange(self.width)).ravel()

    @cached_property
    def width(self) -> int:
        """Number of outputs of every ensemble."""
        # without the booster, which single rows do not need
        return int(self.text.first("num_tree_per_iteration")[0])

    def predict(self, ensemble: int, matrix: np.ndarray, n_threads: int = 1) -> np.ndarray:
        """Return raw scores (width, n) of one ensemble for rows of `tree_matrix`."""
        start, end = self._range(ensemble)
        if start == end:
            return np.zeros((self.width, len(matrix)))
        scores = self.booster.predict(
            matrix, start_iteration=start, num_iteration=end - start, raw_score=True, num_threads=n_threads
        )
        return np.asarray(scores).reshape(len(matrix), self.width).T

    def predict_all(self, matrix: np.ndarray, n_threads: int) -> np.ndarray:
        """Return raw scores of all outputs of all ensembles, (n_ensembles * width, n), bit-equal to `predict`."""
        if len(matrix) <= FEW_ROWS:
            return self._joined.sums(matrix)
        if walks_together(matrix, n_threads) and self._walk is not None:
            return self._walk.sums(matrix, self.outputs, self.width * len(self))
        return np.concatenate([self.predict(ensemble, matrix, n_threads) for ensemble in range(len(self))])

    @cached_property
    def _joined(self) -> JoinedSums:
        return JoinedSums([self.text], self.outputs, self.width * len(self))

    @cached_property
    def _walk(self) -> Walk | None:
        return Walk.of(self.text.cut()[1])

    def export(self, factors: Mapping[int, float], start: Sequence[float], objective: str) -> lgb.Booster:
        """Return a weighted sum of ensembles and a constant as one plain model.

        Parameters
        ----------
        factors : mapping of int to float
            Ensembles to sum, with the factor of their trees.
        start : sequence of float, length width
            The constant of every output.
        objective : str
            LightGBM's objective, which names the link: "regression", "binary sigmoid:1", "multiclass num_class:3".
        """
        header, trees = self.text.cut()
        kept = [constant_tree(value) for value in start]
        for ensemble, factor in factors.items():
            kept += [scale_tree(tree, factor) for tree in self.own_trees(trees, ensemble)]
        return lgb.Booster(model_str=TreeText.joined(header, kept, self.width, objective))

    def gains(self, n_features: int) -> np.ndarray:
        """Return the gain of every column in every ensemble: (E, F)."""
        trees = self.text.cut()[1]
        gains = [feature_gains(self.own_trees(trees, ensemble), n_features) for ensemble in range(len(self))]
        return np.stack(gains)[..., 0]

    def _range(self, ensemble: int) -> tuple[int, int]:
        return int(self.offsets[ensemble]), int(self.offsets[ensemble + 1])

    def own_trees(self, trees: list[str], ensemble: int) -> list[str]:
        """Return the trees of one ensemble."""
        start, end = self._range(ensemble)
        return trees[self.width * start : self.width * end]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedGroup:
    """The fitted stages of R-MTGB for the T tasks of one loss, with K outputs each.

    Attributes
    ----------
    members : ndarray of int, shape (T,)
        Indices of the tasks among those of the estimator.
    n_labels : ndarray of int, shape (T,)
        Labels that the fit learned from.
    rounds : ndarray of int, shape (2 + T,)
        Rounds of stage 1, of stage 2, and of stage 3 for every task.
    goes_alone : ndarray of bool, shape (T,)
        Tasks that do without the shared part.
    start, own_start : ndarray of shape (T, K)
        Constants: F before stage 1, and the part of stage 3 that precedes its trees. `partial_fit` moves the former of
        each task; one that fit did not see has their median.
    theta : ndarray of shape (T,)
        Side parameter of each task: sigmoid(theta) > 0.5 is the outlier side, where at most half of the tasks are.
    side_losses : ndarray of shape (T, 3)
        Number of validation labels, and their mean loss after stage 2 with the task's own theta and with the normal
        one.
    importances : ndarray of shape (3, n_features)
        Total gain of the trees of each stage.
    forest : Forest
        The shared function, B, A, and one ensemble per task.
    """

    members: Annotated[np.ndarray, Stored("i", "T", low=0)]
    n_labels: Annotated[np.ndarray, Stored("i8", "T", low=0)]
    rounds: Annotated[np.ndarray, Stored("i", "T+2", low=0)]
    goes_alone: Annotated[np.ndarray, Stored("b", "T")]
    start: Annotated[np.ndarray, Stored("f8", "T K")]
    own_start: Annotated[np.ndarray, Stored("f8", "T K")]
    theta: Annotated[np.ndarray, Stored("f8", "T")]
    side_losses: Annotated[np.ndarray, Stored("f8", "T 3", missing=True)]
    importances: Annotated[np.ndarray, Stored("f8", "3 F", low=0)]
    forest: Forest

    def __post_init__(self) -> None:
        if len(self.forest) != 3 + len(self.members):
            raise ValueError(f"there are {len(self.forest)} ensembles, expected {3 + len(self.members)}")
        grown = np.diff(self.forest.offsets)
        if not np.array_equal(grown, self.rounds[[0, 1, *range(1, len(self.rounds))]]):
            raise ValueError(f"the ensembles have {grown[:5]} rounds, expected stages of {self.rounds[:5]} rounds")

    def restricted(self, tasks: Sequence[int]) -> FittedGroup:
        """Return the functions of some tasks, given by their places in the group, without trees they do not need."""
        own, shared = [*tasks], [0, 1, 2] if not self.goes_alone[[*tasks]].all() else [None] * 3
        names = ("members", "n_labels", "goes_alone", "start", "own_start", "theta", "side_losses")
        return replace(
            self,
            **{name: getattr(self, name)[own] for name in names},
            rounds=np.concatenate([self.rounds[:2] * (shared[0] is not None), self.rounds[2:][own]]),
            forest=self.forest.restricted([*shared, *(3 + t for t in own)]),
        )

    def without(self, t: int) -> FittedGroup | None:
        """Return the group without a task of the estimator, whose numbers above it fall by one; None if it is empty."""
        kept = np.flatnonzero(self.members != t).tolist()
        left = self.restricted(kept) if kept else None
        return None if left is None else replace(left, members=left.members - (left.members > t))

    def factors(self, t: int | None) -> np.ndarray:
        """Return the factors of the shared function, B and A in F of task t; None is a task that fit did not see."""
        if t is not None and self.goes_alone[t]:
            return np.zeros(3)
        s = expit(normal_theta(self.theta) if t is None else self.theta[t])
        return np.array([1.0, 1 - s, s])

    def shared(self, matrix: np.ndarray, n_threads: int) -> np.ndarray:
        """Return the shared function, B and A at rows: (3, K, n)."""
        return np.stack([self.forest.predict(ensemble, matrix, n_threads) for ensemble in range(3)])

    def scores_of_own_tasks(self, matrix: np.ndarray, task: np.ndarray, n_threads: int) -> np.ndarray:
        """Return raw scores (n, K) of rows for the task (n,) of each; a task below 0 has a normal one's shared part."""
        shared = self.shared(matrix, n_threads)
        scores = np.empty((len(matrix), self.forest.width))
        for t in np.unique(task).tolist():
            rows = np.flatnonzero(task == t)
            own = None if t < 0 else self.forest.predict(3 + t, matrix[rows], n_threads)
            start = np.median(self.start, axis=0) if t < 0 else self.start[t] + self.own_start[t]
            scores[rows] = _summed(start, self.factors(None if t < 0 else t), shared[:, :, rows], own)
        return scores

    def scores_of_all_tasks(self, sums: np.ndarray) -> list[np.ndarray]:
        """Return raw scores (n, K) of rows for every task, given the outputs of all ensembles."""
        parts = sums.reshape(len(self.forest), self.forest.width, -1)
        return [*_summed(self.start + self.own_start, self._factors, parts[:3], parts[3:])]

    @cached_property
    def _factors(self) -> np.ndarray:
        """The factors of all tasks, (T, 3)."""
        return np.stack([self.factors(t) for t in range(len(self.members))])

    def gains(self) -> np.ndarray:
        """Return the gain of every column for every task, by its stages 1, 2 and 3: (3, T, F)."""
        gains = self.forest.gains(self.importances.shape[1])
        factors = self._factors**2
        return np.stack([factors[:, :1] * gains[0], factors[:, 1:] @ gains[1:3], gains[3:]])

    def export(self, t: int, objective: str, scale: float = 1.0, center: float = 0.0) -> lgb.Booster:
        """Merge all functions of task t into one model, whose raw scores are ours times scale plus center."""
        factors = {ensemble: scale * factor for ensemble, factor in enumerate(self.factors(t)) if factor}
        start = scale * (self.start[t] + self.own_start[t]) + center
        return self.forest.export(factors | {3 + t: scale}, start.tolist(), objective)

    def table(self, names: Sequence[str]) -> pl.DataFrame:
        """Return a row for every task, given their names: side, losses of the sides, and rounds."""
        shares, has_sides = ~self.goes_alone, self.rounds[1] > 0 and len(names) >= _LEAST_TASKS
        labels, loss, normal_loss = (self.side_losses if has_sides else np.full_like(self.side_losses, np.nan)).T
        columns = {
            "task": list(names),
            "outlier_score": expit(self.theta) if has_sides else np.full(len(names), np.nan),
            "n_labels": self.n_labels,
            "shares": shares,
            "check_labels": pl.Series(labels, nan_to_null=True).cast(pl.Int64),
            "check_loss": loss,
            "check_loss_if_normal": normal_loss,
            "shared": self.rounds[0] * shares,
            "outlier": self.rounds[1] * shares,
            "own": self.rounds[2:],
        }
        return pl.DataFrame(columns, nan_to_null=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedGroups:
    """The fitted functions of all tasks; those of one loss are a group."""

    groups: tuple[FittedGroup, ...]

    def answer(
        self, rows: Batch, labels: LabelCoder, how: Any, X: Any = None, places: tuple[int, ...] | None = None
    ) -> list[np.ndarray]:
        """Return answers; see `tabmtl.estimators.model.Fitted`."""
        matrix, n_threads = tree_matrix(rows), count_threads(how.n_jobs)
        if rows.task is not None:
            return labels.outputs([self.groups[0].scores_of_own_tasks(matrix, rows.task, n_threads)])
        sums = [group.forest.predict_all(matrix, n_threads) for group in self.of(places)]
        return labels.outputs(self.scores_by(sums, places))

    def of(self, places: tuple[int, ...] | None) -> Sequence[FittedGroup]:
        """Return the groups with some tasks of a wide table, all by default, and with these alone."""
        if places is None:
            return self.groups
        found = []
        for group in self.groups:
            own = tuple(k for k, t in enumerate(group.members.tolist()) if t in places)
            if own:
                found.append(part_of(group, own, partial(group.restricted, own)))
        return found

    def scores_by(self, sums: Sequence[np.ndarray], places: tuple[int, ...] | None) -> list[np.ndarray]:
        """Return raw scores (n, width) of some tasks of a wide table, given the sums of all ensembles of each group."""
        by_task: dict[int, np.ndarray] = {}
        for group, own in zip(self.of(places), sums, strict=True):
            by_task |= dict(zip(group.members.tolist(), group.scores_of_all_tasks(own), strict=True))
        return [by_task[t] for t in (sorted(by_task) if places is None else places)]

    def without(self, t: int, coder: TableCoder) -> FittedGroups:
        """Return the functions without those of a task."""
        left = [group.without(t) for group in self.groups]
        return FittedGroups(groups=tuple(group for group in left if group is not None))

    def gains(self, columns: Columns) -> dict[str, np.ndarray]:
        """Return the gain of every column for every task (T, F), by stages."""
        gains = np.zeros((3, sum(len(group.members) for group in self.groups), columns.n_features))
        for group in self.groups:
            gains[:, group.members] = group.gains()
        return dict(zip(("shared", "outlier", "own"), gains, strict=True))

    @property
    def block_gains(self) -> np.ndarray:
        """Total gain of the trees of each stage, (3, F)."""
        return np.sum([group.importances for group in self.groups], axis=0)

    def export(self, task: int, objective: str, scale: float, center: float) -> lgb.Booster:
        """Return the functions of a task as one model, whose raw scores are those times scale plus center."""
        group = next(group for group in self.groups if task in group.members)
        return group.export(int(np.flatnonzero(group.members == task)[0]), objective, scale, center)

    def table(self, names: Sequence[str]) -> pl.DataFrame:
        """Return a row for every task of the table, given their names; see `FittedGroup.table`."""
        parts = [group.table([names[t] for t in group.members]) for group in self.groups]
        return pl.concat(parts)[np.argsort(np.concatenate([group.members for group in self.groups]))]


def normal_theta(theta: np.ndarray) -> float:
    """Return the side parameter of a normal task: the median of the majority, whose side is below 0.

    Where `remove_task` has left none there, it is that of all.
    """
    is_normal = theta <= 0
    return float(np.median(theta[is_normal] if is_normal.any() else theta))


def _summed(start: np.ndarray, factors: np.ndarray, shared: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """Return raw scores (..., n, K) of a task or all, given start (..., K), factors (..., 3) and trees (..., K, n)."""
    one, B, A = (factors[..., i, None, None] * f for i, f in enumerate(shared))
    scores = start[..., None] + one + B + A
    return (scores if own is None else scores + own).swapaxes(-1, -2)
