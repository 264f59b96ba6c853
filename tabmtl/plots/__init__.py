"""Plots in scikit-learn's Display style: keep the numbers, draw them again.

matplotlib is imported to draw only; without it that raises an ImportError which names the extra.
"""

from tabmtl.plots.experts import ExpertUsageDisplay
from tabmtl.plots.outliers import OutlierTaskDisplay
from tabmtl.plots.pareto import ParetoDisplay
from tabmtl.plots.scores import GainDisplay, HistoryDisplay

__all__ = ["ExpertUsageDisplay", "GainDisplay", "HistoryDisplay", "OutlierTaskDisplay", "ParetoDisplay"]
