"""How often a fitted model calls rows drifted: equal ones, and those of which one column has moved.

They are the parts ``drift`` and ``hits`` of `benchmarks.after`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.datasets import load
from tabmtl import SharedBottom, SharedTrees

#: Draws of new rows from those that the fit has not seen, by their number; rows of the fit, and rows to draw from.
DRAWS, SIZES = 40, (100, 1_000, 10_000)
FITTED, DRAWN_FROM = 5_000, 30_000
ALPHA, SIZE = 0.05, 0.1
#: Columns of the part ``hits``, and ways in which the first of them moves, and draws of a seed.
N_COLUMNS, MOVES = (5, 50), ("none", "0.25 sd", "0.5 sd", "1 sd", "twice as wide", "20 % missing")
N_HITS = 100


def generated(rng: np.random.Generator, n: int) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, str]]:
    """Make rows of numbers, some of them missing or tied, of levels from three to thousands, and of tags."""
    signal = rng.normal(size=n)
    X: dict[str, Any] = {f"normal{k}": signal + rng.normal(size=n) for k in range(4)}
    X |= {f"skewed{k}": np.where(rng.random(n) < 0.1 * k, np.nan, rng.exponential(size=n)) for k in range(4)}
    X |= {f"counts{k}": rng.poisson(k, n) for k in range(1, 4)}
    X |= {f"levels{m}": (m * rng.random(n) ** 3).astype(int).astype(str) for m in (3, 70, 3_000)}
    X["tags"] = [rng.choice([*"abcdefgh"], k).tolist() for k in rng.integers(0, 4, n)]
    y = {"number": signal + rng.normal(size=n), "binary": signal + rng.normal(size=n) > 1}
    y["classes"] = rng.choice([*"xyz"], n)
    return pl.DataFrame(X), pl.DataFrame(y), {"number": "regression", "binary": "binary", "classes": "multiclass"}


def open_rows(name: str, folder: Path | None, seed: int) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, str]]:
    """Return rows in random order: features, targets and their kinds."""
    rng, n = np.random.default_rng(seed), FITTED + DRAWN_FROM
    if name == "generated":
        return generated(rng, n)
    data = load(name, folder, full=True)
    X, y = pl.collect_all([data.features, data.targets])
    rows = rng.permutation(len(X))[:n]
    return X[rows], y[rows], data.tasks


def models(tasks: dict[str, str], seed: int) -> dict[str, Any]:
    """Return the models: two that set rows aside, and the same trees without."""
    trees: dict[str, Any] = {"n_estimators": 50, "tasks": tasks, "random_state": seed}
    return {
        "SharedBottom": SharedBottom(epochs=3, tasks=tasks, random_state=seed),
        "SharedTrees": SharedTrees(**trees),
        "SharedTrees, no rows set aside": SharedTrees(early_stopping=False, **trees),
        "SharedBottom, no rows set aside": SharedBottom(epochs=3, early_stopping=False, tasks=tasks, random_state=seed),
    }


def drift(folder: Path | None, seed: int) -> Iterator[tuple[str, str, str, float]]:
    """Yield the shares of draws of equal rows in which a column or a prediction is called drifted."""
    for name in ("flights", "census_kdd", "generated"):
        X, y, tasks = open_rows(name, folder, seed)
        for label, model in models(tasks, seed).items():
            model.fit(X[:FITTED], y[:FITTED])
            rng = np.random.default_rng(seed)
            for n in SIZES[1:2] if "no rows" in label else SIZES:
                cries: list[dict[str, bool]] = []
                for _ in range(DRAWS):
                    found = model.drift(X[FITTED + rng.choice(DRAWN_FROM, n, replace=False)], size=SIZE, alpha=ALPHA)
                    cries.append(_cries(found))
                for measure in cries[0]:
                    yield f"{name}, {label}", f"{n} rows", measure, float(np.mean([own[measure] for own in cries]))


def _cries(found: pl.DataFrame) -> dict[str, bool]:
    """Tell whether something is beyond chance, and whether it is large too; of predictions, judged or not."""
    is_beyond = pl.col("p_value") <= ALPHA
    is_large = is_beyond & (pl.col("psi") >= SIZE)
    predictions = found.filter(kind="prediction")
    return {
        "column beyond chance": bool(found.filter(kind="column").select(is_beyond.any()).item()),
        "prediction beyond chance": bool(predictions.select(is_beyond.any()).item()),
        "prediction, and large": bool(predictions.select(is_large.any()).item()),
        "called drifted": bool(found["is_drift"].any()),
    }


def hits(folder: Path | None, seed: int) -> Iterator[tuple[str, str, str, float]]:
    """Yield the shares of draws in which the column that has moved, or one of the others, is called drifted.

    Columns are normal numbers, and a linear function of all is the target.
    """
    for n_columns in N_COLUMNS:
        rng, weights = np.random.default_rng([seed, n_columns]), np.ones(n_columns) / n_columns**0.5
        X = rng.normal(size=(FITTED, n_columns))
        model = SharedTrees(n_estimators=50, random_state=seed).fit(X, X @ weights + rng.normal(size=FITTED))
        for move in MOVES:
            for n in SIZES:
                called = [_called(model, moved(rng.normal(size=(n, n_columns)), move, rng)) for _ in range(N_HITS)]
                for measure, found in zip(("moved column", "another column"), np.transpose(called), strict=True):
                    yield f"{n_columns} columns, {move}", f"{n} rows", measure, float(np.mean(found))


def moved(X: np.ndarray, move: str, rng: np.random.Generator) -> np.ndarray:
    """Return rows whose first column has moved."""
    if move == "twice as wide":
        X[:, 0] *= 2
    elif move == "20 % missing":
        X[rng.random(len(X)) < 0.2, 0] = np.nan
    elif move != "none":
        X[:, 0] += float(move.split()[0])
    return X


def _called(model: Any, X: np.ndarray) -> tuple[bool, bool]:
    """Tell whether the first column is called drifted, and whether another one is."""
    found = model.drift(X, size=SIZE, alpha=ALPHA).filter(kind="column")
    first, *others = (bool(own["is_drift"].any()) for _, own in found.group_by("name", maintain_order=True))
    return first, any(others)
