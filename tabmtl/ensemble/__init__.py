"""One estimator that finds out by out-of-fold answers which models to trust, for each task."""

from tabmtl.ensemble.candidates import default_candidates
from tabmtl.ensemble.estimator import MultiTaskEnsemble, MultiTaskEnsembleClassifier, MultiTaskEnsembleRegressor

__all__ = ["MultiTaskEnsemble", "MultiTaskEnsembleClassifier", "MultiTaskEnsembleRegressor", "default_candidates"]
