"""Plots in scikit-learn's Display style: keep the numbers, draw them again.

Only drawing imports matplotlib; without it, drawing raises an ImportError that names the extra.
"""

from tabmtl.plots.comparison import CalibrationDisplay, ComparisonDisplay
from tabmtl.plots.drift import DriftDisplay
from tabmtl.plots.experts import ExpertUsageDisplay
from tabmtl.plots.importances import ImportanceDisplay
from tabmtl.plots.leaderboard import LeaderboardDisplay
from tabmtl.plots.outliers import OutlierTaskDisplay
from tabmtl.plots.pareto import ParetoDisplay
from tabmtl.plots.scores import GainDisplay, HistoryDisplay

__all__ = [
    "CalibrationDisplay",
    "ComparisonDisplay",
    "DriftDisplay",
    "ExpertUsageDisplay",
    "GainDisplay",
    "HistoryDisplay",
    "ImportanceDisplay",
    "LeaderboardDisplay",
    "OutlierTaskDisplay",
    "ParetoDisplay",
]
