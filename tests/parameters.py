"""Checks of every parameter of a class: its document, its default, its type and range, and its name."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest

from tabmtl.base.params import _rule_of, check_jobs
from tabmtl.estimators.docstrings import documented


def _documented_default(entry: str, name: str) -> object:
    """Default that an entry states; None where it states none, for such a parameter is optional."""
    head = entry.partition("\n")[0]
    names = head.partition(" : ")[0].split(", ")
    said = head.partition("default=")[2]
    values = ast.literal_eval(f"({said},)") if said else (None,)
    return values[names.index(name)] if len(values) == len(names) else values[0]


def check_documents(cls: type) -> None:
    """Every parameter is described with its default, in the order of the signature."""
    known, signature = documented(cls.__doc__), inspect.signature(cls).parameters
    assert set(known) == {field.name for field in dataclasses.fields(cls)}
    assert [name for name, entry in known.items() if not entry.partition("\n")[2].strip()] == []
    assert [*signature] == [*known]
    for name, entry in known.items():
        assert _documented_default(entry, name) == signature[name].default == getattr(cls, name), name


def each_parameter(classes: Sequence[type]) -> Any:
    """Parametrise a test by all parameters of classes, with their types."""
    cases = [
        pytest.param(cls, field.name, hints[field.name], id=f"{cls.__name__}-{field.name}")
        for cls in classes
        for hints in [get_type_hints(cls, include_extras=True)]
        for field in dataclasses.fields(cls)
    ]
    return pytest.mark.parametrize(("cls", "name", "hint"), cases)


def _bad_values(name: str, hint: Any) -> Iterator[tuple[Any, str]]:
    """Values that a field cannot have, and what the message says besides name and value."""
    yield object(), ""
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    choices = [choice for part in (plain, *get_args(plain)) if get_origin(part) is Literal for choice in get_args(part)]
    for choice in choices:
        yield f"{choice}_", f"; near is {choice!r}"
    kinds = {plain, *get_args(plain)}
    if kinds & {int, float, bool} and not kinds & {str}:
        yield "two", "must be"
    if kinds == {bool}:
        yield "no", "True or False"
        yield 3, "True or False"
    if float in kinds:
        yield math.nan, "must be"
    if kinds & {int, float} and get_origin(hint) is Annotated:
        yield 0 if check_jobs in hint.__metadata__ else -3, "must be"
    if str in kinds:
        yield 3, "must be"


def check_bad_values(name: str, hint: Any, fit: Callable[..., Any]) -> None:
    """Check that fits with a bad value of a parameter are refused with name, expectation and value."""
    for value, expected in _bad_values(name, hint):
        with pytest.raises((TypeError, ValueError)) as refusal:
            fit(**{name: value})
        message = str(refusal.value)
        assert name in message
        assert repr(value) in message
        assert expected in message
        assert re.search(r"\b(must|has to|takes|needs)\b", message)


def check_unknown_name(cls: type, name: str) -> None:
    """Check that a name near to that of a parameter is refused, and told the right one."""
    message = f"{cls.__name__} has no parameter '{name}_'; near is '{name}'"
    with pytest.raises(TypeError, match=message):
        cls(**{f"{name}_": 1})
    with pytest.raises(ValueError, match=message):
        cls().set_params(**{f"{name}_": 1})


def check_defaults(cls: type) -> None:
    """Check that defaults are allowed: a value that is the default is not held against its rule."""
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            _rule_of(hints[field.name])(field.name, field.default)
