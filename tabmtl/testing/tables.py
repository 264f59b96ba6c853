"""Tables for checks: columns of every type, targets of every kind, wide, long and with the steps of a funnel."""

from __future__ import annotations

import numpy as np
import polars as pl

COLOURS = ("red", "green", "blue")
SCHOOLS = ("east", "north", "west")


def hide(table: pl.DataFrame, hidden: np.ndarray) -> pl.DataFrame:
    """Replace the values of some cells by null."""
    return table.select(pl.when(~pl.Series(hidden[:, j])).then(pl.col(name)) for j, name in enumerate(table.columns))


def features(n: int = 120, seed: int = 0) -> pl.DataFrame:
    """Make columns of every type; two have missing values."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    level = rng.integers(0, 3, size=n)
    missing = rng.random((n, 2)) < 0.1
    X = pl.DataFrame(
        {
            "plain": x[:, 0],
            "holes": x[:, 1],
            "heavy": np.exp(3 * x[:, 2]).astype(np.float32),
            "count": rng.integers(0, 50, size=n),
            "flag": rng.random(n) < 0.5,
            "text": np.array(COLOURS)[level],
            "constant": np.ones(n),
        }
    )
    return X.with_columns(*hide(X.select("holes", "text"), missing))


def mixed_targets(X: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Make a binary, a multiclass and a regression target of text and numbers, with 20 % of the labels missing."""
    rng = np.random.default_rng(seed)
    signal = X["plain"].to_numpy() + 0.3 * rng.normal(size=len(X))
    late = np.where(signal > 0, "late", "on time")
    size = np.array(["large", "medium", "small"])[np.digitize(signal, [-0.4, 0.6])]
    y = pl.DataFrame({"late": late, "size": size, "delay": 100 + 20 * signal})
    return hide(y, rng.random(y.shape) < 0.2)


def long_table(n: int = 150, seed: int = 0) -> tuple[pl.DataFrame, pl.Series]:
    """Make a table of three schools: each row has one regression label, of its own school; some labels are missing."""
    rng = np.random.default_rng(seed)
    X = features(n, seed).with_columns(school=np.array(SCHOOLS)[rng.integers(0, 3, n)])
    slope = X["school"].replace_strict({"east": 1.0, "north": -1.0, "west": 3.0})
    grade = 50 + 10 * slope * X["plain"] + rng.normal(size=n)
    return X, grade.scatter(np.flatnonzero(rng.random(n) < 0.1), None).alias("grade")
