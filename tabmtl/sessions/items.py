"""The items of a fitted M2TRec: their metadata, which of them have a vector of their own, and new ones beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tabmtl.sessions.bags import Bags
from tabmtl.sessions.features import ItemFeatures


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownItems:
    """N items in the order of the catalogue.

    Attributes
    ----------
    features : ItemFeatures or None
        None where there is no item table.
    own : ndarray of int64, shape (N,)
        Which own vector an item has, from 1; 0 for none.
    shared : bool
        Whether items of equal metadata are one unit of the network (``id_mode="none"``), or every item is its own.
    """

    features: ItemFeatures | None
    own: np.ndarray
    shared: bool

    @property
    def unit_of(self) -> np.ndarray:
        """Unit of every item code, (N + 1,): 0 of code 0."""
        if self.shared and self.features is not None:
            return np.concatenate([[0], 1 + self.features.row])
        return np.arange(len(self.own) + 1)

    @property
    def unit_rows(self) -> np.ndarray:
        """Row of metadata of every unit, (U,); -1 where nothing is known."""
        if self.features is None:
            return np.full(len(self.own) + 1, -1)
        return np.concatenate([[-1], np.arange(len(self.features)) if self.shared else self.features.row])

    @property
    def unit_own(self) -> np.ndarray:
        """Own vector of every unit, (U,)."""
        if self.shared:
            return np.zeros(len(self.unit_rows), dtype=np.int64)
        return np.concatenate([[0], self.own])

    def bias(self, counts: np.ndarray, prior: float) -> np.ndarray:
        """What is added to the scores of items (N,).

        Of a shared unit, the log of an item's share of its clicks: the unit's probability is dealt to its items,
        p(i) = p(unit) (n_i + prior) / sum_j (n_j + prior). Else an item without a vector of its own stands, by its
        metadata, for the mean of all items like it, and gets log(prior / mean clicks), if that is negative.
        """
        if not self.shared or self.features is None:
            mean = counts[self.own > 0].mean() if self.own.any() else prior
            return np.where(self.own > 0, 0.0, min(0.0, np.log(prior / mean)))
        clicks = counts + prior
        return np.log(clicks / np.bincount(self.features.row, weights=clicks)[self.features.row])

    def extended(self, more: ItemFeatures) -> KnownItems:
        """These items, and then new ones without own vectors."""
        if self.features is None:
            raise ValueError(
                "this model was fitted without an item table, so metadata says nothing to it: fit with items="
            )
        own = np.concatenate([self.own, np.zeros(len(more.row), dtype=np.int64)])
        return KnownItems(features=self.features.extended(more, join=self.shared), own=own, shared=self.shared)

    def to_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """JSON-able facts and arrays."""
        arrays = {"own": self.own}
        facts: dict[str, Any] = {"shared": self.shared, "n_bags": None}
        if self.features is not None:
            facts["n_bags"] = len(self.features.bags)
            arrays |= {name: getattr(self.features, name) for name in ("x_num", "x_cat", "vectors", "row")}
            for number, bags in enumerate(self.features.bags):
                arrays |= {f"{name}.{number}": array for name, array in vars(bags).items()}
        return facts, arrays

    @classmethod
    def from_state(cls, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> KnownItems:
        """The items that `to_state` described."""
        features = None
        if facts["n_bags"] is not None:
            parts = ("offsets", "codes", "weights")
            bags = [Bags(**{name: arrays[f"{name}.{number}"] for name in parts}) for number in range(facts["n_bags"])]
            plain = {name: arrays[name] for name in ("x_num", "x_cat", "vectors", "row")}
            features = ItemFeatures(**plain, bags=tuple(bags))
        return cls(features=features, own=arrays["own"], shared=facts["shared"])
