"""What a loaded click log is: clicks with a split, the item table, and how a recommender is told of their columns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from tabmtl.sessions.split import temporal_split

PARTS = ("train", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class SessionLog:
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
        What a recommender is to know of the clicks: ``M2TRec(**data.columns)``.
    categories : tuple of str
        Columns of ``items`` that are levels of one hierarchy, coarse to fine.
    licence, source : str
        Whose data these are, and where they come from.

    Examples
    --------
    >>> clicks = {"session_id": [0, 0, 1, 1, 2, 2], "item_id": [1, 2, 2, 3, 1, 3], "position": [0, 1] * 3}
    >>> data = SessionLog(
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
        """Clicks of one part, without the column ``split``.

        Parameters
        ----------
        name : {"train", "test"}
            Which part.

        Raises
        ------
        ValueError
            If there is no part of this name.
        """
        if name not in PARTS:
            raise ValueError(f"{self.name}: a part is one of {', '.join(PARTS)}; got {name!r}")
        return self.clicks.filter(pl.col("split") == name).drop("split")

    def newest(self, share: float) -> SessionLog:
        """The same log with the newest share of the train sessions only; test stays.

        Parameters
        ----------
        share : float
            Between 0 and 1.
        """
        time_column = self.columns["time_column"]
        _, train = temporal_split(self.part("train"), test_size=share, time_column=time_column)
        return self._with_train(train)

    def with_cold_items(self, share: float = 0.1, *, random_state: int = 0) -> SessionLog:
        """The same log with a share of the items never clicked in train, to test a cold start; test and items stay.

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

    def _with_train(self, train: pl.DataFrame) -> SessionLog:
        test = self.clicks.filter(pl.col("split") == "test")
        train = train.with_columns(split=pl.lit("train")).select(test.columns)
        return replace(self, clicks=pl.concat([train, test]))
