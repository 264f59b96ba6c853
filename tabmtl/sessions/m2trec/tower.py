"""Items to vectors: a function of their metadata alone, to which trained items may add a vector of their own.

Shapes: N items, G distinct rows of metadata, n of them asked for, d the width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tabmtl.nn.embeddings import DENSE_ROWS, FeatureVector, fill_missing
from tabmtl.schema import FIRST_LEVEL, UNSEEN, Columns
from tabmtl.sessions.m2trec.bags import Bags
from tabmtl.sessions.m2trec.item_features import ItemFeatures

_EMBEDDING_STD = 0.1
#: Length of items' vectors at the start, about: short ones turn quickly.
FIRST_LENGTH = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class BagTensors:
    """`Bags` on a device."""

    offsets: Tensor
    codes: Tensor
    weights: Tensor

    @classmethod
    def of(cls, bags: Bags, device: torch.device) -> BagTensors:
        """The same bags as tensors."""
        parts = {name: torch.from_numpy(array).to(device) for name, array in vars(bags).items()}
        return cls(**parts)

    def take(self, rows: Tensor) -> BagTensors:
        """Bags by number."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        offsets = F.pad(lengths.cumsum(0), (1, 0))
        index = torch.arange(int(offsets[-1]), device=rows.device)
        index += (starts - offsets[:-1]).repeat_interleave(lengths)
        return BagTensors(offsets=offsets, codes=self.codes[index], weights=self.weights[index])


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureTensors:
    """The distinct rows of `ItemFeatures` on a device; the last one stands for an item of which nothing is known."""

    x_num: Tensor
    x_cat: Tensor
    bags: tuple[BagTensors, ...]
    vectors: Tensor

    @classmethod
    def of(cls, features: ItemFeatures, device: torch.device) -> FeatureTensors:
        """The same rows as tensors, and a row of unseen levels, missing numbers and empty bags behind them."""
        none = {"x_num": np.float32(np.nan), "x_cat": np.int32(UNSEEN), "vectors": np.float32(0)}
        arrays = {}
        for name, value in none.items():
            array = getattr(features, name)
            arrays[name] = np.concatenate([array, np.full((1, array.shape[1]), value, dtype=array.dtype)])
        bags = [
            Bags(offsets=np.append(b.offsets, b.offsets[-1]), codes=b.codes, weights=b.weights) for b in features.bags
        ]
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        return cls(**tensors, bags=tuple(BagTensors.of(b, device) for b in bags))

    def __len__(self) -> int:
        return len(self.x_cat)

    def take(self, rows: Tensor) -> FeatureTensors:
        """Rows by number."""
        bags = tuple(bag.take(rows) for bag in self.bags)
        return FeatureTensors(x_num=self.x_num[rows], x_cat=self.x_cat[rows], bags=bags, vectors=self.vectors[rows])


