"""M2TRec as it was fitted: its network, the items that it knows, and what those without clicks are worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch

from tabmtl.estimators.asked import part_of
from tabmtl.sessions.categories import ItemCategories
from tabmtl.sessions.m2trec.index import ItemIndex
from tabmtl.sessions.m2trec.item_features import ItemCoder
from tabmtl.sessions.m2trec.items import KnownItems
from tabmtl.sessions.m2trec.network import M2TRecNetwork
from tabmtl.sessions.m2trec.new_items import NewItems
from tabmtl.sessions.repeats import RepeatWeights
from tabmtl.training.weights import TrainedNetwork, load_weights


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedM2TRec(TrainedNetwork):
    """Network of sessions as it was fitted; the vectors of all items are kept beside its module.

    Attributes
    ----------
    maker, weights
        As of `TrainedNetwork`.
    coder : ItemCoder or None
        Encoding of metadata; None without metadata.
    items : KnownItems
    categories : tuple of ItemCategories
        Columns of categories and tags of the item table.
    new_items : NewItems
    """

    coder: ItemCoder | None
    items: KnownItems
    categories: tuple[ItemCategories, ...]
    new_items: NewItems

    def index(self, device: torch.device, repeats: RepeatWeights, before: torch.Tensor | None = None) -> ItemIndex:
        """Return the vectors of all items, computed once on a device; see `ItemIndex`."""
        network = self.module(device)

        def compute() -> ItemIndex:
            values = self.new_items.values(self.items)
            return ItemIndex(network, self.items.on(device), self.maker, *values, repeats=repeats, before=before)

        return part_of(self, (device.type, repeats), compute)

    def with_index(self, index: ItemIndex) -> Self:
        """Keep vectors that are computed already, valued as new items are, and their network; return self."""
        valued = index.revalued(*self.new_items.values(self.items))
        part_of(self, (valued.unit_vectors.device.type, valued.repeats), lambda: valued)
        return self.holding(valued.network)

    def _rebuilt(self) -> Any:
        return load_weights(M2TRecNetwork(self.coder, self.items.n_own, self.maker), self.weights)
