"""The only border between frames and arrays: features and labels in, predictions out."""

from tabmtl.encode.features import FeatureCoder
from tabmtl.encode.frames import read_features, read_weights, row_count, take_rows
from tabmtl.encode.labels import LabelCoder


__all__ = ["FeatureCoder", "LabelCoder", "read_features", "read_weights", "row_count", "take_rows"]
