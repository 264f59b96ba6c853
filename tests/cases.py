"""Cases of parametrised tests that `make test` leaves to `make test-all`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def quick(classes: Sequence[type], *names: str) -> list[Any]:
    """Cases by class: classes of these names in `make test`, the others in `make test-all` alone."""
    slow = pytest.mark.all_faces
    assert {*names} <= {cls.__name__ for cls in classes}, f"{names} are not all classes of these cases"
    return [pytest.param(cls, id=cls.__name__, marks=() if cls.__name__ in names else slow) for cls in classes]


def later(cases: Iterable[Any], *slow: Any) -> list[Any]:
    """Cases of any kind: the slow ones in `make test-all` alone, the others in `make test` too."""
    cases = [*cases]
    assert all(case in cases for case in slow), f"{slow} are not all among these cases"
    return [pytest.param(case, marks=pytest.mark.all_faces if case in slow else ()) for case in cases]
