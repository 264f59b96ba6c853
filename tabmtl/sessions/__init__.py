"""Next-item recommendation: predict the next click of a session.

>>> from tabmtl.sessions import M2TRec, VSKNN
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tabmtl.sessions.knn import STAN, VSKNN
    from tabmtl.sessions.m2trec import M2TRec
    from tabmtl.sessions.popularity import CategoryPopularity, Popularity
    from tabmtl.sessions.ranking import Ranking
    from tabmtl.sessions.rules import SequentialRules
    from tabmtl.sessions.split import temporal_split

_HOMES = {
    "M2TRec": "m2trec",
    "Popularity": "popularity",
    "CategoryPopularity": "popularity",
    "SequentialRules": "rules",
    "VSKNN": "knn",
    "STAN": "knn",
    "Ranking": "ranking",
    "temporal_split": "split",
}

__all__ = [
    "STAN",
    "VSKNN",
    "CategoryPopularity",
    "M2TRec",
    "Popularity",
    "Ranking",
    "SequentialRules",
    "temporal_split",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tabmtl.sessions' has no attribute {name!r}")
    return getattr(import_module(f"tabmtl.sessions.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
