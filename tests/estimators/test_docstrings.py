"""Every parameter of every estimator and recommender is documented where a person looks: in its own docstring."""

from __future__ import annotations

import ast
import dataclasses

import pytest
from conformance import ESTIMATORS
from recommenders import RECOMMENDERS

from tabmtl.estimators.docstrings import documented

every_class = pytest.mark.parametrize("cls", [*ESTIMATORS, *RECOMMENDERS], ids=lambda cls: cls.__name__)


def documented_default(entry: str, name: str) -> object:
    """Default that an entry states; None where it states none, for such a parameter is optional."""
    head = entry.partition("\n")[0]
    names = head.partition(" : ")[0].split(", ")
    said = head.partition("default=")[2]
    values = ast.literal_eval(f"({said},)") if said else (None,)
    return values[names.index(name)] if len(values) == len(names) else values[0]


@every_class
def test_every_parameter_is_described(cls):
    known = documented(cls.__doc__)
    names = {field.name for field in dataclasses.fields(cls)}
    assert set(known) == names
    assert [name for name, entry in known.items() if not entry.partition("\n")[2].strip()] == []


@every_class
def test_documented_defaults_are_the_real_ones(cls):
    known = documented(cls.__doc__)
    told = {name: documented_default(entry, name) for name, entry in known.items()}
    assert told == {name: getattr(cls, name) for name in known}
