"""Objects that a file names, such as the kinds of targets: it holds the name of a class and parameters, and no code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

#: Classes of the package that files name; their room puts them here.
own_classes: dict[str, type] = {}


class ModelFileError(ValueError):
    """Error for a folder that is not a whole, untouched tabmtl model."""


def is_named(value: Any) -> bool:
    """Return whether files name a class, or that of an object: a frozen dataclass with a ``name``."""
    return getattr(value, "is_named", False) is True


def describe_kind(kind: Any, kinds: dict[str, type]) -> str | dict[str, Any]:
    """Return a kind of targets as JSON, its name, with its parameters if it has any; add its class to those by name.

    Its ``later_fields`` are left out where they have the default, so that earlier releases read the file, and its
    ``code_fields``, which are code.

    Raises
    ------
    TypeError
        If its name is that of another kind.
    """
    cls = kind.__class__
    own = own_classes.get(kind.name, cls)
    if own != cls:
        raise TypeError(f"{cls.__name__} has the name {kind.name!r} of {own.__name__}; give it one of its own")
    kinds[kind.name] = cls
    values = {item.name: (getattr(kind, item.name), item) for item in fields(kind)}
    later, code = getattr(cls, "later_fields", ()), getattr(cls, "code_fields", ())
    parameters = {name: value for name, (value, item) in values.items() if name not in later or value != item.default}
    parameters = {name: value for name, value in parameters.items() if name not in code}
    return {"kind": kind.name} | parameters if parameters else kind.name


def kind_class(name: Any, kinds: Mapping[str, type]) -> type:
    """Return the class of a kind of targets by its name, the package's own or a given one.

    Raises
    ------
    ModelFileError
        If it is neither.
    """
    found = own_classes.get(name) or kinds.get(name)
    if found is None:
        raise ModelFileError(
            f"the model holds a {name!r}, which tabmtl does not have; give its class, as in load(path, kinds=[...])"
        )
    return found


def kinds_by_name(kinds: Sequence[Any]) -> dict[str, type]:
    """Return classes of kinds of targets by name; raise a TypeError for anything else."""
    listed = kinds if isinstance(kinds, list | tuple) else [None]
    if not all(isinstance(kind, type) and is_named(kind) for kind in listed):
        raise TypeError(f"kinds must be a list of classes of kinds, such as [Poisson], got {kinds!r}")
    return {kind.name: kind for kind in kinds}
