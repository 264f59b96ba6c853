from .distill import distill as distill
from .estimator import MultiTaskEnsemble as MultiTaskEnsemble
from .estimator import MultiTaskEnsembleClassifier as MultiTaskEnsembleClassifier
from .estimator import MultiTaskEnsembleRegressor as MultiTaskEnsembleRegressor