class ItemTower(nn.Module):
    """Metadata to a vector::

        z = [field embeddings side by side],   E = LayerNorm(W_2 gelu(W_1 z + b_1) + b_2)        exact GELU

    A field is a category (a table with a row for missing and one for unseen values), a number (``x w + b``, and a
    learned vector where it is missing), a bag of tags or hashed words (the mean of their rows), or a given vector
    (a linear layer). In training a share of the categories and tags is taken for unseen, so that their row is learned.

    Parameters
    ----------
    columns : Columns or None
        Numbers and categories, if there are any.
    bag_sizes : sequence of int
        Number of codes of every bag.
    vector_width : int
        Of all given vectors together, 0 for none.
    d_model : int
        Width d of an item's vector.
    d_embedding : int, default=32
        Width of a field's embedding; the spec's e_f = min(32, ceil(1.6 V^0.56)) is 32 from 211 levels on, and one width
        keeps all categories in one table.
    unknown_rate : float, default=0.05
        Share of values that are taken for unseen in training.
    """

    def __init__(
        self,
        columns: Columns | None,
        bag_sizes: Sequence[int],
        vector_width: int,
        d_model: int,
        *,
        d_embedding: int = 32,
        unknown_rate: float = 0.05,
    ) -> None:
        super().__init__()
        self.unknown_rate = unknown_rate
        self.fields = None
        if columns is not None:
            self.fields = FeatureVector(columns, d_embedding, numeric_embedding="linear", std=_EMBEDDING_STD)
        self.bags = nn.ModuleList(nn.EmbeddingBag(size, d_embedding, mode="sum") for size in bag_sizes)
        for bag in self.bags:
            nn.init.normal_(bag.weight, std=_EMBEDDING_STD)  # type: ignore[arg-type]
        self.adapter = nn.Linear(vector_width, d_embedding) if vector_width else None
        width = (self.fields.width if self.fields is not None else 0) + d_embedding * len(bag_sizes)
        width += d_embedding if vector_width else 0
        self.up = nn.Linear(width, 2 * d_model)
        self.down = nn.Linear(2 * d_model, d_model)
        self.norm = nn.LayerNorm(d_model)
        nn.init.constant_(self.norm.weight, FIRST_LENGTH * d_model**-0.5)

    def forward(self, features: FeatureTensors) -> Tensor:
        """Rows of metadata to vectors (n, d)."""
        return self.norm(self.down(F.gelu(self._first_layer(features))))

    def _first_layer(self, features: FeatureTensors) -> Tensor:
        """``W_1 z + b_1``, where a number's part of ``W_1 z`` is ``x (V w) + V b``: its embedding is never formed."""
        parts, tokenizer, width = [], None if self.fields is None else self.fields.tokenizer, 0
        if tokenizer is not None and tokenizer.categorical is not None:
            parts.append(tokenizer.categorical(self._forget(features.x_cat)).flatten(1))
            width = parts[0].shape[1]
        for bag, given in zip(self.bags, features.bags, strict=True):
            codes = self._forget(given.codes)
            parts.append(bag(codes, given.offsets[:-1], per_sample_weights=given.weights))
        if self.adapter is not None:
            parts.append(self.adapter(features.vectors))
        if tokenizer is None or tokenizer.numeric is None:
            return self.up(torch.cat(parts, dim=1))
        slope, start = tokenizer.numeric.parameters()  # (Fn, e) each
        before, own, behind = self.up.weight.tensor_split((width, width + slope.numel()), dim=1)
        own = own.unflatten(1, slope.shape)
        values, missing = fill_missing(features.x_num)
        parts, weights = [*parts, values], [before, behind, (own * slope).sum(dim=2)]
        if tokenizer.missing is not None:
            parts.append(missing.index_select(1, tokenizer.missing_index))
            weights.append((own.index_select(1, tokenizer.missing_index) * tokenizer.missing).sum(dim=2))
        bias = self.up.bias + (own * start).sum(dim=(1, 2))
        return F.linear(torch.cat(parts, dim=1), torch.cat(weights, dim=1), bias)

    def _forget(self, codes: Tensor) -> Tensor:
        """Some known values as unseen ones, in training."""
        if not self.training or not self.unknown_rate or not codes.numel():
            return codes
        forgotten = (torch.rand(codes.shape, device=codes.device) < self.unknown_rate) & (codes >= FIRST_LEVEL)
        return codes.masked_fill(forgotten, UNSEEN)


class ItemVectors(nn.Module):
    """Vectors of units: what the tower says of their metadata, and a vector of their own where they have one.

    A unit is an item, or without own vectors all items of equal metadata. Unit 0 is an item that nobody knows. Units
    that were never clicked in training have no vector of their own.

    Parameters
    ----------
    tower : ItemTower or None
        None where there is no metadata.
    n_own : int
        Number of own vectors; 0 for none.
    d_model : int
    own_std : float
        Standard deviation of the first own vectors.
    own_dropout : float
        Share of units whose own vector is left out of a training step, so that metadata alone stays good for something.
    own_bound : float or None
        Greatest length of an own vector; longer ones are cut to it.
    """

    def __init__(
        self,
        tower: ItemTower | None,
        n_own: int,
        d_model: int,
        *,
        own_std: float,
        own_dropout: float,
        own_bound: float | None,
    ) -> None:
        super().__init__()
        self.own_bound = own_bound
        self.tower, self.own_dropout, self.d_model = tower, own_dropout, d_model
        self.own = None
        if n_own:
            self.own = nn.Embedding(n_own + 1, d_model, padding_idx=0, sparse=n_own > DENSE_ROWS)
            nn.init.normal_(self.own.weight, std=own_std)
            with torch.no_grad():
                self.own.weight[0] = 0

    def forward(self, features: FeatureTensors | None, rows: Tensor, own: Tensor) -> Tensor:
        """Vectors (n, d) of units with these rows of metadata and own vectors (0 for none), both (n,)."""
        parts = []
        if self.tower is not None and features is not None:
            distinct, place = torch.unique(rows, return_inverse=True)
            parts.append(self.tower(features.take(distinct)).index_select(0, place))
        if self.own is not None:
            if self.training and self.own_dropout:
                own = own.masked_fill(torch.rand(own.shape, device=own.device) < self.own_dropout, 0)
            parts.append(self._bounded(self.own(own)))
        return sum(parts[1:], parts[0])

    def _bounded(self, free: Tensor) -> Tensor:
        """Own vectors (n, d), the long ones cut."""
        if self.own_bound is None:
            return free
        return free * (self.own_bound / free.norm(dim=1, keepdim=True).clamp(min=self.own_bound))
