"""Dates and numbers in another writing are told with the line that reads them; codes and other text are silent."""

from __future__ import annotations

import warnings

import polars as pl
import pytest

from tabmtl.base.schema import TabmtlWarning, for_commands
from tabmtl.columns import Category
from tabmtl.columns.writing import written_as
from tabmtl.encode import FeatureCoder

DAYS = [f"{day:02}" for day in range(1, 29)]
WRITINGS = {
    "us": ([f"08/{day}/1994" for day in DAYS], pl.Date),
    "british": ([f"{day}/08/1994" for day in DAYS], pl.Date),
    "german": ([f"{day}.08.1994" for day in DAYS], pl.Date),
    "short": ([f"{day}-Aug-1994" for day in DAYS], pl.Date),
    "long": ([f"{int(day)} August 1994" for day in DAYS], pl.Date),
    "month": ([f"Aug {int(day)}, 1994" for day in DAYS], pl.Date),
    "clock": ([f"{day}.08.1994 13:45" for day in DAYS], pl.Datetime("us")),
    "evening": ([f"08/{day}/1994 1:45 PM" for day in DAYS], pl.Datetime("us")),
    "percent": ([f"{k / 2}%" for k in range(28)], pl.Float64),
    "comma": ([f"{k},{k % 7}" for k in range(28)], pl.Float64),
    "thousands": ([f"{k},{k:03}" for k in range(1, 29)], pl.Float64),
}
WHOLE = [str(k * k) for k in range(28)]
SILENT = {
    "zip codes": ["02139", *(str(k) for k in range(100, 140))],
    "zip codes of one place": [str(k) for k in range(10_100, 10_140)],
    "few": [str(k) for k in range(20)],
    "versions": ["1.2.3", "1.10.12", "2.0.1", "2.0.2", "2.1.0"],
    "ranges": ["10-20", "20-30", "30-40", "40-50", "50-60"],
    "years": ["1990-1994", "1995-1999", "2000-2004", "2005-2009", "2010-2014"],
    "addresses": [f"10.0.0.{k}" for k in range(28)],
    "words": ["red", "green", "blue"],
}


@pytest.mark.parametrize("name", WRITINGS)
def test_the_line_reads_every_value(name):
    texts, dtype = WRITINGS[name]
    frame = pl.DataFrame({"each": texts})
    kind, _ = written_as(frame["each"].unique().sort())
    read = frame.select(kind.read(pl.col("each"))).to_series()
    assert read.dtype == dtype
    assert read.null_count() == 0
    assert read.n_unique() == 28


@pytest.mark.parametrize(
    ("texts", "kind", "doubt"),
    [
        (["0,750", "1,250", "2,125", "3,500", "4,000"], "number:,", "None"),
        (["1,250", "2,125", "3,500", "4,000", "5,500"], "number", "number:,"),
        (["1,250", "1,250,000", "2,125", "3,500", "4,000"], "number", "None"),
        (["03/04/2021", "05/06/2021"], "date:%m/%d/%Y", "date:%d/%m/%Y"),
        (["03/04/2021", "05/26/2021"], "date:%m/%d/%Y", "None"),
    ],
)
def test_values_of_two_readings_name_both(texts, kind, doubt):
    assert [str(each) for each in written_as(pl.Series(texts))] == [kind, doubt]


def test_columns_are_named_once_with_the_cure():
    frame = pl.DataFrame({name: texts * 3 for name, (texts, _) in WRITINGS.items()} | {"count": WHOLE * 3})
    with warnings.catch_warnings(record=True, action="always") as found:
        FeatureCoder.fit(frame)
    written, whole = (str(warning.message) for warning in found)
    said = "are text, so each of their values is a category, yet they are"
    assert written.startswith(f"columns {[*WRITINGS]} {said} dates or numbers; say columns={{'us': 'date:%m/%d/%Y'")
    assert whole == (
        f"columns ['count'] {said} whole numbers; say columns={{'count': 'number'}}; or columns={{'count': "
        "'category'} if they are codes"
    )
    with for_commands(), pytest.warns(TabmtlWarning, match="say --column us=date:%m/%d/%Y; or --column us=category"):
        FeatureCoder.fit(frame.select("us"))


def test_codes_and_other_text_are_silent(recwarn):
    FeatureCoder.fit(pl.DataFrame({"plot_id": WHOLE * 3}))
    for texts in SILENT.values():
        FeatureCoder.fit(pl.DataFrame({"each": texts * 3}))
    FeatureCoder.fit(pl.DataFrame({"each": WRITINGS["us"][0] * 3}), columns={"each": Category()})
    assert not recwarn.list
