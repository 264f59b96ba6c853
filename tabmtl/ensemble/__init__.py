"""Models made of others: an ensemble that finds out which to trust for each task, and a network distilled from it."""

from tabmtl.base.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
