"""Pre-norm transformer layers: attention between the tokens of a row, and layers over its joined tokens.

Shapes: B rows, n tokens of width e, s of them task tokens, w = n e, h heads, M learned points. Every layer is::

    a = x + mix(LayerNorm(x))
    y = a + W_down gelu(W_up LayerNorm(a))          exact GELU

and returns only as many first tokens as the caller asks for: no unread token is computed. Attention is two matrix
products around a softmax, which on CPUs beats ``scaled_dot_product_attention``, and more so in bfloat16. Under bf16
autocast residuals, norms and the sums inside a softmax stay float32.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tabmtl.nn.layers import Dropout

Mask = Literal["none", "FxT", "TxT", "FxT_TxT"]


def attention_mask(mask: Mask, n_tasks: int, n_tokens: int) -> Tensor | None:
    """Build the multitask mask (n, n): -inf where a query (row) may not look at a key (column), else 0.

    Tasks always look at features and at themselves. None where nothing is forbidden.
    """
    forbidden = torch.zeros(n_tokens, n_tokens, dtype=torch.bool)
    if "FxT" in mask:
        forbidden[n_tasks:, :n_tasks] = True
    if "TxT" in mask:
        forbidden[:n_tasks, :n_tasks] = ~torch.eye(n_tasks, dtype=torch.bool)
    return torch.zeros(n_tokens, n_tokens).masked_fill(forbidden, -torch.inf) if forbidden.any() else None


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Compute the softmax over the last axis of scores + mask in float32: PyTorch's bfloat16 form is slower on CPUs.

    Its float32 form is ten times slower per value where the axis is shorter than a vector register of 16, so
    short ones are padded.
    """
    scores, n = scores.float(), scores.shape[-1]
    if mask is not None:
        scores = scores + mask
    if n < 16:
        return torch.softmax(F.pad(scores, (0, 16 - n), value=-torch.inf), dim=-1)[..., :n]
    return torch.softmax(scores, dim=-1)


class FeedForward(nn.Module):
    """``W_down dropout(gelu(W_up x))``; can give its first outputs only.

    Parameters
    ----------
    width, hidden : int
        Width of input and output, and of the hidden layer.
    dropout : float, default=0.0
        Share of hidden values dropped in training.
    """

    def __init__(self, width: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, n_out: int | None = None) -> Tensor:
        """Map (..., width) to the first n_out outputs, default all of them."""
        hidden = self.dropout(F.gelu(self.up(x)))
        return F.linear(hidden, self.down.weight[:n_out], self.down.bias[:n_out])


