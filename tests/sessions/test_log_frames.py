"""Frames of any library become sessions and answers: mixed columns, missing values, and frames without a row."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from tabmtl.sessions.log import LogColumns, like, read_sessions, to_polars

ITEMS = pl.Series([10, 20, 30, 40])
LOG = pl.DataFrame({"session_id": [0, 1], "item_id": [10, 20], "time": [0, 1], "order": [0, 1]})

LIBRARIES: dict[str, Callable[[pl.DataFrame], Any]] = {
    "polars lazy": pl.DataFrame.lazy,
    "pandas": pl.DataFrame.to_pandas,
    "pandas with an index": lambda log: log.to_pandas().set_axis(range(7, 7 + len(log))),
    "pyarrow": pl.DataFrame.to_arrow,
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_gives_the_same_sessions(library: str) -> None:
    log = pl.DataFrame({"session_id": [1, 0, 1, 0], "item_id": [10, 20, 50, 40], "time": [5, 3, 2, 9]})
    log = log.with_columns(time=pl.lit(datetime(2024, 1, 1)) + pl.duration(minutes=pl.col("time")))
    own, other = (read_sessions(part, LogColumns(), ITEMS) for part in (log, LIBRARIES[library](log)))
    for found in (own, other):
        assert found.ids.to_list() == [1, 0]
        assert found.offsets.tolist() == [0, 2, 4]
        assert found.items.tolist() == [0, 1, 2, 4]
    assert own.times is not None
    np.testing.assert_array_equal(own.times, other.times)


def test_a_missing_name_in_pandas_is_refused() -> None:
    log = pd.DataFrame({"session_id": ["a", None, float("nan")], "item_id": [10, 20, 30], "time": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"'session_id' .* in 2 of 3 rows"):
        read_sessions(log, LogColumns(), ITEMS)


@pytest.mark.parametrize("values", [[1, "a"], ["a", 1.5], ["a", date(2024, 1, 1)]], ids=str)
def test_a_column_of_mixed_values_is_named_with_the_cure(values: list[Any]) -> None:
    log = LOG.to_pandas().assign(item_id=pd.Series(values, dtype=object))
    kinds = ", ".join(sorted(type(value).__name__ for value in values))
    message = rf"the column 'item_id' of the click log holds values of the types {kinds}: cast it .* or drop it"
    with pytest.raises(TypeError, match=message):
        read_sessions(log, LogColumns(), ITEMS)


@pytest.mark.parametrize("timed", [True, False])
def test_a_log_without_a_row_may_be_no_session(timed: bool) -> None:
    columns = LogColumns() if timed else LogColumns(time=None, order="order")
    nothing = pl.DataFrame({"session_id": [], "item_id": [], "time": [], "order": []})
    for log in (LOG.clear(), LOG.clear().lazy(), LOG.clear().to_pandas(), LOG.clear().to_arrow(), nothing):
        found = read_sessions(log, columns, ITEMS, asked=True)
        assert len(found) == len(found.items) == len(found.ids) == 0
        assert found.items.dtype == np.int32
        assert (found.times is not None) == timed
    assert read_sessions(LOG.clear(), LogColumns(), ITEMS, asked=True).ids.dtype == pl.Int64
    with pytest.raises(ValueError, match="no column 'item_id'"):
        read_sessions(LOG.clear().drop("item_id"), LogColumns(), ITEMS, asked=True)


@pytest.mark.parametrize("library", ["to_pandas", "to_arrow"])
def test_a_frame_without_a_row_comes_back_with_its_types(library: str) -> None:
    example = getattr(LOG, library)()
    back = like(LOG.clear(), example)
    assert type(back) is type(example)
    assert pl.DataFrame(back).schema == LOG.schema


def test_frames_of_polars_pass_as_they_are() -> None:
    assert to_polars(LOG, "it") is LOG
    with pytest.raises(TypeError, match=r"the item table must be .* got list"):
        to_polars([LOG], "the item table")
