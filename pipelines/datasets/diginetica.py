"""Diginetica (CIKM Cup 2016): clicks of a web shop, the public set of the M2TRec paper."""

from __future__ import annotations

import polars as pl

from tabmtl.pipelines.datasets.base import COLUMNS, ClickLog, Folder, scan


def load(folder: Folder = None) -> ClickLog:
    """Open 982 961 clicks of 202 633 sessions on 43 097 items of 995 categories, in the preprocessing of SR-GNN.

    The log has an order only: sessions are sorted by date, and the last 7 days are test. Metadata is the category
    alone, so an item without an id is one of 995. Sessions of length 1 and items seen fewer than 5 times were dropped
    (counted over train and test, a mild leak), and so was every item of test that train does not hold: there is no
    cold start but the one that ``with_cold_items`` makes. 20.5 % of the test targets repeat an item of their prefix.

    Parameters
    ----------
    folder : str or pathlib.Path, optional
        The data folder, with ``diginetica/clicks.parquet`` and ``diginetica/items.parquet`` in it; default
        ``TABMTL_DATA`` of the environment.

    Returns
    -------
    ClickLog
        186 670 sessions of train and 15 963 of test; one category level, ``category``.

    Raises
    ------
    FileNotFoundError
        If a table is not where it should be.
    """
    clicks, items = (scan("diginetica", folder, table) for table in ("clicks", "items"))
    return ClickLog(
        name="diginetica",
        clicks=clicks.select("session_id", "item_id", "position", "split").collect(),
        items=items.select("item_id", pl.col("category").cast(pl.String)).collect(),
        columns={**COLUMNS, "time_column": None},
        categories=("category",),
        licence="research terms of CIKM Cup 2016 (not verified)",
        source="GitHub yangbo1973/CM-HGNN, datasets/diginetica",
    )
