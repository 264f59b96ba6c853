"""Next-item recommendation: predict the next click of a session.

>>> from tabmtl.sessions import M2TRec, VSKNN
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
