"""Folds, validation rows and scorers for several tasks."""

from tabmtl.model_selection.folds import MultiTaskKFold, make_multitask_scorer, train_valid_split

__all__ = ["MultiTaskKFold", "make_multitask_scorer", "train_valid_split"]
