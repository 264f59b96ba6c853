"""Boosted models: what they inherit, and the border to LightGBM."""

from tabmtl.estimators.boosted.estimator import BoostedEstimator

__all__ = ["BoostedEstimator"]
