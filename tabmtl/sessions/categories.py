"""The categories of items: probabilities of items summed by category, and how well they predict that of the next click.

A column of the item table holds one category an item, or tags, a list of them. With the probabilities p_i of items::

    p(c) = sum of p_i over the items of category c

An item counts fully for each of its tags, so that p(tag) is the chance that the next item has the tag, and these
chances add up to more than 1. A missing value and an empty list are a category of their own, null.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add
from typing import Annotated

import numpy as np
import polars as pl
from scipy import sparse

from tabmtl.base.storage.stored import Stored
from tabmtl.sessions.ragged import AnySessions, Sessions
from tabmtl.sessions.ranking import by_blocks, log_totals, rank_targets, top_k

_MOST_LEVELS = 2_000  # of a column whose transitions are kept
_PRIOR = 10.0  # clicks that the shares of all clicks count for, beside the transitions of a category


@dataclass(frozen=True, kw_only=True, eq=False)
class Transitions:
    """How often a category followed another in the training log, as the arrays of a sparse matrix of W codes."""

    offsets: Annotated[np.ndarray, Stored("i4", "W+1", offsets="w")]
    codes: Annotated[np.ndarray, Stored("i4", "w", low=0, below="W")]
    counts: Annotated[np.ndarray, Stored("i4", "w", low=1)]

    @classmethod
    def count(cls, code_of: np.ndarray, n_codes: int, sessions: AnySessions) -> Transitions:
        """Count pairs of clicks that follow each other in a session; ``code_of`` (N,) is the category of each item."""
        table = sparse.csr_array((n_codes, n_codes), dtype=np.int32)
        for block in sessions.blocks():
            owner, place = block.known_clicks()
            codes, pair = code_of[place], np.flatnonzero(owner[1:] == owner[:-1])
            ones = np.ones(len(pair), np.int32)
            table += sparse.coo_array((ones, (codes[pair], codes[pair + 1])), table.shape).tocsr()
        parts = sessions.group.gather((table.data, table.indices, table.indptr))
        table = reduce(add, (sparse.csr_array(part, shape=table.shape) for part in parts))
        return cls(offsets=table.indptr, codes=table.indices, counts=table.data)

    def joined(self, new: Transitions) -> Transitions:
        """Add those of a new log, which may have more codes."""
        n_known, n_codes = len(self.offsets) - 1, len(new.offsets) - 1
        table = sparse.csr_array((self.counts, self.codes, self.offsets), shape=(n_known, n_known))
        table.resize((n_codes, n_codes))
        table = table + sparse.csr_array((new.counts, new.codes, new.offsets), shape=(n_codes, n_codes))
        return Transitions(offsets=table.indptr, codes=table.indices, counts=table.data)

    def probabilities(self, last: np.ndarray, n_items: np.ndarray) -> np.ndarray:
        """Compute the probabilities (m, C + 1) of the next category after the last one, (m,), or -1 for none.

        With n_ab transitions from a to b, and q_b the share of b of all transitions, where each category that has an
        item (``n_items``, (C + 1,)) counts once more, p(b | a) = (n_ab + 10 q_b) / (n_a + 10).
        """
        n_known = len(self.offsets) - 1
        table = sparse.csr_array((self.counts, self.codes, self.offsets), shape=(n_known, n_known))
        share = (n_items > 0).astype(np.float64)
        share[:n_known] += table.sum(axis=0)
        share /= share.sum()
        found = np.zeros((len(last), len(n_items)))
        some = (last >= 0) & (last < n_known)
        found[some, :n_known] = table[last[some]].toarray()
        return (found + _PRIOR * share) / (found.sum(axis=1, keepdims=True) + _PRIOR)


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemCategories:
    """A column of categories or tags of the N items of a catalogue.

    Attributes
    ----------
    name : str
        The column of the item table.
    values : polars.Series of length C
        Its values, each once: value j has code j + 1, and code 0 is a missing one.
    offsets : ndarray of int32, shape (N + 1,)
        Item i has the codes from ``offsets[i]`` up to ``offsets[i + 1]``, one at least.
    codes : ndarray of int32, shape (c,)
    transitions : Transitions or None
        None for tags, and for columns of more than 2 000 values.
    """

    name: str
    values: Annotated[pl.Series, Stored(shape="C", distinct=True)]
    offsets: Annotated[np.ndarray, Stored("i4", "N+1", offsets="c")]
    codes: Annotated[np.ndarray, Stored("i4", "c", low=0, below="C+1")]
    transitions: Transitions | None = None

    def __post_init__(self) -> None:
        if self.transitions is not None and len(self.transitions.offsets) > len(self.values) + 2:
            raise ValueError(f"the transitions of {self.name!r} have more categories than the column has values")
        if (np.diff(self.offsets) < 1).any():
            raise ValueError(f"an item has no category in {self.name!r}, not even a missing one")

    def __len__(self) -> int:
        return len(self.values) + 1

    @classmethod
    def fit(cls, column: pl.Series, sessions: AnySessions) -> ItemCategories:
        """Read the column of the catalogue's items, and count its transitions in the training log."""
        rows = _rows_of(column)
        values = rows["value"].drop_nulls().unique().sort()
        offsets, codes = np.zeros(1, dtype=np.int32), np.zeros(0, dtype=np.int32)
        found = cls(name=column.name, values=values, offsets=offsets, codes=codes).extended(column)
        if column.dtype.is_nested() or len(values) > _MOST_LEVELS:
            return found
        return replace(found, transitions=Transitions.count(found.codes, len(found), sessions))

    def counting(self, sessions: Sessions) -> ItemCategories:
        """Count the transitions of new sessions too, where there are some."""
        if self.transitions is None:
            return self
        new = Transitions.count(self.codes, len(self), sessions)
        return replace(self, transitions=self.transitions.joined(new))

    def extended(self, column: pl.Series) -> ItemCategories:
        """Append the column of more items, whose values may be new."""
        rows = _rows_of(column)
        # the wider of two types holds the values of both
        both = pl.concat([self.values.to_frame("value"), rows.select("value")], how="vertical_relaxed")["value"]
        values = both.drop_nulls().unique(maintain_order=True)
        known = pl.DataFrame({"value": values, "code": np.arange(1, len(values) + 1, dtype=np.int32)})
        coded = both[len(self.values) :].to_frame().join(known, on="value", how="left", maintain_order="left")
        ends = np.searchsorted(rows["row"].to_numpy(), np.arange(len(column)), side="right")
        return replace(
            self,
            values=values,
            offsets=np.concatenate([self.offsets, self.offsets[-1] + ends]).astype(np.int32),
            codes=np.concatenate([self.codes, coded["code"].fill_null(0).to_numpy()]),
        )

    @property
    def labels(self) -> pl.Series:
        """The value of every code, null for a missing one, under the name of the column."""
        return self.values.gather(pl.Series([None, *range(len(self.values))], dtype=pl.UInt32)).alias(self.name)

    @cached_property
    def n_items(self) -> np.ndarray:
        """Number of items of every code, (C + 1,)."""
        return np.bincount(self.codes, minlength=len(self))

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Sum the softmax of item scores (S, N) by category: (S, C + 1), 0 for a category without items.

        Items of minus infinity are left out; where all of them are, every category has 0.
        """
        return np.exp(scores - log_totals(scores)) @ self._members

    def top(
        self, scores_of: Callable[[Sessions], np.ndarray], sessions: Sessions, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k most likely categories of the next clicks.

        Parameters
        ----------
        scores_of : function of Sessions to ndarray (S, N)
            Scores of items, whose softmax is their probability.
        sessions : Sessions
        k : int

        Returns
        -------
        codes : ndarray of int64, shape (S, min(k, C + 1))
        probabilities : ndarray of float32, the same shape
            Minus infinity for a category without items.
        """

        def find(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            shares = self.probabilities(scores_of(sessions.take(block)))
            shares[:, self.n_items == 0] = -np.inf  # such as a missing category where none is missing
            return top_k(shares, k)

        codes, probabilities = by_blocks(find, len(sessions), len(self.offsets) - 1)
        return codes, probabilities

    @cached_property
    def _members(self) -> sparse.csr_array:
        """The categories (N, C + 1) of every item, as zeros and ones."""
        shape = (len(self.offsets) - 1, len(self))
        return sparse.csr_array((np.ones(len(self.codes), np.float32), self.codes, self.offsets), shape=shape)


def rank_next_category(
    scores_of: Callable[[Sessions], np.ndarray], sessions: Sessions, categories: ItemCategories
) -> dict[str, np.ndarray]:
    """Predict the categories of the next clicks by items, by the last category, and by transitions.

    Parameters
    ----------
    scores_of : function of Sessions to ndarray (S, N)
        Scores of items, whose softmax is their probability.
    sessions : Sessions
        Of at least two clicks.
    categories : ItemCategories
        One category an item.

    Returns
    -------
    dict of str to ndarray of float64, shape (2, m)
        By predictor ("category", "last" and, where they are kept, "transitions"), rank and log probability of the
        category of every target. Ranks count from 1, and ties against the predictor; a category none of whose items may
        come has an infinite rank. All are NaN where the catalogue does not hold the target, and so are the
        probabilities of "last".
    """
    code_of = np.append(-1, categories.codes)  # -1 is no category, and 0 a missing one

    def judge(block: np.ndarray) -> list[np.ndarray]:
        prefixes, targets = sessions.prefixes(block)
        target, last = code_of[targets], code_of[prefixes.without_unseen().last_items()]
        found = [np.stack([np.where(last == target, 1.0, np.inf), np.full(len(last), np.nan)], axis=1)]
        found.append(_judge(categories.probabilities(scores_of(prefixes)), target))
        if categories.transitions is not None:
            found.append(_judge(categories.transitions.probabilities(last, categories.n_items), target))
        return [np.where(target[:, None] < 0, np.nan, each) for each in found]

    found = by_blocks(judge, sessions.count_prefixes(), len(categories.codes))
    return {name: each.T for name, each in zip(("last", "category", "transitions"), found, strict=False)}


def summarize_categories(found: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, float | None]:
    """Compute metrics of the targets of a mask (m,) from what `rank_next_category` gives; None where no target is."""
    metrics: dict[str, float | None] = {}
    for name in ("category", "last", "transitions"):
        ranks, logs = found[name][:, chosen] if name in found else np.empty((2, 0))
        ranks, logs = ranks[~np.isnan(ranks)], logs[~np.isnan(logs)]
        metrics[f"{name}_accuracy"] = float(np.mean(ranks <= 1)) if len(ranks) else None
        if name != "last":
            metrics[f"{name}_top3"] = float(np.mean(ranks <= 3)) if len(ranks) else None
            metrics[f"{name}_log_likelihood"] = float(np.mean(logs)) if len(logs) else None
    return metrics


def _judge(probabilities: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Stack rank and log probability (m, 2) of the target codes; those of code -1 are of no use."""
    own = probabilities[np.arange(len(target)), target].astype(np.float64)
    ranks = rank_targets(np.where(probabilities > 0, probabilities, -np.inf), target + 1)
    with np.errstate(divide="ignore"):  # of a category whose items are left out
        return np.stack([ranks, np.log(own)], axis=1)


def _rows_of(column: pl.Series) -> pl.DataFrame:
    """List the categories of every item: columns ``row``, its number, and ``value``; one row of null for none."""
    rows = pl.DataFrame({"row": np.arange(len(column), dtype=np.int32), "value": column})
    if column.dtype.is_nested():
        tags = pl.col("value").cast(pl.List(pl.Series(dtype=column.dtype).explode().dtype)).list
        rows = rows.with_columns(tags.drop_nulls().list.unique(maintain_order=True))
        rows = rows.explode("value", empty_as_null=True)
    values = rows["value"]
    if values.dtype in (pl.Categorical, pl.Enum):  # their order and type belong to a frame
        values = values.cast(pl.String)
    return rows.with_columns(values.fill_nan(None) if values.dtype.is_float() else values)
