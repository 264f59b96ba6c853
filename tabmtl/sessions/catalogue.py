"""The items that can be recommended: their names, their clicks in training, and their metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
import polars.selectors as cs

from tabmtl.base.schema import warn_user
from tabmtl.base.storage.stored import Stored
from tabmtl.sessions.log import code_items, to_polars, to_series
from tabmtl.sessions.ragged import UNSEEN_ITEM, Sessions


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalogue:
    """Items in the order of their codes: item i has code i + 1.

    Attributes
    ----------
    ids : polars.Series of length N
        Item names, each once.
    counts : ndarray of int64, shape (N,)
        Clicks of each item in training; 0 for one that was never clicked there.
    metadata : polars.DataFrame of N rows, or None
        Columns of the item table except the names; null in the rows of items that the table does not hold.
    """

    ids: Annotated[pl.Series, Stored(shape="N", distinct=True)]
    counts: Annotated[np.ndarray, Stored("i8", "N", low=0)]
    metadata: pl.DataFrame | None = None

    def __post_init__(self) -> None:
        plain_names(self.ids)
        if not self.counts.any():
            raise ValueError("no item was ever clicked")

    def __len__(self) -> int:
        return len(self.ids)

    def counted(self, sessions: Sessions) -> Catalogue:
        """Give the same items with their clicks in some of the sessions of training."""
        return replace(self, counts=sessions.count_items(len(self)))

    def extended(self, names: pl.Series) -> Catalogue:
        """Append items without clicks, none of which it holds; metadata is left out."""
        # the wider of two types of whole numbers holds the items of both
        ids = pl.concat([self.ids.to_frame("item"), names.to_frame("item")], how="vertical_relaxed")["item"]
        return Catalogue(ids=plain_names(ids), counts=np.pad(self.counts, (0, len(names))))

    def codes(self, items: Any, what: str, cure: str) -> np.ndarray:
        """Look up the codes of items by name, (m,) from 1; ``cure`` tells how to deal with an unknown item.

        Raises
        ------
        TypeError, ValueError
            If ``items`` is no list of items, or one of them has another type or is not in the catalogue.
        """
        if not isinstance(items, Iterable) or isinstance(items, str | bytes | Mapping):
            raise TypeError(f"{what} must be a list or series of items, got {items!r}: put it in a list")
        if nw.dependencies.is_into_dataframe(items) or isinstance(items, pl.LazyFrame):
            raise TypeError(f"{what} must be a list or series of items, got a frame: give its column of names")
        names = to_series(items)
        if names.is_empty():
            return np.zeros(0, dtype=np.int32)
        codes = code_items(names, self.ids, what).to_numpy()
        if not codes.all():
            unknown = names.gather(np.flatnonzero(codes == 0)[:3]).to_list()
            raise ValueError(f"{what} names {unknown}, which the catalogue does not hold: {cure}")
        return codes


def make_catalogue(clicked: pl.Series, items: Any, item_column: str, *, described: bool = True) -> Catalogue:
    """Make the catalogue of a click log and an item table.

    Parameters
    ----------
    clicked : polars.Series
        The clicked items of the training log.
    items : frame or None
        One row per item.
    item_column : str
        Column of the item table with the names of the items.
    described : bool, default=True
        Whether the recommender reads the metadata. If so, a warning counts the clicked items that the table lacks;
        else there is a warning only if the table lacks all of them.

    Raises
    ------
    ValueError
        If the item table has no such column, or a missing or repeated name.
    """
    counted = plain_names(clicked.alias(item_column)).alias("item").value_counts(name="count")
    return counted_catalogue(counted, items, item_column, described=described)


def counted_catalogue(counted: pl.DataFrame, items: Any, item_column: str, *, described: bool = True) -> Catalogue:
    """Make the catalogue of items with their clicks, columns ``item`` and ``count``; see `make_catalogue`."""
    if items is None:
        counted = counted.sort("item")
        return Catalogue(ids=counted["item"], counts=counted["count"].to_numpy().astype(np.int64))
    names, metadata = read_items(items, item_column)
    seen = code_items(counted["item"], names, f"the items of the click log in {item_column!r}").to_numpy()
    known = metadata.with_columns(names.alias(item_column))
    unlisted = counted.filter(seen == 0)["item"]
    if len(unlisted):
        if described or len(unlisted) == len(counted):
            _warn_of_unlisted(unlisted, len(counted), item_column, described)
        # the wider of two types of whole numbers holds the items of both
        known = pl.concat([known, unlisted.alias(item_column).to_frame()], how="diagonal_relaxed")
        known = known.with_columns(plain_names(known[item_column]))
    known = known.sort(cs.by_name(item_column))  # without a selector, a name like "^a$" is a pattern
    ids = known[item_column].alias("item")
    counts = np.zeros(len(known) + 1, dtype=np.int64)
    counts[code_items(counted["item"], ids).to_numpy()] = counted["count"].to_numpy()
    return Catalogue(ids=ids, counts=counts[1:], metadata=known.drop(cs.by_name(item_column)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Growth:
    """What a recommender that goes on is told beside its new sessions.

    Attributes
    ----------
    n_known : int
        Items that it knows; those behind them are new.
    metadata : polars.DataFrame or None
        Columns of the item table except the names, for the new items alone; null in the rows of those that the table
        does not hold. None without a table.
    """

    n_known: int
    metadata: pl.DataFrame | None

    def known(self, sessions: Sessions) -> Sessions:
        """Give new sessions as one sees them who does not know the new items."""
        return replace(sessions, items=np.where(sessions.items > self.n_known, UNSEEN_ITEM, sessions.items))


def grow_catalogue(
    known: Catalogue, clicked: pl.Series, items: Any, item_column: str, *, described: bool
) -> tuple[Catalogue, Growth]:
    """Append the new items of a click log and of an item table to a catalogue, sorted, and add the clicks of the log.

    What the table says of items that the catalogue holds is not read.

    Parameters
    ----------
    known : Catalogue
    clicked : polars.Series
        The clicked items of the new log.
    items : frame or None
        One row per item.
    item_column, described
        As of `make_catalogue`.

    Raises
    ------
    TypeError, ValueError
        If items have names of another type than those of the catalogue, or the table does not fit.
    """
    counted = plain_names(clicked.alias(item_column)).alias("item").value_counts(name="count")
    is_new = code_items(counted["item"], known.ids, f"the items of the click log in {item_column!r}").to_numpy() == 0
    new, metadata = counted["item"].filter(is_new).sort(), None
    if items is not None:
        names, table = read_items(items, item_column)
        kept = code_items(names, known.ids, f"the items of the item table in {item_column!r}").to_numpy() == 0
        names, table = names.filter(kept), table.filter(kept)
        unlisted = new.filter(code_items(new, names) == UNSEEN_ITEM)
        if described and len(unlisted):
            _warn_of_unlisted(unlisted, len(counted), item_column, described)
        listed = table.with_columns(names.alias(item_column))
        joined = pl.concat([listed, unlisted.alias(item_column).to_frame()], how="diagonal_relaxed")
        joined = joined.sort(cs.by_name(item_column))
        new, metadata = joined[item_column].alias("item"), joined.drop(cs.by_name(item_column))
    grown = known.extended(new)
    codes = code_items(counted["item"], grown.ids).to_numpy()
    counts = grown.counts.copy()
    counts[codes - 1] += counted["count"].to_numpy()
    return replace(grown, counts=counts), Growth(n_known=len(known), metadata=metadata)


def warn_of_undescribed(n_new: int) -> None:
    """Warn if a recommender that reads metadata meets new items without a table of them."""
    if n_new:
        warn_user(
            f"the log has {n_new} new items, and there is no item table: all their metadata counts as missing; give "
            "items=, with one row for each"
        )


def _warn_of_unlisted(unlisted: pl.Series, n_clicked: int, item_column: str, described: bool) -> None:
    examples = unlisted.sort().head(3).to_list()
    message = f"{len(unlisted)} of {n_clicked} clicked items are not in the item table, such as {examples}"
    message += ": all their metadata counts as missing" if described else ""
    if len(unlisted) == n_clicked:
        message += f"; as it lacks them all, does {item_column!r} name the same things in the log and the table?"
    warn_user(message)


def read_items(items: Any, item_column: str) -> tuple[pl.Series, pl.DataFrame]:
    """Read the names and the other columns of an item table; see `make_catalogue`."""
    frame = to_polars(items, "the item table").lazy().collect()
    if item_column not in frame.columns:
        raise ValueError(
            f"the item table has no column {item_column!r}; its columns are {frame.columns}: rename its column of names"
        )
    names = plain_names(frame[item_column]).alias("item")
    if names.null_count():
        raise ValueError(f"the column {item_column!r} of the item table is missing in {names.null_count()} rows")
    if names.n_unique() < len(names):
        repeated = names.filter(names.is_duplicated())[0]
        raise ValueError(f"the item table has {repeated!r} more than once in {item_column!r}: keep one row an item")
    return names, frame.drop(cs.by_name(item_column))


def plain_names(names: pl.Series) -> pl.Series:
    """Cast item names to text or whole numbers of at most 64 bits.

    The order of categories differs between processes. polars joins Int64 and UInt64 to Int128.
    """
    if names.dtype in (pl.Categorical, pl.Enum):
        return names.cast(pl.String)
    if names.dtype in (pl.Int128, pl.UInt128):
        small = names.cast(pl.Int64, strict=False)
        if small.null_count() > names.null_count():
            raise TypeError(f"the column {names.name!r} names items by numbers beyond Int64: cast them to text")
        return small
    if names.dtype.is_integer() or names.dtype == pl.String:
        return names
    raise TypeError(f"items must be named by whole numbers or text, got {names.dtype}: cast the column {names.name!r}")
