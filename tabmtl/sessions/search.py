"""The best items of every session: exactly, or by an approximate index."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from tabmtl.schema import TabmtlWarning
from tabmtl.sessions.ragged import Sessions

_QUERIES_AT_A_TIME = 1024
_BLOCK = 64  # items whose scores are first looked at by their maximum
_EXPANSION = 256  # candidates that usearch looks at; its default of 64 finds fewer
_PADDED = 0.75  # share of the items that are brought to one length
_ENOUGH = 0.9  # share of the exact recommendations, below which is warned
_LEAST = 0.2  # of the median scale of coordinates: none is lost for queries that are not typical


def top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best items of every row, best first; of equal ones the first in the catalogue.

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
    # an item outside the k best blocks, the earlier of equal ones, has one that beats it in each of them
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
    """`top_k` by a look at all scores."""
    values, found = (part.numpy() for part in torch.topk(torch.from_numpy(scores), k, dim=1))
    if np.isnan(values[:, :1]).any():  # torch takes what is no number for the greatest one
        return _sorted_top(np.where(np.isnan(scores), np.float32(-np.inf), scores), k)
    least = values[:, -1:]
    # which of several equal items comes last is for the catalogue to say, not for the number of rows
    for row in np.flatnonzero(np.count_nonzero(scores >= least, axis=1) > k):
        better = np.count_nonzero(values[row] > least[row])
        found[row, better:] = np.flatnonzero(scores[row] == least[row])[: k - better]
    order = np.lexsort((found, -values), axis=1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(values, order, axis=1)


class NeighbourGraph:
    """An approximate index of inner products, by usearch (HNSW).

    A graph of neighbours finds the greatest inner products well only where items are about equally long, and where
    close items have close scores. So what queries make much of counts much: coordinate j of the items is multiplied by
    its root mean square s_j over typical queries, and divided by it in queries, which changes no inner product. And the
    shorter three quarters of the items get the length M of the longest of them by one more coordinate,
    ``sqrt(M^2 - |x|^2)``, which is 0 in queries. (Were all as long as the longest, long ones would rarely be found.)

    Of the exact 20 best among 3 000 random items of 32 dimensions, popularity and bias it found 0.98 to 1.00 (five
    seeds, lengths equal or from 0.5 to 2; ``tests/sessions/test_search.py``); a graph of the vectors as they are found
    0.42 to 0.98. More items, and more dimensions if all are needed, leave less.

    Parameters
    ----------
    vectors : ndarray of float32, shape (N, w)
    queries : ndarray of float32, shape (m, w)
        Typical ones.

    Raises
    ------
    ImportError
        If usearch is missing.
    """

    def __init__(self, vectors: np.ndarray, queries: np.ndarray) -> None:
        try:
            from usearch.index import Index
        except ImportError as error:
            cure = "pip install 'tabmtl[ann]', or search exactly"
            raise ImportError(f"approximate search needs usearch, which is missing: {cure}") from error
        scale = np.sqrt(np.mean(np.square(queries, dtype=np.float64), axis=0))
        self._vectors, self._scale = vectors, np.maximum(scale, _LEAST * np.median(scale)).astype(np.float32)
        self._index = Index(ndim=vectors.shape[1] + 1, metric="ip", dtype="f32", expansion_search=_EXPANSION)
        self._index.add(np.arange(len(vectors)), _of_one_length(vectors * self._scale))

    def search(
        self, queries: np.ndarray, k: int, clicked: Sessions, exclude_seen: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places (m, k) of good items, best first, -1 behind the last, and their scores.

        Parameters
        ----------
        queries : ndarray of float32, shape (m, w)
            The last column but one is added to the scores of clicked items.
        k : int
        clicked : Sessions
            Of every query.
        exclude_seen : bool
            Leave clicked items out.
        """
        starts = range(0, len(queries), _QUERIES_AT_A_TIME)
        places = [np.arange(start, min(start + _QUERIES_AT_A_TIME, len(queries))) for start in starts]
        found = [self._search(queries[part], k, clicked.take(part), exclude_seen) for part in places]
        items, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return items, scores

    def _search(
        self, queries: np.ndarray, k: int, clicked: Sessions, exclude_seen: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        k = min(k, len(self._vectors))
        seen = np.sort(clicked.padded().astype(np.int64) - 1, axis=1)
        seen[:, 1:][seen[:, 1:] == seen[:, :-1]] = -1
        asked = np.pad(queries / self._scale, ((0, 0), (0, 1)))
        matches = self._index.search(asked, min(k + seen.shape[1], len(self._vectors)))
        found = np.atleast_2d(matches.keys).astype(np.int64)
        counts = np.atleast_1d(getattr(matches, "counts", len(matches)))  # of one query, matches are all that there are
        found[np.arange(found.shape[1]) >= counts[:, None]] = -1
        found[(found[:, :, None] == seen[:, None, :]).any(axis=2)] = -1
        scores = self._scores(queries, found)
        if not exclude_seen:
            scores = np.hstack([scores, self._scores(queries, seen) + queries[:, -2:-1]])
            found = np.hstack([found, seen])
        best, scores = top_k(scores, k)
        found = np.where(np.isneginf(scores), -1, np.take_along_axis(found, best, axis=1))
        return _widened(found, k, -1), _widened(scores, k, -np.inf)

    def _scores(self, queries: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Inner products (m, n) with the items at places (m, n); minus infinity at -1."""
        scores = np.einsum("mnw,mw->mn", self._vectors[places], queries)
        scores[places < 0] = -np.inf
        return scores


def _of_one_length(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, w) with one more coordinate, which brings most of them to one length."""
    squares = np.einsum("nw,nw->n", vectors, vectors)
    gaps = np.maximum(np.quantile(squares, _PADDED) - squares, 0)
    return np.column_stack([vectors, np.sqrt(gaps).astype(np.float32)])


def share_found(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact recommendations (m, k) that are among those found (m, k); -1 is none."""
    hits = (exact[:, :, None] == found[:, None, :]).any(axis=2)
    return float(hits[exact >= 0].mean())


def warn_of_misses(share: float, k: int, n: int) -> None:
    """Warn of a share of the k exact recommendations of n sessions that is too small to be of use."""
    if share < _ENOUGH:
        warnings.warn(
            f"approximate search found {share:.2f} of the {k} exact recommendations of {n} sessions: leave out "
            "approximate=True, which searches exactly, or ask for a smaller k",
            TabmtlWarning,
            stacklevel=3,
        )


def _widened(found: np.ndarray, k: int, nothing: float) -> np.ndarray:
    """The same (m, k), with nothing behind the last column."""
    return np.pad(found, ((0, 0), (0, k - found.shape[1])), constant_values=nothing)
