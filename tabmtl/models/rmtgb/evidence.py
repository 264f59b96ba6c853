"""The decision on losses of validation labels: which tasks go alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_DOUBT = 1.0  # standard errors that a difference must exceed
_LEAST_VARIANCE = 1e-100  # its reciprocal can be squared
_TINY = np.finfo(float).tiny


def is_better(losses: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> np.ndarray:
    """Return whether the losses of each task's labels are below the others beyond chance: (T,).

    Random effects (DerSimonian and Laird, 1986): the gain of a task, in units of its loss, is shrunk to that of all as
    far as chance explains the differences between the tasks, and must exceed one standard error. A task with fewer
    than two labels gains nothing.
    """
    size = np.array([len(each) for each in losses])
    known = np.flatnonzero(size > 1)
    found = np.zeros(len(size), dtype=bool)
    if not len(known):
        return found
    gains = [(others[t] - losses[t]) / max((others[t] + losses[t]).mean() / 2, _TINY) for t in known.tolist()]
    gain, square = np.array([g.mean() for g in gains]), np.array([np.square(g - g.mean()).sum() for g in gains])
    n = size[known]
    # variances of few labels lean on that of all, as if on ten more
    variance = (square + 10 * square.sum() / max((n - 1).sum(), 1)) / (n + 9) / n + _LEAST_VARIANCE
    weight = 1 / variance
    spread = weight @ np.square(gain - weight @ gain / weight.sum()) - (len(n) - 1)
    between = max(0.0, spread / max(weight.sum() - (weight @ weight) / weight.sum(), _TINY))
    weight = 1 / (variance + between)
    trust = between / (between + variance)
    judged = trust * gain + (1 - trust) * (weight @ gain / weight.sum())
    error = np.sqrt(trust * variance + (1 - trust) ** 2 / weight.sum())
    found[known] = judged > _DOUBT * error
    return found
