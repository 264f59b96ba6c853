"""Promises as checks without arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from unittest import TestCase

#: Context that expects an error of a type, and a message.
raises = TestCase().assertRaisesRegex


def of_each_model(check: Callable[..., None]) -> Callable[..., None]:
    """Mark a promise that the layers or trees of one model can break, whatever other models keep.

    `tests/test_conformance.py` checks the other promises on a network, joint trees and a model per task alone.
    """
    check.of_each_model = True  # type: ignore[attr-defined]
    return check


def named_checks(groups: Iterable[object], owner: str) -> list[Callable[[], None]]:
    """Return the checks of groups, those of each class before those of the next one that it derives from.

    Parameters
    ----------
    groups : iterable of objects
        Their methods ``check_<promise>`` are the checks. They may derive from one another: no check is listed twice.
    owner : str
        What is checked; errors name it.
    """
    return [
        _promised(getattr(group, name), owner)
        for group in groups
        for cls in type(group).__mro__
        for name in vars(cls)
        if name.startswith("check_")
    ]


def _promised(check: Callable[[], None], owner: str) -> Callable[[], None]:
    @wraps(check)
    def run() -> None:
        try:
            check()
        except ImportError:
            raise
        except Exception as error:
            promise = check.__name__.removeprefix("check_").replace("_", " ")
            reason = f"{type(error).__name__}: {error}" if str(error) else "see the assertion above"
            raise AssertionError(f"{owner} fails {check.__name__}; promised is: {promise}. {reason}") from error

    return run
