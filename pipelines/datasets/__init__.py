"""Real tables that ship with the package, both CC0: ``portal``, and a sample of ``flights``."""

from __future__ import annotations

from pathlib import Path

from tabmtl.pipelines.datasets import flights, portal
from tabmtl.pipelines.datasets.base import Dataset

__all__ = ["NAMES", "Dataset", "load"]

#: The known tables.
NAMES = ("portal", "flights")


def load(name: str, *, folder: str | Path | None = None, full: bool = False) -> Dataset:
    """Open a table that ships, by name; the docstring of its module describes it.

    Parameters
    ----------
    name : {"portal", "flights"}
    folder : str or pathlib.Path, optional
        Read all rows from ``<name>/data.parquet`` of this folder, not the copy in the package.
    full : bool, default=False
        All rows of flights, from ``folder`` or from the folder in the environment variable ``TABMTL_DATA``. All rows
        of portal ship.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        If the name is unknown.
    FileNotFoundError
        If the table is not where it should be.

    Examples
    --------
    >>> X, y = load("flights").part("val")
    >>> y.null_count().to_dicts()
    [{'cancelled': 0, 'dep_del15': 440, 'arr_delay': 481, 'air_time': 481}]
    """
    if name == "portal":
        return portal.load(folder)
    if name == "flights":
        return flights.load(folder, full=full)
    raise ValueError(f"unknown data set {name!r}; known are {', '.join(NAMES)}")
