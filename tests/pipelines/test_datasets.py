"""The tables that ship: their size, their missing labels, and errors of names and folders."""

from pathlib import Path

import polars as pl
import pytest

from tabmtl.pipelines import datasets
from tabmtl.pipelines.datasets import NAMES, load

TRAIN = {"portal": 20_548, "flights": 36_068}


def test_cancelled_flights_have_no_delay():
    y = load("flights").targets.collect()
    assert (y["dep_del15"].is_null() == (y["cancelled"] == 1)).all()
    assert y.filter(pl.col("cancelled") == 1)["arr_delay"].is_null().all()


def test_portal_has_rows_without_any_label():
    y = load("portal").targets.collect()
    assert y.select(pl.all_horizontal(pl.all().is_null()).sum()).item() == 1102


def test_the_tables_that_ship_are_small():
    files = list(Path(datasets.__file__).parent.glob("*.parquet"))
    assert sorted(file.name for file in files) == ["flights_sample.parquet", "portal.parquet"]
    assert sum(file.stat().st_size for file in files) < 1_000_000


def test_the_environment_alone_does_not_change_the_rows(monkeypatch, tmp_path):
    monkeypatch.setenv("TABMTL_DATA", str(tmp_path))
    for name, n in TRAIN.items():
        assert load(name).part("train")[0].height == n


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda _: load("star"), ValueError, "unknown data set 'star'; known are portal, flights"),
        (lambda _: load("portal").part("valid"), ValueError, r"portal: .*train, val, test, got 'valid'"),
        (
            lambda _: load("flights", full=True),
            FileNotFoundError,
            r"flights/data\.parquet .*none is named; .*TABMTL_DATA",
        ),
        *(
            (
                lambda folder, name=name: load(name, folder=folder),
                FileNotFoundError,
                rf"expected the table .*{name}/data.parquet.*TABMTL_DATA",
            )
            for name in NAMES
        ),
    ],
)
def test_what_is_not_there_is_named_with_what_is(call, error, message, tmp_path, monkeypatch):
    monkeypatch.delenv("TABMTL_DATA", raising=False)
    with pytest.raises(error, match=message):
        call(tmp_path)
