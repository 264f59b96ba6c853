"""Real tables and click logs of the study, read from the data folder; portal and flights come from the package."""

from benchmarks.datasets.clicks import ClickLog, load_sessions
from benchmarks.datasets.tables import load

__all__ = ["ClickLog", "load", "load_sessions"]
