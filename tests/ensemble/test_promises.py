"""Ensembles keep every promise of `tabmtl.testing`, with two quick candidates; their faces in `make test-all` only."""

from __future__ import annotations

import pytest
from conformance import ESTIMATORS, tiny

from tabmtl.ensemble import MultiTaskEnsemble
from tabmtl.testing import multitask_checks

CHECKS = [
    pytest.param(
        check,
        id=f"{cls.__name__}-{check.__name__.removeprefix('check_')}",
        marks=pytest.mark.all_faces if cls._target_kind else (),
    )
    for cls in ESTIMATORS
    if issubclass(cls, MultiTaskEnsemble)
    for check in multitask_checks(tiny(cls))
]


@pytest.mark.parametrize("check", CHECKS)
def test_promise(check):
    check()
