"""Ensembles that grow side by side until their validation losses no longer fall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

_IDLE = 10  # rounds without a split after which an ensemble ends
#: Where one task decides, the loss of all tasks is added as if it had so many rows: few rows decide as all do.
PRIOR_ROWS = 10_000


class Growing(Protocol):
    """What grows by rounds."""

    @property
    def rounds(self) -> int:
        """Rounds so far; one without a split does not count."""

    @property
    def valid_size(self) -> float:
        """Total weight of the validation labels."""

    def update(self) -> None:
        """Grow one round."""

    def valid_loss(self) -> float:
        """Summed loss on the validation labels."""

    def keep(self, rounds: int) -> None:
        """Take back all later rounds."""


def grow(growing: Sequence[Growing], n_rounds: Sequence[int] | np.ndarray, patience: int | None) -> None:
    """Grow side by side; with patience, each until its validation loss no longer falls, and keep its best round.

    One that has stopped counts in the loss of all with its last loss, not its best one, which was chosen.

    Parameters
    ----------
    growing : sequence of Growing
    n_rounds : sequence of int
        The most rounds of each.
    patience : int or None
        Rounds without a lower loss after which one stops; None grows all to the end.
    """
    caps, count = np.asarray(n_rounds), len(growing)
    rounds, kept, idle = (np.zeros(count, dtype=int) for _ in range(3))
    starts, sizes, now = (np.zeros(count) for _ in range(3))
    if patience is not None:
        starts = np.array([each.valid_loss() for each in growing])
        sizes = np.array([each.valid_size for each in growing])
    best = np.zeros(count)
    active = caps > 0
    while active.any():
        chosen = np.flatnonzero(active)
        for i in chosen.tolist():
            growing[i].update()
            idle[i] = idle[i] + 1 if growing[i].rounds == rounds[i] else 0
            rounds[i] = growing[i].rounds
        active &= (idle < _IDLE) & (rounds < caps)
        if patience is None:
            continue
        now[chosen] = [growing[i].valid_loss() - starts[i] for i in chosen.tolist()]
        judged = now[chosen] + PRIOR_ROWS * now.sum() / sizes.sum()
        is_better = judged < best[chosen]
        best[chosen[is_better]], kept[chosen[is_better]] = judged[is_better], rounds[chosen[is_better]]
        active &= rounds - kept < patience
    for each, last, first in zip(growing, rounds, kept, strict=True):
        each.keep(int(last if patience is None else first))
