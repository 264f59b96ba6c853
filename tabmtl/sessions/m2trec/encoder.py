"""Sessions to queries: a transformer over the vectors of the clicked items, newest first.

Shapes: B sessions of at most L clicks, d the width of a vector, h heads. Place 0 is the last click, so a place is a
distance to the end. Attention is causal: a click looks at itself and at earlier ones. So the state at place i is the
state of the session that ends there, and one pass serves all prefixes of a session.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tabmtl.nn.attention import FeatureLayer
from tabmtl.nn.layers import Dropout, at_least_float32

Pooling = Literal["mean", "last", "mean+last", "items", "undirected"]

_LEFT_OUT = 0.5  # share of the training queries without the directed path: they keep the anchor good by itself


class SessionEncoder(nn.Module):
    """A pre-norm transformer and a pooling.

    The distance k - j between a click and an earlier one adds a learned bias b_h[k - j] to the attention scores of
    every head and layer. (A position added to the input would change from prefix to prefix.) With the states H_1 .. H_n
    of a prefix and the vectors E_i of its items, the query is::

        "mean"       q = W_o mean_j H_j                                    the paper's
        "last"       q = W_o H_n
        "mean+last"  q = W_o [mean_j H_j ; H_n]
        "items"      q = sum_j a_j E_j + s W_h H_n,   a = softmax_j(w·H_j + c[n - j])
        "undirected" q = sum_j a_j E_j

    The first part of "items" is the weighting of CORE (SIGIR 2022): an anchor in the space of the items, between the
    clicked ones. By it alone, b follows a as much as a follows b. The second part is a directed path: W_h is 0 at
    the start, and training leaves the path out for a random half of the queries. Its strength s, 1 in training, may be
    set to less afterwards.

    An example of its own for every prefix needs no causal attention: with ``training="per_prefix"`` a click looks at
    later ones too, with biases of their own for distances below 0. Only whole sessions can be read then.

    Parameters
    ----------
    d_model : int
    options : M2TRec

    Attributes
    ----------
    width : int
        Width of a summary.
    strength : float
        Factor s of the directed path outside of training.
    left_out : float
        Share of the training queries without the path.
    """

    distance: Tensor

    def __init__(self, d_model: int, options: Any) -> None:
        super().__init__()
        dropout, max_length = options.dropout, options.max_length
        self.is_causal = options.training == "per_session"
        self.pooling: Pooling = options.pooling
        self.layers = nn.ModuleList(
            FeatureLayer(d_model, options.n_heads, 4 * d_model, dropout=dropout, attention_dropout=dropout)
            for _ in range(options.n_layers)
        )
        n_distances = max_length if self.is_causal else 2 * max_length - 1
        self.bias = nn.Parameter(torch.zeros(options.n_layers, options.n_heads, n_distances))
        self.norm = nn.LayerNorm(d_model)
        self.item_dropout = Dropout(dropout)
        places = torch.arange(max_length)
        self.register_buffer("distance", places[None, :] - places[:, None], persistent=False)
        self.width = 2 * d_model if self.pooling == "mean+last" else d_model
        self.direct, self.strength, self.left_out = None, 1.0, _LEFT_OUT
        if self.pooling not in ("items", "undirected"):
            self.out = nn.Linear(self.width, d_model)
            return
        self.weigh = nn.Linear(d_model, 1, bias=False)
        self.weigh_distance = nn.Parameter(torch.zeros(max_length))
        if self.pooling == "items":
            self.direct = nn.Linear(d_model, d_model, bias=False)
            nn.init.zeros_(self.direct.weight)

    def forward(self, items: Tensor, lengths: Tensor, *, all_prefixes: bool = False) -> tuple[Tensor, Tensor]:
        """Encode sessions.

        Parameters
        ----------
        items : Tensor of shape (B, L, d)
            Vectors of the clicked items, newest first; those behind ``lengths`` are ignored.
        lengths : Tensor of shape (B,)
            At least 1.
        all_prefixes : bool, default=False
            Compute the query of every prefix, (B, L, d), at place i for the session without its last i clicks;
            otherwise that of the whole sessions only, (B, d).

        Returns
        -------
        queries : Tensor of shape (B, d) or (B, L, d)
        summaries : Tensor of shape (B, width) or (B, L, width)
            The input of W_o; with "items", the state H_n.
        """
        assert self.is_causal or not all_prefixes
        n = items.shape[1]
        items = self.item_dropout(items)
        last_only = self.pooling == "last" and not all_prefixes
        x = items * items.shape[-1] ** 0.5  # items have about length 1, layers expect entries of about 1
        padding = self._padding(lengths, n)
        for number, layer in enumerate(self.layers):
            first = 1 if last_only and number == len(self.layers) - 1 else n
            mask = self._attention_bias(number, n)
            x = layer(x, mask if padding is None else mask + padding, first)
        states = self.norm(x)
        last = states if all_prefixes else states[:, 0]
        if self.pooling in ("items", "undirected"):
            anchor = self._weighted_items(states, items, padding, all_prefixes=all_prefixes)
            return anchor if self.direct is None else anchor + self._directed_part(last), last
        if self.pooling != "last":
            mean = self._mean(states, lengths, all_prefixes=all_prefixes)
            last = mean if self.pooling == "mean" else torch.cat([mean, last], dim=-1)
        return self.out(last), last

    def _attention_bias(self, layer: int, n: int) -> Tensor:
        """Look up what is added to the attention scores (h, n, n) of n clicks."""
        bias, distance = self.bias[layer], self.distance[:n, :n]
        return _by_distance(bias, distance) if self.is_causal else bias[:, distance + len(self.distance) - 1]

    def _padding(self, lengths: Tensor, n: int) -> Tensor | None:
        """Give minus infinity (B, 1, n, n) for clicks behind the session's end, but not for the click itself."""
        if bool((lengths == n).all()):
            return None
        behind = torch.arange(n, device=lengths.device) >= lengths[:, None]
        hidden = behind[:, None, None, :] & (self.distance[:n, :n] != 0)
        return torch.zeros(hidden.shape, device=lengths.device).masked_fill(hidden, -torch.inf)

    def _mean(self, states: Tensor, lengths: Tensor, *, all_prefixes: bool) -> Tensor:
        """Average every state and all older ones, (B, L, d); or only the newest and all older ones, (B, d)."""
        n = states.shape[1]
        left = lengths[:, None] - torch.arange(n, device=lengths.device)
        states = states * (left > 0)[..., None]
        if not all_prefixes:
            return states.sum(dim=1) / lengths[:, None]
        older = states.flip(1).cumsum(1).flip(1)
        return older / left.clamp(min=1)[..., None]

    def _directed_part(self, last: Tensor) -> Tensor:
        """Compute what the state of the last click adds to the anchor, (B, d) or (B, L, d)."""
        assert self.direct is not None
        part = self.direct(last)
        if not self.training:
            return self.strength * part
        return part * (torch.rand(part.shape[:-1], device=part.device) >= self.left_out)[..., None]

    def scale_direct(self, factor: float) -> None:
        """Multiply the directed path by a factor, once and for all."""
        assert self.direct is not None
        with torch.no_grad():
            self.direct.weight.mul_(factor)

    def _weighted_items(self, states: Tensor, items: Tensor, padding: Tensor | None, *, all_prefixes: bool) -> Tensor:
        n = states.shape[1]
        scores = at_least_float32(self.weigh(states))[:, None, :, 0] + _by_distance(
            self.weigh_distance, self.distance[:n, :n]
        )
        if padding is not None:
            scores = scores + padding[:, 0]
        if not all_prefixes:
            scores = scores[:, :1]
        pooled = torch.softmax(scores, dim=-1) @ at_least_float32(items)  # (B, L or 1, d)
        return pooled if all_prefixes else pooled[:, 0]


def _by_distance(bias: Tensor, distance: Tensor) -> Tensor:
    """Look up biases (..., L) by distance (n, n); minus infinity for negative ones, which are later clicks."""
    return bias[..., distance.clamp(min=0)].masked_fill(distance < 0, -torch.inf)


def unit_length(vectors: Tensor) -> Tensor:
    """Scale vectors to length 1, in float32 at least."""
    return F.normalize(at_least_float32(vectors), dim=-1)
