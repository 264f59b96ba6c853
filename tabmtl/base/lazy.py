"""Names of a package that load on first use, and the hint for one that is misspelt."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lazy_loader

_ROOT = Path(__file__).parents[1]
#: Packages whose names no file of a model holds, and that ask for an optional library.
_UNSAVED = {"tuning"}


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return the ``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names stand in its ``.pyi`` file.

    Parameters
    ----------
    package, file : str
        ``__name__`` and ``__file__`` of the package.

    Examples
    --------
    >>> import tabmtl
    >>> tabmtl.SharedTree
    Traceback (most recent call last):
    AttributeError: module 'tabmtl' has no attribute 'SharedTree'; did you mean SharedTrees?
    """
    load, names_in_order, names = lazy_loader.attach_stub(package, file)

    def get(name: str) -> Any:
        if name in names:
            return load(name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}{_hint(package, name, names)}")

    return get, names_in_order, names


def exported(name: str) -> Any:
    """Return what a file means by the name of a class; None if no package with names in a ``.pyi`` exports it.

    Examples
    --------
    >>> exported("SharedTrees").__module__
    'tabmtl.models.shared_trees.estimator'
    """
    packages = (import_module(package) for package in ("tabmtl", *(f"tabmtl.{room}" for room in _rooms() - _UNSAVED)))
    return next((getattr(package, name) for package in packages if name in package.__all__), None)


def _rooms() -> set[str]:
    """Return the packages of the first floor with names in a ``.pyi``."""
    return {stub.parent.name for stub in _ROOT.glob("*/__init__.pyi")}


def _hint(package: str, name: str, names: list[str]) -> str:
    """Say what else may be meant; nothing of private names, which tools ask every module for, and of no names."""
    if name.startswith("_") or not name.isidentifier():
        return ""
    if find_spec(f"{package}.{name}") is not None:
        return f"; it is a module: import {package}.{name}"
    homes = (
        []
        if package != _ROOT.name
        else [room for room in _rooms() if name in import_module(f"{package}.{room}").__all__]
    )
    homes += [file.parent.name for file in _ROOT.glob(f"*/{name}*") if package == _ROOT.name and file.stem == name]
    if homes:
        return f"; it is in {package}.{homes[0]}"
    plain = {known.lower(): known for known in reversed(names)}
    found = get_close_matches(name.lower(), plain, n=1)
    return f"; did you mean {plain[found[0]]}?" if found else ""
