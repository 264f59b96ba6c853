"""Make the tables that ship: ``python -m benchmarks.datasets.make_samples FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl

from tabmtl.pipelines import datasets
from tabmtl.pipelines.datasets import Dataset, load

#: Rows the flights sample takes of each part; the last day of a part comes whole, which makes 60 367.
QUOTAS = {"train": 36_000, "val": 12_000, "test": 12_000}


def sample_days(table: pl.DataFrame) -> list[int]:
    """Choose the days of the flights sample: seeded, whole, and in the proportions of the split.

    The sorted days are permuted by ``numpy.random.default_rng(0)``; each part of the split takes its days in
    that order until its quota is reached.

    Parameters
    ----------
    table : polars.DataFrame
        All flights, with the columns ``yday`` and ``split``.

    Returns
    -------
    list of int
        Days of the year.
    """
    days = np.random.default_rng(0).permutation(table["yday"].unique().sort().to_numpy())
    sizes = {day: (part, n) for day, part, n in table.group_by("yday", "split").len().iter_rows()}
    taken = dict.fromkeys(QUOTAS, 0)
    chosen = []
    for day in days.tolist():
        part, n = sizes[day]
        if taken[part] < QUOTAS[part]:
            taken[part] += n
            chosen.append(day)
    return chosen


def roles_only(data: Dataset) -> pl.DataFrame:
    """Collect features, targets, groups and split in the order of the table, without columns that leak.

    Parameters
    ----------
    data : Dataset
        A set of the wide layout.
    """
    others = [data.groups, "split"] if data.groups else ["split"]
    views = [data.features, data.targets, data.table.select(others)]
    return pl.concat(pl.collect_all(views), how="horizontal")


def make_samples(folder: str | Path, target: str | Path = Path(datasets.__file__).parent) -> None:
    """Write ``portal.parquet`` (all rows) and ``flights_sample.parquet``.

    Parameters
    ----------
    folder : str or pathlib.Path
        The data folder that holds ``portal/data.parquet`` and ``flights/data.parquet``.
    target : str or pathlib.Path, optional
        Where to write; default is the package.
    """
    every_flight = roles_only(load("flights", folder=folder))
    sample = every_flight.filter(pl.col("yday").is_in(sample_days(every_flight)))
    for name, table in (("portal", roles_only(load("portal", folder=folder))), ("flights_sample", sample)):
        table.write_parquet(Path(target) / f"{name}.parquet", compression="zstd", compression_level=19)


if __name__ == "__main__":
    make_samples(sys.argv[1])
