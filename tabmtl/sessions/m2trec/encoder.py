"""Sessions to queries: a transformer over the vectors of the clicked items, newest first.

Shapes: B sessions of at most L clicks, d the width of a vector, h heads. Place 0 is the last click, so a place is a
distance to the end. Attention is causal: a click looks at itself and at earlier ones. So the state at place i is that
of the session as it ended there, and one pass serves all prefixes of a session.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tabmtl.nn.attention import FeatureLayer
from tabmtl.nn.layers import Dropout

Pooling = Literal["mean", "last", "mean+last", "items", "items+linear"]


class SessionEncoder(nn.Module):
    """A pre-norm transformer and a pooling.

    The distance k - j from a query to an earlier click is a learned bias b_h[k - j] of every head and layer on the
    attention scores. (Added to the input, the same distance would be another vector in every prefix of a session.) With
    the states H_1 .. H_n of a prefix, and vectors E_i of its items, the query is::

        "mean"          q = W_o mean_j H_j                                    the paper's
        "last"          q = W_o H_n
        "mean+last"     q = W_o [mean_j H_j ; H_n]
        "items"         q = sum_j a_j E_j,   a = softmax_j(w·H_j + c[n - j])
        "items+linear"  q = W_o sum_j a_j E_j

    "items" is the weighting of CORE (SIGIR 2022): queries stay in the space of the items, near what was clicked. With
    W_o, the identity at the start, they can leave it, for instance for the category that follows.

    Parameters
    ----------
    d_model, n_layers, n_heads, d_ffn : int
    max_length : int
        Greatest number L of clicks; one bias a distance.
    pooling : {"mean", "last", "mean+last", "items", "items+linear"}
    dropout, item_dropout : float
        Shares dropped in training: of hidden values and attention weights, and of the items' vectors.

    Attributes
    ----------
    width : int
        Of a summary.
    """

    distance: Tensor

    def __init__(
        self,
        d_model: int,
        *,
        n_layers: int,
        n_heads: int,
        d_ffn: int,
        max_length: int,
        pooling: Pooling,
        dropout: float,
        item_dropout: float,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.layers = nn.ModuleList(
            FeatureLayer(d_model, n_heads, d_ffn, dropout=dropout, attention_dropout=dropout) for _ in range(n_layers)
        )
        self.bias = nn.Parameter(torch.zeros(n_layers, n_heads, max_length))
        self.norm = nn.LayerNorm(d_model)
        self.item_dropout = Dropout(item_dropout)
        places = torch.arange(max_length)
        self.register_buffer("distance", places[None, :] - places[:, None], persistent=False)
        self.width = 2 * d_model if pooling == "mean+last" else d_model
        self.out: nn.Module = nn.Linear(self.width, d_model)
        if pooling.startswith("items"):
            self.weigh = nn.Linear(d_model, 1, bias=False)
            self.weigh_distance = nn.Parameter(torch.zeros(max_length))
            nn.init.eye_(self.out.weight)
            nn.init.zeros_(self.out.bias)
        if pooling == "items":
            self.out = nn.Identity()

    def forward(self, items: Tensor, lengths: Tensor, *, every: bool = False) -> tuple[Tensor, Tensor]:
        """Encode sessions.

        Parameters
        ----------
        items : Tensor of shape (B, L, d)
            Vectors of the clicked items, newest first; whatever is behind ``lengths`` is not looked at.
        lengths : Tensor of shape (B,)
            At least 1.
        every : bool, default=False
            Give the query of every prefix, (B, L, d), place i for the session without its last i clicks; not only that
            of the whole sessions, (B, d).

        Returns
        -------
        queries : Tensor of shape (B, d) or (B, L, d)
        summaries : Tensor of shape (B, width) or (B, L, width)
            What W_o reads; of the poolings of items, the state H_n.
        """
        n = items.shape[1]
        items = self.item_dropout(items)
        last_only = self.pooling == "last" and not every
        x = items * items.shape[-1] ** 0.5  # items have about length 1, layers expect entries of about 1
        padding = self._padding(lengths, n)
        for number, layer in enumerate(self.layers):
            first = 1 if last_only and number == len(self.layers) - 1 else n
            x = layer(x, self._mask(number, n, padding), first)
        states = self.norm(x)
        last = states if every else states[:, 0]
        if self.pooling.startswith("items"):
            return self.out(self._weighted_items(states, items, padding, every=every)), last
        if self.pooling != "last":
            mean = self._mean(states, lengths, every=every)
            last = mean if self.pooling == "mean" else torch.cat([mean, last], dim=-1)
        return self.out(last), last

    def _padding(self, lengths: Tensor, n: int) -> Tensor | None:
        """Minus infinity (B, 1, n, n) where a click may not look behind the session's end; itself it always sees."""
        if bool((lengths == n).all()):
            return None
        behind = torch.arange(n, device=lengths.device) >= lengths[:, None]
        hidden = behind[:, None, None, :] & (self.distance[:n, :n] != 0)
        return torch.zeros(hidden.shape, device=lengths.device).masked_fill(hidden, -torch.inf)

    def _mask(self, layer: int, n: int, padding: Tensor | None) -> Tensor:
        """What is added to attention scores: (h, n, n), or (B, h, n, n) where some sessions are shorter than others."""
        mask = _by_distance(self.bias[layer], self.distance[:n, :n])
        return mask if padding is None else mask + padding

    def _mean(self, states: Tensor, lengths: Tensor, *, every: bool) -> Tensor:
        """Mean of a state and all older ones: (B, L, d), or of the newest (B, d)."""
        n = states.shape[1]
        left = lengths[:, None] - torch.arange(n, device=lengths.device)
        states = states * (left > 0)[..., None]
        if not every:
            return states.sum(dim=1) / lengths[:, None]
        older = states.flip(1).cumsum(1).flip(1)
        return older / left.clamp(min=1)[..., None]

    def _weighted_items(self, states: Tensor, items: Tensor, padding: Tensor | None, *, every: bool) -> Tensor:
        n = states.shape[1]
        scores = self.weigh(states).float()[:, None, :, 0] + _by_distance(self.weigh_distance, self.distance[:n, :n])
        if padding is not None:
            scores = scores + padding[:, 0]
        if not every:
            scores = scores[:, :1]
        pooled = torch.softmax(scores, dim=-1) @ items.float()  # (B, L or 1, d)
        return pooled if every else pooled[:, 0]


def _by_distance(bias: Tensor, distance: Tensor) -> Tensor:
    """Biases (..., L) by distance (n, n); minus infinity where it is negative, which is a later click."""
    return bias[..., distance.clamp(min=0)].masked_fill(distance < 0, -torch.inf)


def unit_length(vectors: Tensor) -> Tensor:
    """Vectors of length 1, in float32."""
    return F.normalize(vectors.float(), dim=-1)
