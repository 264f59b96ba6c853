"""scikit-learn's own checks on every face of every model; what is expected to fail is listed here, with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from conformance import FREE, tiny
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import estimator_checks_generator

from tabmtl import (
    IndependentTasksClassifier,
    RMTGBClassifier,
    SharedBottomClassifier,
    SharedTreesRegressor,
)
from tabmtl.ensemble import MultiTaskEnsemble
from tabmtl.estimators.boosted import BoostedEstimator
from tabmtl.estimators.network import NetworkEstimator
from tabmtl.estimators.tables import MultiTaskEstimator

#: Enough to learn the checks' small tables, which they ask for. Narrower heads are computed by another kernel for few
#: rows than for many, which rounds otherwise, and a check compares to 1e-7.
ENOUGH: dict[str, Any] = {
    "epochs": 5,
    "batch_size": 16,
    "learning_rate": 0.02,
    "early_stopping": False,
    "head_hidden": 64,
    "n_estimators": 100,
    "n_estimators_task": 100,
}

#: Class to the checks that it and its subclasses fail, and why.
EXPECTED_FAILURES: dict[type[BaseEstimator], dict[str, str]] = {
    MultiTaskEstimator: {
        "check_dataframe_column_names_consistency": (
            "Columns in another order are taken by their names, and the check wants an error; "
            "tests/estimators/test_tables.py has its other rules."
        ),
    },
    NetworkEstimator: {
        "check_sample_weight_equivalence_on_dense_data": (
            "Repeated rows fall into other random batches than one row of double weight does, and both take other "
            "dropout masks: the two fits minimise the same loss along different paths."
        ),
    },
    BoostedEstimator: {
        "check_sample_weight_equivalence_on_dense_data": (
            "LightGBM cuts its bins, and holds leaves to their least size, by counting rows, whatever they weigh."
        ),
    },
    MultiTaskEnsemble: {
        "check_sample_weight_equivalence_on_dense_data": (
            "Repeated rows fall into other folds than one row of double weight does, and so do the models of them."
        ),
    },
}


def expected_failures(estimator: BaseEstimator) -> dict[str, str]:
    """All expected failures of an estimator."""
    return {
        check: reason
        for cls, checks in EXPECTED_FAILURES.items()
        if isinstance(estimator, cls)
        for check, reason in checks.items()
    }


#: The faces that every run checks: one of networks and one of trees whole, and of two others what their code can break.
WHOLE = [SharedBottomClassifier, SharedTreesRegressor]
IN_PART = [IndependentTasksClassifier, RMTGBClassifier]
OF_EACH = ("train", "subset", "order", "idempotent", "weight", "1sample")
OTHERS = [cls for cls in FREE if cls not in WHOLE]


def checks_of(classes: Iterable[type[BaseEstimator]], *words: str) -> pytest.MarkDecorator:
    """Give a test the checks of all classes, or those with some words in their names.

    It gives them short names, where ``parametrize_with_checks`` prints every parameter.
    """
    cases = [
        case
        for estimator in (tiny(cls, **ENOUGH) for cls in classes)
        for case in estimator_checks_generator(
            estimator, expected_failed_checks=expected_failures(estimator), mark="xfail", xfail_strict=True
        )
    ]
    chosen = [case for case in cases if not words or any(word in name_of(get_check(case)) for word in words)]
    assert all(any(word in name_of(get_check(case)) for case in chosen) for word in words), "a word names no check"
    return pytest.mark.parametrize(("estimator", "check"), chosen, ids=name_of)


def get_check(case: Any) -> Any:
    """Return the check of a case, which is a parameter of pytest where it is expected to fail."""
    return getattr(case, "values", case)[1]


def name_of(value: Any) -> str:
    """Return the class of an estimator, or the name of a check with its options."""
    if isinstance(value, BaseEstimator):
        return type(value).__name__
    check = getattr(value, "func", value)
    return "-".join([check.__name__, *(str(option) for option in getattr(value, "keywords", {}).values())])


# the labels of the checks are whole numbers, of which a mixed estimator says that it had to guess their kind
pytestmark = [
    pytest.mark.filterwarnings("ignore:task .* whole numbers:tabmtl.base.schema.TabmtlWarning"),
    pytest.mark.filterwarnings(
        "ignore:.* experts have collapsed:tabmtl.base.schema.TabmtlWarning"
    ),  # at this learning rate
    pytest.mark.filterwarnings(
        "ignore:tasks .* labels too few:tabmtl.base.schema.TabmtlWarning"
    ),  # some tables are tiny
]


@checks_of(WHOLE)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@checks_of(IN_PART, *OF_EACH)
def test_scikit_learn_checks_of_what_trees_can_break(estimator, check):
    check(estimator)


@pytest.mark.all_faces
@checks_of(OTHERS)
def test_scikit_learn_checks_of_the_other_faces(estimator, check):
    check(estimator)


@pytest.mark.parametrize("cls", FREE, ids=lambda cls: cls.__name__)
def test_at_most_three_checks_are_expected_to_fail(cls):
    assert len(expected_failures(tiny(cls))) <= 3
