"""Models that are made of others, and one network that answers for them."""

from tabmtl.ensemble.distill import distill

__all__ = ["distill"]
