"""Networks at several sizes: trained at several widths, cut to a budget, and saved and exported like any other.

A size is told in multiplications of a row with weights; see `tabmtl.nn.units.multiply_adds`.
"""

from tabmtl.slimming.estimator import SlimEstimator, SlimMixture

__all__ = ["SlimEstimator", "SlimMixture"]
