"""Fitted stages that go on by new rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tabmtl.base.schema import Batch
from tabmtl.estimators.boosted.border import Grown, small_limits, tree_matrix
from tabmtl.estimators.boosted.rounds import LEAST_PENALTY
from tabmtl.models.rmtgb.fitted import FittedGroup, Forest
from tabmtl.models.rmtgb.stages import MixedStage, Stage, grow_together
from tabmtl.models.rmtgb.targets import BinnedRows, LongTargets
from tabmtl.training.watch import SHOWN_ROUNDS, Watch, describe_loss


@dataclass(frozen=True, kw_only=True, eq=False)
class Onward:
    """Goes on with the stages of groups.

    Parameters
    ----------
    params : dict
        LightGBM's parameters of trees.
    n_rounds : int
        Rounds that are appended.
    watch : Watch
    """

    params: dict[str, Any]
    n_rounds: int
    watch: Watch

    def go_on(self, group: FittedGroup, rows: BinnedRows, batch: Batch) -> FittedGroup:
        """Return a group that has learned from rows too, which were binned of a batch.

        Rounds are appended to stage 2, where θ stays, or without it to stage 1; and then to stage 3 of the tasks that
        have trees there, or in no other stage. Where one finds no split, the constants of the tasks for which this is
        the last stage move.
        """
        matrix = tree_matrix(Batch(x=batch.x.rows(rows.numbers)))
        rows = replace(rows, scores=_scores_at_cells(group, rows, matrix, self.params["num_threads"]))
        grown, new = dict[int, Grown](), rows.targets.n_labels
        shares = ~group.goes_alone & bool(group.rounds[:2].any())
        has_own, start = (group.rounds[2:] > 0) | ~shares, group.start.copy()
        if new[shares].any():
            part = _share(new[shares], group.n_labels[shares])
            common, last = _of_tasks(rows, shares), int(group.rounds[1] > 0)
            stage = self._mixed(group, common, part, ~has_own) if last else self._stage(common, part, ~has_own)
            self._grow([stage])
            start += stage.constants
            rows = _with_shared(rows, shares, stage.after().scores)
            grown[last] = stage.finish()
        none, owned = np.zeros(rows.targets.width), {}
        for t in np.flatnonzero((new > 0) & has_own).tolist():
            owned[t] = self._stage(rows.of_task(t, none), _share(new[t], group.n_labels[t]), np.ones(1, dtype=bool))
        self._grow([*owned.values()])
        for t, stage in owned.items():
            start[t] += stage.constants[0]
        group = replace(group, start=start)
        return _extended(group, grown | {2 + t: stage.finish() for t, stage in owned.items()}, new)

    def _grow(self, stages: Sequence[Stage]) -> None:
        with self.watch.steps(self.n_rounds, "round", describe_loss, every=SHOWN_ROUNDS) as step:
            grow_together(stages, [self.n_rounds] * len(stages), None, step)

    def _limited(self, rows: BinnedRows, share: float) -> dict[str, Any]:
        params = {**self.params, "learning_rate": share * self.params["learning_rate"]}
        params["reg_lambda"] = max(LEAST_PENALTY, params["reg_lambda"])
        return small_limits(params, rows.scores.shape[-1])

    def _stage(self, rows: BinnedRows, share: float, moved: np.ndarray) -> Stage:
        return Stage(self._limited(rows, share), rows, moved=moved)

    def _mixed(self, group: FittedGroup, rows: BinnedRows, share: float, moved: np.ndarray) -> MixedStage:
        """Return stage 2, with the θ of the fit."""
        return MixedStage(self._limited(rows, share), rows, theta=group.theta, rate=0.0, moved=moved)


def _scores_at_cells(group: FittedGroup, rows: BinnedRows, matrix: np.ndarray, n_threads: int) -> np.ndarray:
    """Return the scores of a group at the cells of rows, given their features."""
    if isinstance(rows.targets, LongTargets):
        task = np.repeat(np.arange(rows.targets.n_tasks), rows.targets.counts)
        return group.scores_of_own_tasks(matrix, task, n_threads).T
    return np.stack([own.T for own in group.scores_of_all_tasks(group.forest.predict_all(matrix, n_threads))])


def _share(new: np.ndarray, known: np.ndarray) -> float:
    """Return the share of new labels among all that functions have learned from."""
    return float(new.sum() / max(new.sum() + known.sum(), 1))


def _with_shared(rows: BinnedRows, shares: np.ndarray, scores: np.ndarray) -> BinnedRows:
    """Return rows with the scores behind shared stages, of the tasks (T,) that share."""
    shared = rows.targets.spread(shares.astype(np.float64))
    return replace(rows, scores=rows.scores + shared * (scores - rows.scores))


def _of_tasks(rows: BinnedRows, chosen: np.ndarray) -> BinnedRows:
    """Return rows on which the labels of other tasks than those chosen (T,) have no weight."""
    if chosen.all():
        return rows
    of_cells = rows.targets.at_cells(np.ones((1, rows.scores.shape[-1])), chosen.astype(np.float64))[..., 0, :]
    return replace(rows, targets=replace(rows.targets, weight=rows.targets.weight * of_cells))


def _extended(group: FittedGroup, grown: dict[int, Grown], n_labels: np.ndarray) -> FittedGroup:
    """Return a group with further trees, by the stages that they belong to: 0, 1, and 2 + t of task t."""
    header, trees = group.forest.text.cut()
    ensembles = [group.forest.own_trees(trees, e) for e in range(len(group.forest))]
    rounds, importances = group.rounds.copy(), group.importances.copy()
    for stage, own in grown.items():
        places = {0: (0,), 1: (1, 2)}.get(stage, (stage + 1,))
        for place, more in zip(places, own.ensembles, strict=True):
            ensembles[place] = ensembles[place] + more
        rounds[stage] += own.rounds
        importances[min(stage, 2)] += own.gains
    whole = Grown(rounds=0, header=header, ensembles=ensembles, gains=importances[0])
    forest = Forest.join([whole], group.forest.width)
    return replace(group, forest=forest, rounds=rounds, importances=importances, n_labels=group.n_labels + n_labels)
