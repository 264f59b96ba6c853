"""Misspelt names of packages whose names load on first use."""

from importlib import import_module

import pytest


def check_hint(package: str, name: str, hint: str) -> None:
    """Check the error of a name that a package lacks."""
    module = import_module(package)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(AttributeError) as error:
        patch.delitem(vars(module), name, raising=False)  # as before its import
        getattr(module, name)
    assert str(error.value) == f"module {package!r} has no attribute {name!r}{hint}"
