"""What is counted of the running package: calls of a trip, and public names of an object."""

from __future__ import annotations

import torch
from run_measures import public_names
from sklearn.base import BaseEstimator

from benchmarks import trips


def _numbers():
    yield 1
    yield 2


def _travel():
    start = torch.ones(1, requires_grad=True)
    least = min((x for x in _numbers()), key=lambda x: -x)
    (least * start).backward()
    _numbers()


def test_a_trip_ends_at_a_gradient_and_a_generator_is_one_call(monkeypatch):
    monkeypatch.setattr(trips, "OWN", (__file__,))
    found = trips.Trip().run(_travel)
    assert (found["calls"], found["named"], found["files"], found["frames"]) == (5, 2, 1, 2)
    assert trips.Trip(whole=True).run(lambda: [*_numbers(), *_numbers()])["calls"] == 3


def test_public_names_are_those_of_the_object_and_of_its_classes_of_the_package():
    child = type("Child", (BaseEstimator,), {"__module__": "tabmtl.child", "depth": 1, "_kept": 2})
    fitted = child()
    fitted.coder_ = 3
    assert public_names(fitted) == ["coder_", "depth"]
