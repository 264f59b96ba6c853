"""Every model of the package keeps every promise of `tabmtl.testing`; ensembles have a file of their own.

`make test` checks all promises on a network, on joint trees and on one model per task. Of the other models it checks
what their own layers or trees could break, and of the faces that they add nothing to their bases; `make test-all`
checks the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conformance import ESTIMATORS, subclasses, tiny

import tabmtl
from tabmtl import IndependentTasks, SharedBottom, SharedTrees, SharedTreesClassifier, SharedTreesRegressor
from tabmtl.ensemble import MultiTaskEnsemble
from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.testing import multitask_checks

# Ten small steps are so far from a fit that chance decides whether R-MTGB's second fit beats its first; and chance
# decides whether a pattern of 8 units in APEM is alive. SharedTrees grows its own trees several times.
LARGER = {"n_estimators_task": 20, "d_pattern": 16}
SMALLER = {SharedTrees: {"n_estimators": 8, "n_estimators_task": 4}}
MODELS = [cls for cls in ESTIMATORS if not issubclass(cls, MultiTaskEnsemble)]
#: A network, joint trees and a model per task, which are checked whole.
WHOLE = (IndependentTasks, SharedBottom, SharedTrees)
#: Faces that are held to the promises of what a face changes.
ONE_KIND = (SharedTreesClassifier, SharedTreesRegressor)
OF_A_FACE = ("check_a_face_refuses_labels_of_the_other_kind", "check_probabilities_take_the_form_of_the_face")
#: All faces, of ensembles too.
FACES = [cls for cls in ESTIMATORS if cls._target_kind]
#: Networks whose promises are checked with members too: plain, batch-normalised, a funnel, and one with tokens.
WITH_MEMBERS = [cls for cls in ESTIMATORS if cls.__name__ in ("SharedBottom", "MMoE", "ESMM", "MultiTabNet")]
#: Forms of models, and their parameters.
FORMS = (
    ("", MODELS, {}),
    (" with members", WITH_MEMBERS, {"n_members": 2}),
    (" of all families", [IndependentTasks], {"families": "all"}),
)


def is_later(cls: type[MultiTaskEstimator], form: str, check: Callable[[], None]) -> bool:
    """Say whether a promise is checked in `make test-all` only."""
    if not form and (cls in WHOLE or (cls in ONE_KIND and check.__name__ in OF_A_FACE)):
        return False
    is_other_form = bool(form) and cls is not SharedBottom
    return cls in FACES or is_other_form or not getattr(check, "of_each_model", False)


CHECKS = [
    pytest.param(
        check,
        id=f"{cls.__name__}{form}-{check.__name__.removeprefix('check_')}",
        marks=pytest.mark.all_faces if is_later(cls, form, check) else (),
    )
    for form, classes, params in FORMS
    for cls in classes
    for check in multitask_checks(tiny(cls, **(LARGER | SMALLER.get(cls, {}) | params)))
]


@pytest.mark.usefixtures("three_folds")  # no promise depends on their number
@pytest.mark.parametrize("check", CHECKS)
def test_promise(check):
    check()


@pytest.mark.parametrize("cls", FACES, ids=lambda cls: cls.__name__)
def test_a_face_is_its_base_with_one_kind_of_targets(cls):
    face, base = cls.__bases__
    assert (face, cls.__name__.removeprefix(base.__name__)) in (
        (ClassifierFace, "Classifier"),
        (RegressorFace, "Regressor"),
    )
    # what a class without a body has, and what pickle and Python 3.13 note in any class
    plain = {*vars(type("Plain", cls.__bases__, {})), "__slotnames__", "__firstlineno__", "__static_attributes__"}
    assert vars(cls).keys() <= plain
    assert cls().get_params() == base().get_params()


def test_no_estimator_is_left_out():
    ours = {
        cls for cls in subclasses(MultiTaskEstimator) if cls.__module__.startswith(("tabmtl.models", "tabmtl.ensemble"))
    }
    assert ours == set(ESTIMATORS)
    assert {cls.__name__ for cls in ESTIMATORS} <= set(tabmtl.__all__)
    assert len(ESTIMATORS) >= 9
