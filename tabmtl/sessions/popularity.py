"""The most clicked items, of all or of a category: the least that a recommender has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import polars as pl

from tabmtl.base.storage.stored import Stored
from tabmtl.sessions.catalogue import Catalogue, warn_of_undescribed
from tabmtl.sessions.log import Column, family
from tabmtl.sessions.ragged import Sessions
from tabmtl.sessions.recommender import Recommender, SessionState


@dataclass(kw_only=True, eq=False, repr=False)
class Popularity(Recommender):
    """Recommend the items that were clicked most in training.

    The score of an item is its share of all training clicks, the same for every session. Only the scores of the
    session's own items are multiplied by what ``repeats`` learned.

    Examples
    --------
    >>> import polars as pl
    >>> from tabmtl.sessions import Popularity
    >>> log = pl.DataFrame({"session_id": [1, 1, 2, 2], "item_id": ["a", "b", "b", "b"], "time": [0, 1, 2, 3]})
    >>> model = Popularity().fit(log)
    >>> model.recommend(log.head(1), k=2).select("item_id", "score").rows()
    [('b', 0.75), ('a', 0.25)]
    """

    _stored: ClassVar[type] = SessionState

    def _fit(self, sessions: Sessions, catalogue: Catalogue) -> dict[str, Any]:
        return {}

    def _go_on(self, sessions: Sessions, catalogue: Catalogue, metadata: pl.DataFrame | None) -> dict[str, Any]:
        return {}

    def _scores(self, sessions: Sessions) -> np.ndarray:
        counts = self._catalogue.counts
        return np.tile((counts / counts.sum()).astype(np.float32), (len(sessions), 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class CategoryState(SessionState):
    """Fitted attributes that the file of `CategoryPopularity` keeps.

    ``_values`` names the categories by their numbers, from 1; files of before there was `partial_fit` lack it.
    """

    _categories: Annotated[np.ndarray, Stored("i4", "N", low=0, below="N+1")]
    _values: Annotated[pl.Series, Stored(distinct=True)] | None = None

    later_fields: ClassVar[tuple[str, ...]] = ("values",)


@dataclass(kw_only=True, eq=False, repr=False)
class CategoryPopularity(Recommender):
    """The items that were clicked most in training, those of the last clicked item's category first.

    The last click on an item of the catalogue names the category. If its n items have c clicks together, an item of c_i
    clicks scores (c_i + 1) / (c + n), so that all of them rank above the items of other categories, which follow
    by popularity. After an item without a category, and where no item is known, popularity alone decides. Items of that
    category that the session holds are multiplied by what ``repeats`` learned.

    Parameters
    ----------
    category : str, default="category"
        Column of the item table; a missing value means no category.

    Examples
    --------
    >>> import polars as pl
    >>> from tabmtl.sessions import CategoryPopularity
    >>> log = pl.DataFrame({"session_id": [1, 1, 2, 2], "item_id": ["a", "b", "b", "c"], "time": [0, 1, 2, 3]})
    >>> items = pl.DataFrame({"item_id": ["a", "b", "c"], "category": ["x", "y", "x"]})
    >>> model = CategoryPopularity().fit(log, items=items)
    >>> model.recommend(log.head(1), k=3)["item_id"].to_list()
    ['a', 'c', 'b']
    """

    category: Column = "category"

    _reads_metadata: ClassVar[bool] = True
    _stored: ClassVar[type] = CategoryState

    def _fit(self, sessions: Sessions, catalogue: Catalogue) -> dict[str, Any]:
        values = _read_categories(catalogue.metadata, self.category)
        return _number_categories(values, values.drop_nulls().unique().sort())

    def _go_on(self, sessions: Sessions, catalogue: Catalogue, metadata: pl.DataFrame | None) -> dict[str, Any]:
        if self._values is None:
            raise ValueError(
                "the file of this model is of a version that kept no names of categories, so it cannot tell which "
                "category a new item has: fit again"
            )
        n_new = len(catalogue) - self.n_items_
        values = self._values.clear(n_new)
        if metadata is None:
            warn_of_undescribed(n_new)
        else:
            values = _read_categories(metadata, self.category)
            if values.null_count() < n_new and family(values.dtype) != family(self._values.dtype):
                raise TypeError(
                    f"the column {self.category!r} of the item table held {self._values.dtype} in fit and is now "
                    f"{values.dtype}: cast it, or fit again"
                )
            values = values.cast(self._values.dtype, strict=False)
        new = values.drop_nulls().unique().sort()
        new = new.filter(~new.is_in(self._values.implode()))
        found = _number_categories(values, pl.concat([self._values, new]))
        return found | {"_categories": np.concatenate([self._categories, found["_categories"]])}

    def _scores(self, sessions: Sessions) -> np.ndarray:
        counts, categories = self._catalogue.counts, self._categories
        clicks = np.bincount(categories, weights=counts) + np.bincount(categories)
        inside = ((counts + 1) / clicks[categories]).astype(np.float32)
        last = np.append(0, categories)[sessions.without_unseen().last_items()]
        last[last == 0] = -1  # fits no item, unlike the 0 of an item without a category
        return np.where(last[:, None] == categories, inside, popularity_below_zero(counts))


def popularity_below_zero(counts: np.ndarray) -> np.ndarray:
    """Score items (N,) by popularity in [-1, 0), float32, below those that a method has found.

    Clicks are relative to the most clicked item: next to -1, shares of all clicks would be too small to tell apart.
    """
    return (counts / (counts.max() + 1) - 1).astype(np.float32)


def fill_with_popularity(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Rank items that were not found behind those that were, by popularity.

    Parameters
    ----------
    scores : ndarray of float32, shape (S, N)
        Positive for the items that were found, else 0; changed in place.
    counts : ndarray of int64, shape (N,)
        Training clicks.

    Returns
    -------
    scores : ndarray of float32, shape (S, N)
        The same array.
    """
    np.copyto(scores, popularity_below_zero(counts), where=scores <= 0)
    return scores


def _read_categories(metadata: pl.DataFrame | None, name: str) -> pl.Series:
    """Read the categories of items, (N,), as numbers, booleans or text; null for none."""
    if metadata is None:
        raise ValueError(
            f"there is no item table to hold the column {name!r}: give fit one, items=..., or use Popularity"
        )
    if name not in metadata.columns:
        raise ValueError(
            f"the item table has no column {name!r}; its columns are {metadata.columns}: name one by category"
        )
    values = metadata[name].alias("")  # a name like "^a$" would be a pattern
    if values.dtype.is_nested():
        raise ValueError(f"the column {name!r} of the item table holds {values.dtype}: give one category an item")
    if values.dtype.is_float():
        return values.fill_nan(None)
    return values if values.dtype.is_numeric() or values.dtype == pl.Boolean else values.cast(pl.String)


def _number_categories(values: pl.Series, known: pl.Series) -> dict[str, Any]:
    """Number the categories of items (N,) by their places among the known ones, from 1; 0 for none."""
    numbered = pl.DataFrame({"value": known, "number": np.arange(1, len(known) + 1, dtype=np.int32)})
    found = pl.DataFrame({"value": values}).join(numbered, on="value", how="left", maintain_order="left")
    return {"_categories": found["number"].fill_null(0).to_numpy(), "_values": known}
