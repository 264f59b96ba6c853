"""MultiTab-Net written the obvious way, the peer of :mod:`benchmarks.speed`.

One module per column and head, ``nn.MultiheadAttention`` with a mask, every token computed in every layer,
PyTorch's default AdamW, a ``DataLoader`` over rows. The mixer is attention over a sequence of one element, as the
released code has it: its queries and keys are computed to no effect.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tabmtl.columns import Features
from tabmtl.models.multitabnet import MultiTabNet, MultiTabNetwork
from tabmtl.schema import Batch, Columns
from tabmtl.targets import Task
from tabmtl.training.epochs import schedule


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
    """MultiTab-Net written the obvious way, with the sizes and weights of one of ours."""

    def __init__(self, columns: Columns, tasks: Sequence[Task], options: MultiTabNet, ours: MultiTabNetwork) -> None:
        super().__init__()
        e, n_tasks = options.d_token, len(tasks)
        self.task_tokens = nn.ModuleList(nn.Linear(1, e) for _ in tasks)
        self.embeddings = nn.ModuleList(nn.Embedding(c, e) for c in columns.cardinalities)
        self.affines = nn.ModuleList(nn.Linear(1, e) for _ in columns.numeric)
        n = n_tasks + len(self.embeddings) + len(self.affines)
        blocks, sizes = range(options.n_blocks), (options.n_heads, options.d_ffn)
        self.blocks = nn.ModuleList(PlainBlock(e, *sizes) for _ in blocks)
        self.mixers = nn.ModuleList(PlainBlock(n * e, *sizes) for _ in blocks if options.row_layer == "mixer")
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(e, 64), nn.ReLU(), nn.Linear(64, task.width)) for task in tasks
        )
        mask = torch.zeros(n, n, dtype=torch.bool)
        mask[:n_tasks, :n_tasks] = ~torch.eye(n_tasks, dtype=torch.bool)
        self.register_buffer("mask", mask)
        self._copy(ours)

    def forward(self, x: Features) -> list[Tensor]:
        """Score rows, one tensor (B, width) per task."""
        one = x.numbers.new_ones(len(x), 1)
        tokens = [layer(one) for layer in self.task_tokens]
        tokens += [layer(x.codes[:, j]) for j, layer in enumerate(self.embeddings)]
        tokens += [layer(x.numbers[:, j : j + 1]) for j, layer in enumerate(self.affines)]
        x = torch.stack(tokens, dim=1)
        for i, block in enumerate(self.blocks):
            x = block(x, self.mask)
            if self.mixers:
                x = self.mixers[i](x.reshape(len(x), 1, -1)).reshape(x.shape)
        return [head(x[:, t]) for t, head in enumerate(self.heads)]

    @torch.no_grad()
    def _copy(self, ours: MultiTabNetwork) -> None:
        for t, layer in enumerate(self.task_tokens):
            layer.weight[:, 0], layer.bias[:] = ours.task_weight[t], ours.task_bias[t]
        if self.embeddings:
            sizes = [embedding.num_embeddings for embedding in self.embeddings]
            tables = ours.tokenizer.categorical.table.weight.split(sizes)
            for layer, table in zip(self.embeddings, tables, strict=True):
                layer.weight.copy_(table)
        for j, layer in enumerate(self.affines):
            layer.weight[:, 0] = ours.tokenizer.numeric.weight[j]
            layer.bias[:] = ours.tokenizer.numeric.bias[j]
        for plain, layer in zip(self.blocks, ours.feature_layers, strict=True):
            _copy_block(plain, layer, layer.norm_attention, layer.attention.qkv, layer.attention.out)
        for plain, layer in zip(self.mixers, ours.row_layers, strict=True):
            _copy_block(plain, layer, layer.norm_mix, layer.mix.value, layer.mix.out)
        for head, row in zip(self.heads, _head_weights(ours), strict=True):
            for parameter, value in zip(head.parameters(), row, strict=True):
                parameter.copy_(value)


def _copy_block(plain: PlainBlock, ours: nn.Module, norm: nn.Module, into: nn.Linear, out: nn.Linear) -> None:
    """Copy a layer; ``into`` may be the value projection alone: the last rows of the packed one."""
    plain.norm1.load_state_dict(norm.state_dict())
    plain.norm2.load_state_dict(ours.norm_ffn.state_dict())
    plain.attention.in_proj_weight[-into.out_features :] = into.weight
    plain.attention.in_proj_bias[-into.out_features :] = into.bias
    plain.attention.out_proj.load_state_dict(out.state_dict())
    plain.ffn[0].load_state_dict(ours.ffn.up.state_dict())
    plain.ffn[2].load_state_dict(ours.ffn.down.state_dict())


def _head_weights(ours: MultiTabNetwork) -> list[tuple[Tensor, ...]]:
    """Return weights and biases of each task's two layers, in task order."""
    last = {}
    for group, layer in zip(ours.heads._groups, ours.heads.out, strict=True):
        last |= {t: (layer.weight[i].T, layer.bias[i]) for i, t in enumerate(group)}
    first = ours.heads.hidden
    return [(first.weight[t].T, first.bias[t], *last[t]) for t in range(len(last))]


def plain_loss(scores: Sequence[Tensor], y: Tensor, tasks: Sequence[Task]) -> Tensor:
    """Return the sum of the tasks' mean losses."""
    total = y.new_zeros(())
    for t, task in enumerate(tasks):
        if task.is_binary:
            total = total + F.binary_cross_entropy_with_logits(scores[t][:, 0], y[:, t])
        elif task.is_classification:
            total = total + F.cross_entropy(scores[t], y[:, t].long())
        else:
            total = total + F.mse_loss(scores[t][:, 0], y[:, t])
    return total


def train_plain(
    network: PlainNetwork, data: Batch, tasks: Sequence[Task], batch_size: int, learning_rate: float
) -> None:
    """Train one epoch, in the given order, under the learning rates of ours."""
    loader = DataLoader(TensorDataset(data.x.numbers, data.x.codes, data.y), batch_size=batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.0)
    for step, (numbers, codes, y) in enumerate(loader):
        optimizer.param_groups[0]["lr"] = learning_rate * schedule(step / len(loader))
        loss = plain_loss(network(Features(numbers=numbers, codes=codes)), y, tasks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
