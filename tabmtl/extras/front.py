"""The Pareto front of merged networks, at the price of a few evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import polars as pl

from tabmtl.base.params import RandomState, check_count, check_known, check_random_state
from tabmtl.estimators.base import draw_seed
from tabmtl.estimators.network import NetworkEstimator
from tabmtl.extras.match import check_models
from tabmtl.extras.vectors import TaskVectors

_CANDIDATES = 4_096  # points that the surrogate is asked for


def merge_front(
    base: NetworkEstimator,
    models: Sequence[NetworkEstimator],
    X: Any,
    y: Any,
    *,
    tasks: Sequence[str] | None = None,
    n_points: int | None = None,
    n_front: int = 10,
    random_state: RandomState = None,
) -> pl.DataFrame:
    """Find scales of `merge` by "task_arithmetic" between which no task gains without loss of another.

    Merged networks of a few scales are scored. A quadratic function of the scales, for the score of each task, then
    says which others to score: those of its own front, spread over it.

    Parameters
    ----------
    base, models : as in `merge`
    X, y : as in fit
        Labelled rows that the models have not learned from. Statistics of batch normalisation are settled on X, as
        ``merge(..., X=X)`` does.
    tasks : sequence of str, optional
        Tasks whose scores matter, two or more; default all.
    n_points : int, optional
        Networks to score before the surrogate is fitted: scales of 1 for one model, of 1 / K, and drawn ones from 0 to
        1. With K models, default 3 (K + 1) (K + 2) / 2, three times the numbers that a surrogate has.
    n_front : int, default=10
        Networks to score after it.
    random_state : int, RandomState or None, default=None
        Random seed of the drawn scales.

    Returns
    -------
    front : polars.DataFrame
        A row for each scored network: its number ``trial``; whether it is ``dominated``, since another is as good in
        all tasks and better in one; ``scale``, a list for `merge`; ``score/<task>``; and ``predicted/<task>``, by the
        surrogate. `tabmtl.tuning.ParetoDisplay` draws it, and `tabmtl.tuning.choose_point` chooses a row of
        ``front.filter(~front["dominated"])``.

    Raises
    ------
    TypeError, ValueError
        As in `merge`; or if a task is unknown or has no score on these rows, or there are too few points.

    Notes
    -----
    With c for the scales of K models, the surrogate of a task is e + b^T c + c^T A c / 2, fitted by least squares. Li
    et al. (2025), "MAP: Low-compute Model Merging with Amortized Pareto Fronts via Quadratic Approximation" (arXiv
    2406.07529). Read were the abstract, summaries of the paper and the authors' code, which bends the quadratic by a
    sigmoid for accuracies, searches by NSGA-III and draws scales from 0 to 1. Here, scores stay as they are, as R² may
    be below 0; the search asks for 4 096 drawn scales; and points of the predicted front are scored before they are
    returned.

    On three tables, 40 scored networks dominated .92 to .98 of the volume that 500 drawn scales did, 40 drawn ones .87
    to .92 (docs/results.md, "A front of merged networks").

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import SharedBottom
    >>> from tabmtl.extras import merge, merge_front
    >>> X = np.random.default_rng(0).normal(size=(200, 4))
    >>> y = X @ np.ones((4, 2))
    >>> base = SharedBottom(epochs=2, random_state=0).fit(X, y)
    >>> models = [base.with_weights({**base.weights_, name: 1.5 * base.weights_[name]}) for name in ("trunk.0.weight",)]
    >>> front = merge_front(base, models, X, y, n_points=8, n_front=2, random_state=0)
    >>> merged = merge(base, models, method="task_arithmetic", scale=front["scale"][0].to_list())
    >>> bool(np.isclose(merged.score_tasks(X, y)["y0"], front["score/y0"][0]))
    True
    """
    check_models(base, models)
    check_random_state("random_state", random_state)
    check_count("n_front", n_front)
    known = [task.name for task in base.tasks_]
    shown = known if tasks is None else list(tasks)
    check_known("tasks names tasks", shown, known, "the base")
    check_count("the number of tasks of a front", len({*shown}), 2)
    rng, vectors, k = np.random.default_rng(draw_seed(random_state)), TaskVectors.of(base, models), len(models)
    least = (k + 1) * (k + 2) // 2
    n_points = 3 * least if n_points is None else n_points
    check_count("n_points", n_points, least)

    def score(points: np.ndarray) -> np.ndarray:
        return np.array([_scores(base.with_weights(vectors.added(point), X), X, y, shown) for point in points])

    points = _design(n_points, k, rng)
    scores = score(points)
    surrogate, *_ = np.linalg.lstsq(_terms(points), scores, rcond=None)
    found = _promising(surrogate, _design(k + 1 + _CANDIDATES, k, rng)[k + 1 :], n_front)
    points, scores = np.concatenate([points, found]), np.concatenate([scores, score(found)])
    return pl.DataFrame(
        {
            "trial": np.arange(len(points)),
            "dominated": ~is_front(scores),
            "scale": pl.Series(points.tolist(), dtype=pl.List(pl.Float64)),
            **{f"score/{name}": own for name, own in zip(shown, scores.T, strict=True)},
            **{f"predicted/{name}": own for name, own in zip(shown, (_terms(points) @ surrogate).T, strict=True)},
        }
    )


def _scores(model: NetworkEstimator, X: Any, y: Any, tasks: Sequence[str]) -> list[float]:
    """Return the scores of some tasks, which must all be defined."""
    found = model.score_tasks(X, y)
    undefined = [task for task in tasks if found[task] is None]
    if undefined:
        raise ValueError(f"y leaves the scores of {undefined} undefined; label more rows, or leave these out of tasks")
    return [float(found[task] or 0.0) for task in tasks]


def _design(n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Return scales (n, k): each model alone, all alike, and a Latin hypercube from 0 to 1."""
    fixed = np.concatenate([np.eye(k), np.full((1, k), 1 / k)])[:n]
    m = n - len(fixed)
    lanes = rng.permuted(np.tile(np.arange(m), (k, 1)), axis=1).T
    return np.concatenate([fixed, (lanes + rng.random((m, k))) / max(m, 1)])


