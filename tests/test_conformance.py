"""Every estimator of the package keeps every promise of `tabmtl.testing`."""

from __future__ import annotations

import pytest
from conformance import ESTIMATORS, subclasses, tiny

import tabmtl
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.models.shared_bottom import SharedBottom
from tabmtl.testing import multitask_checks

CHECKS = [
    pytest.param(check, id=f"{cls.__name__}-{check.__name__.removeprefix('check_')}")
    for cls in ESTIMATORS
    for check in multitask_checks(tiny(cls))
]


@pytest.mark.parametrize("check", CHECKS)
def test_promise(check):
    check()


def test_no_estimator_is_left_out():
    ours = {cls for cls in subclasses(MultiTaskEstimator) if cls.__module__.startswith("tabmtl.models")}
    assert ours == set(ESTIMATORS)
    assert {cls.__name__ for cls in ESTIMATORS} <= set(tabmtl.__all__)
    assert len(ESTIMATORS) >= 9


def test_an_attribute_without_annotation_is_found():
    class Careless(SharedBottom):
        """Without a type for its width."""

        width = 3

    check = multitask_checks(Careless())[0]
    with pytest.raises(AssertionError, match=r"Careless fails check_every_public_class_attr.*annotate \['width'\]"):
        check()
