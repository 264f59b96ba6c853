"""Every model of the package keeps every promise of `tabmtl.testing`; ensembles have a file of their own.

Faces of one kind of target are checked in `make test-all` only, except one regressor and one classifier; so are two of
the networks with members.
"""

from __future__ import annotations

import pytest
from conformance import ESTIMATORS, subclasses, tiny

import tabmtl
from tabmtl import ESMM, MMoE, MultiTabNetRegressor, SharedTreesClassifier
from tabmtl.ensemble import MultiTaskEnsemble
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.testing import multitask_checks

# Ten small steps are so far from a fit that chance decides whether R-MTGB's second fit beats its first; and chance
# decides whether a pattern of 8 units in APEM is alive.
LARGER = {"n_estimators_task": 20, "d_pattern": 16}
MODELS = [cls for cls in ESTIMATORS if not issubclass(cls, MultiTaskEnsemble)]
LATER = {cls for cls in MODELS if cls._target_kind} - {MultiTabNetRegressor, SharedTreesClassifier}
#: Networks whose promises are checked with members too: plain, batch-normalised, a funnel, and one with tokens.
WITH_MEMBERS = [cls for cls in ESTIMATORS if cls.__name__ in ("SharedBottom", "MMoE", "ESMM", "MultiTabNet")]
CHECKS = [
    pytest.param(
        check,
        id=f"{cls.__name__}{members}-{check.__name__.removeprefix('check_')}",
        marks=pytest.mark.all_faces if cls in LATER or (members and cls in (MMoE, ESMM)) else (),
    )
    for members, classes, params in (("", MODELS, {}), (" with members", WITH_MEMBERS, {"n_members": 2}))
    for cls in classes
    for check in multitask_checks(tiny(cls, **LARGER, **params))
]


@pytest.mark.parametrize("check", CHECKS)
def test_promise(check):
    check()


def test_no_estimator_is_left_out():
    ours = {
        cls for cls in subclasses(MultiTaskEstimator) if cls.__module__.startswith(("tabmtl.models", "tabmtl.ensemble"))
    }
    assert ours == set(ESTIMATORS)
    assert {cls.__name__ for cls in ESTIMATORS} <= set(tabmtl.__all__)
    assert len(ESTIMATORS) >= 9
