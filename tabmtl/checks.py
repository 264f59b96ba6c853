"""Checks of hyper-parameters: a ValueError that names the parameter, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def check_count(name: str, value: int, low: int = 1) -> None:
    """Raise a ValueError that names a hyper-parameter which is no whole number of at least ``low``."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    check_at_least(name, value, low)


def check_at_least(name: str, value: float, low: float) -> None:
    """Raise a ValueError for a number below ``low``."""
    if not value >= low:
        raise ValueError(f"{name} must be at least {low}, got {value!r}")


def check_share(name: str, value: float, *, whole: bool = False) -> None:
    """Raise a ValueError for what is not between 0 and 1; with ``whole``, 1 is allowed."""
    if not (0 < value < 1 or (whole and value == 1)):
        expected = "above 0 and at most 1" if whole else "between 0 and 1"
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def check_positive(name: str, value: float) -> None:
    """Raise a ValueError for what is no finite number above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise a ValueError for what is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")


def check_widths(name: str, value: Sequence[int], low: int = 1) -> None:
    """Raise a ValueError for what is no sequence of at least ``low`` layer widths."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < low:
        raise ValueError(f"{name} must be a sequence of widths such as (128, 64), got {value!r}")
    for width in value:
        check_count(f"a width of {name}", width)
