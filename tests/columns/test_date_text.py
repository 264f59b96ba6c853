"""Dates that are text: found by one rule, read as they say, and warned of in Python with a cure that works."""

from __future__ import annotations

import datetime
import warnings

import polars as pl
import pytest

from tabmtl.base.schema import TabmtlWarning
from tabmtl.columns import Date
from tabmtl.columns.date_text import find_text_dates, read_text
from tabmtl.encode import FeatureCoder

DAYS = [f"2024-02-{day:02}" for day in range(1, 26)]
#: Texts, what they are, and the first of them.
TEXTS = {
    "days": (DAYS, "dates", datetime.date(2024, 2, 1)),
    "missing": (["2024-02-01", "NaT", None, ""], "dates", datetime.date(2024, 2, 1)),
    "moments": (["2024-02-01 05:30", "2024-02-01T05:30:01.25"], "datetimes", datetime.datetime(2024, 2, 1, 5, 30)),
    "days among moments": (["2024-02-01", "2024-02-01 05:30"], "datetimes", datetime.datetime(2024, 2, 1)),
    "zones": (
        ["2024-02-01T05:30+02:00", "2024-02-01 05:30:01Z"],
        "datetimes of UTC",
        datetime.datetime(2024, 2, 1, 3, 30, tzinfo=datetime.UTC),
    ),
    "zones and none": (["2024-02-01T05:30Z"] * 98 + ["2024-02-01 05:30"] * 2, None, None),
    "one of a hundred has no zone": (
        ["2024-02-01T05:30Z"] * 99 + ["2024-02-01 05:30"],
        "datetimes of UTC",
        datetime.datetime(2024, 2, 1, 5, 30, tzinfo=datetime.UTC),
    ),
    "times": (["05:30", "23:59:59.5"], "times", datetime.time(5, 30)),
    "one of a hundred": ([*DAYS, *DAYS, *DAYS, *DAYS[1:], "soon"], "dates", datetime.date(2024, 2, 1)),
    "two of a hundred": ([*DAYS, *DAYS, *DAYS, *DAYS[2:], "soon", "later"], None, None),
    "digits": (["20240201", "20240202"], None, None),
    "nothing": ([None, "NaT"], None, None),
    "days and times": (["2024-02-01", "05:30"], None, None),
}


@pytest.mark.parametrize("case", TEXTS)
def test_text_that_is_a_date_is_found(case):
    texts, kind, first = TEXTS[case]
    frame = pl.DataFrame({"^d$": pl.Series(texts, dtype=pl.String), "n": 1})
    for rows in (frame, frame.lazy()):
        assert find_text_dates(rows) == ({} if kind is None else {"^d$": kind})
    if kind is not None:
        assert frame.select(read_text(pl.nth(0), kind)).to_series()[0] == first


def test_datetimes_without_a_zone_are_of_the_given_one():
    read = pl.select(read_text(pl.lit("2024-07-01 05:30"), "datetimes of Europe/Berlin")).item()
    assert read.isoformat() == "2024-07-01T05:30:00+02:00"


@pytest.mark.parametrize("case", ["days", "moments", "zones", "times"])
def test_the_cure_of_dates_that_are_text_works(case):
    frame = pl.DataFrame({"d": TEXTS[case][0][:1] * 5, "x": range(5)})
    said = r"columns \['d'\] are text, .* yet they are dates or numbers; say columns=\{'d': 'date(:%H:%M)?'\}"
    with pytest.warns(TabmtlWarning, match=said):
        FeatureCoder.fit(frame)
    with warnings.catch_warnings(action="error"):
        coder = FeatureCoder.fit(frame, columns={"d": Date("%H:%M" if case == "times" else None)})
    assert coder.kind_of("d") == ("times" if case == "times" else "dates")
