"""Weights of a network find their places in one of the same form that knows more levels and more classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tabmtl.nn.embeddings import BagEmbedding, CategoricalEmbedding, grown_rows
from tabmtl.nn.grown import NewHead, ScaledHead
from tabmtl.nn.layers import Towers, with_classes
from tabmtl.nn.sequences import PooledSequence
from tabmtl.schema import Columns


class Growth:
    """Places of the weights of a network in a larger one, or of numbers beside these weights, such as their moments.

    Rows of tables and last layers of heads grow; all else has its place already.

    Parameters
    ----------
    before, network : Module
        Networks of one form.
    known, columns : Columns
        What they know of the features; levels that are new stand behind those known.
    """

    def __init__(self, before: nn.Module, network: nn.Module, known: Columns, columns: Columns) -> None:
        self._rows: dict[str, tuple[Tensor, Tensor]] = {}
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
            if isinstance(new, NewHead | ScaledHead):
                self._added.append((f"{prefix}linear.", new.linear.weight.shape[2]))

    def _add(self, name: str, before: tuple[int, ...], now: tuple[int, ...]) -> None:
        if before != now:
            is_new = np.concatenate([np.arange(many) >= few for few, many in zip(before, now, strict=True)])
            self._rows[name] = torch.from_numpy(grown_rows(before, now)), torch.from_numpy(is_new)

    def carry(self, numbers: Mapping[str, Tensor], *, fill: bool) -> dict[str, Tensor]:
        """Return numbers of the larger network, given those of the smaller one by the names of its parameters.

        Parameters
        ----------
        numbers : mapping of str to Tensor
            Like the weights, or one for each row of a table.
        fill : bool
            Whether the row of a new level begins as that of the unseen levels of its column, and a new class as the
            mean of the others of its task, or both with 0.
        """
        found = dict(numbers)
        for name in self._rows.keys() & found.keys():
            rows, is_new = (part.to(found[name].device) for part in self._rows[name])
            found[name] = found[name].index_select(0, rows)
            if not fill:
                found[name][is_new] = 0
        for prefix, before, now in self._heads:
            for kind in ("weight", "bias"):
                layers = [found.pop(f"{prefix}{g}.{kind}", None) for g in range(len(before.out))]
                if all(layer is not None for layer in layers):
                    grown = now.grown_layers(before, layers, fill=fill)
                    found |= {f"{prefix}{g}.{kind}": layer for g, layer in enumerate(grown)}
        for prefix, width in self._added:
            for name in {f"{prefix}weight", f"{prefix}bias"} & found.keys():
                found[name] = with_classes(found[name], width, fill=fill)
        return found
