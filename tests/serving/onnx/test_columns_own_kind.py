"""Columns of a kind of the user's own are in no exported network."""

from dataclasses import dataclass
from types import SimpleNamespace

import polars as pl
import pytest

from tabmtl.columns import ColumnKind
from tabmtl.columns.number import Numbers
from tabmtl.encode import FeatureCoder
from tabmtl.serving.onnx.exporting import check_coder


@dataclass(frozen=True, kw_only=True)
class Flags(ColumnKind):
    """Truths."""

    name = "flag"
    held = "was a flag"
    cast = "pl.Boolean"

    @classmethod
    def reads(cls, dtype, declared):
        return dtype == pl.Boolean

    @classmethod
    def learn(cls, names, summary, coding):
        return cls(names=names)

    def facts(self):
        return {"numeric": self.names, "has_missing": (True,), "bins": ((0.0, 1.0),)}

    def encode(self, slices, n):
        raise NotImplementedError  # nothing here encodes rows


def test_an_onnx_file_knows_no_such_columns():
    pytest.importorskip("onnxscript")
    features = FeatureCoder.fit(pl.DataFrame({"a": [1.0, 2.0], "up": [True, False]}), kinds=(Numbers, Flags))
    words = r"none of your own, \{'flag': \('up',\)\}; ignore these columns and fit again"
    with pytest.raises(ValueError, match=words):
        check_coder(SimpleNamespace(features=features, preprocessing=None, text_vectors=None))
