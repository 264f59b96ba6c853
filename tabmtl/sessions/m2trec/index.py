"""What a trained network answers: queries of sessions and vectors of items, and their inner products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tabmtl.sessions.m2trec.network import M2TRecNetwork, Units
from tabmtl.sessions.ragged import Sessions

_UNITS_AT_A_TIME = 8192
_SESSIONS_AT_A_TIME = 256
#: Of the log of clicks over their mean where nothing else is known: a hair below 1, so that an item without clicks,
#: which its bias credits with ``cold_prior`` of them, comes behind those that have as many.
_POPULARITY = 0.99


@dataclass(frozen=True, kw_only=True, eq=False)
class Scorer:
    """A network with the vectors of all items computed once.

    Attributes
    ----------
    network : M2TRecNetwork
        In eval mode.
    units : Units
    unit_of : ndarray of int64, shape (N + 1,)
        Unit of every item code.
    unit_vectors : Tensor of float32, shape (U, d + 1)
    matrix : Tensor of float32, shape (d + 3, N)
        Vectors of all items as columns, so that one query reads them in order; then zeros, for what queries add to
        clicked items; the last row is added to scores.
    max_length : int
    """

    network: M2TRecNetwork
    units: Units
    unit_of: np.ndarray
    unit_vectors: Tensor
    matrix: Tensor
    max_length: int

    @classmethod
    def of(cls, network: M2TRecNetwork, units: Units, unit_of: np.ndarray, bias: np.ndarray, max_length: int) -> Scorer:
        """Compute all vectors; the bias (N,) is added to the scores of every session."""
        vectors = encode_units(network, units, 0)
        return cls(
            network=network,
            units=units,
            unit_of=unit_of,
            unit_vectors=vectors,
            matrix=join_bias(vectors[torch.from_numpy(unit_of[1:]).to(vectors.device)], bias),
            max_length=max_length,
        )

    def extended(self, units: Units, unit_of: np.ndarray, bias: np.ndarray) -> Scorer:
        """The same network with more items, whose units come behind those that are known."""
        vectors = torch.cat([self.unit_vectors, encode_units(self.network, units, len(self.unit_vectors))])
        matrix = join_bias(vectors[torch.from_numpy(unit_of[1:]).to(vectors.device)], bias)
        return replace(self, units=units, unit_of=unit_of, unit_vectors=vectors, matrix=matrix)

    def queries(self, sessions: Sessions) -> Tensor:
        """Queries (S, d + 3), the last column ones; a session without a click is one click on an unknown item.

        Where there is no metadata, popularity answers a session without a known item.
        """
        sessions = sessions.last(self.max_length)
        lengths = sessions.lengths
        device = self.unit_vectors.device
        found = self.unit_vectors.new_ones(len(sessions), len(self.matrix))
        self.network.eval()
        for block in blocks_of(np.maximum(lengths, 1), _SESSIONS_AT_A_TIME):
            codes = sessions.take(block).padded(newest_first=True)
            width = 8 * -(-codes.shape[1] // 8)
            rows = 8 * -(-len(block) // 8)  # matrix kernels round otherwise for fewer rows
            filled = np.zeros((rows, min(width, self.max_length)), dtype=np.int64)
            filled[: len(block), : codes.shape[1]] = self.unit_of[codes]
            own = np.ones(rows, dtype=np.int64)
            own[: len(block)] = np.maximum(lengths[block], 1)
            with torch.no_grad():
                clicked = self.unit_vectors[torch.from_numpy(filled).to(device)]
                queries, _ = self.network(clicked, torch.from_numpy(own).to(device))
            found[torch.from_numpy(block).to(device), :-1] = queries[: len(block)]
        if self.units.features is None:
            lost = torch.from_numpy(sessions.without_unseen().lengths == 0).to(device)
            found[lost, :-1], found[lost, -3] = 0.0, _POPULARITY
        return found

    def scores(self, sessions: Sessions) -> np.ndarray:
        """Scores (S, N) of all items."""
        queries = self.queries(sessions)
        scores = (queries @ self.matrix).cpu().numpy()
        rows, clicked = sessions.last(self.max_length).known_clicks()
        scores[rows, clicked] += queries[:, -2].cpu().numpy()[rows]  # once, also of what was clicked twice
        return scores


def encode_units(network: M2TRecNetwork, units: Units, start: int) -> Tensor:
    """Vectors of the units from ``start`` on."""
    network.eval()
    index = torch.arange(start, len(units), device=units.row.device)
    with torch.no_grad():
        parts = [network.vectors(units, part) for part in index.split(_UNITS_AT_A_TIME)]
    return torch.cat(parts) if parts else torch.empty(0, network.items.d_model + 1, device=units.row.device)


def join_bias(vectors: Tensor, bias: np.ndarray) -> Tensor:
    """Vectors (N, d + 1), zeros and biases (N,) as one matrix (d + 3, N), its rows contiguous."""
    column = torch.from_numpy(bias.astype(np.float32)).to(vectors.device)[:, None]
    return torch.cat([vectors, torch.zeros_like(column), column], dim=1).T.contiguous()


def blocks_of(lengths: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Sessions by number, in blocks of one padded length, which depends on a session's own length only."""
    padded = 8 * -(-lengths // 8)
    for width in np.unique(padded):
        members = np.flatnonzero(padded == width)
        for start in range(0, len(members), size):
            yield members[start : start + size]
