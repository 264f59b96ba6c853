"""The best that a recommender without ids can reach: it cannot tell items of equal metadata apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from tabmtl.base.schema import warn_user
from tabmtl.sessions.catalogue import Catalogue
from tabmtl.sessions.knn import VSKNN
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.ragged import Sessions, spread
from tabmtl.sessions.ranking import rank_next

_JUDGED = 20_000  # clicks that the oracle predicts, spread over all
_COMPARED = 2_000  # clicks on which the neighbour baseline is measured, spread over all


def oracle_ceiling(row: np.ndarray, counts: np.ndarray, targets: np.ndarray, k: int = 20) -> dict[str, float]:
    """Score an oracle that knows the metadata of the next item exactly, and ranks by popularity among its equals.

    Parameters
    ----------
    row : ndarray of int64, shape (N,)
        Distinct row of metadata of every item.
    counts : ndarray of int64, shape (N,)
        Training clicks of every item.
    targets : ndarray of int32, shape (m,)
        Codes of the items clicked next; 0, an unknown item, is never found.
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
    items = pl.DataFrame({"row": row, "count": counts})
    # an item ranks behind all items of its metadata that are as popular
    rank = items.select(pl.col("count").rank("max", descending=True).over("row")).to_series()
    ranks = np.concatenate([[np.inf], rank])[targets]
    found = ranks <= k
    return {f"recall@{k}": float(found.mean()), f"mrr@{k}": float(np.where(found, 1 / ranks, 0).mean())}


def describe_metadata(items: KnownItems, sessions: Sessions, *, verbose: int) -> dict[str, Any]:
    """Count the items that metadata tells apart, and compute the ceiling without ids on the next clicks of sessions.

    Returns fitted attributes of M2TRec; ``verbose=1`` prints them too.
    """
    if items.features is None or items.row is None:
        return {}
    _, targets = sessions.prefixes(chosen=spread(sessions.count_prefixes(), _JUDGED))
    ceiling, n_distinct = oracle_ceiling(items.row, items.clicks, targets), len(items.features)
    if verbose:
        print(
            f"metadata tells {n_distinct} of {len(items.row)} items apart: without ids, Recall@20 is at most "
            f"{ceiling['recall@20']:.3f} and MRR@20 {ceiling['mrr@20']:.3f}",
            flush=True,
        )
    return {"n_distinct_metadata_": n_distinct, "oracle_ceiling_": ceiling}


def warn_of_ceiling(items: KnownItems, earlier: Sessions, judged: Sessions) -> None:
    """Warn if VSKNN, fitted on earlier sessions, beats the Recall@20 that is possible without ids on those judged.

    No session may be in both: it would be its own nearest neighbour.
    """
    row, n_items = items.row, len(items.clicks)
    if row is None:
        return
    _, targets = judged.prefixes(chosen=spread(judged.count_prefixes(), _COMPARED))
    ceiling = oracle_ceiling(row, items.clicks, targets)["recall@20"]
    clicks = earlier.count_items(n_items)
    catalogue = Catalogue(ids=pl.Series(np.arange(n_items)), counts=clicks)
    baseline = VSKNN(time_column=None)
    baseline._set_fitted(catalogue, baseline._fit(earlier, catalogue))
    reached = rank_next(baseline._scores, judged, clicks, most=_COMPARED).recall(20)
    if reached > ceiling:
        warn_user(
            f"{int(row.max()) + 1} different rows of metadata stand for {n_items} items: id_mode='none' cannot "
            f"exceed Recall@20 {ceiling:.3f}, and VSKNN reaches {reached:.3f} on the same clicks: give more columns of "
            "metadata, or take id_mode='full'"
        )
