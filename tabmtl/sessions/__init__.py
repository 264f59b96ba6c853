"""Next-item recommendation: predict the next click of a session.

>>> from tabmtl.sessions import M2TRec, VSKNN
"""

from tabmtl.base.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
