"""Plots in scikit-learn's Display style: keep the numbers, draw them again.

Only drawing imports matplotlib; without it, drawing raises an ImportError that names the extra.
"""

from tabmtl.inspection.plots.comparison import CalibrationDisplay, ComparisonDisplay
from tabmtl.inspection.plots.drift import DriftDisplay
from tabmtl.inspection.plots.experts import ExpertUsageDisplay
from tabmtl.inspection.plots.importances import ImportanceDisplay
from tabmtl.inspection.plots.leaderboard import LeaderboardDisplay
from tabmtl.inspection.plots.scores import GainDisplay, HistoryDisplay

__all__ = [
    "CalibrationDisplay",
    "ComparisonDisplay",
    "DriftDisplay",
    "ExpertUsageDisplay",
    "GainDisplay",
    "HistoryDisplay",
    "ImportanceDisplay",
    "LeaderboardDisplay",
]
