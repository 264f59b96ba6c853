"""What an id-free recommender can reach: items of equal metadata cannot be told apart."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl

from tabmtl.schema import TabmtlWarning
from tabmtl.sessions.catalogue import Catalogue
from tabmtl.sessions.knn import VSKNN
from tabmtl.sessions.m2trec.fitting import VALIDATED
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.ragged import Sessions, spread
from tabmtl.sessions.ranking import rank_next

_COMPARED = 2_000  # clicks on which the neighbour baseline is measured, spread over all


def oracle_ceiling(row: np.ndarray, counts: np.ndarray, targets: np.ndarray, k: int = 20) -> dict[str, float]:
    """Scores of an oracle that knows the metadata of the next item exactly, and ranks by popularity among its equals.

    Parameters
    ----------
    row : ndarray of int64, shape (N,)
        Which distinct row of metadata every item has.
    counts : ndarray of int64, shape (N,)
        Training clicks of every item.
    targets : ndarray of int32, shape (m,)
        Codes of the items clicked next; 0, an unknown one, is never found.
    k : int, default=20

    Returns
    -------
    dict of str to float
        ``recall@k`` and ``mrr@k``; equally popular items count against it.

    Examples
    --------
    >>> oracle_ceiling(np.array([0, 0, 1]), np.array([5, 3, 1]), np.array([1, 2, 3, 0]), k=1)
    {'recall@1': 0.5, 'mrr@1': 0.5}
    """
    order = np.lexsort((-counts, row))
    sorted_row, sorted_counts = row[order], counts[order]
    # behind the last item of the same metadata and popularity, counted from the first of the same metadata
    ends = np.append(np.flatnonzero((np.diff(sorted_row) != 0) | (np.diff(sorted_counts) != 0)), len(order) - 1)
    last = ends[np.searchsorted(ends, np.arange(len(order)))]
    first = np.searchsorted(sorted_row, sorted_row, side="left")
    rank = np.empty(len(order))
    rank[order] = last - first + 1
    ranks = np.concatenate([[np.inf], rank])[targets]
    found = ranks <= k
    return {f"recall@{k}": float(found.mean()), f"mrr@{k}": float(np.where(found, 1 / ranks, 0).mean())}


def say_what_metadata_tells(
    items: KnownItems, known: Sessions, apart: tuple[Sessions, Sessions | None] | None, *, verbose: int
) -> dict[str, Any]:
    """How many items metadata tells apart, and what an id-free recommender can reach at best: fitted attributes.

    Parameters
    ----------
    items : KnownItems
    known : Sessions
        Whose next clicks the ceiling is of.
    apart : pair of Sessions, or None
        Older sessions, and those on which `warn_of_ceiling` compares VSKNN with the ceiling, if there are any; None
        where ids tell items apart, so that there is nothing to warn of.
    verbose : int
        1 prints it.
    """
    if items.features is None:
        return {}
    row = items.features.row
    if apart is not None and apart[1] is not None:
        warn_of_ceiling(row, items.clicks, apart[0], apart[1])
    _, targets = known.prefixes(chosen=spread(known.count_prefixes(), VALIDATED))
    ceiling, n_distinct = oracle_ceiling(row, items.clicks, targets), len(items.features)
    if verbose:
        print(
            f"metadata tells {n_distinct} of {len(row)} items apart: without ids, Recall@20 is at most "
            f"{ceiling['recall@20']:.3f} and MRR@20 {ceiling['mrr@20']:.3f}",
            flush=True,
        )
    return {"n_distinct_metadata_": n_distinct, "oracle_ceiling_": ceiling}


def warn_of_ceiling(row: np.ndarray, counts: np.ndarray, older: Sessions, judged: Sessions) -> None:
    """Warn where VSKNN, which knows older sessions, beats on those judged the Recall@20 that is possible without ids.

    ``row`` and ``counts`` are those of `oracle_ceiling`. No session may be both older and judged: it would be its own
    nearest neighbour.
    """
    _, targets = judged.prefixes(chosen=spread(judged.count_prefixes(), _COMPARED))
    ceiling = oracle_ceiling(row, counts, targets)["recall@20"]
    seen = np.bincount(older.items, minlength=len(counts) + 1)[1:]
    catalogue = Catalogue(ids=pl.Series(np.arange(len(counts))), counts=seen)
    baseline = VSKNN(time_column=None)
    baseline._set_fitted(catalogue, baseline._fit(older, catalogue, None))
    reached = rank_next(baseline._scores, judged.at_least(2), seen, most=_COMPARED).recall(20)
    if reached > ceiling:
        warnings.warn(
            f"{int(row.max()) + 1} different rows of metadata stand for {len(counts)} items: id_mode='none' cannot "
            f"exceed Recall@20 {ceiling:.3f}, and VSKNN reaches {reached:.3f} on the same clicks: give more columns of "
            "metadata, or take id_mode='full'",
            TabmtlWarning,
            stacklevel=5,
        )
