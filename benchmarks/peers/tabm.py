"""TabM of its authors' package as its users train it, with shared batches; ours is `n_members`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from rtdl_num_embeddings import PiecewiseLinearEmbeddings
from torch import Tensor, nn


def make_tabm(bins: Sequence[Sequence[float]], n_outputs: int, *, k: int, width: int) -> nn.Module:
    """Make TabM in its smallest form: adapters before the first of two layers, and k last layers."""
    from tabm import TabM

    numbers = PiecewiseLinearEmbeddings([torch.tensor(edges) for edges in bins], 16, activation=False, version="B")
    shape = {"k": k, "n_blocks": 2, "d_block": width}
    return TabM.make(
        n_num_features=len(bins), num_embeddings=numbers, d_out=n_outputs, arch_type="tabm-mini", dropout=0.1, **shape
    )


def tabm_step(network: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    """Return a training step on the mean loss of the members, by the fused AdamW."""
    optimizer = torch.optim.AdamW(network.train().parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        (network(x) - y[:, None]).square().mean().backward()
        optimizer.step()

    return step
