"""How well next clicks are predicted: ranks of the targets among all items, their scores, and the best items.

A rank counts the items that score at least as much as the target, including the target: ties count against the
recommender, so that constant scores gain nothing. With the rank r of a target and a list of k items::

    recall@k = 1[r <= k]        mrr@k = 1[r <= k] / r        ndcg@k = 1[r <= k] / log2(1 + r)

each as the mean over all targets. Ranking among sampled candidates would reorder recommenders, so it is not offered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
import polars as pl

from tabmtl.base.params import check_count
from tabmtl.sessions.ragged import Sessions, spread

_BLOCK_BYTES = 64_000_000  # of scores that are held at a time
_BLOCK = 64  # items whose scores are first looked at by their maximum
if find_spec("torch") is None:  # which is loaded with the first scores
    raise ModuleNotFoundError("No module named 'torch'", name="torch")

#: Least training clicks of a target in each bucket, and the name of the bucket.
BUCKETS = ((0, "0"), (1, "1-5"), (6, "6-20"), (21, "21-100"), (101, ">100"))


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """Ranks of next clicks.

    Attributes
    ----------
    ranks : ndarray of float64, shape (m,)
        Rank of every target among all items, from 1; infinite if the catalogue does not hold it.
    counts : ndarray of int64, shape (m,)
        Clicks of every target in training.
    n_items : int
        Size of the catalogue.
    top : ndarray of int64, shape (m, k)
        Places in the catalogue of the best items, best first; k is that of `Recommender.rank`.
    session : Series, shape (m,)
        Id of the session of every target.
    """

    ranks: np.ndarray
    counts: np.ndarray
    n_items: int
    top: np.ndarray
    session: pl.Series

    @cached_property
    def session_numbers(self) -> np.ndarray:
        """Number (m,) of the session of every target, from 0."""
        return self.session.rle_id().to_numpy()

    def recall(self, k: int) -> float:
        """Compute the share of targets among the first k."""
        return float(_GAINS["recall"](self.ranks, k).mean())

    def mrr(self, k: int) -> float:
        """Average 1 / rank, 0 beyond k."""
        return float(_GAINS["mrr"](self.ranks, k).mean())

    def ndcg(self, k: int) -> float:
        """Average 1 / log2(1 + rank), 0 beyond k."""
        return float(_GAINS["ndcg"](self.ranks, k).mean())

    def coverage(self, k: int) -> float:
        """Compute the share of the catalogue that is among the first k of at least one target.

        Raises
        ------
        ValueError
            If shorter lists were kept.
        """
        check_count("k", k)
        kept = self.top.shape[1]
        if kept < min(k, self.n_items):
            raise ValueError(f"coverage({k}) needs lists of {k} items, but those kept have {kept}: rank(..., k={k})")
        return len(np.unique(self.top[:, :k])) / self.n_items

    def only(self, chosen: np.ndarray) -> Ranking:
        """Take the targets of a mask (m,)."""
        parts = {name: getattr(self, name)[chosen] for name in ("ranks", "counts", "top")}
        return Ranking(n_items=self.n_items, session=self.session.filter(chosen), **parts)

    def compare(self, reference: Ranking, k: int = 20) -> pl.DataFrame:
        """Compare with another recommender on the same next clicks.

        Clicks of one session depend on each other, so a session counts as one draw.

        Parameters
        ----------
        reference : Ranking
            Of the other recommender, on the same click log.
        k : int, default=20

        Returns
        -------
        differences : polars.DataFrame
            A row for recall, MRR and NDCG at k: ``metric``; ``score``; ``difference`` to the reference, above 0 where
            the reference is worse; and its ``standard_error``, which is missing for a single session, and where all
            clicks gain the same.

        Raises
        ------
        ValueError
            If the rankings are of different sessions.
        """
        check_count("k", k)
        if not self.session.equals(reference.session):
            raise ValueError(
                f"the rankings are of {len(self.session)} and {len(reference.session)} next clicks of different "
                "sessions; rank the same click log by both recommenders"
            )
        rows = []
        for metric, gain in _GAINS.items():
            own = gain(self.ranks, k)
            values = own - gain(reference.ranks, k)
            found = (float(own.mean()), float(values.mean())) if len(own) else (None, None)
            rows.append((f"{metric}@{k}", *found, error_of_mean(values, self.session_numbers) or None))
        schema = {"metric": pl.String, "score": pl.Float64, "difference": pl.Float64, "standard_error": pl.Float64}
        return pl.DataFrame(rows, schema=schema, orient="row")


def reciprocal_ranks(ranks: np.ndarray, k: int) -> np.ndarray:
    """Compute 1 / rank of ranks (m,), 0 beyond k."""
    return np.where(ranks <= k, 1 / ranks, 0.0)


#: Measures of lists of k items, given the ranks of the targets (m,): the score of every target.
_GAINS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "recall": lambda ranks, k: (ranks <= k).astype(float),
    "mrr": reciprocal_ranks,
    "ndcg": lambda ranks, k: np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0),
}


def error_of_mean(values: np.ndarray, session: np.ndarray) -> float:
    """Compute the standard error of the mean of values (T,) that were found in sessions (T,).

    Values of one session are not independent, so that each session counts as one observation: the error is the square
    root of the sum over sessions of (sum of values less their mean)^2, divided by T. It is 0 where there is none: for a
    single session, and where all values are equal.
    """
    if len(np.unique(session)) < 2 or np.ptp(values) == 0:
        return 0.0
    away = np.bincount(session, weights=values - values.mean())
    return math.sqrt(np.square(away).sum()) / len(values)


def rank_targets(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Rank targets (m,), codes from 1, or 0 for an unknown item, by scores (m, N).

    A target that is excluded (minus infinity) or not a number has an infinite rank.
    """
    own = scores[np.arange(len(scores)), np.maximum(targets, 1) - 1]
    ranks = np.count_nonzero(scores >= own[:, None], axis=1).astype(np.float64)
    ranks[(targets < 1) | ~(own > -np.inf)] = np.inf
    return ranks


