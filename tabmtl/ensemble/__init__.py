"""Models made of others: an ensemble that finds out which to trust for each task, and a network distilled from it."""

from tabmtl.ensemble.distill import distill
from tabmtl.ensemble.estimator import MultiTaskEnsemble, MultiTaskEnsembleClassifier, MultiTaskEnsembleRegressor

__all__ = [
    "MultiTaskEnsemble",
    "MultiTaskEnsembleClassifier",
    "MultiTaskEnsembleRegressor",
    "distill",
]
