"""Several models on the same rows, judged side by side."""

from tabmtl.comparison.compare import compare, default_models
from tabmtl.comparison.result import Comparison

__all__ = ["Comparison", "compare", "default_models"]
