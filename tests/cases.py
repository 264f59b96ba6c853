"""Cases of parametrised tests that `make test` leaves to `make test-all`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def quick(classes: Sequence[type], *names: str) -> list[Any]:
    """Cases by class: classes of these names in `make test`, the others in `make test-all` alone."""
    slow = pytest.mark.all_faces
    return [pytest.param(cls, id=cls.__name__, marks=() if cls.__name__ in names else slow) for cls in classes]


def later(cases: Iterable[Any], *slow: Any) -> list[Any]:
    """Cases of any kind: the slow ones in `make test-all` alone, the others in `make test` too."""
    return [pytest.param(case, marks=pytest.mark.all_faces if case in slow else ()) for case in cases]
