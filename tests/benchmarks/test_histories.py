"""Tables of logs: lists hold earlier sessions only, and labels the row's own."""

from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.datasets.histories import history_table

BEGIN = datetime(2026, 1, 1)
COLUMNS = {"user_column": "user", "session_column": "basket", "time_column": "time"}
ALL = COLUMNS | {"item_columns": ["item", "kind"], "label_column": "kind"}

lines = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 5), st.sampled_from(["x", "y", "z", None])),
    min_size=1,
    max_size=30,
)


def frame(drawn):
    """A log whose baskets belong to one user, given as user, basket of the user, hour and kind."""
    rows = [
        (user, f"{user}{basket}", BEGIN + timedelta(hours=hour), k, kind)
        for k, (user, basket, hour, kind) in enumerate(drawn)
    ]
    schema = {"user": pl.String, "basket": pl.String, "time": pl.Datetime("us"), "item": pl.Int64, "kind": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


@settings(max_examples=50, deadline=None)
@given(drawn=lines, max_length=st.integers(1, 5))
def test_rows_are_those_of_a_loop(drawn, max_length):
    log = frame(drawn)
    began = dict(log.group_by("basket").agg(pl.col("time").min()).iter_rows())
    taken = [(began[basket], user, basket, item, kind) for user, basket, _, item, kind in log.iter_rows()]
    expected = []
    for basket, time in sorted(began.items(), key=lambda pair: (pair[1], pair[0])):
        past = sorted((line for line in taken if line[1] == basket[0] and line[0] < time), key=lambda line: line[0])
        if past:
            past = past[-max_length:]
            days = [(time - line[0]) / timedelta(days=1) for line in past]
            held = {line[4] for line in taken if line[2] == basket}
            row = (basket[0], time, [line[3] for line in past], [line[4] for line in past], pytest.approx(days))
            expected.append((*row, int("x" in held), int("y" in held)))
    known = [name for name in ("x", "y") if name in set(log["kind"])]
    if len(known) < 2:
        return
    X, y = history_table(log, **ALL, labels=known, max_length=max_length)
    assert X.columns == ["user", "time", "last_item", "last_kind", "last_days"]
    assert X.hstack(y).rows() == expected


def test_labels_are_those_of_most_sessions():
    log = frame(
        [("a", 0, 0, "x"), ("a", 0, 0, "x"), ("a", 1, 1, "y"), ("a", 2, 2, "y"), ("a", 2, 2, "x"), ("a", 3, 3, "y")]
    )
    _, y = history_table(log, **ALL, labels=1)
    assert y.to_dict(as_series=False) == {"y": [1, 1, 1]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "max_length must be an integer >= 1, got 0"),
        ({"labels": 0}, "labels must be at least 1, got 0"),
        ({"labels": ["q"]}, r"no line of the log has \['q'\] in 'kind'"),
        ({"label_column": "sort"}, "the log has no column 'sort'; it has"),
        ({"user_column": "kind"}, "the column 'kind' of the log has missing values"),
        ({"time_column": "item"}, "the column 'item' must hold dates or datetimes, got Int64"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    log = frame([("a", 0, 0, "x"), ("a", 1, 1, None)])
    with pytest.raises(ValueError, match=message):
        history_table(log, **ALL | options)
