"""An own kind of columns and ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from tabmtl.columns import ColumnKind
from tabmtl.columns.category import Categories
from tabmtl.columns.kind import column_of
from tabmtl.columns.number import Numbers
from tabmtl.encode import FeatureCoder
from tabmtl.serving.onnx.exporting import check_coder


@dataclass(frozen=True, kw_only=True)
class TimeOfDay(ColumnKind):
    """The time of day as an angle: midnight lies beside 23:59."""

    name = "time of day"
    held = "was a time of day"
    cast = "pl.Time"

    @classmethod
    def reads(cls, dtype, declared):
        return dtype == pl.Time and declared != "categories"

    @classmethod
    def learn(cls, names, summary, coding):
        return cls(names=names)

    def facts(self):
        names = tuple(f"{name} {axis}" for name in self.names for axis in ("cos", "sin"))
        return {"numeric": names, "has_missing": (True,) * len(names), "bins": ((-1.0, 0.0, 1.0),) * len(names)}

    def expressions(self, schema):
        angles = [column_of(name).cast(pl.Int64) * (2 * np.pi / 86_400e9) for name in self.names]
        return [wave for a in angles for wave in (a.cos(), a.sin().name.suffix(" sin"))]

    def encode(self, slices, n):
        found = np.full((n, 2 * len(self.names)), np.nan, dtype=np.float32)
        for rows, columns in slices:
            found[rows] = columns.to_numpy()
        return {"numbers": found}


FRAME = pl.DataFrame(
    {
        "price": [1.0, 2.0, None, 4.0],
        "opens": [time(0), time(6), None, time(12)],
        "town": ["Ulm", "Bonn", "Ulm", None],
        "shuts": [time(18), time(3), time(23, 59), None],
    }
)
KINDS = (Numbers, Categories, TimeOfDay)  # the kind of the package that reads times would be asked first


def test_an_onnx_file_knows_no_such_columns():
    pytest.importorskip("onnxscript")
    features = FeatureCoder.fit(FRAME, kinds=KINDS)
    with pytest.raises(
        ValueError, match=r"none of your own, \{'time of day': \('opens', 'shuts'\)\}; drop these columns and fit again"
    ):
        check_coder(SimpleNamespace(features=features, preprocessing=None, text_vectors=None))
