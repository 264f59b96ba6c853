"""Items to vectors: a function of their metadata alone, to which trained items may add a vector of their own.

Shapes: G distinct rows of metadata, n units asked for, d the width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tabmtl.base.schema import FIRST_LEVEL, UNSEEN
from tabmtl.columns import Features
from tabmtl.columns.ragged import Bags
from tabmtl.nn.embeddings import FeatureTokenizer, fill_missing
from tabmtl.nn.layers import DENSE_ROWS
from tabmtl.sessions.m2trec.item_features import ItemCoder

#: Width of a field's embedding; one width keeps all categories in one table.
FIELD_WIDTH = 32
#: Share of the categories and tags that training takes for unseen.
UNSEEN_RATE = 0.05
_EMBEDDING_STD = 0.1
#: About the length of items' vectors at the start: short ones turn quickly.
FIRST_LENGTH = 0.1


class ItemFields(nn.Module):
    """Metadata to a vector: the embeddings of its fields side by side, as in the paper.

    A field is a category (a table with a row for missing and one for unseen values), a number (``x w + b``, and a
    learned vector where it is missing), a bag of tags or hashed words (the mean of their rows), or all given vectors
    (a linear layer). In training a share of the categories and tags is taken for unseen, so that their row is learned.

    Parameters
    ----------
    coder : ItemCoder

    Attributes
    ----------
    width : int
    """

    def __init__(self, coder: ItemCoder) -> None:
        super().__init__()
        columns = coder.features.columns
        self.tokenizer = FeatureTokenizer(columns, FIELD_WIDTH, std=_EMBEDDING_STD)
        self.width = self.tokenizer.n_tokens * FIELD_WIDTH

    def forward(self, features: Features) -> Tensor:
        """Map rows of metadata, as tensors, to vectors (n, d)."""
        codes = self._forget(features.codes)
        return self.tokenizer(replace(features, codes=codes, bags=self._forget_of(features.bags))).flatten(1)

    def _forget_of(self, bags: Sequence[Bags]) -> tuple[Bags, ...]:
        """Randomly replace known codes of bags."""
        return tuple(replace(own, codes=self._forget(own.codes)) for own in bags)

    def _forget(self, codes: Tensor) -> Tensor:
        """Randomly replace known codes by UNSEEN in training."""
        if not self.training or not codes.numel():
            return codes
        forgotten = (torch.rand(codes.shape, device=codes.device) < UNSEEN_RATE) & (codes >= FIRST_LEVEL)
        return codes.masked_fill(forgotten, UNSEEN)


class ItemTower(ItemFields):
    """Metadata to a vector by two layers::

        z = [field embeddings side by side],   E = LayerNorm(W_2 gelu(W_1 z + b_1) + b_2)        exact GELU

    Parameters
    ----------
    coder : ItemCoder
    d_model : int
    """

    def __init__(self, coder: ItemCoder, d_model: int) -> None:
        super().__init__(coder)
        self.up = nn.Linear(self.width, 2 * d_model)
        self.width = d_model
        self.down = nn.Linear(2 * self.width, self.width)
        self.norm = nn.LayerNorm(self.width)
        nn.init.constant_(self.norm.weight, FIRST_LENGTH * self.width**-0.5)

    def forward(self, features: Features) -> Tensor:
        """Map rows of metadata, as tensors, to vectors (n, d)."""
        return self.norm(self.down(F.gelu(self._first_layer(features))))

    def _first_layer(self, features: Features) -> Tensor:
        """Compute ``W_1 z + b_1``. A number's part of it is ``x (V w) + V b``: its embedding is never formed."""
        tokenizer, parts, width = self.tokenizer, list[Tensor](), 0
        if tokenizer.bags is not None:
            parts.append(tokenizer.bags(self._forget_of(features.bags)).flatten(1))
        if tokenizer.vectors is not None:
            parts.append(tokenizer.vectors(features.vectors).flatten(1))
        if tokenizer.categorical is not None:
            parts.insert(0, tokenizer.categorical(self._forget(features.codes)).flatten(1))
            width = parts[0].shape[1]
        if tokenizer.numeric is None:
            return self.up(torch.cat(parts, dim=1))
        slope, start = tokenizer.numeric.parameters()  # (Fn, e) each
        before, own, behind = self.up.weight.tensor_split((width, width + slope.numel()), dim=1)
        own = own.unflatten(1, slope.shape)
        values, missing = fill_missing(features.numbers)
        parts, weights = [*parts, values], [before, behind, (own * slope).sum(dim=2)]
        if tokenizer.missing is not None:
            parts.append(missing.index_select(1, tokenizer.missing_index))
            weights.append((own.index_select(1, tokenizer.missing_index) * tokenizer.missing).sum(dim=2))
        bias = self.up.bias + (own * start).sum(dim=(1, 2))
        return F.linear(torch.cat(parts, dim=1), torch.cat(weights, dim=1), bias)


class ItemVectors(nn.Module):
    """Vectors of units: the tower's reading of their metadata, plus a vector of their own where they have one.

    ``id_mode="full"`` leaves own vectors out of some training steps, so that metadata alone stays good for new items.
    Each of the k units of a step that share a row of metadata loses its own vector with probability ``id_dropout / k``:
    a row stands for itself equally often, whether one item has it or a thousand.

    Parameters
    ----------
    coder : ItemCoder or None
        None where there is no metadata.
    n_own : int
        Number of own vectors; 0 for none.
    options : M2TRec

    Attributes
    ----------
    width : int
        Width d of a vector.
    """

    def __init__(self, coder: ItemCoder | None, n_own: int, options: Any) -> None:
        super().__init__()
        self.tower = None
        if coder is not None:
            self.tower = ItemFields(coder) if options.item_tower == "concat" else ItemTower(coder, options.d_model)
        self.width = options.d_model if self.tower is None else self.tower.width
        self.own_dropout = options.id_dropout if options.id_mode == "full" and self.tower is not None else 0.0
        self.own = None
        if n_own:
            self.own = nn.Embedding(n_own + 1, self.width, padding_idx=0, sparse=n_own > DENSE_ROWS)
            nn.init.normal_(self.own.weight, std=FIRST_LENGTH * self.width**-0.5)
            with torch.no_grad():
                self.own.weight[0] = 0

    def forward(self, features: Features | None, rows: Tensor, own: Tensor) -> Tensor:
        """Compute the vectors (n, d) of units from their rows of metadata and own vectors (0 for none), both (n,)."""
        parts = []
        if self.tower is not None and features is not None:
            distinct, place, shared_by = torch.unique(rows, return_inverse=True, return_counts=True)
            parts.append(self.tower(features.rows(distinct)).index_select(0, place))
            if self.training and self.own_dropout:
                dropped = torch.rand(own.shape, device=own.device) * shared_by[place] < self.own_dropout
                own = own.masked_fill(dropped, 0)
        if self.own is not None:
            parts.append(self.own(own))
        return sum(parts[1:], parts[0])
