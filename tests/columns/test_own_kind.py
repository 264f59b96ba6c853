"""A kind of columns from outside of the package: one class, which the coder of features and networks take as it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time

import numpy as np
import polars as pl
import pytest
import torch

from tabmtl import SharedBottom, Task
from tabmtl.columns import KINDS as ALL_KINDS
from tabmtl.columns import ColumnKind, Date
from tabmtl.columns.category import Categories
from tabmtl.columns.kind import column_of
from tabmtl.columns.number import Numbers
from tabmtl.encode import FeatureCoder


@dataclass(frozen=True, kw_only=True)
class TimeOfDay(ColumnKind):
    """The time of day as an angle: midnight lies beside 23:59."""

    name = "time of day"
    held = "was a time of day"
    cast = "pl.Time"
    declaration = Date("%H:%M")

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


def test_a_kind_of_columns_is_one_class():
    coder = FeatureCoder.fit(FRAME, kinds=KINDS)
    assert (coder.names, coder.kind_of("opens")) == (tuple(FRAME.columns), "time of day")
    assert coder.columns.numeric == ("price", "opens cos", "opens sin", "shuts cos", "shuts sin")
    features = coder.encode(FRAME)
    angles = [[1, 0, 0, -1], [0, 1, 0.707107, 0.707107], [np.nan, np.nan, 1, -0.004363], [-1, 0, np.nan, np.nan]]
    np.testing.assert_allclose(features.numbers[:, 1:], angles, atol=1e-5)
    for rows in (FRAME[1:2], FRAME[:3], FRAME.lazy()):  # one row, few and any number of them
        found = coder.encode(rows)
        place = {1: [1], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[len(found)]
        np.testing.assert_array_equal(found.numbers, features.numbers[place])
        np.testing.assert_array_equal(found.codes, features.codes[place])


def test_its_features_name_their_columns():
    coder = FeatureCoder.fit(FRAME, kinds=KINDS)
    assert coder.origins == ("price", "opens", "opens", "shuts", "shuts", "town")


def test_networks_take_its_features():
    coder = FeatureCoder.fit(FRAME, kinds=KINDS)
    network = SharedBottom()._network(coder.columns, [Task(name="y", kind="regression")])
    scores = network(coder.encode(FRAME).map(torch.from_numpy))[0]
    assert scores.shape == (4, 1)
    assert scores.isfinite().all()
    assert not torch.equal(scores[0], scores[3])


def test_another_type_is_refused_in_the_words_of_the_kind():
    coder = FeatureCoder.fit(FRAME, kinds=KINDS)
    with pytest.raises(TypeError, match=r"'opens' was a time of day in fit and is now Int32; cast it to pl\.Time, or"):
        coder.encode(FRAME.with_columns(opens=pl.lit(3)))
    with pytest.raises(ValueError, match=r"the features are of the kinds .*'time of day'.*, expected some of"):
        coder.check_kinds(ALL_KINDS)


def test_two_kinds_of_one_name_are_told_apart():
    with pytest.raises(ValueError, match=r"two kinds of columns are named 'numbers'"):
        FeatureCoder.fit(FRAME, kinds=(*KINDS, type("Own", (TimeOfDay,), {"name": "numbers"})))
