"""Torch modules: no estimator, no training loop."""
