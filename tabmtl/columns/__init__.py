"""Features of rows as arrays."""

from tabmtl.columns.features import Features

__all__ = ["Features"]
