"""Every parameter of every estimator and recommender is checked: type, range and name."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from conformance import ESTIMATORS, features, targets_for
from conformance import tiny as tiny_estimator
from recommenders import ITEMS, RECOMMENDERS, TRAIN
from recommenders import tiny as tiny_recommender

from tabmtl import RMTGB, HoME, IndependentTasks, MMoE, MultiTabNet, SharedTrees
from tabmtl.base.params import _rule_of, check_jobs

CLASSES = [*(cls for cls in ESTIMATORS if cls._target_kind is None), *RECOMMENDERS]
X = features()


def bad_values(name: str, hint: Any) -> Iterator[tuple[Any, str]]:
    """Values that a field cannot have, and what the message says besides name and value."""
    yield object(), ""
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    choices = [choice for part in (plain, *get_args(plain)) if get_origin(part) is Literal for choice in get_args(part)]
    for choice in choices:
        yield f"{choice}_", f"; near is {choice!r}"
    kinds = {plain, *get_args(plain)}
    if kinds & {int, float, bool} and not kinds & {str}:
        yield "two", "must be"
    if kinds == {bool}:
        yield "no", "True or False"
        yield 3, "True or False"
    if float in kinds:
        yield math.nan, "must be"
    if kinds & {int, float} and get_origin(hint) is Annotated:
        yield 0 if check_jobs in hint.__metadata__ else -3, "must be"
    if str in kinds:
        yield 3, "must be"


def make(cls: type, **params: Any) -> Any:
    return tiny_recommender(cls.__name__, **params) if cls in RECOMMENDERS else tiny_estimator(cls, **params)


@cache
def targets_of(cls: type) -> Any:
    return targets_for(cls, X)


def fit(model: Any) -> Any:
    cls = type(model)
    return model.fit(TRAIN, items=ITEMS) if cls in RECOMMENDERS else model.fit(X, targets_of(cls))


CASES = [
    pytest.param(cls, field.name, hints[field.name], id=f"{cls.__name__}-{field.name}")
    for cls in CLASSES
    for hints in [get_type_hints(cls, include_extras=True)]
    for field in dataclasses.fields(cls)
]


@pytest.mark.parametrize(("cls", "name", "hint"), CASES)
def test_a_bad_value_is_refused_with_name_expectation_and_value(cls, name, hint):
    for value, expected in bad_values(name, hint):
        with pytest.raises((TypeError, ValueError)) as refusal:
            fit(make(cls, **{name: value}))
        message = str(refusal.value)
        assert name in message
        assert repr(value) in message
        assert expected in message
        assert re.search(r"\b(must|has to|takes|needs)\b", message)


@pytest.mark.parametrize(("cls", "name", "hint"), CASES)
def test_an_unknown_name_is_refused_with_a_near_one(cls, name, hint):
    message = f"{cls.__name__} has no parameter '{name}_'; near is '{name}'"
    with pytest.raises(TypeError, match=message):
        cls(**{f"{name}_": 1})
    with pytest.raises(ValueError, match=message):
        cls().set_params(**{f"{name}_": 1})


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
        (MMoE, {"sequence_features": np.ones(3)}, "sequence_features must be a mapping from text to text or None"),
        (SharedTrees, {"prior_labels": np.inf}, "prior_labels must be finite, got inf"),
        (MMoE, {"verbose": "loud"}, "verbose must be a whole number or True or False, got 'loud'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, Mapping) else None,
)
def test_values_that_went_wrong_once_are_refused(cls, params, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        fit(make(cls, **params))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_defaults_are_allowed(cls):
    """A value that is the default is not held against its rule."""
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            _rule_of(hints[field.name])(field.name, field.default)
