"""Every model of the package keeps every promise of `tabmtl.testing`; ensembles have a file of their own.

`make test` checks all promises on one model of each kind: a network, a funnel, joint trees, and one model per task. Of
the others it checks what their own layers, trees or faces could break; `make test-all` checks the rest.
"""

from __future__ import annotations

import pytest
from conformance import ESTIMATORS, subclasses, tiny

import tabmtl
from tabmtl import (
    ESMM,
    RMTGB,
    IndependentTasks,
    MultiTabNet,
    MultiTabNetRegressor,
    SharedBottom,
    SharedTreesClassifier,
)
from tabmtl.ensemble import MultiTaskEnsemble
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.testing import multitask_checks

# Ten small steps are so far from a fit that chance decides whether R-MTGB's second fit beats its first; and chance
# decides whether a pattern of 8 units in APEM is alive.
LARGER = {"n_estimators_task": 20, "d_pattern": 16}
MODELS = [cls for cls in ESTIMATORS if not issubclass(cls, MultiTaskEnsemble)]
#: Of every kind one, which is checked whole.
WHOLE = (ESMM, IndependentTasks, MultiTabNet, RMTGB)
#: Of the faces of one kind of target a regressor and a classifier.
OF_ONE_KIND = (MultiTabNetRegressor, SharedTreesClassifier)
#: Networks whose promises are checked with members too: plain, batch-normalised, a funnel, and one with tokens.
WITH_MEMBERS = [cls for cls in ESTIMATORS if cls.__name__ in ("SharedBottom", "MMoE", "ESMM", "MultiTabNet")]
#: Words in the names of the promises that a model's own layers could break, and its face.
OF_LAYERS = ("bits", "bytes", "fit_again", "parameter", "row_is", "rows", "missing", "unseen", "weight_zero", "seed")
#: Words in the names of promises of several fits, which the task tower and SharedBottom's layers keep for all networks.
OF_MANY_FITS = ("own_task", "told_apart", "own_rows", "generators")
OF_FACES = ("face", "targets", "labels", "class", "number", "regression", "scores", "parameter", "bits", "containers")


def is_later(cls: type[MultiTaskEstimator], members: str, name: str) -> bool:
    """Say whether a promise is checked in `make test-all` only."""
    if cls in WHOLE and not members:
        return False
    if (cls._target_kind and cls not in OF_ONE_KIND) or (members and cls is not SharedBottom):
        return True
    if any(word in name for word in OF_MANY_FITS) and cls is not SharedBottom:
        return True
    return not any(word in name for word in (OF_FACES if cls._target_kind else OF_LAYERS))


CHECKS = [
    pytest.param(
        check,
        id=f"{cls.__name__}{members}-{check.__name__.removeprefix('check_')}",
        marks=pytest.mark.all_faces if is_later(cls, members, check.__name__) else (),
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
