"""Folds, validation rows and scorers for several tasks."""

from tabmtl.model_selection.folds import MultiTaskKFold, make_multitask_scorer, train_valid_split
from tabmtl.model_selection.times import MultiTaskTimeSplit

__all__ = ["MultiTaskKFold", "MultiTaskTimeSplit", "make_multitask_scorer", "train_valid_split"]
