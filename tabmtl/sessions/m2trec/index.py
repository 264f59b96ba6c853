"""The vectors of all items, and the best items for queries of sessions: exactly, or by a graph of neighbours."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from tabmtl.base.schema import warn_user
from tabmtl.sessions.m2trec.encoder import unit_length
from tabmtl.sessions.m2trec.items import NetworkItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork
from tabmtl.sessions.ragged import Sessions, spread
from tabmtl.sessions.ranking import log_totals, top_k
from tabmtl.sessions.repeats import RepeatWeights

_UNITS_AT_A_TIME = 8192
_SESSIONS_AT_A_TIME = 256
_QUERIES_AT_A_TIME = 1024
_TYPICAL = 1_000  # sessions of one click that the graph of neighbours is built for
_JOINED_ALONE = 2_000  # items, by one thread
_EXPANSION = 256  # candidates that usearch looks at; its default of 64 finds fewer
_PADDED = 0.75  # share of the items that are brought to one length
_ENOUGH = 0.9  # share of the exact recommendations, below which is warned
_SAMPLE = 4096  # items for which those that were not found stand
_LEAST = 0.2  # of the median scale of coordinates: none is lost for queries that are not typical
# weight of popularity where nothing else is known: a hair below 1, so that an item without clicks, which its bias
# credits with one, comes behind those that have one
_POPULARITY = 0.99
_PLAIN = RepeatWeights()


class ItemIndex:
    """A network with the vectors of all items computed once.

    Parameters
    ----------
    network : M2TRecNetwork
    items : NetworkItems
        On the device of the network.
    options : M2TRec
    bias : ndarray of float64, shape (N,)
        Added to the scores of items.
    factor : ndarray of float64, shape (N,), default=1
        Multiplies vectors of items where these are compared with queries, not where sessions are read.
    repeats : RepeatWeights, optional
        What a session's own items are worth. Scores are those before its scale; so the bias is divided by that.
    before : Tensor of float32, shape (u, d + 1), optional
        Vectors of the first units, of which whole blocks are not computed again. A block that was not full is: matrix
        kernels round otherwise for a few rows, and a loaded model must have the same bits.

    Attributes
    ----------
    unit_of : ndarray of int64, shape (N + 1,)
        Unit of every item code.
    unit_vectors : Tensor of float32, shape (U, d + 1)
    matrix : Tensor of float32, shape (d + 2, N)
        Vectors of all items as columns, so that one query reads them in order. The last row is added to scores.
    """

    def __init__(
        self,
        network: M2TRecNetwork,
        items: NetworkItems,
        options: Any,
        bias: np.ndarray,
        factor: np.ndarray | float = 1.0,
        *,
        repeats: RepeatWeights = _PLAIN,
        before: Tensor | None = None,
    ) -> None:
        self.network, self.repeats = network.eval(), repeats
        self.items = items
        self.unit_of = items.known.unit_of
        self.max_length = options.max_length
        if before is None:
            self.unit_vectors = _vectors_of(network, items)
        else:
            whole = len(before) // _UNITS_AT_A_TIME * _UNITS_AT_A_TIME
            self.unit_vectors = torch.cat([before[:whole], _vectors_of(network, items, whole)])
        self.matrix = self._join(bias, factor)

    def revalued(self, bias: np.ndarray, factor: np.ndarray, bare: np.ndarray | None = None) -> ItemIndex:
        """Give the same index with other terms and factors (N,) of items; those in ``bare`` (N,) lose own vectors."""
        other = copy.copy(self)
        for computed in ("_graph", "_bare_vectors"):
            other.__dict__.pop(computed, None)
        if bare is not None:
            units = torch.from_numpy(self.unit_of[1:][bare]).to(self.unit_vectors.device)
            other.unit_vectors = self.unit_vectors.index_copy(0, units, self._bare_vectors[units])
        other.matrix = other._join(bias, factor)
        return other

    def scores_by(
        self, bias: np.ndarray, factor: np.ndarray, bare: np.ndarray | None = None
    ) -> Callable[[Sessions], np.ndarray]:
        """Give the function of sessions to scores, own items weighed, with other terms and factors; see `revalued`."""
        index = self.revalued(bias, factor, bare)
        return lambda some: self.repeats.weigh(index.scores(some), some.last(self.max_length), log_scale=True)

    def _join(self, bias: np.ndarray, factor: np.ndarray | float) -> Tensor:
        device = self.unit_vectors.device
        vectors = self.unit_vectors[torch.from_numpy(self.unit_of[1:]).to(device)]
        factors = torch.from_numpy(np.broadcast_to(factor, len(vectors)).astype(np.float32)).to(device)
        column = torch.from_numpy((bias / self.repeats.scale).astype(np.float32)).to(device)
        return torch.cat([vectors * factors[:, None], column[:, None]], dim=1).T.contiguous()

    @cached_property
    def _bare_vectors(self) -> Tensor:
        """Vectors of all units by metadata alone, (U, d + 1)."""
        items = self.items
        none = replace(items, own=torch.zeros_like(items.own), popularity=torch.zeros_like(items.popularity))
        return _vectors_of(self.network, none)

    def queries(self, sessions: Sessions) -> Tensor:
        """Compute queries (S, d + 2), whose last column is ones.

        A session without a click is read as one click on an unknown item. Where there is no metadata, a session without
        a known item is answered by popularity.
        """
        sessions = sessions.last(self.max_length)
        lengths = np.maximum(sessions.lengths, 1)
        device = self.unit_vectors.device
        found = self.unit_vectors.new_ones(len(sessions), len(self.matrix))
        self.network.eval()
        for block in blocks_of(lengths, _SESSIONS_AT_A_TIME):
            codes = sessions.take(block).padded(newest_first=True)
            width = min(8 * -(-codes.shape[1] // 8), self.max_length)
            rows = 8 * -(-len(block) // 8)  # matrix kernels round otherwise for fewer rows
            units = np.zeros((rows, width), dtype=np.int64)
            units[: len(block), : codes.shape[1]] = self.unit_of[codes]
            read = np.ones(rows, dtype=np.int64)
            read[: len(block)] = lengths[block]
            with torch.no_grad():
                clicked = self.unit_vectors[torch.from_numpy(units).to(device)]
                queries, _ = self.network(clicked, torch.from_numpy(read).to(device))
            found[torch.from_numpy(block).to(device), :-1] = queries[: len(block)]
        if self.items.features is None:
            lost = torch.from_numpy(sessions.without_unseen().lengths == 0).to(device)
            found[lost, :-1], found[lost, -2] = 0.0, _POPULARITY
        return found

    def scores(self, sessions: Sessions) -> np.ndarray:
        """Compute the scores (S, N) of all items."""
        return (self.queries(sessions) @ self.matrix).cpu().numpy()

    def cosines(self, place: int) -> np.ndarray:
        """Compute the cosines (N,) of the vectors of all items with that of one."""
        vectors = unit_length(self.unit_vectors[:, :-1])
        found = vectors @ vectors[int(self.unit_of[1 + place])]
        return found.cpu().numpy()[self.unit_of[1:]]

    def search(self, sessions: Sessions, k: int, exclude_seen: bool) -> tuple[np.ndarray, np.ndarray]:
        """Search the graph of neighbours; see `NeighbourGraph.search`."""
        clicked = sessions if exclude_seen else sessions.last(self.max_length)
        return self._graph.search(self.queries(sessions).cpu().numpy(), k, clicked, exclude_seen, self.repeats)

    @cached_property
    def _graph(self) -> NeighbourGraph:
        """The graph of all items, built for the sessions of one click on each of many items, and for one of none."""
        clicked = np.append(1 + spread(len(self.unit_of) - 1, _TYPICAL), 0).astype(np.int32)
        offsets = np.arange(len(clicked) + 1)
        one_click = Sessions(ids=pl.Series(clicked), offsets=offsets, items=clicked, times=None)
        return NeighbourGraph(self.vectors(), self.queries(one_click).cpu().numpy())

    def vectors(self) -> np.ndarray:
        """Give the vectors (N, d + 2) of all items."""
        return np.ascontiguousarray(self.matrix.T.cpu().numpy())


def _vectors_of(network: M2TRecNetwork, items: NetworkItems, start: int = 0) -> Tensor:
    """Compute the vectors (n, d + 1) of all units from one on."""
    units = torch.arange(start, len(items), device=items.row.device)
    with torch.no_grad():
        return torch.cat([network.vectors(items, part) for part in units.split(_UNITS_AT_A_TIME)])


def blocks_of(lengths: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Group sessions by number in blocks of one padded length, which depends on a session's own length only."""
    padded = 8 * -(-lengths // 8)
    for width in np.unique(padded):
        members = np.flatnonzero(padded == width)
        for start in range(0, len(members), size):
            yield members[start : start + size]


class NeighbourGraph:
    """An approximate index of inner products, by usearch (HNSW).

    A graph of neighbours finds the greatest inner products well only where items are about equally long, and where
    close items have close scores. So coordinates that queries weigh highly count more: coordinate j of the items is
    multiplied by its root mean square s_j over typical queries, and divided by it in queries, which changes no inner
    product. And the shorter three quarters of the items get the length M of the longest of them by one more coordinate,
    ``sqrt(M^2 - |x|^2)``, which is 0 in queries. (If all were as long as the longest, long ones would rarely be found.)

    Of the exact 20 best among 3 000 random items of 32 dimensions, popularity and bias, the graph found 0.98 to 1.00
    (five seeds, lengths equal or from 0.5 to 2); a graph of the plain vectors found 0.42 to 0.98. With more items, or
    more dimensions that all matter, it finds less.

    Parameters
    ----------
    vectors : ndarray of float32, shape (N, w)
    queries : ndarray of float32, shape (m, w)
        Typical queries.

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
        weighed = vectors * self._scale
        squares = np.einsum("nw,nw->n", weighed, weighed)
        gaps = np.maximum(np.quantile(squares, _PADDED) - squares, 0)
        padded, keys = np.column_stack([weighed, np.sqrt(gaps).astype(np.float32)]), np.arange(len(vectors))
        # threads that join the first items to a graph at once may leave some of them apart
        self._index.add(keys[:_JOINED_ALONE], padded[:_JOINED_ALONE], threads=1)
        if len(keys) > _JOINED_ALONE:
            self._index.add(keys[_JOINED_ALONE:], padded[_JOINED_ALONE:])

    def search(
        self, queries: np.ndarray, k: int, clicked: Sessions, exclude_seen: bool, repeats: RepeatWeights
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the places (m, k) of good items, best first, -1 behind the last, and their scores.

        Parameters
        ----------
        queries : ndarray of float32, shape (m, w)
        k : int
        clicked : Sessions
            Session of every query.
        exclude_seen : bool
            Leave clicked items out.
        repeats : RepeatWeights
            What clicked items are worth, in scores that are inner products times its scale.
        """
        queries = queries * np.float32(repeats.scale)
        places = np.split(np.arange(len(queries)), range(_QUERIES_AT_A_TIME, len(queries), _QUERIES_AT_A_TIME))
        found = [self._search(queries[part], k, clicked.take(part), exclude_seen, repeats) for part in places]
        items, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return items, scores

    def _search(
        self, queries: np.ndarray, k: int, clicked: Sessions, exclude_seen: bool, repeats: RepeatWeights
    ) -> tuple[np.ndarray, np.ndarray]:
        k = min(k, len(self._vectors))
        seen = np.sort(clicked.padded().astype(np.int64) - 1, axis=1)
        seen[:, 1:][seen[:, 1:] == seen[:, :-1]] = -1
        asked = np.pad(queries / self._scale, ((0, 0), (0, 1)))
        wanted = min(k + seen.shape[1], len(self._vectors))
        matches = self._index.search(asked, wanted)
        keys = np.atleast_2d(matches.keys)
        counts = np.atleast_1d(getattr(matches, "counts", len(matches)))  # the matches of one query have no counts
        found = np.full((len(queries), wanted), -1)
        found[:, : keys.shape[1]] = keys
        found[np.arange(wanted) >= counts[:, None]] = -1
        found[(found[:, :, None] == seen[:, None, :]).any(axis=2)] = -1
        scores = self._scores(queries, found)
        if not exclude_seen:
            last = seen == clicked.last_items()[:, None] - 1
            own = repeats.trust * self._scores(queries, seen) + repeats.seen + repeats.last * last
            if repeats.trust < 1:
                own += (1 - repeats.trust) * self._log_total(queries, found, scores, seen)[:, None]
            scores = np.hstack([scores, own.astype(np.float32)])
            found = np.hstack([found, seen])
        best, scores = top_k(scores, k)
        return np.where(np.isneginf(scores), -1, np.take_along_axis(found, best, axis=1)), scores

    def _log_total(self, queries: np.ndarray, found: np.ndarray, scores: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Estimate the log sum of exp(score) (m,) over all items that were not seen.

        The sum is over the items found, and over a sample of those behind them that are not among the seen ones (m, l).
        """
        sample = spread(len(self._vectors), _SAMPLE)
        behind = queries @ self._vectors[sample].T
        behind[behind >= np.where(found >= 0, scores, np.inf).min(axis=1, keepdims=True)] = -np.inf
        # the last one found may differ from that bound by rounding
        others = np.hstack([found, seen])
        place = np.minimum(np.searchsorted(sample, others), len(sample) - 1)
        row, column = np.nonzero(sample[place] == others)
        behind[row, place[row, column]] = -np.inf
        behind += np.float32(np.log(len(self._vectors) / len(sample)))
        return log_totals(np.hstack([scores, behind]))[:, 0]

    def _scores(self, queries: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Compute inner products (m, n) with the items at places (m, n); minus infinity at -1."""
        scores = np.einsum("mnw,mw->mn", self._vectors[places], queries)
        scores[places < 0] = -np.inf
        return scores


def share_found(found: np.ndarray, exact: np.ndarray) -> float:
    """Compute the share of the exact recommendations (m, k) that are among those found (m, k); -1 is none."""
    hits = (exact[:, :, None] == found[:, None, :]).any(axis=2)
    return float(hits[exact >= 0].mean())


def warn_of_misses(share: float, k: int, n: int) -> None:
    """Warn if too few of the k exact recommendations of n sessions were found."""
    if share < _ENOUGH:
        warn_user(
            f"approximate search found {share:.2f} of the {k} exact recommendations of {n} sessions: leave out "
            "approximate=True, which searches exactly, or ask for a smaller k"
        )
