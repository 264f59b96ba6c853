"""Real tables and click logs of the study, read from the data folder; portal and flights come from the package."""

from benchmarks.datasets.clicks import ClickLog, load_sessions
from benchmarks.datasets.tables import Table, load

__all__ = ["ClickLog", "Table", "load", "load_sessions"]
