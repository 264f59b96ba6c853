"""What files keep of networks that were trained at several widths, or cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, ClassVar

import numpy as np
import polars as pl
import torch

from tabmtl.estimators.mixture import MixtureState
from tabmtl.estimators.network import NetworkState
from tabmtl.nn.units import Bucket, Group, cut
from tabmtl.storage.stored import Stored

_LOSSES = {
    "shared": pl.Float64(),
    "task_width": pl.Float64(),
    "task": pl.String(),
    "loss": pl.Float64(),
    "multiply_adds": pl.Int64(),
}


@dataclass(frozen=True, kw_only=True)
class Form:
    """Form of a network that has lost units.

    Attributes
    ----------
    widths : dict of str to int
        Number of the units that are left, by the names of groups. Others are whole.
    experts : dict of str to tuple of int
        Places of the experts that are left, among those of the whole network.
    """

    widths: dict[str, int]
    experts: dict[str, tuple[int, ...]]

    @classmethod
    def whole(cls) -> Form:
        """Return the form of a network that has all its units."""
        return cls(widths={}, experts={})

    def cut(self, groups: Sequence[Group], kept: Mapping[str, torch.Tensor]) -> Form:
        """Return the form once some more units are lost; the groups are those of the network of this form."""
        widths, experts = dict(self.widths), dict(self.experts)
        for group in groups:
            places = kept.get(group.name)
            if places is None:
                continue
            if isinstance(group, Bucket):
                before = self.experts.get(group.name, tuple(range(group.n_units)))
                experts[group.name] = tuple(before[place] for place in places[0].tolist())
            else:
                widths[group.name] = places.shape[1]
        return Form(widths=widths, experts=experts)

    def of_whole(self, network: Any) -> Any:
        """Return a whole network without the units that are lost."""
        groups = network.units()
        return cut(network, groups, self.kept(groups))

    def kept(self, groups: Sequence[Group]) -> dict[str, torch.Tensor]:
        """Return units that are left of a whole network: which experts, and how many of the others."""
        parts = {group.name: group.n_parts for group in groups}
        found = {name: torch.arange(n).expand(parts.get(name, 1), -1) for name, n in self.widths.items()}
        return found | {name: torch.tensor([places]) for name, places in self.experts.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class AtShare:
    """What a fit has measured of the network whose shared widths are a share of the whole ones.

    Attributes
    ----------
    share : float
    statistics : dict of str to ndarray
        Of batch normalisation, by the names of buffers.
    expert_utilisation, experts : polars DataFrame or None
        Of a mixture, as `tabmtl.estimators.mixture.MixtureEstimator` documents them.
    """

    share: float
    statistics: Annotated[dict[str, np.ndarray], Stored()]
    expert_utilisation: pl.DataFrame | None = None
    experts: pl.DataFrame | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Slimmed:
    """What a fit has measured of the smaller networks.

    Attributes
    ----------
    losses : polars DataFrame
        See `tabmtl.slimming.SlimEstimator`.
    parts : tuple of AtShare
        Those of all shares below 1, rising.
    """

    losses: pl.DataFrame
    parts: tuple[AtShare, ...]

    def __post_init__(self) -> None:
        if {**self.losses.schema} != _LOSSES:
            raise ValueError(f"the losses of smaller networks need the columns {[*_LOSSES]}, got {self.losses.schema}")
        shares = self.losses["shared"].unique().sort().to_list()
        tasks = self.losses["task"].unique(maintain_order=True).to_list()
        if self.losses.select("shared", "task_width", "task").rows() != [*product(shares, shares, tasks)]:
            raise ValueError("the losses of smaller networks are not those of all shares and tasks in turn")
        if [part.share for part in self.parts] != shares[:-1]:
            raise ValueError(f"the parts of smaller networks must be those of the shares {shares[:-1]}")

    def at(self, share: float) -> AtShare | None:
        """Return the part of a share; None of the whole network."""
        return next((part for part in self.parts if part.share == share), None)


@dataclass(frozen=True, kw_only=True, eq=False)
class SlimState(NetworkState):
    """Fitted attributes that the file of a network keeps which may be cut."""

    _form: Form | None = None
    _slimmed: Slimmed | None = None
    _pruned: pl.DataFrame | None = None

    later_fields: ClassVar[tuple[str, ...]] = (*NetworkState.later_fields, "form", "slimmed", "pruned")


@dataclass(frozen=True, kw_only=True, eq=False)
class SlimMixtureState(SlimState, MixtureState):
    """Fitted attributes that the file of a mixture keeps which may be cut."""
