"""The rule that a model is asked by its public names: what it finds, and what it leaves alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from private_reads import private_reads

OWN = "class Own:\n    _kept: int\n    def _ask(self): self._made = 1\n"
CHILD = "from tabmtl.estimators.tables import MultiTaskEstimator\nclass Child(MultiTaskEstimator):\n"


def found(code, file="tabmtl/scale/files.py"):
    return [line.split(": ")[1].split(" is ")[0] for line in private_reads(Path(file), ast.parse(code))]


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("model._network(1)", ["_network"]),
        ("def ask(self): return self._network", ["_network"]),  # no method
        ("class A:\n    def f(self, other): return other._network", ["_network"]),
        ("class A:\n    def f(self): return lambda self: self._network", ["_network"]),
        ("class A:\n    @staticmethod\n    def f(self): return self._network", ["_network"]),
        ("class A:\n    def f(self): return self.model._network", ["_network"]),
        ("class A:\n    def f(self): return self._network, super()._network()", []),
        ("class A:\n    @classmethod\n    def f(cls): return [cls._network for _ in range(2)]", []),
        (OWN + "def f(a): return a._kept, a._ask, a._made, a._else", ["_else"]),
        (CHILD + "    _network = 1\n    def f(self, part): return self._network, part._network", ["_network"]),
        ("getattr(model, '_network'), hasattr(model, '_network')", ["_network", "_network"]),
        ("operator.attrgetter('_network')(model)", ["_network"]),
        ("sys._getframe(1), score._fields, model.__class__, model.network_", []),
    ],
)
def test_reads_of_private_attributes_are_found(code, names):
    assert found(code) == names


def test_rooms_of_models_know_each_other_from_inside():
    assert found("model._network(1)", "tabmtl/models/mmoe.py") == []
