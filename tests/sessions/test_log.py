"""Click logs become sessions as a plain reading in Python has them, from any frame and any type of time."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recommenders import lists
from scipy.sparse import csr_array

from tabmtl.sessions.log import LogColumns, code_items, read_log, read_sessions, to_polars

ITEMS = pl.Series([10, 20, 30, 40])
ORDERED = LogColumns(time=None)

#: Rows of (session, item, time, order); item 50 is in no catalogue.
Rows = list[tuple[int, int, int, int]]
rows = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([10, 20, 30, 40, 50]), st.integers(0, 5), st.integers(0, 2)),
    min_size=1,
    max_size=30,
)


def frame(log: Rows) -> pl.DataFrame:
    return pl.DataFrame(log, schema=["session_id", "item_id", "time", "order"], orient="row")


def expected(log: Rows, *, timed: bool, ordered: bool, by_end: bool) -> list[tuple[int, list[int]]]:
    """What `read_sessions` promises, row by row; Python's sorts keep the order of equal elements."""
    held: dict[int, list[tuple[int, int, int, int]]] = {}
    for row in log:
        held.setdefault(row[0], []).append(row)
    names = sorted(held, key=lambda name: max(row[2] for row in held[name]) if by_end else 0)
    codes = {item: code for code, item in enumerate(ITEMS, start=1)}
    clicks = {
        name: sorted(held[name], key=lambda row: (row[2] if timed else 0, row[3] if ordered else 0)) for name in names
    }
    return [(name, [codes.get(row[1], 0) for row in clicks[name]]) for name in names]


@settings(deadline=None, max_examples=60)
@given(log=rows, timed=st.booleans(), ordered=st.booleans(), asked=st.booleans())
def test_sessions_are_those_of_a_plain_reading(log, timed, ordered, asked):
    columns = LogColumns(time="time" if timed else None, order="order" if ordered else None)
    sessions = read_sessions(frame(log), columns, ITEMS, asked=asked)
    assert lists(sessions) == expected(log, timed=timed, ordered=ordered, by_end=timed and not asked)
    assert sessions.items.dtype == np.int32
    assert sessions.offsets.dtype == np.int64
    if timed:
        assert sessions.times is not None
        for a, b in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True):
            assert (np.diff(sessions.times[a:b]) >= 0).all()
    else:
        assert sessions.times is None


TIMES: dict[str, pl.Series] = {
    "datetime in ms": pl.Series([datetime(2024, 1, 2), datetime(2024, 1, 1)], dtype=pl.Datetime("ms")),
    "datetime in ns": pl.Series([datetime(2024, 1, 2), datetime(2024, 1, 1)], dtype=pl.Datetime("ns")),
    "datetime of a zone": pl.Series([datetime(2024, 1, 2), datetime(2024, 1, 1)]).dt.replace_time_zone("Asia/Tokyo"),
    "date": pl.Series([date(2024, 1, 2), date(2024, 1, 1)]),
    "float": pl.Series([86_400.5, 0.5]),
    "int": pl.Series([86_400, 0]),
    "int32": pl.Series([86_400, 0], dtype=pl.Int32),
}


@pytest.mark.parametrize("kind", TIMES)
def test_every_type_of_time_is_read_in_seconds(kind):
    log = pl.DataFrame({"session_id": [1, 1], "item_id": [10, 20], "time": TIMES[kind]})
    sessions = read_sessions(log, LogColumns(), ITEMS)
    assert lists(sessions) == [(1, [2, 1])]
    assert sessions.times is not None
    assert sessions.times.dtype == np.float64
    assert np.diff(sessions.times).tolist() == [86_400.0]


