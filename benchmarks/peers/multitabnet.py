"""MultiTab-Net written the obvious way.

One module per column and head, ``nn.MultiheadAttention`` with a mask, every token computed in every layer, and
PyTorch's default AdamW. The mixer is attention over a sequence of one element, as the released code has it: its queries
and keys are computed to no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tabmtl.models.multitabnet import MultiTabNet

#: Scores of a task, and its loss.
LOSSES: dict[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "binary": (1, lambda scores, y: F.binary_cross_entropy_with_logits(scores[:, 0], y.float())),
    "multiclass": (5, lambda scores, y: F.cross_entropy(scores, y.long())),
    "regression": (1, lambda scores, y: F.mse_loss(scores[:, 0], y.float())),
}


class PlainBlock(nn.Module):
    """A pre-norm block over tokens (B, n, e): attention and feed-forward layer, for all tokens."""

    def __init__(self, width: int, n_heads: int, d_ffn: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, n_heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, d_ffn), nn.GELU(), nn.Linear(d_ffn, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (B, n, e) to (B, n, e); mask (n, n) is True where looking is forbidden."""
        h = self.norm1(x)
        x = x + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.ffn(self.norm2(x))


class PlainNetwork(nn.Module):
    """MultiTab-Net for columns with some levels, numeric columns, and tasks of some kinds, as large as an estimator.

    A column has two codes more than levels, as ours has.
    """

    mask: Tensor

    def __init__(self, levels: Sequence[int], n_numeric: int, kinds: Sequence[str], options: MultiTabNet) -> None:
        super().__init__()
        e = options.d_token
        self.task_tokens = nn.ModuleList(nn.Linear(1, e) for _ in kinds)
        self.embeddings = nn.ModuleList(nn.Embedding(n + 2, e) for n in levels)
        self.affines = nn.ModuleList(nn.Linear(1, e) for _ in range(n_numeric))
        n = len(kinds) + len(levels) + n_numeric
        blocks, sizes = range(options.n_blocks), (options.n_heads, options.d_ffn)
        self.blocks = nn.ModuleList(PlainBlock(e, *sizes) for _ in blocks)
        self.mixers = nn.ModuleList(PlainBlock(n * e, *sizes) for _ in blocks if options.row_layer == "mixer")
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(e, 64), nn.ReLU(), nn.Linear(64, LOSSES[kind][0])) for kind in kinds
        )
        mask = torch.zeros(n, n, dtype=torch.bool)
        mask[: len(kinds), : len(kinds)] = ~torch.eye(len(kinds), dtype=torch.bool)
        self.register_buffer("mask", mask)

    def forward(self, x_num: Tensor, x_cat: Tensor) -> list[Tensor]:
        """Score rows, one tensor (B, width) per task."""
        one = x_num.new_ones(len(x_num), 1)
        tokens = [layer(one) for layer in self.task_tokens]
        tokens += [layer(x_cat[:, j]) for j, layer in enumerate(self.embeddings)]
        tokens += [layer(x_num[:, j : j + 1]) for j, layer in enumerate(self.affines)]
        x = torch.stack(tokens, dim=1)
        for i, block in enumerate(self.blocks):
            x = block(x, self.mask)
            if self.mixers:
                x = self.mixers[i](x.reshape(len(x), 1, -1)).reshape(x.shape)
        return [head(x[:, t]) for t, head in enumerate(self.heads)]


def plain_step(
    x_num: Tensor, x_cat: Tensor, y: Sequence[Tensor], levels: Sequence[int], kinds: Sequence[str], options: MultiTabNet
) -> Callable[[], object]:
    """Return a training step on a batch."""
    network = PlainNetwork(levels, x_num.shape[1], kinds, options)
    optimizer = torch.optim.AdamW(network.parameters())

    def step() -> None:
        scores = network(x_num, x_cat)
        losses = [LOSSES[kind][1](own, labels) for kind, own, labels in zip(kinds, scores, y, strict=True)]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()

    return step
