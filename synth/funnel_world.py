"""Draw of a funnel's world: users, items, and the effects of their hidden vectors on the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from tabmtl.synth.checks import check_count
from tabmtl.synth.funnel_truth import GROUPS, N_CONTEXT, TASKS, FunnelTruth
from tabmtl.synth.task_vectors import task_vectors

_RANK = 8
_CATEGORY_SHARE, _BRAND_SHARE = 0.3, 0.2
_CONTEXT_SHARE = 0.2

#: The less common arguments of ``make_funnel``.
_DEFAULTS: dict[str, Any] = {
    "group_correlation": 0.3,
    "selection": None,
    "like_rate": 0.03,
    "long_view_rate": 0.3,
    "spread": 1.2,
    "interaction": 0.5,
    "position_bias": 0.5,
    "skew": 0.8,
    "n_categories": 20,
    "n_brands": 100,
    "missing": 0.1,
}
_RANGES = {
    "shared": (0, 1),
    "group_correlation": (-1, 1),
    "spread": (0, 10),
    "interaction": (0, 1),
    "position_bias": (0, 10),
    "skew": (0, 10),
    "missing": (0, 1),
}


def make_world(
    sizes: tuple[int, int], rates: Mapping[str, float], law: Mapping[str, Any], rng: np.random.Generator
) -> FunnelTruth:
    """Check all arguments of ``make_funnel`` that make up a world, and draw it.

    Parameters
    ----------
    sizes : tuple of int
        Number of users, and of items.
    rates : mapping of str to float
        ``click_rate`` and ``conversion_rate``.
    law : mapping of str to object
        ``shared``, and the given ones of the less common arguments.
    rng : numpy.random.Generator
        Source of everything.

    Returns
    -------
    FunnelTruth

    Raises
    ------
    ValueError
        If a value is out of its range.
    TypeError
        If an argument is unknown.
    """
    if unknown := law.keys() - _DEFAULTS.keys() - {"shared"}:
        raise TypeError(f"make_funnel has no argument {', '.join(sorted(unknown))}")
    law = {**_DEFAULTS, **law}
    rates = {**rates, **{name: law[name] for name in ("like_rate", "long_view_rate")}}
    _check_law(law)
    _check_rates(rates)
    correlation = _task_correlation(law["shared"], law["group_correlation"], law["selection"])
    users, user_vectors = _users(sizes[0], rng)
    items, item_vectors = _items(sizes[1], law["n_categories"], law["n_brands"], rng)
    affinity, context = _effects(correlation, law["spread"], law["interaction"], rng)
    truth = FunnelTruth(
        users=users,
        items=items,
        user_vectors=user_vectors,
        item_vectors=item_vectors,
        affinity=affinity,
        context=context,
        **{name: law[name] for name in ("position_bias", "skew", "missing")},
    )
    return truth.balanced(tuple(rates.values()), rng)


def _check_law(law: Mapping[str, Any]) -> None:
    for name, (low, high) in _RANGES.items():
        if not low <= law[name] <= high:
            raise ValueError(f"{name} must lie in [{low}, {high}], got {law[name]!r}")
    for name in ("n_categories", "n_brands"):
        check_count(name, law[name])


def _check_rates(rates: Mapping[str, float]) -> None:
    for name, rate in rates.items():
        if not 0 < rate < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {rate!r}")
    if rates["conversion_rate"] >= rates["click_rate"]:
        raise ValueError(
            f"conversion_rate is a share of all impressions and must be below click_rate={rates['click_rate']}, "
            f"got {rates['conversion_rate']!r}"
        )


def _task_correlation(shared: float, group_correlation: float, selection: float | None) -> np.ndarray:
    """Return the correlations of the logits of the tasks, (n_tasks, n_tasks), from arguments of ``make_funnel``.

    Raises
    ------
    ValueError
        If no such matrix is positive semidefinite; the message gives the range of ``selection``.
    """
    group = np.array([next(g for g, tasks in GROUPS.items() if task in tasks) for task in TASKS])
    C = np.where(group[:, None] == group, shared, shared * group_correlation)
    np.fill_diagonal(C, 1)
    if selection is not None:
        # Click and conversion correlate equally with the rest; opposite apart from that, they reach the least value.
        rest = C[0, 2:]
        least = max(-1.0, float(2 * rest @ np.linalg.pinv(C[2:, 2:]) @ rest - 1))
        if not least - 1e-9 <= selection <= 1:
            raise ValueError(
                f"selection must lie in [{least:.3g}, 1] for shared={shared} and "
                f"group_correlation={group_correlation}, got {selection!r}"
            )
        C[0, 1] = C[1, 0] = selection
    return C


def _users(n_users: int, rng: np.random.Generator) -> tuple[pl.DataFrame, np.ndarray]:
    """Draw the ids and features of users, and their hidden vectors behind a one."""
    vectors = rng.standard_normal((n_users, _RANK), dtype=np.float32)
    frame = pl.DataFrame({"user": _names("u", n_users), **_features("user", vectors, rng)})
    return frame, _behind_one(vectors)


def _items(n_items: int, n_categories: int, n_brands: int, rng: np.random.Generator) -> tuple[pl.DataFrame, np.ndarray]:
    """Draw the ids, categories, brands and features of items, and their hidden vectors behind a one.

    A hidden vector is a sum of that of the category, of the brand and of one of the item's own; its variance is theirs
    in shares of 0.3, 0.2 and 0.5.
    """
    own = np.sqrt(1 - _CATEGORY_SHARE - _BRAND_SHARE, dtype=np.float32)
    vectors = own * rng.standard_normal((n_items, _RANK), dtype=np.float32)
    columns = {"item": _names("i", n_items)}
    for name, count, share in (("category", n_categories, _CATEGORY_SHARE), ("brand", n_brands, _BRAND_SHARE)):
        names = _names(name[0], min(count, n_items))
        # Dealt out and then shuffled, so that every level has an item.
        codes = rng.permutation(np.arange(n_items) % len(names))
        columns[name] = names.cast(pl.Enum(names)).gather(codes)
        vectors += (np.sqrt(share) * rng.standard_normal((len(names), _RANK))).astype(np.float32)[codes]
    return pl.DataFrame({**columns, **_features("item", vectors, rng)}), _behind_one(vectors)


def _effects(
    correlation: np.ndarray, spread: float, interaction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the effects of hidden vectors and context on the tasks: ``affinity`` and ``context`` of ``FunnelTruth``.

    Each of the four parts (user, item, their interaction, context) correlates between tasks as is asked for.
    """
    n_tasks = len(correlation)
    main = np.sqrt((1 - _CONTEXT_SHARE) * (1 - interaction) / 2)
    pairs = np.sqrt((1 - _CONTEXT_SHARE) * interaction) * task_vectors(correlation, _RANK**2, rng)
    affinity = np.zeros((n_tasks, 1 + _RANK, 1 + _RANK))
    affinity[:, 1:, 0] = main * task_vectors(correlation, _RANK, rng)
    affinity[:, 0, 1:] = main * task_vectors(correlation, _RANK, rng)
    affinity[:, 1:, 1:] = pairs.reshape(n_tasks, _RANK, _RANK)
    context = np.sqrt(_CONTEXT_SHARE) * task_vectors(correlation, N_CONTEXT, rng)
    scale = np.array([spread if kind == "binary" else spread / 2 for kind in TASKS.values()])
    return (scale[:, None, None] * affinity).astype(np.float32), scale[:, None] * context


def _names(prefix: str, count: int) -> pl.Series:
    """Return names that sort as their numbers do."""
    return prefix + pl.int_range(count, eager=True).cast(pl.String).str.zfill(len(str(count - 1)))


def _features(prefix: str, vectors: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the first two coordinates of the hidden vectors, each with as much noise."""
    noise = rng.standard_normal((2, len(vectors)), dtype=np.float32)
    return {f"{prefix}_x{j}": (vectors[:, j] + noise[j]) / np.sqrt(2, dtype=np.float32) for j in range(2)}


def _behind_one(vectors: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(vectors), np.float32), vectors])
