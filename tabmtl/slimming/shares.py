"""Shares of the widths of a network, and the units that they keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from tabmtl.nn.units import Group
from tabmtl.params import is_number

MULTIPLE = 4  # of units: products of other widths round a row by its place


class Shares(NamedTuple):
    """Shares of the widths that a smaller network keeps.

    Attributes
    ----------
    shared : float
        Of every layer that tasks share.
    tasks : tuple of float
        Of the hidden layer of every task's head.
    """

    shared: float
    tasks: tuple[float, ...]


def check_slim(name: str, value: Any) -> None:
    """Raise a ValueError unless a value is a sequence of shares with 1, or None."""
    if value is None:
        return
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    are_shares = is_list and all(is_number(share) and 0 < share <= 1 for share in value)
    if not are_shares or len({*value}) < max(len(value), 2) or 1 not in value:
        raise ValueError(
            f"{name} must be shares of the widths above 0 and at most 1, 1.0 among them and each once, as a tuple or "
            f"list of two at least, such as (0.25, 0.5, 1.0); got {value!r}"
        )


def units_kept(n_units: int, share: float) -> int:
    """Return how many units a share keeps: a multiple of 4, rounded up, unless all are fewer."""
    return min(math.ceil(round(share * n_units / MULTIPLE, 9)) * MULTIPLE, n_units)


def kept_by(groups: Sequence[Group], shares: Shares) -> Mapping[str, torch.Tensor]:
    """Return the units of a network that shares keep, the first ones of every group; experts all stay."""
    found = {}
    for group in groups:
        if group.kind == "experts":
            continue
        share = shares.shared if group.task is None else shares.tasks[group.task]
        found[group.name] = torch.arange(units_kept(group.n_units, share)).expand(group.n_parts, -1)
    return found
