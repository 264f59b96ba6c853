"""Law of click sessions: the probability of every next item, and the ceiling of every recommender."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import polars as pl

from tabmtl.synth.checks import check_count

Labels = Literal["drawn", "expected"]

#: Type of all times.
MICROSECONDS = pl.Datetime("us")

#: Cells of the largest array of items by prefixes.
CELLS = 2**20


@dataclass(frozen=True, kw_only=True, eq=False)
class SessionTruth:
    """Items, and the law of their clicks; `make_sessions` has its formulas.

    Parameters
    ----------
    items : polars.DataFrame of shape (n_items, 7)
        The true metadata, with the columns of a log's ``items`` and no nulls.
    births : polars.Series of shape (n_items,)
        Datetimes: an item is clicked no earlier.
    begin, cut, end : datetime
        Sessions start from ``begin`` to ``end``; no cold item is born before ``cut``.
    categories : tuple of str
        Names of the categories.
    transitions : ndarray of shape (n_categories, n_categories)
        Rows sum to 1: probability of the next click's category (column) by the last click's (row), repeats aside.
    start : ndarray of shape (n_categories,)
        Probability of the first click's category.
    codes : dict of str to ndarray of shape (n_items,)
        Integers: ``category`` (place in ``categories``), ``subcategory`` and ``brand``.
    level : ndarray of shape (n_items,)
        Price on the logarithmic scale of its category, from 0 (cheapest possible) to 1.
    told, attraction : ndarray of shape (n_items,)
        Weight of an item as its metadata tells it, and as it is: with its own part.
    affinities : dict of str to float
        ``brand``, ``first``, ``subcategory``, ``price``.
    repeat_rate, mean_length : float
        Chance that a click repeats one of its session; mean number of clicks of a session.
    """

    items: pl.DataFrame = field(repr=False)
    births: pl.Series = field(repr=False)
    begin: datetime
    cut: datetime
    end: datetime
    categories: tuple[str, ...] = field(repr=False)
    transitions: np.ndarray = field(repr=False)
    start: np.ndarray = field(repr=False)
    codes: dict[str, np.ndarray] = field(repr=False)
    level: np.ndarray = field(repr=False)
    told: np.ndarray = field(repr=False)
    attraction: np.ndarray = field(repr=False)
    affinities: dict[str, float]
    repeat_rate: float
    mean_length: float

    def next_probabilities(
        self,
        prefixes: Sequence[Sequence[str]],
        times: datetime | Sequence[datetime] | pl.Series,
        *,
        metadata_only: bool = False,
    ) -> np.ndarray:
        """Return the probability of every item to be clicked next.

        Parameters
        ----------
        prefixes : sequence of B sequences of str
            Items that a session has clicked so far, oldest first; empty before its first click.
        times : datetime, or B of them
            When the next click is.
        metadata_only : bool, default=False
            Use the metadata of every item only: the law without the items' own parts.

        Returns
        -------
        ndarray of shape (B, n_items)
            In the order of ``items``. Rows sum to 1; an item that is not yet born has 0.

        Raises
        ------
        ValueError
            If an item is unknown, there are not as many times as prefixes, or a time is before ``begin``.
        """
        sizes = np.array([len(prefix) for prefix in prefixes], dtype=np.int64)
        flat = self._places(pl.Series([item for prefix in prefixes for item in prefix], dtype=pl.String))
        given = pl.Series([times] * len(sizes) if isinstance(times, datetime) else times, dtype=MICROSECONDS)
        if len(given) != len(sizes):
            raise ValueError(f"times must be one or as many as the {len(sizes)} prefixes, got {len(given)}")
        if len(given) and (given.has_nulls() or (given < self.begin).any()):
            earliest = None if given.has_nulls() else given.sort()[0]
            raise ValueError(f"times must be no earlier than {self.begin}, got {earliest}")
        moments = given.to_physical().to_numpy()
        return self._probabilities(flat, np.cumsum(sizes) - sizes, sizes, moments, metadata_only=metadata_only)

    def targets(self, clicks: pl.DataFrame, k: int = 20, *, metadata_only: bool = False) -> pl.DataFrame:
        """Rank every click except the first of each session by the truth, among all items.

        Parameters
        ----------
        clicks : polars.DataFrame
            Columns ``session_id``, ``item_id`` and ``time``, in any order of rows.
        k : int, default=20
            Length of the list of recommendations.
        metadata_only : bool, default=False
            Rank by the law without the items' own parts. Probabilities remain those of the full law.

        Returns
        -------
        polars.DataFrame of shape (n_targets, 7)
            By session and time: ``session_id``, ``item_id``, ``time``; ``probability`` and ``rank`` of the target (from
            1, ties count against the truth); ``recall`` and ``mrr``, the expectation of 1[rank <= k] and of
            1[rank <= k] / rank over all items that could have been the target.

        Raises
        ------
        ValueError
            If ``k`` is no integer >= 1, or an item is unknown.
        """
        check_count("k", k)
        log = clicks.select("session_id", "item_id", pl.col("time").cast(MICROSECONDS))
        log = log.sort("session_id", "time", maintain_order=True).with_row_index("row")
        first = pl.col("row").first().over("session_id").cast(pl.Int64).alias("start")
        wanted = log.with_columns(first, pl.col("row").cast(pl.Int64)).filter(pl.col("row") > pl.col("start"))
        flat, rows, starts = (self._places(log["item_id"]), wanted["row"].to_numpy(), wanted["start"].to_numpy())
        times = wanted["time"].to_physical().to_numpy()
        scores = np.empty((4, len(rows)))
        for block in blocks_of(len(rows), len(self.level)):
            state = (flat, starts[block], rows[block] - starts[block], times[block])
            p = self._probabilities(*state)
            order = self._probabilities(*state, metadata_only=True) if metadata_only else p
            scores[:, block] = _judge(p, order, flat[rows[block]], min(k, len(self.level)))
        names = ("probability", "rank", "recall", "mrr")
        judged = pl.DataFrame(dict(zip(names, scores, strict=True))).with_columns(pl.col("rank").cast(pl.Int64))
        return pl.concat([wanted.select("session_id", "item_id", "time"), judged], how="horizontal")

    def ceiling(
        self, clicks: pl.DataFrame, k: int = 20, *, labels: Labels = "drawn", metadata_only: bool = False
    ) -> dict[str, float]:
        """Return the scores of the truth itself, which a recommender beats only by luck.

        Parameters
        ----------
        clicks : polars.DataFrame
            Columns ``session_id``, ``item_id`` and ``time``; every click but the first of its session is a target.
        k : int, default=20
            Length of the list of recommendations.
        labels : {"drawn", "expected"}, default="drawn"
            "drawn" scores the targets in ``clicks``: compare a recommender's score on the same clicks with it.
            "expected" weighs all items by their probability to be the target instead, which leaves out that luck.
        metadata_only : bool, default=False
            Rank by the law without the items' own parts: about the limit of a recommender without item ids.

        Returns
        -------
        dict of str to float
            ``recall@k`` and ``mrr@k`` among all items; NaN without a target.

        Raises
        ------
        ValueError
            If ``labels`` is something else, ``k`` is no integer >= 1, or an item is unknown.
        """
        if labels not in get_args(Labels):
            raise ValueError(f"labels must be one of {', '.join(get_args(Labels))}, got {labels!r}")
        judged = self.targets(clicks, k, metadata_only=metadata_only)
        if labels == "drawn":
            hit = pl.col("rank") <= k
            judged = judged.select(hit.cast(pl.Float64).alias("recall"), (hit / pl.col("rank")).alias("mrr"))
        means = (judged[name].to_numpy() for name in ("recall", "mrr"))
        recall, mrr = (float(values.mean()) if len(values) else float("nan") for values in means)
        return {f"recall@{k}": recall, f"mrr@{k}": mrr}

    def weights(
        self, last: np.ndarray, first: np.ndarray, moments: np.ndarray, *, metadata_only: bool = False
    ) -> np.ndarray:
        """Return weights of all items inside their categories, given the last and the first click of a session.

        Parameters
        ----------
        last, first : ndarray of shape (B,), int64
            Rows of ``items``; -1 where there is no click yet.
        moments : ndarray of shape (B,), int64
            Microseconds since 1970.
        metadata_only : bool, default=False
            Leave out the items' own parts.

        Returns
        -------
        ndarray of shape (B, n_items)
            0 for items not yet born.
        """
        logs = -self.affinities["price"] * np.abs(self.level - self.level[last][:, None])
        for name, code, by in (
            ("subcategory", "subcategory", last),
            ("brand", "brand", last),
            ("first", "brand", first),
        ):
            codes = self.codes[code]
            logs += self.affinities[name] * (codes == codes[by][:, None])
        logs[last < 0] = 0
        born = self.births.to_physical().to_numpy() <= moments[:, None]
        return (self.told if metadata_only else self.attraction) * np.exp(logs) * born

    def _probabilities(
        self,
        flat: np.ndarray,
        starts: np.ndarray,
        sizes: np.ndarray,
        moments: np.ndarray,
        *,
        metadata_only: bool = False,
    ) -> np.ndarray:
        """Return probabilities of all items after prefixes that are ranges of ``flat``, (B, n_items)."""
        some, flat = sizes > 0, np.append(flat, -1)
        last, first = (np.where(some, flat[at], -1) for at in (np.maximum(starts + sizes - 1, 0), starts))
        weights = self.weights(last, first, moments, metadata_only=metadata_only)
        category = self.codes["category"]
        totals = weights @ self._membership
        shares = np.where(some[:, None], self.transitions[category[last]], self.start) / totals
        p = weights * shares[:, category]
        p[some] *= 1 - self.repeat_rate
        owner = np.repeat(np.arange(len(sizes)), sizes)
        clicks = np.arange(len(owner)) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
        np.add.at(p, (owner, flat[clicks]), self.repeat_rate / sizes[owner])
        return p

    @cached_property
    def _membership(self) -> np.ndarray:
        """One-hot categories of the items, (n_items, n_categories)."""
        return np.eye(len(self.categories))[self.codes["category"]]

    def _places(self, ids: pl.Series) -> np.ndarray:
        """Return the rows of items by name."""
        known = self.items.select("item_id").with_row_index("place")
        places = ids.to_frame("item_id").join(known, on="item_id", how="left", maintain_order="left")["place"]
        if places.has_nulls():
            raise ValueError(
                f"an item must be one of {known[0, 1]} to {known[-1, 1]}, got {ids.filter(places.is_null())[0]!r}"
            )
        return places.cast(pl.Int64).to_numpy()


def _judge(p: np.ndarray, order: np.ndarray, targets: np.ndarray, k: int) -> np.ndarray:
    """Return probability and rank of targets, expected recall@k and MRR@k, (4, B), where ``order`` ranks the items."""
    rows = np.arange(len(p))
    ranks = np.count_nonzero(order >= order[rows, targets][:, None], axis=1)
    best = np.argpartition(order, order.shape[1] - k, axis=1)[:, order.shape[1] - k :]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(order, best, axis=1), axis=1), axis=1)
    mass = np.take_along_axis(p, best, axis=1)
    return np.stack([p[rows, targets], ranks, mass.sum(1), mass @ (1 / np.arange(1, k + 1))])


def blocks_of(n_rows: int, n_items: int) -> Iterator[slice]:
    """Return slices of prefixes, short enough that their arrays of items stay small."""
    step = max(1, CELLS // n_items)
    return (slice(start, start + step) for start in range(0, n_rows, step))
