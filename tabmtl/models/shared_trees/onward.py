"""Shared trees that go on from a fit by new rows: other values of their leaves, and further rounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tabmtl.estimators.boosted.border import tree_matrix
from tabmtl.models.shared_trees.growth import LeafValues, Rows, Schedule
from tabmtl.models.shared_trees.trees import VectorForest
from tabmtl.targets.kind import SURE


def refit_leaves(forest: VectorForest, start: np.ndarray, rows: Rows, schedule: Schedule, decay: float) -> VectorForest:
    """Return the trees with leaf values that rows have moved, one tree after the other, as LightGBM's refit does.

    A leaf in which a task has labels keeps ``decay`` of its value; the rest is a Newton step at the scores of the trees
    before it, times the mean pace of the fit, since nobody knows who led its rounds. A leaf without labels of a task
    keeps its value, where LightGBM would shrink it.

    Parameters
    ----------
    forest : VectorForest
    start : ndarray of shape (C,)
        Constants of the outputs.
    rows : Rows
        In the units of the fit.
    schedule : Schedule
    decay : float
    """
    targets, sums = rows.targets, rows.targets.sums
    scores, leaf_values, moved = sums.at_rows(start), LeafValues(targets, schedule), []
    rate, pace = schedule.params["learning_rate"], schedule.mean_pace(sums.n_functions)[sums.function]
    leaves = forest.leaves_by_tree(tree_matrix(rows.batch), schedule.params["num_threads"])
    for old, leaf, shrinkage in zip(forest.values_by_tree, leaves, forest.shrinkage, strict=True):
        new = leaf_values.find(leaf, len(old), targets.derivatives(scores), -1) * (pace * shrinkage / rate)
        has_values = np.bincount(sums.function, old.any(axis=0))[sums.function] > 0  # the function of each output
        learns = (sums.per_leaf(leaf, len(old), targets.weight) > SURE) & has_values
        moved.append(np.where(learns, decay * old + (1 - decay) * new, old))
        sums.add_leaves(scores, moved[-1], leaf)
    return replace(forest, values=np.concatenate([forest.values[:0], *moved]))
