"""Dates in files."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from conformance import tiny

import tabmtl
from tabmtl.base.storage.stored import fingerprint
from tabmtl.scale import Shards

START = dt.datetime(2023, 12, 29, 22, 15)
N = 60


def column(step: dt.timedelta, n: int = N) -> pl.Series:
    return pl.Series([START + k * step for k in range(n)])


FRAME = pl.DataFrame(
    {
        "when": column(dt.timedelta(hours=31)).set(pl.Series([k == 3 for k in range(N)]), None),
        "day": column(dt.timedelta(days=1)).dt.date(),
        "opens": column(dt.timedelta(minutes=77)).dt.time(),
        "took": column(dt.timedelta(seconds=77.5)) - START,
    }
).with_columns(pl.col("when").dt.replace_time_zone("Europe/Berlin"))
NAIVE = FRAME.with_columns(pl.col("when").dt.replace_time_zone(None))


def test_files_are_learned_as_frames_are(tmp_path):
    frame = NAIVE.with_columns(y=np.arange(N) / N)
    for part, rows in enumerate((frame[:20], frame[20:])):
        rows.write_parquet(tmp_path / f"{part}.parquet")
        texts = rows.with_columns(cs.date().dt.to_string("iso:strict"), cs.datetime().dt.to_string("iso:strict"))
        texts.with_columns(pl.col("took").dt.total_seconds(), cs.time().dt.to_string("iso:strict")).write_csv(
            tmp_path / f"{part}.csv"
        )
    model = tiny(tabmtl.SharedTrees)
    expected = model.fit(frame.drop("y"), frame.select("y")).coder_.features
    found = model.fit(Shards(tmp_path / "*.parquet"), ["y"]).coder_.features
    assert fingerprint(found) == fingerprint(expected)
    of_csv = model.fit(Shards(tmp_path / "*.csv", dates=True), ["y"]).coder_.features
    assert fingerprint(of_csv.coders["flat dates"]) == fingerprint(expected.coders["flat dates"])
    assert of_csv.kind_of("opens") == "flat times"
    assert model.predict(frame.with_columns(pl.col("took").dt.total_seconds()).drop("y")).width == 1
    frame.with_columns(pl.col("when").dt.cast_time_unit("ms")).write_parquet(tmp_path / "2.parquet")
    with pytest.raises(
        TypeError, match=r"column 'when' is Datetime\(time_unit='ms'.* in .*2\.parquet and Datetime.*one type"
    ):
        Shards(tmp_path / "*.parquet")
