"""The items of a fitted M2TRec, and the units by which its network knows them.

A unit is one item, or with ``id_mode="none"`` all items of equal metadata. Unit 0 stands for unknown items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from tabmtl.base.storage.stored import Stored
from tabmtl.columns import Features


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkItems:
    """U units as tensors on the device of the network.

    Attributes
    ----------
    known : KnownItems
        The items that the units stand for.
    features : Features or None
        Distinct rows of metadata; the last one stands for nothing known.
    row, own : Tensor of int64, shape (U,)
        Row of metadata, and number of the own vector; 0 for none.
    clicks : Tensor of float64, shape (U,)
        Clicks in training.
    popularity : Tensor of float32, shape (U,)
        log(clicks / mean clicks); 0 for units without clicks.
    """

    known: KnownItems
    features: Features | None
    row: Tensor
    own: Tensor
    clicks: Tensor
    popularity: Tensor

    def __len__(self) -> int:
        return len(self.row)

    def codes(self, units: Tensor, column: int) -> Tensor:
        """Look up the codes of units (n,) in a categorical column by number; 0 is a missing category."""
        assert self.features is not None
        return self.features.codes[self.row[units], column].long()


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownItems:
    """N items in the order of the catalogue.

    Attributes
    ----------
    features : Features or None
        Distinct rows of metadata; None without an item table.
    row : ndarray of int64, shape (N,), or None
        Row of metadata of every item.
    clicks : ndarray of int64, shape (N,)
        Clicks of every item in the sessions that were trained on.
    shared : bool
        Whether items of equal metadata share a unit (``id_mode="none"``).
    """

    features: Features | None
    row: Annotated[np.ndarray, Stored("i8", "N", low=0, below="G")] | None
    clicks: Annotated[np.ndarray, Stored("i8", "N", low=0)]
    shared: bool

    @property
    def n_own(self) -> int:
        """Number of items that have a vector of their own: those with clicks."""
        return 0 if self.shared else int(np.count_nonzero(self.clicks))

    @property
    def unit_of(self) -> np.ndarray:
        """Unit of every item code, (N + 1,)."""
        units = np.arange(len(self.clicks)) if self.row is None or not self.shared else self.row
        return np.concatenate([[0], 1 + units])

    def on(self, device: torch.device) -> NetworkItems:
        """Make tensors of the units."""
        n_rows = 0 if self.features is None else len(self.features)
        units = self.unit_of[1:]
        n_units = 1 + int(units.max(initial=0))
        row, own = np.full(n_units, n_rows), np.zeros(n_units, dtype=np.int64)
        if self.row is not None:
            row[units] = self.row
        own[units] = self.own_rows
        clicks = np.bincount(units, weights=self.clicks, minlength=n_units)
        clicked = clicks > 0
        mean = clicks[clicked].mean() if clicked.any() else 1.0
        popularity = np.where(clicked, np.log(np.maximum(clicks, 1) / mean), 0).astype(np.float32)

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device)

        return NetworkItems(
            known=self,
            features=None if self.features is None else self.features.with_unknown().map(tensor),
            row=tensor(row),
            own=tensor(own),
            clicks=tensor(clicks),
            popularity=tensor(popularity),
        )

    def bias(self, share: float, base: float) -> np.ndarray:
        """Compute the term of every item's score that is the same in all sessions, (N,).

        It is 0, and ``base + log(share)`` for an item without clicks. A shared unit divides its probability among its
        items by their clicks, where one without clicks counts as its share of the mean item that has some. A unit
        without any click is worth the share of one, and divides it equally.

        Parameters
        ----------
        share : float
            Clicks that an item without any is credited with, in relation to the mean clicked item; 0 hides it.
        base : float
            Added to the scores of items without clicks that share no unit.
        """
        cold = self.clicks == 0
        with np.errstate(divide="ignore"):
            if self.row is None or not self.shared:
                return np.where(cold, base + np.log(share), 0.0)
            n_clicked = np.bincount(self.row, weights=~cold)
            mean = np.bincount(self.row, weights=self.clicks) / np.maximum(n_clicked, 1)
            weight = np.where(cold, share * np.where(n_clicked > 0, mean, 1)[self.row], self.clicks)
            whole = np.where(n_clicked > 0, np.bincount(self.row, weights=weight), np.bincount(self.row))
            return np.log(weight / whole[self.row])

    def take(self, places: np.ndarray) -> KnownItems:
        """Take items by place, (m,), in their order; all items with clicks must be among them."""
        features, row = self.features, self.row
        if features is not None and row is not None:
            kept, row = np.unique(row[places], return_inverse=True)
            features = features.rows(kept)
        return KnownItems(features=features, row=row, clicks=self.clicks[places], shared=self.shared)

    def extended(self, n_new: int, features: Features | None, row: np.ndarray | None) -> KnownItems:
        """Append items without clicks, with their metadata if items have some; shared units take in known metadata."""
        clicks = np.pad(self.clicks, (0, n_new))
        if self.features is None or self.row is None or features is None or row is None:
            return replace(self, clicks=clicks)
        features, row = self.features.extended(features), np.concatenate([self.row, len(self.features) + row])
        if self.shared:
            features, place = features.distinct()
            row = place[row]
        return replace(self, features=features, row=row, clicks=clicks)

    def clicked(self, clicks: np.ndarray) -> KnownItems:
        """Add clicks of the items, (N,)."""
        return replace(self, clicks=self.clicks + clicks)

    @property
    def own_rows(self) -> np.ndarray:
        """Number of the own vector of every item, (N,); 0 for none."""
        if self.shared:
            return np.zeros(len(self.clicks), dtype=np.int64)
        return np.where(self.clicks > 0, np.cumsum(self.clicks > 0), 0)
