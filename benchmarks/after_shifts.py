"""How far `partial_fit` of trees follows labels that have all moved: the part ``shifts`` of `benchmarks.after`."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np

import tabmtl

FAMILIES = ("IndependentTasks", "SharedTrees", "RMTGB")
#: Shifts of all new labels, in standard deviations; rows of the fit, and new ones.
SHIFTS = (0.25, 0.5, 1.0, 2.0, 3.0, 6.0)
FITTED, NEW = 800, 400


def shifts(folder: Path | None, seed: int) -> Iterator[tuple[str, str, str, float]]:
    """Yield how far the mean answer to new rows moves by shifted labels, as a share of the shift."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(FITTED + NEW, 4))
    y = np.sin(2 * X[:, 0]) + X[:, 1] + 0.5 * rng.normal(size=len(X))
    y = (y - y.mean()) / y.std()
    for name in FAMILIES:
        model = getattr(tabmtl, name)(random_state=seed).fit(X[:FITTED], y[:FITTED])
        before = model.predict(X[FITTED:]).mean()
        for shift in SHIFTS:
            after = deepcopy(model).partial_fit(X[FITTED:], y[FITTED:] + shift).predict(X[FITTED:]).mean()
            yield name, "move over shift", f"{shift:g} sd", float((after - before) / shift)