@pytest.mark.parametrize("dtype", [pl.Int64, pl.Int32, pl.Int8, pl.UInt64])
def test_whole_numbers_of_any_width_name_the_same_items(dtype):
    log = frame([(0, 10, 0, 0), (0, 40, 1, 0), (0, 50, 2, 0)]).with_columns(pl.col("item_id").cast(dtype))
    for items in (ITEMS, ITEMS.cast(pl.Int32), ITEMS.cast(pl.UInt8)):
        assert lists(read_sessions(log, LogColumns(), items)) == [(0, [1, 4, 0])]
    beyond = frame([(0, 10, 0, 0), (0, 2**40, 1, 0), (0, -1, 2, 0)])
    assert lists(read_sessions(beyond, LogColumns(), ITEMS.cast(pl.UInt8))) == [(0, [1, 0, 0])]


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["x", "b", "a"])])
def test_text_in_any_form_names_items(dtype):
    log = pl.DataFrame({"session_id": [0, 0, 0], "item_id": pl.Series(["b", "x", "a"], dtype=dtype), "time": [0, 1, 2]})
    assert lists(read_sessions(log, LogColumns(), pl.Series(["a", "b"]))) == [(0, [2, 0, 1])]


def test_a_name_that_looks_like_a_pattern_is_a_name():
    columns = LogColumns(session="^s.*$", item="i+(", time="^.*$", order="")
    log = pl.DataFrame({"^s.*$": [0, 0], "i+(": [10, 20], "^.*$": [1, 1], "": [2, 1], "side": [0, 0]})
    assert read_log(log, columns).columns == ["session", "item", "time", "order"]
    assert lists(read_sessions(log, columns, ITEMS)) == [(0, [2, 1])]


def test_one_column_may_play_two_roles():
    log = frame([(0, 10, 1, 0), (0, 20, 0, 0)])
    assert lists(read_sessions(log, LogColumns(time=None, order="time"), ITEMS)) == [(0, [2, 1])]
    assert lists(read_sessions(log, LogColumns(order="time"), ITEMS)) == [(0, [2, 1])]


def test_columns_that_are_not_read_do_not_matter():
    log = frame([(0, 10, 1, 0)]).with_columns(session=pl.lit("x"), item=None, code=None)
    assert lists(read_sessions(log, LogColumns(), ITEMS)) == [(0, [1])]


LOG = frame([(0, 10, 0, 0), (1, 20, 1, 1)])


def typed(column: str, dtype: Any) -> pl.DataFrame:
    return LOG.with_columns(pl.col(column).cast(dtype))


def at(newest: float) -> pl.DataFrame:
    return LOG.with_columns(time=pl.Series([0, newest], strict=False))


PLAIN, PLACED = LogColumns(), LogColumns(order="order")
REFUSED: list[tuple[Any, LogColumns, type[Exception], str]] = [
    (LOG.drop("session_id"), PLAIN, ValueError, r"no column 'session_id'; .*'item_id'.*session_column$"),
    (LOG.drop("session_id", "time"), PLAIN, ValueError, r"name it by session_column$"),
    (LOG, LogColumns(item="sku"), ValueError, r"no column 'sku'; .*item_column"),
    (LOG.drop("time"), PLAIN, ValueError, r"no column 'time'; .*time_column=None if .* order only"),
    (LOG, LogColumns(order="place"), ValueError, r"no column 'place'; .*order_column"),
    (LOG.clear(), PLAIN, ValueError, r"the log of today has no row"),
    (LOG.with_columns(time=None), PLAIN, ValueError, r"the column 'time' of the log of today is missing"),
    (typed("order", pl.String), PLACED, TypeError, r"'order' of .* numbers, dates or .*, got String, .* \"2\": c"),
    (typed("order", pl.String).cast({"order": pl.Categorical}), PLACED, TypeError, r"'order' .* got Categorical"),
    ({"session_id": [1]}, PLAIN, TypeError, r"the log of today must be a polars, .* frame, got dict"),
    (np.zeros((2, 3)), PLAIN, TypeError, r"the log of today must be .* got ndarray"),
    (csr_array((2, 3)), PLAIN, TypeError, r"must be .* got csr_array; say polars.DataFrame\(matrix.toarray\(\)\)"),
    (typed("time", pl.String), PLAIN, TypeError, r"'time' of .* dates, datetimes or seconds, got String: parse it"),
    (LOG.with_columns(time=pl.duration(days="time")), PLAIN, TypeError, r"'time' of .* must hold .* got Duration"),
    (at(2**40), PLAIN, ValueError, r"'time' of .* got numbers up to 1099511627776, which look like millis.* by 1_000;"),
    (at(1.7e15), PLAIN, ValueError, r"up to 1700000000000000.0, which look like microseconds: divide .* by 1_000_000;"),
    (at(2**60), PLAIN, ValueError, r"look like nanoseconds.* 1_000_000_000; .* time_column=None .* by order_column$"),
    (typed("item_id", pl.String), PLAIN, TypeError, r"'item_id' are String, those of the catalogue Int64: cast"),
    (typed("item_id", pl.Float64), PLAIN, TypeError, r"'item_id' are Float64, those of the catalogue Int64: cast"),
]