def _terms(points: np.ndarray) -> np.ndarray:
    """Return the terms of a quadratic function: 1, all scales, and all products of two of them."""
    pairs = combinations_with_replacement(range(points.shape[1]), 2)
    return np.column_stack([np.ones(len(points)), points, *(points[:, i] * points[:, j] for i, j in pairs)])


def _promising(surrogate: np.ndarray, points: np.ndarray, n: int) -> np.ndarray:
    """Return up to n points of the front that a surrogate predicts, spread over it."""
    predicted = _terms(points) @ surrogate
    best = np.flatnonzero(is_front(predicted))
    return points[best[spread(predicted[best], n)]]


def is_front(scores: np.ndarray) -> np.ndarray:
    """Tell of each row (n, T) whether no other is as good in all columns and better in one."""
    front = np.zeros(len(scores), dtype=bool)
    for i in np.argsort(-scores.sum(axis=1), kind="stable"):  # a row is never behind one of a smaller sum
        kept = scores[front]
        front[i] = not ((kept >= scores[i]).all(axis=1) & (kept > scores[i]).any(axis=1)).any()
    return front


def spread(scores: np.ndarray, n: int) -> np.ndarray:
    """Return the places of up to n rows (., T) far from each other, the best of every column first."""
    span = np.ptp(scores, axis=0)
    scaled = scores / np.where(span > 0, span, 1.0)
    chosen = list(dict.fromkeys(scores.argmax(axis=0).tolist()))[:n]
    while len(chosen) < min(n, len(scores)):
        distances = np.linalg.norm(scaled[:, None] - scaled[chosen], axis=2).min(axis=1)
        distances[chosen] = -1.0
        chosen.append(int(distances.argmax()))
    return np.array(chosen)
