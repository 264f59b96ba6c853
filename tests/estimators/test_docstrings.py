"""Every parameter of every estimator and recommender is documented where a person looks: in its own docstring."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re

import pytest
from conformance import ESTIMATORS
from recommenders import RECOMMENDERS

from tabmtl import MMoE, MMoEClassifier
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
def test_every_parameter_is_described_with_its_default_in_the_order_of_the_signature(cls):
    known, signature = documented(cls.__doc__), inspect.signature(cls).parameters
    assert set(known) == {field.name for field in dataclasses.fields(cls)}
    assert [name for name, entry in known.items() if not entry.partition("\n")[2].strip()] == []
    assert [*signature] == [*known]
    for name, entry in known.items():
        assert documented_default(entry, name) == signature[name].default == getattr(cls, name), name


def test_parameters_of_a_model_come_first_and_shared_ones_under_one_heading():
    def names(cls, title):
        section = cls.__doc__.partition(f"\n{title}\n---")[2].partition("\n---")[0]
        return {name for entry in re.findall(r"^(\w[\w, ]*) : ", section, re.M) for name in entry.split(", ")}

    own = {"n_experts", "expert_hidden"}
    assert names(MMoE, "Parameters") == names(MMoEClassifier, "Parameters") == own
    assert names(MMoE, "Other Parameters") == {field.name for field in dataclasses.fields(MMoE)} - own
    assert inspect.signature(MMoE).parameters.keys() - own == names(MMoEClassifier, "Other Parameters")
    assert MMoE.__doc__.count("Parameters\n---") == 2