def by_blocks(compute: Callable[[np.ndarray], Sequence[np.ndarray]], n: int, n_items: int) -> list[np.ndarray]:
    """Compute arrays of n sessions in blocks of their numbers, so that the scores of all items fit the memory.

    Of no session, they are those of an empty block.
    """
    size = max(1, _BLOCK_BYTES // (4 * n_items))
    parts = [compute(np.arange(start, min(start + size, n))) for start in range(0, max(n, 1), size)]
    return [np.concatenate(each) for each in zip(*parts, strict=True)]


def log_totals(scores: np.ndarray) -> np.ndarray:
    """Compute the log sum of exp(score) of every row, (m, 1); 0 where no score is above minus infinity."""
    import torch

    totals = torch.logsumexp(torch.from_numpy(scores), dim=1, keepdim=True).numpy()
    return np.where(np.isneginf(totals), np.float32(0), totals)


def top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k best items of every row, best first; among equal ones the first in the catalogue.

    A score that is not a number counts, and is returned, as minus infinity.

    Parameters
    ----------
    scores : ndarray of float32, shape (m, N)
    k : int
        At most N are returned.

    Returns
    -------
    items : ndarray of int64, shape (m, min(k, N))
    scores : ndarray of float32, shape (m, min(k, N))
    """
    k = min(k, scores.shape[1])
    n_blocks = scores.shape[1] // _BLOCK
    if n_blocks < 4 * k:
        return _sorted_top(scores, k)
    import torch

    # each of the k best blocks, the earlier of equal ones, has an item that beats all items outside of them
    blocks, rest = torch.from_numpy(scores).tensor_split((n_blocks * _BLOCK,), dim=1)
    blocks = blocks.unflatten(1, (n_blocks, _BLOCK))
    largest = blocks.amax(dim=2)
    if largest.isnan().any():
        return top_k(np.where(np.isnan(scores), np.float32(-np.inf), scores), k)
    chosen = torch.from_numpy(np.sort(top_k(largest.numpy(), k)[0], axis=1))[:, :, None]
    near = torch.cat([blocks.gather(1, chosen.expand(-1, -1, _BLOCK)).flatten(1), rest], dim=1)
    inside = (chosen * _BLOCK + torch.arange(_BLOCK)).flatten(1)
    places = torch.cat([inside, torch.arange(n_blocks * _BLOCK, scores.shape[1]).expand(len(scores), -1)], dim=1)
    found, values = _sorted_top(near.numpy(), k)
    return np.take_along_axis(places.numpy(), found, axis=1), values


def _sorted_top(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the same as `top_k`, by a look at all scores."""
    import torch

    values, found = (part.numpy() for part in torch.topk(torch.from_numpy(scores), k, dim=1))
    if np.isnan(values[:, :1]).any():  # torch puts NaN first
        return _sorted_top(np.where(np.isnan(scores), np.float32(-np.inf), scores), k)
    least = values[:, -1:]
    # among equal items at the end of the list, the catalogue decides, not the number of rows
    for row in np.flatnonzero(np.count_nonzero(scores >= least, axis=1) > k):
        better = np.count_nonzero(values[row] > least[row])
        found[row, better:] = np.flatnonzero(scores[row] == least[row])[: k - better]
    order = np.lexsort((found, -values), axis=1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(values, order, axis=1)


def rank_next(
    scores_of: Callable[[Sessions], np.ndarray],
    sessions: Sessions,
    counts: np.ndarray,
    *,
    k: int = 0,
    most: int | None = None,
) -> Ranking:
    """Rank the next clicks of sessions of at least two clicks among all items, with ``counts`` clicks in training.

    The ``k`` best items are kept for the coverage. At most ``most`` next clicks are ranked, evenly spread.
    """
    n = sessions.count_prefixes()
    chosen = spread(n, n if most is None else most)

    def rank(block: np.ndarray) -> tuple[np.ndarray, ...]:
        prefixes, targets = sessions.prefixes(chosen[block])
        scores = scores_of(prefixes)
        top = top_k(scores, k)[0] if k else np.empty((len(targets), 0), dtype=np.int64)
        return rank_targets(scores, targets), np.append(0, counts)[targets], top

    ranks, clicked, top = by_blocks(rank, len(chosen), len(counts))
    ids = sessions.ids.gather(sessions.prefix_owners(chosen)[0])
    return Ranking(ranks=ranks, counts=clicked, n_items=len(counts), top=top, session=ids)


def summarize(ranking: Ranking, ks: Sequence[int]) -> pl.DataFrame:
    """Make a row for all targets and one per bucket of training clicks; null where a bucket has no target."""
    rows = []
    for name, chosen in bucket_masks(ranking.counts).items():
        part = ranking.only(chosen)
        row: dict[str, Any] = {"bucket": name, "n_targets": len(part.ranks)}
        for k in ks:
            gains = ((metric, gain(part.ranks, k)) for metric, gain in _GAINS.items())
            row |= {f"{metric}@{k}": float(own.mean()) if len(own) else None for metric, own in gains}
            row |= {f"coverage@{k}": part.coverage(k) if name == "all" else None}
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def bucket_masks(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Choose the targets of "all" and of each bucket, (m,) of bool, by their training clicks (m,)."""
    lows = np.array([low for low, _ in BUCKETS])
    bucket = np.searchsorted(lows, counts, side="right") - 1
    return {"all": bucket >= 0} | {name: bucket == j for j, (_, name) in enumerate(BUCKETS)}
