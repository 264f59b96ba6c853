"""Tables larger than memory: files scored to files, and several processes that fit one model.

Training from files needs no function of its own: see :class:`tabmtl.scale.Shards`. Everything loads on first use.
"""

from tabmtl.base.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
