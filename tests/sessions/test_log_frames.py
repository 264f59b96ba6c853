"""Frames of any library become sessions and answers: mixed columns, missing values, and frames without a row."""

from datetime import date

import numpy as np
import pandas as pd
import polars as pl
import pytest

from tabmtl.sessions.log import LogColumns, read_sessions, to_polars

ITEMS = pl.Series([10, 20, 30, 40])
LOG = pl.DataFrame({"session_id": [0, 1], "item_id": [10, 20], "time": [0, 1], "order": [0, 1]})


def test_a_missing_name_in_pandas_is_refused():
    log = pd.DataFrame({"session_id": ["a", None, float("nan")], "item_id": [10, 20, 30], "time": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"'session_id' .* in 2 of 3 rows"):
        read_sessions(log, LogColumns(), ITEMS)


@pytest.mark.parametrize("values", [[1, "a"], ["a", 1.5], ["a", date(2024, 1, 1)]], ids=str)
def test_a_column_of_mixed_values_is_named_with_the_cure(values):
    log = LOG.to_pandas().assign(item_id=pd.Series(values, dtype=object))
    kinds = ", ".join(sorted(type(value).__name__ for value in values))
    message = rf"the column 'item_id' of the click log holds values of the types {kinds}: cast it .* or drop it"
    with pytest.raises(TypeError, match=message):
        read_sessions(log, LogColumns(), ITEMS)


@pytest.mark.parametrize("timed", [True, False])
def test_a_log_without_a_row_may_be_no_session(timed):
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


def test_frames_of_polars_pass_as_they_are():
    assert to_polars(LOG, "it") is LOG
    with pytest.raises(TypeError, match=r"the item table must be .* got list"):
        to_polars([LOG], "the item table")
