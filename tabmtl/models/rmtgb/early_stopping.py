"""Ensembles that grow side by side until their validation losses no longer fall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

_IDLE = 10  # rounds without a split after which an ensemble ends
_PRIOR_LABELS = 10_000  # with as many labels more, the losses of all have a say in the stop of each


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


def grow_together(growing: Sequence[Growing], n_rounds: Sequence[int] | np.ndarray, patience: int | None) -> None:
    """Grow side by side; with patience, each until its validation loss no longer falls, and keep its best round.

    To the loss of each that of all is added, as if it had `_PRIOR_LABELS` more, in units of the loss a label of each
    has at the start: few labels stop with the others, and not by chance.

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
    units = np.where(starts > 0, starts, 1) / np.maximum(sizes, np.finfo(float).tiny)
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
        now[chosen] = [(growing[i].valid_loss() - starts[i]) / units[i] for i in chosen.tolist()]
        judged = now[chosen] + _PRIOR_LABELS * now.sum() / sizes.sum()
        is_better = judged < best[chosen]
        best[chosen[is_better]], kept[chosen[is_better]] = judged[is_better], rounds[chosen[is_better]]
        active &= rounds - kept < patience
    for each, last, first in zip(growing, rounds, kept, strict=True):
        each.keep(int(last if patience is None else first))
