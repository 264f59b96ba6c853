"""Dates, times and durations as features: parts that the sample can tell, by the clock of the time zone of fit."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabmtl.base.schema import MISSING, UNSEEN
from tabmtl.columns import Category
from tabmtl.encode import FeatureCoder

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

#: A column, and its parts for networks, numbers before categories, and for trees.
PARTS: dict[str, tuple[pl.Series, str, str]] = {
    "a year of days": (
        column(dt.timedelta(days=1), 366).dt.date(),
        "elapsed year day cos day sin month weekday",
        "elapsed year month day weekday",
    ),
    "some hours": (
        column(dt.timedelta(hours=1), 8),
        "elapsed day cos day sin weekday hour",
        "elapsed day weekday hour",
    ),
    "minutes": (column(dt.timedelta(minutes=1), 8), "elapsed time cos time sin", "elapsed hour"),
    "one day": (column(dt.timedelta(0)), "elapsed", "elapsed"),
    "nothing": (pl.Series([None, None], dtype=pl.Date), "elapsed", "elapsed"),
    "times": (FRAME["opens"], "hour time cos time sin", "hour"),
    "durations": (FRAME["took"], "seconds", "seconds"),
}


@pytest.mark.parametrize("case", PARTS)
@pytest.mark.parametrize("flat", [False, True], ids=["network", "trees"])
def test_parts_are_those_that_the_sample_can_tell(case, flat):
    values, *expected = PARTS[case]
    columns = FeatureCoder.fit(pl.DataFrame({"d": values}), flat=flat).columns
    found = [name.removeprefix("d: ") for name in (*columns.numeric, *columns.categorical)]
    assert " ".join(found) == expected[flat]
    assert not (flat and columns.categorical)


def test_parts_have_their_values():
    coder = FeatureCoder.fit(FRAME, flat=True, transform="none")
    row = dict(zip(coder.columns.numeric, coder.encode(FRAME[:1]).numbers[0].tolist(), strict=True))
    assert row == {
        "when: elapsed": pytest.approx(-40 + 21.25 / 24),
        "when: year": 2023,
        "when: month": 12,
        "when: day": 29,
        "when: weekday": 5,
        "when: hour": 22.25,
        "day: elapsed": -30,
        "day: year": 2023,
        "day: month": 12,
        "day: day": 29,
        "day: weekday": 5,
        "opens: hour": 22.25,
        "took: seconds": 0,
    }
    assert set(coder.origins) == set(FRAME.columns)


@cache
def coder_of(flat: bool, transform: Any) -> FeatureCoder:
    return FeatureCoder.fit(FRAME, flat=flat, transform=transform)


@settings(max_examples=10)
@given(st.permutations(range(N)), st.booleans(), st.sampled_from(["standardize", "quantile"]))
def test_rows_stand_for_themselves(order, flat, transform):
    shuffled, coder = FRAME[order], coder_of(flat, transform)
    again, whole = FeatureCoder.fit(shuffled, flat=flat, transform=transform), coder.encode(FRAME)
    others = shuffled.with_columns(pl.col("when").dt.cast_time_unit("ms"), pl.col("took").dt.cast_time_unit("ns"))
    cases = ((again, shuffled, order), (coder, shuffled[:1], order[:1]), (coder, others, order))
    for known, rows, places in cases:
        found = known.encode(rows)
        np.testing.assert_array_equal(found.numbers, whole.numbers[places])
        np.testing.assert_array_equal(found.codes, whole.codes[places])


def test_a_time_zone_is_that_of_fit():
    coder = FeatureCoder.fit(FRAME)
    whole = coder.encode(FRAME)
    moved = coder.encode(FRAME.with_columns(pl.col("when").dt.convert_time_zone("Asia/Tokyo")))
    np.testing.assert_array_equal(moved.numbers, whole.numbers)
    np.testing.assert_array_equal(moved.codes, whole.codes)
    naive = FRAME.select(pl.col("day").cast(pl.Datetime("us")), "opens", "took", when="when")
    np.testing.assert_array_equal(coder.encode(naive).numbers, whole.numbers)


def test_values_beyond_those_of_fit_go_on():
    frame = pl.DataFrame({"d": column(dt.timedelta(days=1), 8).dt.date()})
    coder = FeatureCoder.fit(frame)
    assert coder.columns.categorical == ("d: month", "d: weekday")
    later = coder.encode(pl.DataFrame({"d": [dt.date(3000, 7, 1), dt.date(1600, 7, 1), None]}))
    assert later.codes[:, 0].tolist() == [UNSEEN, UNSEEN, MISSING]
    elapsed = later.numbers[:, coder.columns.numeric.index("d: elapsed")]
    assert elapsed[0] > 3.9
    assert elapsed[1] < -3.9
    assert np.isnan(elapsed[2])
    flat = FeatureCoder.fit(frame, flat=True, transform="none")
    years = flat.encode(pl.DataFrame({"d": [dt.date(3000, 7, 1), dt.date(1600, 7, 1)]})).numbers
    assert years[:, flat.columns.numeric.index("d: year")].tolist() == [3000, 1600]
    assert years[0, 0] - years[1, 0] == (dt.date(3000, 7, 1) - dt.date(1600, 7, 1)).days


def test_a_column_of_nulls_is_missing():
    coder = FeatureCoder.fit(FRAME)
    empty = coder.encode(FRAME[:2].with_columns(pl.lit(None).alias(name) for name in FRAME.columns))
    assert np.isnan(empty.numbers).all()
    assert (empty.codes == MISSING).all()


NAIVE = FRAME.with_columns(pl.col("when").dt.replace_time_zone(None))
#: Rows of fit, other rows, and words of the refusal.
REFUSED = {
    "naive now": (FRAME, NAIVE, "'when' had the time zone 'Europe/Berlin' in fit and has none now; .*replace_time"),
    "zoned now": (NAIVE, FRAME, r"'when' had no time zone in fit and has 'Europe/Berlin' now; .*tz_localize\(None\)"),
    "a date in a zone": (FRAME, FRAME.with_columns(when="day"), r"has none now; .*pl\.Datetime\)\.dt\.replace_time"),
    "text": (FRAME, FRAME.with_columns(day=pl.lit("2020-01-01")), "'day' held dates .* is now String; .*to_date"),
    "a time": (FRAME, FRAME.with_columns(day="opens"), "'day' held dates in fit and is now Time"),
    "a duration": (FRAME, FRAME.with_columns(opens="took"), "'opens' held times in fit and is now Duration"),
    "a number": (FRAME, FRAME.with_columns(took=1.5), "'took' held durations in fit and is now Float64"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_values_than_in_fit_are_refused(case):
    fitted, given_now, words = REFUSED[case]
    with pytest.raises(TypeError, match=words):
        FeatureCoder.fit(fitted).encode(given_now)


def test_dates_are_no_categories():
    with pytest.raises(TypeError, match="column 'day' has type Date and is declared 'category'"):
        FeatureCoder.fit(FRAME, columns={"day": Category()})


def forged(**changes: Any) -> Any:
    return replace(coder_of(False, "standardize").coders["dates"], **changes)


def test_what_does_not_fit_together_is_refused():
    categories = forged().categories
    levels = (("1", "200000000000"), *categories.levels[1:])
    for changes, message in (
        ({"categories": replace(categories, levels=levels)}, "are no whole numbers below 100"),
        ({"zones": ("UTC",)}, "lacks its time zone or its start"),
        ({"parts": (("elapsed",), ("elapsed",))}, "expected numbers and categories of these"),
        ({"names": ("when",)}, "expected some for each"),
    ):
        with pytest.raises(ValueError, match=message):
            forged(**changes)
