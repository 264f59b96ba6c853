"""SASRec written the obvious way, the peer of :mod:`benchmarks.sessions_speed`.

Item ids and learned positions, ``nn.TransformerEncoder`` under a causal mask, cross-entropy over all items at every
click that is followed by another, PyTorch's default AdamW, and a ``DataLoader`` over sessions that are padded to one
length, one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tabmtl.sessions.log import LogColumns, Sessions, read_sessions
from tabmtl.sessions.ranking import rank_targets

_PREFIXES_AT_A_TIME = 256


class PlainSASRec(nn.Module):
    """Self-attentive sequential recommendation (arXiv 1808.09781) on PyTorch's own layers, pre-norm with GELU.

    Items count from 1; 0 is padding. The feed-forward layers are four times as wide as the rest.
    """

    causal: Tensor

    def __init__(
        self, n_items: int, max_length: int, d_model: int, *, n_layers: int, n_heads: int, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items + 1, d_model, padding_idx=0)
        self.places = nn.Embedding(max_length, d_model)
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            d_model, n_heads, 4 * d_model, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, n_layers, nn.LayerNorm(d_model), enable_nested_tensor=False)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(max_length))

    def forward(self, codes: Tensor) -> Tensor:
        """Return states (B, L, d) of clicks (B, L), oldest first and padding behind the last."""
        n = codes.shape[1]
        x = self.dropout(self.items(codes) + self.places.weight[:n])
        return self.layers(x, mask=self.causal[:n, :n], is_causal=True)

    def loss(self, codes: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of the next items (B, L) among all, where they are not 0."""
        states = self(codes)[targets > 0]
        return F.cross_entropy(states @ self.items.weight[1:].T, targets[targets > 0] - 1)


class PaddedSessions(Dataset[tuple[Tensor, Tensor]]):
    """The newest clicks of sessions of at least two, each followed by another, padded to one length when asked for."""

    def __init__(self, sessions: Sequence[np.ndarray], max_length: int) -> None:
        self._sessions, self._max_length = sessions, max_length

    def __len__(self) -> int:
        return len(self._sessions)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        session = self._sessions[index][-self._max_length - 1 :]
        codes, targets = torch.zeros(2, self._max_length, dtype=torch.int64)
        codes[: len(session) - 1] = torch.from_numpy(session[:-1])
        targets[: len(session) - 1] = torch.from_numpy(session[1:])
        return codes, targets


def train_plain(
    model: PlainSASRec, sessions: Sessions, *, epochs: int, batch_size: int = 128, learning_rate: float = 1e-3
) -> list[float]:
    """Train on sessions of at least two clicks, and return every epoch's mean loss."""
    split = np.split(sessions.items.astype(np.int64), sessions.offsets[1:-1])
    loader = DataLoader(PaddedSessions(split, model.places.num_embeddings), batch_size, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    model.train()
    losses = []
    for _ in range(epochs):
        total = 0.0
        for codes, targets in loader:
            loss = model.loss(codes, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / len(loader))
    return losses


@torch.no_grad()
def plain_recall(model: PlainSASRec, sessions: Sessions, k: int = 20) -> float:
    """Return the share of next clicks among the first k of all items; one on an item of code 0 is missed."""
    prefixes, targets = sessions.prefixes()
    prefixes = prefixes.last(model.places.num_embeddings)
    model.eval()
    ranks = []
    for start in range(0, len(prefixes), _PREFIXES_AT_A_TIME):
        block = prefixes.take(np.arange(start, min(start + _PREFIXES_AT_A_TIME, len(prefixes))))
        states = model(torch.from_numpy(block.padded().astype(np.int64)))
        last = states[torch.arange(len(block)), torch.from_numpy(block.lengths) - 1]
        scores = last @ model.items.weight[1:].T
        ranks.append(rank_targets(scores.numpy(), targets[start : start + len(block)]))
    return float(np.mean(np.concatenate(ranks) <= k))


def plain_step(n_items: int, n_sessions: int, length: int, **sizes: Any) -> tuple[PlainSASRec, Callable[[], Tensor]]:
    """Make a network, and its training step on one batch of one target per session, among all items of the batch."""
    torch.manual_seed(0)
    network = PlainSASRec(n_items, length, dropout=0.0, **sizes)
    optimizer = torch.optim.AdamW(network.parameters())
    clicks = torch.randint(1, n_items + 1, (n_sessions, length + 1))

    def step() -> Tensor:
        queries = network(clicks[:, :-1])[:, -1]
        candidates, place = torch.unique(clicks, return_inverse=True)
        loss = F.cross_entropy(queries @ network.items(candidates).T, place[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return network, step


def fit_plain(
    clicks: pl.DataFrame, test: pl.DataFrame, columns: LogColumns, *, epochs: int, **sizes: Any
) -> tuple[float, float]:
    """Train on one log; return CPU seconds per epoch, reading included, and Recall@20 on another log."""
    start = time.process_time()
    known = clicks[columns.item].unique().sort()
    sessions = read_sessions(clicks, columns, known).at_least(2)
    torch.manual_seed(0)
    network = PlainSASRec(len(known), 50, **sizes)
    train_plain(network, sessions, epochs=epochs)
    seconds = (time.process_time() - start) / epochs
    return seconds, plain_recall(network, read_sessions(test, columns, known))
