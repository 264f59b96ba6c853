"""Several models on the same rows, judged side by side."""

from tabmtl.inspection.comparison.compare import compare, default_models
from tabmtl.inspection.comparison.result import Comparison

__all__ = ["Comparison", "compare", "default_models"]
