"""Estimators and recommenders in a small form, for checks of every one of them."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, TypeVar

T = TypeVar("T")

#: Small and quick, with dropout and early stopping still on. On the CPU, the bits of two runs can be compared.
SMALL: dict[str, Any] = {
    "device": "cpu",
    "epochs": 2,
    "batch_size": 64,
    "hidden": (16, 8),
    "d_embedding": 4,
    "d_token": 8,
    "d_ffn": 16,
    "n_heads": 2,
    "head_hidden": 8,
    "expert_hidden": (8, 4),
    "tower_hidden": (8, 4),
    "d_pattern": 8,
    "d_model": 16,
    "min_frequency": 2,
    "n_estimators": 20,
    "n_estimators_shared": 10,
    "n_estimators_outlier": 10,
    "n_estimators_task": 10,
    "n_folds": 2,
    "n_jobs": 1,
    "random_state": 0,
}


def small(cls: Callable[..., T], **params: Any) -> T:
    """Make an estimator of a class, with the small options and other parameters; those that it lacks are left out."""
    known = signature(cls).parameters
    return cls(**{name: value for name, value in (SMALL | params).items() if name in known})
