"""Smooth random functions of tasks, some of them outliers, and the rows at which they are read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

OutlierKind = Literal["shared", "own", "flipped", "shuffled", "shifted", "noisy"]

_N_COSINES = 500
_BLOCK = 2**11
_SHIFT = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskFunction:
    """A task's labels without noise: level + Σ_k weight_k f_k(x), each f_k a random function.

    f(x) = Σ_j a_j cos(w_j·x + b_j), a draw of a Gaussian process with an RBF kernel and variance 1.

    Parameters
    ----------
    terms : tuple of (weight, W, b, a)
        A float, and arrays of shape (n_cosines, n_features), (n_cosines,) and (n_cosines,). Tasks share the
        arrays of a function they share.
    level : float, default=0.0
        Added to every value.
    """

    terms: tuple[tuple[float, np.ndarray, np.ndarray, np.ndarray], ...] = field(repr=False)
    level: float = 0.0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return values at rows of features.

        Parameters
        ----------
        x : ndarray of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n,)
        """
        values = np.zeros(len(x))
        for weight, W, b, a in self.terms:
            for start in range(0, len(x), _BLOCK):
                block = slice(start, start + _BLOCK)
                angles = x[block] @ W.T
                angles += b
                values[block] += weight * (np.cos(angles, out=angles) @ a)
        return values + self.level


class Mix(NamedTuple):
    """Composition of a task's labels.

    Parameters
    ----------
    common, far, aside, own : float
        Weights of f_common, of the one f_out of all outliers, of this outlier's other function, and of f_t.
    level : float
        Added to every value.
    """

    common: float
    far: float
    aside: float
    own: float
    level: float


def mix(outlier_kind: OutlierKind, strength: float, common: float) -> Mix:
    """Return the composition of an outlier's labels; with strength 0, that of any other task.

    Parameters
    ----------
    outlier_kind : {"shared", "own", "flipped", "shuffled", "shifted", "noisy"}
    strength : float
        From 0 to 1.
    common : float
        Weight of the common function, from 0 to 1.

    Returns
    -------
    Mix
    """
    near, far, aside = 1.0, 0.0, 0.0
    if outlier_kind == "shared":
        near, far = math.sqrt(1 - strength**2), strength
    elif outlier_kind == "own":
        near, aside = math.sqrt(1 - strength**2), strength
    elif outlier_kind == "flipped":
        near = 1 - 2 * strength
    level = _SHIFT * strength if outlier_kind == "shifted" else 0.0
    # Rounded: 1 - 0.9 in floats is not the 0.1 of the released setting.
    return Mix(common * near, common * far, common * aside, round(1 - common, 15), level)


def draw_tasks(
    mixes: Sequence[Mix], shape: tuple[int, int], noise: float, rng: np.random.Generator, extra: np.random.Generator
) -> tuple[list[TaskFunction], np.ndarray, np.ndarray]:
    """Draw functions, features and noise, in the order of the released setting.

    Parameters
    ----------
    mixes : sequence of Mix
        One per task.
    shape : tuple of int
        Rows per task, and features.
    noise : float
        Standard deviation of the noise.
    rng : numpy.random.Generator
        Source of all draws except the functions with the weight ``aside``. Its draws do not depend on the mixes.
    extra : numpy.random.Generator
        Source of the functions with the weight ``aside``.

    Returns
    -------
    functions : list of TaskFunction
    x : ndarray of shape (n_tasks, n, n_features)
    noise : ndarray of shape (n_tasks, n)
        To which :func:`add_functions` adds.
    """
    common, far = _draw_function(shape[1], rng), _draw_function(shape[1], rng)
    functions, x, values = [], np.empty((len(mixes), *shape)), np.empty((len(mixes), shape[0]))
    for t, weights in enumerate(mixes):
        aside = _draw_function(shape[1], extra) if weights.aside else far
        parts = zip(weights[:4], (common, far, aside, _draw_function(shape[1], rng)), strict=True)
        functions.append(TaskFunction(terms=tuple((w, *part) for w, part in parts if w), level=weights.level))
        x[t], values[t] = draw_rows(shape, noise, rng)
    return functions, x, values


def _draw_function(n_features: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    W = rng.standard_normal((_N_COSINES, n_features)) / (0.25 * n_features)
    b = rng.uniform(0, 2 * np.pi, _N_COSINES)
    return W, b, rng.standard_normal(_N_COSINES) * math.sqrt(2 / _N_COSINES)


def draw_rows(shape: tuple[int, int], noise: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw uniform features in [-1, 1] of a shape, then the normal noise of these rows, drawn even if 0 wide."""
    return rng.uniform(-1, 1, shape), rng.standard_normal(shape[0]) * noise


def add_functions(functions: Iterable[TaskFunction], x: np.ndarray, values: np.ndarray, *, rarest: float = 0.0) -> bool:
    """Add the values of each task's function to its noise, until a task has too few positive or other values.

    Parameters
    ----------
    functions : iterable of TaskFunction
    x : ndarray of shape (n_tasks, n, n_features)
    values : ndarray of shape (n_tasks, n)
        Noise; changed in place.
    rarest : float, default=0.0
        Least share of rows, of both sides of zero.

    Returns
    -------
    bool
        Whether every task has that share. If not, the values of later tasks are unfinished.
    """
    for function, rows, labels in zip(functions, x, values, strict=True):
        labels += function(rows)
        positive = np.count_nonzero(labels > 0)
        if min(positive, len(labels) - positive) / len(labels) < rarest:
            return False
    return True
