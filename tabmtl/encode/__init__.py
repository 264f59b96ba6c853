"""The only border between frames and arrays: features and labels in, predictions out.

It loops over the kinds of columns and of targets, whose own work is theirs.
"""

from tabmtl.encode.features import FeatureCoder
from tabmtl.encode.labels import LabelCoder
from tabmtl.encode.read import join_rows, take_rows
from tabmtl.encode.table import TableCoder

__all__ = ["FeatureCoder", "LabelCoder", "TableCoder", "join_rows", "take_rows"]
