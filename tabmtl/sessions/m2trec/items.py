"""The items of a fitted M2TRec: their metadata, which of them have a vector of their own, and new ones beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tabmtl.sessions.m2trec.bags import Bags
from tabmtl.sessions.m2trec.item_features import ItemFeatures


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownItems:
    """N items in the order of the catalogue.

    Attributes
    ----------
    features : ItemFeatures or None
        None where there is no item table.
    clicks : ndarray of int64, shape (N,)
        Clicks of every item in the sessions that were trained on.
    shared : bool
        Whether items of equal metadata are one unit of the network (``id_mode="none"``), or every item is its own.
    """

    features: ItemFeatures | None
    clicks: np.ndarray
    shared: bool

    @property
    def own(self) -> np.ndarray:
        """Which own vector an item has, (N,), from 1; 0 for none."""
        if self.shared:
            return np.zeros(len(self.clicks), dtype=np.int64)
        return np.where(self.clicks > 0, np.cumsum(self.clicks > 0), 0)

    @property
    def unit_clicks(self) -> np.ndarray:
        """Clicks of every unit, (U,)."""
        return np.bincount(self.unit_of[1:], weights=self.clicks, minlength=len(self.unit_rows))

    @property
    def unit_of(self) -> np.ndarray:
        """Unit of every item code, (N + 1,): 0 of code 0."""
        if self.shared and self.features is not None:
            return np.concatenate([[0], 1 + self.features.row])
        return np.arange(len(self.clicks) + 1)

    @property
    def unit_rows(self) -> np.ndarray:
        """Row of metadata of every unit, (U,); -1 where nothing is known."""
        if self.features is None:
            return np.full(len(self.clicks) + 1, -1)
        return np.concatenate([[-1], np.arange(len(self.features)) if self.shared else self.features.row])

    @property
    def unit_own(self) -> np.ndarray:
        """Own vector of every unit, (U,)."""
        if self.shared:
            return np.zeros(len(self.unit_rows), dtype=np.int64)
        return np.concatenate([[0], self.own])

    @property
    def popularity(self) -> np.ndarray:
        """log(clicks / mean clicks) of every unit, (U,) of float32; 0 of those without clicks."""
        clicks = self.unit_clicks
        clicked = clicks > 0
        mean = clicks[clicked].mean() if clicked.any() else 1.0
        return np.where(clicked, np.log(np.maximum(clicks, 1) / mean), 0).astype(np.float32)

    def bias(self, prior: float) -> np.ndarray:
        """What is added to the scores of items (N,).

        Of a shared unit, the log of an item's share of its clicks: the unit's probability is dealt to its items,
        p(i) = p(unit) (n_i + prior) / sum_j (n_j + prior). Else an item without clicks stands, by its metadata, for the
        mean of all items like it, and gets log(prior / mean clicks), if that is negative.
        """
        if not self.shared or self.features is None:
            clicked = self.clicks > 0
            return np.where(clicked, 0.0, min(0.0, np.log(prior / self.clicks[clicked].mean())))
        clicks = self.clicks + prior
        return np.log(clicks / np.bincount(self.features.row, weights=clicks)[self.features.row])

    def extended(self, more: ItemFeatures) -> KnownItems:
        """These items, and then new ones without clicks."""
        if self.features is None:
            raise ValueError(
                "this model was fitted without an item table, so metadata says nothing to it: fit with items="
            )
        clicks = np.concatenate([self.clicks, np.zeros(len(more.row), dtype=np.int64)])
        return KnownItems(features=self.features.extended(more, join=self.shared), clicks=clicks, shared=self.shared)

    def to_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """JSON-able facts and arrays."""
        arrays = {"clicks": self.clicks}
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
        return cls(features=features, clicks=arrays["clicks"], shared=facts["shared"])
