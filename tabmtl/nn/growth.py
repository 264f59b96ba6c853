"""Weights of a network find their places in one of the same form that knows more levels and more classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tabmtl.base.schema import Columns
from tabmtl.nn.embeddings import BagEmbedding, CategoricalEmbedding, grown_rows
from tabmtl.nn.grown import NewHead
from tabmtl.nn.layers import Towers, with_classes
from tabmtl.nn.sequences import PooledSequence


class Growth:
    """Places of the weights of a network in a larger one.

    Rows of tables and last layers of heads grow; all else has its place already.

    Parameters
    ----------
    before, network : Module
        Networks of one form.
    known, columns : Columns
        What they know of the features; levels that are new stand behind those known.
    """

    def __init__(self, before: nn.Module, network: nn.Module, known: Columns, columns: Columns) -> None:
        self._rows: dict[str, Tensor] = {}
        self._heads: list[tuple[str, Towers, Towers]] = []
        self._added: list[tuple[str, int]] = []
        of_kind = {
            CategoricalEmbedding: (known.cardinalities, columns.cardinalities),
            BagEmbedding: (known.bag_sizes, columns.bag_sizes),
        }
        smaller = dict(before.named_modules())
        for name, new in network.named_modules():
            old = smaller.get(name)  # none of a further width of heads
            prefix = f"{name}." if name else ""
            for kind, sizes in of_kind.items():
                if isinstance(new, kind):
                    self._add(f"{prefix}table.weight", *sizes)
            if isinstance(new, PooledSequence) and isinstance(old, PooledSequence):
                tables: Any = zip(old.tables, new.tables, strict=True)
                for i, (few, many) in enumerate(tables):
                    self._add(f"{prefix}tables.{i}.weight", (few.num_embeddings,), (many.num_embeddings,))
            if isinstance(new, Towers) and isinstance(old, Towers):
                self._heads.append((f"{prefix}out.", old, new))
            if isinstance(new, NewHead):
                self._added.append((f"{prefix}linear.", new.linear.weight.shape[2]))

    def _add(self, name: str, before: tuple[int, ...], now: tuple[int, ...]) -> None:
        if before != now:
            self._rows[name] = torch.from_numpy(grown_rows(before, now))

    def carry(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of the larger network, given those of the smaller one.

        The row of a new level begins as that of the unseen levels of its column, and a new class as the mean of the
        others of its task.
        """
        found = dict(weights)
        for name, rows in self._rows.items():
            found[name] = found[name].index_select(0, rows)
        for prefix, before, now in self._heads:
            for kind in ("weight", "bias"):
                layers = [found.pop(f"{prefix}{g}.{kind}") for g in range(len(before.out))]
                found |= {f"{prefix}{g}.{kind}": own for g, own in enumerate(now.grown_layers(before, layers))}
        for prefix, width in self._added:
            for name in (f"{prefix}weight", f"{prefix}bias"):
                found[name] = with_classes(found[name], width)
        return found
