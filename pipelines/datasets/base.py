"""What a data set is, a table or a click log, and where those lie that do not ship."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl

from tabmtl import sessions

PARTS = ("train", "val", "test")

#: Columns of every `ClickLog`, as parameters of a recommender.
COLUMNS = {"session_column": "session_id", "item_column": "item_id", "order_column": "position"}

Folder = str | Path | None
Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Real table with its roles, as polars reads it; nothing is loaded before a ``collect``.

    ``features``, ``targets`` and ``split`` are views of one table, so their rows agree. The dtype of a feature tells
    its role: every categorical feature and the task column are String, also if the file stores integer codes, or polars
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
        Kind of each target. A long set has one target, which every task of ``task_column`` fills.
    licence, source : str
        Whose data these are, and where they come from.
    task_column : str, optional
        In a long set (one task per row), the feature that names the row's task.
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
    task_column: str | None = None
    groups: str | None = None

    @property
    def features(self) -> pl.LazyFrame:
        """The numeric, then the categorical features, and last the task column of a long set."""
        strings = (*self.categorical, *([self.task_column] if self.task_column else []))
        return self.table.select(pl.col(self.numeric), pl.col(strings).cast(pl.String))

    @property
    def targets(self) -> pl.LazyFrame:
        """One column per target, null where a row has no label."""
        dtypes = {"binary": pl.Int8, "regression": pl.Float32}
        return self.table.select(pl.col(name).cast(dtypes[kind]) for name, kind in self.tasks.items())

    @property
    def split(self) -> pl.LazyFrame:
        """The one column ``split``: "train", "val" or "test"."""
        return self.table.select("split")

    def part(self, name: str) -> tuple[pl.DataFrame, pl.DataFrame | pl.Series]:
        """Collect one part of the stored split, in the order of the table.

        Parameters
        ----------
        name : {"train", "val", "test"}
            Which part.

        Returns
        -------
        X : polars.DataFrame of shape (n, n_features)
            The features, and in a long set the task column.
        y : polars.DataFrame of shape (n, n_tasks), or polars.Series of length n
            The targets; a Series in a long set, where each row belongs to one task.

        Raises
        ------
        ValueError
            If there is no part of this name.
        """
        rows = replace(self, table=rows_of(name, self.table, self.name, PARTS))
        X, y = pl.collect_all([rows.features, rows.targets])
        return X, y.to_series() if self.task_column else y


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
    licence, source : str
        Whose data these are, and where they come from.

    Examples
    --------
    >>> clicks = {"session_id": [0, 0, 1, 1, 2, 2], "item_id": [1, 2, 2, 3, 1, 3], "position": [0, 1] * 3}
    >>> data = ClickLog(
    ...     name="toy",
    ...     clicks=pl.DataFrame(clicks).with_columns(split=pl.Series(["train"] * 4 + ["test"] * 2)),
    ...     items=pl.DataFrame({"item_id": [1, 2, 3], "category": ["a", "a", "b"]}),
    ...     columns={"time_column": None, "order_column": "position"},
    ...     categories=("category",),
    ...     licence="CC0",
    ...     source="made up",
    ... )
    >>> data.part("test")["item_id"].to_list()
    [1, 3]
    >>> from tabmtl.sessions import Popularity
    >>> model = Popularity(**data.columns).fit(data.part("train"), items=data.items)
    """

    name: str
    clicks: pl.DataFrame
    items: pl.DataFrame
    columns: dict[str, str | None]
    categories: tuple[str, ...]
    licence: str
    source: str

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
        return rows_of(name, self.clicks, self.name, ("train", "test")).drop("split")

    def newest(self, share: float) -> ClickLog:
        """Return the same log with the newest share of the train sessions only; test stays.

        Parameters
        ----------
        share : float
            Between 0 and 1.
        """
        _, train = sessions.temporal_split(self.part("train"), test_size=share, time_column=self.columns["time_column"])
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


def scan(name: str, folder: Folder, table: str = "data") -> pl.LazyFrame:
    """Scan a `stored` table of a set."""
    return pl.scan_parquet(stored(name, folder, table))


def rows_of(part: str, table: Frame, name: str, parts: Iterable[str]) -> Frame:
    """Return the rows of one part of a table with a column ``split``.

    Raises
    ------
    ValueError
        If there is no part of this name.
    """
    if part not in parts:
        raise ValueError(f"{name}: part must be one of {', '.join(parts)}, got {part!r}")
    return table.filter(pl.col("split") == part)
