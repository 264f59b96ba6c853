"""Checks of the arguments of generators."""

from __future__ import annotations

import numpy as np


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise a ValueError that names an argument unless it is an integer of at least ``least``."""
    if not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise a ValueError that names an argument unless it is one of the known words."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
