"""Click logs: small tables of the same columns are read anywhere, the real ones where at hand."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from benchmarks.datasets import ClickLog, load_sessions
from benchmarks.datasets.clicks import LOGS, complete_journey
from tabmtl.sessions.log import LogColumns, read_sessions

NEWEST = datetime(2020, 5, 1, 12)


def write(folder: Path, name: str, **tables: pl.DataFrame) -> None:
    (folder / name).mkdir()
    for table, frame in tables.items():
        frame.write_parquet(folder / name / f"{table}.parquet")


def small_diginetica() -> dict[str, pl.DataFrame]:
    lengths = [3, 2, 2, 4, 2]
    sessions = np.repeat(np.arange(5, dtype=np.int32), lengths)
    clicks = pl.DataFrame(
        {
            "session_id": sessions,
            "split": np.where(sessions < 4, "train", "test"),
            "position": np.concatenate([np.arange(n, dtype=np.int16) for n in lengths]),
            "item_id": np.array([1, 2, 3, 4, 5, 1, 4, 2, 3, 5, 1, 4, 5], dtype=np.int32),
        }
    )
    items = pl.DataFrame(
        {"item_id": np.arange(1, 6, dtype=np.int32), "category": np.array([0, 0, 1, 2, 1], dtype=np.int32)}
    )
    return {"clicks": clicks, "items": items}


#: Basket, days before the newest one, and products.
BASKETS = [
    (1, 200, [1, 2, 3]),  # before train
    (2, 148, [1, 2, 3, 4, 5, 6, 7, 8]),
    (3, 60, [1]),  # too short, but its product was sold
    (4, 60, [2, 9]),  # 9 is FUEL: one product is left
    (5, 30, [3, 4, 10, 11]),  # 10 is MISCELLANEOUS, no table knows 11
    (6, 28, [5, 6]),
    (7, 0, [7, 12]),  # 12 was not sold before
    (8, 20, list(range(100, 141))),  # too long
]


def small_complete_journey() -> dict[str, pl.DataFrame]:
    lines = [(basket, NEWEST - timedelta(days=days), product) for basket, days, held in BASKETS for product in held]
    transactions = pl.DataFrame(lines, schema=["basket_id", "transaction_timestamp", "product_id"], orient="row")
    products = [*(n for n in range(1, 13) if n != 11), *range(100, 141), 999]
    departments = {9: "FUEL", 10: "MISCELLANEOUS"}
    table = pl.DataFrame({"product_id": products}).with_columns(
        manufacturer_id=pl.col("product_id") % 3,
        department=pl.Series([departments.get(n, "GROCERY") for n in products]),
        brand=pl.lit("National"),
        product_category=pl.when(pl.col("product_id") > 1).then(pl.lit("SOUP")),
        product_type=pl.lit("SOUP, THIN"),
        package_size=pl.lit(None, dtype=pl.String),
    )
    return {"transactions": transactions.with_columns(household_id=1, quantity=1), "products": table}


@pytest.fixture
def small(tmp_path):
    """A data folder with tables like the real ones."""
    write(tmp_path, "diginetica", **small_diginetica())
    write(tmp_path, "complete_journey", **small_complete_journey())
    return tmp_path


@pytest.fixture(params=LOGS)
def small_log(request, small):
    return load_sessions(request.param, small)


def check_log(data: ClickLog) -> None:
    """What every click log promises."""
    for part in ("train", "test"):
        clicks = data.part(part)
        columns = LogColumns(
            session="session_id", item="item_id", time=data.columns["time_column"], order=data.columns["order_column"]
        )
        sessions = read_sessions(clicks, columns, data.items["item_id"])
        # rows as they stand are in order of time and of place
        assert sessions.ids.to_list() == clicks["session_id"].unique(maintain_order=True).to_list()
        assert (sessions.items > 0).all()
        assert data.items["item_id"].gather(sessions.items - 1).cast(clicks["item_id"].dtype).equals(clicks["item_id"])
        assert sessions.lengths.min() >= 2
    assert not set(data.part("train")["session_id"]) & set(data.part("test")["session_id"])
    metadata = data.items.drop("item_id")
    assert set(metadata.schema.values()) == {pl.String()}
    assert set(data.categories) <= set(metadata.columns)
    assert data.items["item_id"].is_sorted()
    assert data.items["item_id"].is_unique().all()


def n_targets(clicks: pl.DataFrame) -> int:
    return len(clicks) - clicks["session_id"].n_unique()


def cold_targets(data: ClickLog) -> pl.DataFrame:
    """Targets of test that train does not hold."""
    later = data.part("test").filter(pl.int_range(pl.len()).over("session_id") > 0)
    return later.join(data.part("train"), on="item_id", how="anti")


def test_small_logs_keep_the_promises(small_log):
    check_log(small_log)
    if small_log.columns["time_column"]:
        assert small_log.part("train")["time"].max() < small_log.part("test")["time"].min()


def test_diginetica_as_stored(small):
    data = load_sessions("diginetica", small)
    assert data.part("train")["session_id"].unique().sort().to_list() == [0, 1, 2, 3]
    assert data.part("test")["item_id"].to_list() == [4, 5]
    assert data.items["category"].to_list() == ["0", "0", "1", "2", "1"]
    assert data.columns["time_column"] is None


def test_complete_journey_keeps_baskets_of_products(small):
    data = load_sessions("complete_journey", small)
    held = {name: sorted(part["item_id"]) for (name,), part in data.clicks.group_by("session_id")}
    assert held == {2: [1, 2, 3, 4, 5, 6, 7, 8], 5: [3, 4], 6: [5, 6], 7: [7, 12]}
    assert data.part("train")["session_id"].unique().sort().to_list() == [2, 5]
    assert data.part("test")["session_id"].unique().sort().to_list() == [6, 7]


def test_complete_journey_recommends_what_was_sold_in_a_basket_of_any_size(small):
    data = load_sessions("complete_journey", small)
    assert data.items["item_id"].to_list() == [*range(1, 9), 12, *range(100, 141)]
    assert data.items["product_category"].null_count() == 1
    assert data.items["manufacturer_id"].head(3).to_list() == ["1", "2", "0"]
    recent = load_sessions("complete_journey", small, train_days=10)
    assert recent.part("train")["session_id"].unique().to_list() == [5]
    assert recent.items["item_id"].head(5).to_list() == [3, 4, 5, 6, 7]


def test_the_order_of_a_basket_hangs_on_the_seed_alone(small):
    first = load_sessions("complete_journey", small)
    assert_frame_equal(first.clicks, load_sessions("complete_journey", small).clicks)
    basket = first.part("train").filter(session_id=2)["item_id"].to_list()
    assert basket != sorted(basket)
    others = [complete_journey(small, seed=seed) for seed in (1, 2)]
    assert any(other.part("train").filter(session_id=2)["item_id"].to_list() != basket for other in others)
    # neither the days nor the order of the stored lines reach into a basket
    longer = load_sessions("complete_journey", small, train_days=300)
    assert longer.part("train").filter(session_id=2)["item_id"].to_list() == basket
    table = small / "complete_journey" / "transactions.parquet"
    pl.read_parquet(table).reverse().write_parquet(table)
    assert_frame_equal(first.clicks, load_sessions("complete_journey", small).clicks)


def test_the_newest_share_of_train(small):
    data = load_sessions("diginetica", small).newest(0.5)
    assert data.part("train")["session_id"].unique().sort().to_list() == [2, 3]
    assert data.part("test")["session_id"].unique().to_list() == [4]
    check_log(data)
    data = load_sessions("complete_journey", small).newest(0.5)
    assert data.part("train")["session_id"].unique().to_list() == [5]


def test_cold_items_leave_train_only(small_log):
    cold = small_log.with_cold_items(0.2)
    ids = small_log.items["item_id"].sort().to_numpy()
    deleted = np.random.default_rng(0).permutation(ids)[: round(0.2 * len(ids))]
    assert not set(cold.part("train")["item_id"]) & set(deleted)
    assert_frame_equal(cold.part("test"), small_log.part("test"))
    assert_frame_equal(cold.items, small_log.items)
    # what is left of train is what it was, less the items and the sessions that became too short
    kept = small_log.part("train").filter(~pl.col("item_id").is_in(deleted))
    assert_frame_equal(cold.part("train"), kept.filter(pl.len().over("session_id") >= 2))
    assert_frame_equal(cold.clicks, small_log.with_cold_items(0.2).clicks)
    assert any(not small_log.with_cold_items(0.2, random_state=seed).clicks.equals(cold.clicks) for seed in range(1, 9))


def test_what_a_log_does_not_have_is_refused(small_log):
    for share in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"share must be between 0 and 1, got"):
            small_log.with_cold_items(share)
    with pytest.raises(ValueError, match=r": part must be one of train, test, got 'val'"):
        small_log.part("val")


@pytest.fixture(scope="module")
def real():
    """The real sets, or a skip that says how to name their folder."""
    folder = os.environ.get("TABMTL_DATA")
    if not folder:
        pytest.skip("TABMTL_DATA is unset: it names the folder that holds the tables of each set")
    missing = [name for name in LOGS if not (Path(folder) / name).is_dir()]
    if missing:
        pytest.skip(f"the folder of TABMTL_DATA has no {missing[0]}")
    return {name: load_sessions(name) for name in LOGS}


#: Clicks and sessions of train and of test, items, and distinct metadata of them.
FACTS = {
    "diginetica": ((906_140, 186_670), (76_821, 15_963), 43_097, 995),
    "complete_journey": ((367_919, 37_853), (87_999, 8_866), 45_489, 10_285),
}


@pytest.mark.parametrize("name", LOGS)
def test_the_real_sets_have_their_known_sizes_and_keep_the_promises(name, real):
    data = real[name]
    sizes = [(len(part), part["session_id"].n_unique()) for part in (data.part("train"), data.part("test"))]
    metadata = data.items.select(pl.exclude("item_id", "package_size"))
    assert (*sizes, len(data.items), metadata.unique().height) == FACTS[name]
    check_log(data)


def test_targets_of_diginetica(real):
    data = real["diginetica"]
    assert n_targets(data.part("train")) == 719_470
    assert n_targets(data.part("test")) == 60_858
    assert cold_targets(data).is_empty()
    assert len(cold_targets(data.with_cold_items())) == 5_933
    assert n_targets(data.newest(0.25).part("test")) == 60_858
    assert data.newest(0.25).part("train")["session_id"].n_unique() == round(186_670 / 4)


def test_targets_of_complete_journey(real):
    data = real["complete_journey"]
    train, test = data.part("train"), data.part("test")
    assert n_targets(test) == 79_133
    assert train["time"].max() < test["time"].min()
    assert test["time"].max() - test["time"].min() <= timedelta(days=28)
    # of the targets, 5.4 % were never sold in train and 18.6 % at most five times
    sold = train.group_by("item_id").len()
    counts = test.filter(pl.col("position") > 0).join(sold, on="item_id", how="left")["len"].fill_null(0)
    assert round((counts == 0).mean(), 3) == 0.054
    assert round((counts <= 5).mean(), 3) == 0.186


def test_the_order_of_a_real_basket_tells_nothing(real):
    clicks = real["complete_journey"].clicks
    steps = clicks.select(up=(pl.col("item_id").diff() > 0).over("session_id")).drop_nulls()
    assert steps["up"].mean() == pytest.approx(0.5, abs=0.005)  # as stored, every step goes up
