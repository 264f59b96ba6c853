"""Names of a package that load on first use, and the hint for one that is misspelt."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lazy_loader


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
            try:
                return load(name)
            except ModuleNotFoundError as error:
                if error.name == "torch":
                    error.msg = (
                        f"{name} needs torch, which is missing: pip install 'tabmtl[nn]'; trees need none, such as "
                        "SharedTrees and MultiTaskEnsemble(models='fast')"
                    )
                raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}{_hint(package, name, names)}")

    return get, names_in_order, names


def exported(name: str) -> Any:
    """Return what a file means by the name of a class; None if no package with names in a ``.pyi`` exports it.

    Examples
    --------
    >>> exported("SharedTrees").__module__
    'tabmtl.models.shared_trees.estimator'
    """
    # no file holds a name of tuning, which asks for an optional library
    rooms = {stub.parent.name for stub in Path(__file__).parents[1].glob("*/__init__.pyi")} - {"tuning"}
    packages = (import_module(package) for package in ("tabmtl", *(f"tabmtl.{room}" for room in rooms)))
    return next((getattr(package, name) for package in packages if name in package.__all__), None)


def _hint(package: str, name: str, names: list[str]) -> str:
    """Say what else may be meant; nothing of private names, which tools ask every module for, and of no names."""
    if name.startswith("_") or not name.isidentifier():
        return ""
    if find_spec(f"{package}.{name}") is not None:
        return f"; it is a module: import {package}.{name}"
    plain = {known.lower(): known for known in reversed(names)}
    found = get_close_matches(name.lower(), plain, n=1)
    return f"; did you mean {plain[found[0]]}?" if found else ""
