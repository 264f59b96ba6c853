"""M2TRec: items by their metadata, sessions by a transformer. `estimator` is the way in."""

from tabmtl.sessions.m2trec.estimator import M2TRec

__all__ = ["M2TRec"]
