"""Every parameter of every estimator is documented where a person looks: in its own docstring."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest
from conformance import ESTIMATORS
from parameters import check_documents

from tabmtl import MMoE, MMoEClassifier


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_every_parameter_is_described_with_its_default_in_the_order_of_the_signature(cls):
    check_documents(cls)


def test_parameters_of_a_model_come_first_and_shared_ones_under_one_heading():
    def names(cls, title):
        section = cls.__doc__.partition(f"\n{title}\n---")[2].partition("\n---")[0]
        return {name for entry in re.findall(r"^(\w[\w, ]*) : ", section, re.M) for name in entry.split(", ")}

    own = {"n_experts", "expert_hidden"}
    assert names(MMoE, "Parameters") == names(MMoEClassifier, "Parameters") == own
    assert names(MMoE, "Other Parameters") == {field.name for field in dataclasses.fields(MMoE)} - own
    assert inspect.signature(MMoE).parameters.keys() - own == names(MMoEClassifier, "Other Parameters")
    assert MMoE.__doc__.count("Parameters\n---") == 2
