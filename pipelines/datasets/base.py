"""What a data set is, and where tables lie that do not ship."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

PARTS = ("train", "val", "test")

Folder = str | Path | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Real table with its roles, as polars reads it; nothing is loaded before a ``collect``.

    ``features``, ``targets`` and ``split`` are views of one table, so their rows agree. The dtype of a feature tells
    its role: every categorical feature is String, also if the file stores integer codes, or polars
    Categorical, whose codes differ from process to process; every other feature is a number. Binary targets are Int8,
    regression targets Float32, and a null target is an unlabelled cell.

    Parameters
    ----------
    name : str
        Name of the set.
    table : polars.LazyFrame
        The stored rows, with a column ``split`` that says "train", "val" or "test".
    numeric, categorical : tuple of str
        The features. A column named nowhere here leaks a target or identifies a row: it is no feature.
    tasks : dict of str to {"binary", "regression"}
        Kind of each target.
    licence, source : str
        Whose data these are, and where they come from.
    groups : str, optional
        Column of ``table`` whose values never cross the split: for ``groups=`` of a cross-validation.

    Examples
    --------
    >>> from tabmtl.pipelines.datasets import load
    >>> portal = load("portal")
    >>> portal.tasks
    {'weight': 'regression', 'hindfoot_length': 'regression', 'male': 'binary'}
    >>> X, y = portal.part("train")
    >>> X.shape, y.shape
    ((20548, 7), (20548, 3))
    """

    name: str
    table: pl.LazyFrame
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    tasks: dict[str, str]
    licence: str
    source: str
    groups: str | None = None

    @property
    def features(self) -> pl.LazyFrame:
        """The numeric, then the categorical features."""
        return self.table.select(pl.col(self.numeric), pl.col(self.categorical).cast(pl.String))

    @property
    def targets(self) -> pl.LazyFrame:
        """One column per target, null where a row has no label."""
        dtypes = {"binary": pl.Int8, "regression": pl.Float32}
        return self.table.select(pl.col(name).cast(dtypes[kind]) for name, kind in self.tasks.items())

    @property
    def split(self) -> pl.LazyFrame:
        """The one column ``split``: "train", "val" or "test"."""
        return self.table.select("split")

    def part(self, name: str) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Collect one part of the stored split, in the order of the table.

        Parameters
        ----------
        name : {"train", "val", "test"}
            Which part.

        Returns
        -------
        X : polars.DataFrame of shape (n, n_features)
        y : polars.DataFrame of shape (n, n_tasks)

        Raises
        ------
        ValueError
            If there is no part of this name.
        """
        if name not in PARTS:
            raise ValueError(f"{self.name}: part must be one of {', '.join(PARTS)}, got {name!r}")
        rows = replace(self, table=self.table.filter(pl.col("split") == name))
        X, y = pl.collect_all([rows.features, rows.targets])
        return X, y


def stored(name: str, folder: Folder, table: str = "data") -> Path:
    """Return the path of a stored table of a set: ``<folder>/<name>/<table>.parquet``.

    Parameters
    ----------
    name : str
        Name of the set.
    folder : str, pathlib.Path or None
        The data folder; None reads the environment variable ``TABMTL_DATA``.
    table : str, default="data"
        Which table of the set, where it has several.

    Raises
    ------
    FileNotFoundError
        If no folder is named, or it does not hold the table.
    """
    file = f"{name}/{table}.parquet"
    cure = f"name the folder that holds {file} by folder= or by the environment variable TABMTL_DATA"
    root = folder or os.environ.get("TABMTL_DATA")
    if not root:
        raise FileNotFoundError(f"{name}: expected {file} in a data folder, but none is named; {cure}")
    path = Path(root) / file
    if not path.is_file():
        raise FileNotFoundError(f"{name}: expected the table {path}, but there is no such file; {cure}")
    return path
