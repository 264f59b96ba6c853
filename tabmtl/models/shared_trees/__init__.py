"""Shared trees: trees that all tasks share, with leaf values for each, on LightGBM."""

from tabmtl.models.shared_trees.estimator import SharedTrees, SharedTreesClassifier, SharedTreesRegressor

__all__ = ["SharedTrees", "SharedTreesClassifier", "SharedTreesRegressor"]
