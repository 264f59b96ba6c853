"""Checks of hyper-parameters: an error that names the parameter, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

_LARGEST = 2**63 - 1  # of numpy's whole numbers


def is_number(value: Any) -> bool:
    """Whether a value is a real number of Python or numpy; a boolean is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_count(name: str, value: int, low: int = 1) -> None:
    """Raise a ValueError that names a hyper-parameter which is no whole number of at least ``low`` and 64 bits."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    check_at_least(name, value, low)
    if value > _LARGEST:
        raise ValueError(f"{name} must be at most {_LARGEST}, got {value!r}")


def check_at_least(name: str, value: float, low: float) -> None:
    """Raise a ValueError for what is no number of at least ``low``."""
    _check_number(name, value, f"of at least {low}")
    if not value >= low:
        raise ValueError(f"{name} must be at least {low}, got {value!r}")


def check_share(name: str, value: float, *, whole: bool = False) -> None:
    """Raise a ValueError for what is no number between 0 and 1; with ``whole``, 1 is allowed."""
    expected = "above 0 and at most 1" if whole else "between 0 and 1"
    _check_number(name, value, expected)
    if not (0 < value < 1 or (whole and value == 1)):
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def check_rate(name: str, value: float) -> None:
    """Raise a ValueError for what is no number of at least 0 and below 1."""
    _check_number(name, value, "of at least 0 and below 1")
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value!r}")


def check_positive(name: str, value: float) -> None:
    """Raise a ValueError for what is no finite number above 0."""
    if not is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise a ValueError for what is none of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")


def check_widths(name: str, value: Sequence[int], low: int = 1) -> None:
    """Raise a ValueError for what is no sequence of at least ``low`` layer widths."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < low:
        raise ValueError(f"{name} must be a sequence of widths such as (128, 64), got {value!r}")
    for width in value:
        check_count(f"a width of {name}", width)


def check_names(name: str, value: Sequence[str]) -> None:
    """Raise a TypeError for what is no sequence of names of columns, such as a single one."""
    if isinstance(value, str):
        raise TypeError(f"{name} must be a sequence of columns, got {value!r}: put it in a list")
    if not hasattr(value, "__getitem__") or isinstance(value, bytes | Mapping):
        raise TypeError(f"{name} must be a sequence of columns, got {value!r}: give a list; [] names none")
    for column in value:
        if not isinstance(column, str):
            raise TypeError(f"{name} must name columns by text, got {column!r}")


def _check_number(name: str, value: Any, expected: str) -> None:
    if not is_number(value):
        raise ValueError(f"{name} must be a number {expected}, got {value!r}")