class FeatureAttention(nn.Module):
    """Multi-head attention between the tokens of a row, for all tokens or the first few as queries.

    Parameters
    ----------
    d_token, n_heads : int
        Width e, a multiple of the number of heads h.
    dropout : float, default=0.0
        Share of attention weights dropped in training.

    Raises
    ------
    ValueError
        If the width is not a multiple of the number of heads.
    """

    def __init__(self, d_token: int, n_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if d_token % n_heads:
            raise ValueError(f"d_token must be a multiple of n_heads, got {d_token} and {n_heads}")
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_token, 3 * d_token)
        self.out = nn.Linear(d_token, d_token)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, n_queries: int) -> Tensor:
        """Attend from the first tokens of x (B, n, e) to all; add mask, (n, n) up to (B, h, n, n), to the scores.

        Returns (B, n_queries, e).
        """
        mixed = self._all(x, mask) if n_queries == x.shape[1] else self._first(x, mask, n_queries)
        return self.out(mixed)

    def _all(self, x: Tensor, mask: Tensor | None) -> Tensor:
        n_rows, n_tokens, d_token = x.shape
        d_head = d_token // self.n_heads
        qkv = self.qkv(x).view(n_rows, n_tokens, 3, self.n_heads, d_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # (B, h, n, e/h) each
        weights = self.dropout(_softmax((q * d_head**-0.5) @ k.mT, mask))
        return (weights @ v).transpose(1, 2).reshape(n_rows, n_tokens, d_token)

    def _first(self, x: Tensor, mask: Tensor | None, s: int) -> Tensor:
        """Attend without forming keys or values: q·W_k x = W_k'q·x, and Σ_j a_j W_v x_j = W_v Σ_j a_j x_j.

        Cheaper than projecting n tokens where s is small. The key bias adds the same to all scores of a
        query, so the softmax cancels it.
        """
        n_rows, n_tokens, d_token = x.shape
        heads, d_head = self.n_heads, d_token // self.n_heads
        w_q, w_k, w_v = self.qkv.weight.chunk(3)
        b_q, _, b_v = self.qkv.bias.chunk(3)
        q = F.linear(x[:, :s], w_q * d_head**-0.5, b_q * d_head**-0.5)
        q = q.view(n_rows * s, heads, d_head).transpose(0, 1) @ w_k.view(heads, d_head, d_token)
        q = q.view(heads, n_rows, s, d_token).transpose(0, 1).reshape(n_rows, heads * s, d_token)
        scores = (q @ x.transpose(1, 2)).view(n_rows, heads, s, n_tokens)
        weights = self.dropout(_softmax(scores, None if mask is None else mask[..., :s, :]))
        seen = weights.view(n_rows, heads * s, n_tokens) @ x
        seen = seen.view(n_rows, heads, s, d_token).transpose(0, 1).reshape(heads, n_rows * s, d_token)
        values = torch.baddbmm(b_v.view(heads, 1, d_head), seen, w_v.view(heads, d_head, d_token).mT)
        return values.transpose(0, 1).reshape(n_rows, s, d_token)


class FeatureLayer(nn.Module):
    """Inter-feature layer: attention between the tokens of a row, then a feed-forward layer per token.

    Parameters
    ----------
    d_token, n_heads, d_ffn : int
        Width of a token, number of heads, hidden width of the feed-forward layer.
    dropout, attention_dropout : float, default=0.0
        Shares dropped in training: hidden values of the feed-forward layer, attention weights.
    """

    def __init__(
        self, d_token: int, n_heads: int, d_ffn: int, *, dropout: float = 0.0, attention_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(d_token)
        self.attention = FeatureAttention(d_token, n_heads, dropout=attention_dropout)
        self.norm_ffn = nn.LayerNorm(d_token)
        self.ffn = FeedForward(d_token, d_ffn, dropout=dropout)

    def forward(self, x: Tensor, mask: Tensor | None, n_out: int) -> Tensor:
        """Map tokens (B, n, e) to the first n_out tokens (B, n_out, e)."""
        a = x[:, :n_out] + self.attention(self.norm_attention(x), mask, n_out)
        return a + self.ffn(self.norm_ffn(a))


class RowAttention(nn.Module):
    """Attention of rows to M learned points, or to the rows of their batch.

    Parameters
    ----------
    width, n_heads : int
        Width w, a multiple of the number of heads.
    n_points : int, default=0
        Number M of points, each a key and a value per head; 0 attends to the rows of the batch.
    dropout : float, default=0.0
        Share of attention weights dropped in training.
    """

    def __init__(self, width: int, n_heads: int, n_points: int = 0, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.n_heads, self.n_points = n_heads, n_points
        self.query = nn.Linear(width, width)
        if n_points:
            self.keys = nn.Parameter(torch.randn(n_points, width))
            self.values = nn.Parameter(torch.randn(n_points, width))
        else:
            self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, w) to (B, w)."""
        keys, values = (self.keys, self.values) if self.n_points else self.key_value(x).chunk(2, dim=1)
        parts = (part.unflatten(1, (self.n_heads, -1)).transpose(0, 1) for part in (self.query(x), keys, values))
        q, k, v = parts  # (h, rows, w/h) each
        weights = self.dropout(torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT, dim=-1))
        return self.out((weights @ v).transpose(0, 1).flatten(1))


class RowLayer(nn.Module):
    """Second layer of a block: a row's joined tokens pass ``mix``, then a feed-forward layer.

    Parameters
    ----------
    mix : Module
        Maps joined tokens (B, w) to (B, w).
    width, d_ffn : int
        Width w of the joined tokens, hidden width of the feed-forward layer.
    dropout : float, default=0.0
        Share of hidden values of the feed-forward layer dropped in training.
    """

    def __init__(self, mix: nn.Module, width: int, d_ffn: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_mix = nn.LayerNorm(width)
        self.mix = mix
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = FeedForward(width, d_ffn, dropout=dropout)

    def forward(self, x: Tensor, n_out: int) -> Tensor:
        """Map tokens (B, n, e) to the first n_out tokens (B, n_out, e)."""
        flat = x.flatten(1)  # (B, n e)
        a = flat + self.mix(self.norm_mix(flat))
        n_flat = n_out * x.shape[2]
        return (a[:, :n_flat] + self.ffn(self.norm_ffn(a), n_flat)).unflatten(1, (n_out, -1))
