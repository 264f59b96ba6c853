"""Ensembles keep every promise of `tabmtl.testing`, with two quick candidates.

Faces are checked in `make test-all` only, and so is what an ensemble and its candidates keep by the code that reads and
writes tables: every check fits four models at least.
"""

import pytest
from conformance import ESTIMATORS, tiny

from tabmtl.ensemble import MultiTaskEnsemble
from tabmtl.testing import multitask_checks

#: Words in the names of the promises that folds, selection and files of parts could break.
OF_FOLDS = ("bits", "bytes", "row_is", "own_task", "failed", "weight_zero", "groups", "percent", "cloned", "probab")
CHECKS = [
    pytest.param(
        check,
        id=f"{cls.__name__}-{check.__name__.removeprefix('check_')}",
        marks=pytest.mark.all_faces if cls._target_kind or not any(word in check.__name__ for word in OF_FOLDS) else (),
    )
    for cls in ESTIMATORS
    if issubclass(cls, MultiTaskEnsemble)
    for check in multitask_checks(tiny(cls))
]


@pytest.mark.usefixtures("one_penalty")
@pytest.mark.parametrize("check", CHECKS)
def test_promise(check):
    check()