@pytest.mark.parametrize(("log", "columns", "error", "message"), REFUSED)
def test_a_log_that_does_not_fit_is_refused_by_name_with_the_cure(log, columns, error, message):
    with pytest.raises(error, match=message) as caught:
        read_sessions(log, columns, ITEMS, "the log of today")
    assert "today" in str(caught.value)
    assert "click log" not in str(caught.value)


@pytest.mark.parametrize("name", ["session", "item", "time", "order"])
@pytest.mark.parametrize("value", [None, ["x"], 3])
def test_a_column_is_named_by_text(name, value):
    if value is None and name in ("time", "order"):
        assert name not in LogColumns(**{name: None}).roles
        return
    with pytest.raises(TypeError, match=rf"^{name}_column must be the name of a column, a text.*, got "):
        LogColumns(**{name: value})


def test_orders_are_numbers_dates_or_datetimes():
    days = pl.Series([date(2024, 1, 10), date(2024, 1, 2)])
    for order in (pl.Series([10, 2]), pl.Series([1.5, 0.5]), days, days.cast(pl.Datetime("us")), days.cast(pl.Int32)):
        log = pl.DataFrame({"session_id": [0, 0], "item_id": [10, 20], "order": order})
        assert lists(read_sessions(log, LogColumns(time=None, order="order"), ITEMS)) == [(0, [2, 1])]


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


@pytest.mark.parametrize("column", ["session_id", "item_id", "time", "order"])
def test_a_missing_value_is_refused_by_column_and_number(column):
    holes = LOG.with_columns(pl.when(pl.col("session_id") > 0).then(column).alias(column))
    for log in (holes, holes.lazy(), holes.to_pandas(), holes.to_arrow()):
        with pytest.raises(ValueError, match=rf"column '{column}' .* missing .* in 1 of 2 rows: drop or fill"):
            read_sessions(log, LogColumns(order="order"), ITEMS)
    unnamed = pd.DataFrame({"session_id": ["a", None, float("nan")], "item_id": [10, 20, 30], "time": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"'session_id' .* in 2 of 3 rows"):
        read_sessions(unnamed, LogColumns(), ITEMS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_time_that_is_no_time_is_refused(value):
    log = LOG.with_columns(time=pl.Series([0.0, value]))
    with pytest.raises(ValueError, match=r"'time' .* infinite\) in 1 of 2 rows"):
        read_sessions(log, LogColumns(), ITEMS)


def test_numbers_up_to_the_year_9999_are_seconds():
    newest = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    times = read_sessions(at(newest), PLAIN, ITEMS).times
    assert times is not None
    assert times.max() == newest
    order = LogColumns(time=None, order="time")
    assert lists(read_sessions(at(2**60), order, ITEMS)) == lists(read_sessions(LOG, order, ITEMS))


def test_codes_are_places_in_the_catalogue_as_it_stands():
    assert code_items(pl.Series([3, 9, 1, 3]), pl.Series([3, 1])).to_list() == [1, 0, 2, 1]
    with pytest.raises(TypeError, match="candidates are String, those of the catalogue Int64"):
        code_items(pl.Series(["3"]), pl.Series([3]), "candidates")
