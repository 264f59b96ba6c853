"""Every parameter of every estimator is checked: type, range and name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
from conformance import ESTIMATORS, features, targets_for, tiny
from parameters import check_bad_values, check_defaults, check_unknown_name, each_parameter

from tabmtl import RMTGB, HoME, IndependentTasks, MMoE, MultiTabNet, SharedTrees

CLASSES = [cls for cls in ESTIMATORS if cls._target_kind is None]
X = features()


@cache
def targets_of(cls: type) -> Any:
    return targets_for(cls, X)


def fit(cls: type, **params: Any) -> Any:
    return tiny(cls, **params).fit(X, targets_of(cls))


@each_parameter(CLASSES)
def test_a_bad_value_is_refused_with_name_expectation_and_value(cls, name, hint):
    check_bad_values(name, hint, lambda **params: fit(cls, **params))


@each_parameter(CLASSES)
def test_an_unknown_name_is_refused_with_a_near_one(cls, name, hint):
    check_unknown_name(cls, name)


def test_parameters_of_a_nested_estimator_are_set():
    lightgbm = pytest.importorskip("lightgbm")
    model = IndependentTasks(classifier=lightgbm.LGBMClassifier())
    assert model.set_params(classifier__num_leaves=7).classifier.num_leaves == 7
    with pytest.raises(ValueError, match="has no parameter 'clasifier'; near is 'classifier'"):
        model.set_params(clasifier__num_leaves=7)


@pytest.mark.parametrize(
    ("cls", "params", "message"),
    [
        (MMoE, {"head_hidden": -3}, "head_hidden must be at least 0, got -3"),
        (MultiTabNet, {"head_hidden": -1}, "head_hidden must be at least 0, got -1"),
        (RMTGB, {"n_jobs": "two"}, "n_jobs must be None or a whole number other than 0"),
        (IndependentTasks, {"n_jobs": "two"}, "n_jobs must be None or a whole number other than 0"),
        (MMoE, {"on_epoch": 3}, "on_epoch must be a function of the record of an epoch, or None, got 3"),
        (IndependentTasks, {"patience": 0}, "patience must be at least 1, got 0"),
        (IndependentTasks, {"early_stopping": "no"}, "early_stopping must be True or False, got 'no'"),
        (HoME, {"self_gate": "yes"}, "self_gate must be True or False, got 'yes'"),
        (MMoE, {"columns": np.ones(3)}, "columns must map names of columns to kinds"),
        (SharedTrees, {"prior_labels": np.inf}, "prior_labels must be finite, got inf"),
        (MMoE, {"verbose": "loud"}, "verbose must be a whole number or True or False, got 'loud'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, Mapping) else None,
)
def test_values_that_went_wrong_once_are_refused(cls, params, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        fit(cls, **params)


@pytest.mark.parametrize("cls", CLASSES)
def test_defaults_are_allowed(cls):
    check_defaults(cls)
