"""What a scikit-learn user takes for granted, for every estimator: parameters, seeds, copies and files."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import random

import numpy as np
import pytest
import torch
from conformance import ESTIMATORS, NETWORKS, answers, fitted, same, subclasses, targets_for, tiny
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import tabmtl
from tabmtl.estimators.tables import MultiTaskEstimator
from tabmtl.models.shared_bottom import SharedBottom

every_estimator = pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)


def test_no_estimator_is_left_out():
    ours = {cls for cls in subclasses(MultiTaskEstimator) if cls.__module__.startswith("tabmtl.models")}
    assert ours == set(ESTIMATORS)
    assert {cls.__name__ for cls in ESTIMATORS} <= set(tabmtl.__all__)
    assert len(ESTIMATORS) >= 9


def silent_attributes(cls: type[MultiTaskEstimator]) -> set[str]:
    """Public class attributes that look like hyper-parameters and are none, for want of an annotation."""
    values, annotated = {}, set()
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] not in ("sklearn", "builtins"):
            values |= vars(base)
            annotated |= set(vars(base).get("__annotations__", ()))  # of fields, and of what says to be a ClassVar
    return {
        name
        for name, value in values.items()
        if not (name.startswith("_") or callable(value) or hasattr(type(value), "__get__"))
    } - annotated


@every_estimator
def test_every_public_class_attribute_is_a_hyper_parameter(cls):
    assert silent_attributes(cls) == set()
    assert set(cls._get_param_names()) == {field.name for field in dataclasses.fields(cls)}


def test_an_attribute_without_annotation_is_found():
    class Careless(SharedBottom):
        width = 3

    assert silent_attributes(Careless) == {"width"}


@every_estimator
def test_every_hyper_parameter_is_keyword_only_and_documented(cls):
    docs = "\n".join(base.__doc__ or "" for base in cls.__mro__)
    for field in dataclasses.fields(cls):
        assert field.kw_only
        assert any(field.name in line.partition(" : ")[0].replace(",", " ").split() for line in docs.splitlines())


@every_estimator
def test_parameters_are_kept_and_cloned(cls):
    estimator = tiny(cls)
    params = estimator.get_params()
    assert clone(estimator).get_params() == params
    assert cls().set_params(**params).get_params() == params
    estimator, X, _ = fitted(cls)
    assert {name: value for name, value in estimator.get_params().items() if name in params} == params
    with pytest.raises(NotFittedError):
        clone(estimator).predict(X)


@every_estimator
def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_generators_alone(cls):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first, X, y = fitted(cls)
    said = answers(first, X)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    random.seed(1)
    np.random.seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        assert same(said, answers(tiny(cls).fit(X, y), X))
        assert same(said, answers(clone(first).fit(X, y), X))
    seeded = [answers(tiny(cls, random_state=np.random.RandomState(7)).fit(X, y), X) for _ in range(2)]
    assert same(*seeded)


@pytest.mark.parametrize("cls", NETWORKS, ids=lambda cls: cls.__name__)
def test_another_seed_gives_another_network(cls):
    first, X, y = fitted(cls)
    assert not same(answers(first, X), answers(tiny(cls, random_state=1).fit(X, y), X))


@every_estimator
def test_fit_again_equals_a_first_fit(cls):
    estimator, X, y = fitted(cls)
    once = answers(estimator, X)
    fewer = list(dict.fromkeys([y.columns[0], *(getattr(estimator, "task_chain", None) or ())]))
    estimator.fit(X.select("plain", "text"), y.select(fewer))
    assert same(once, answers(estimator.fit(X, y), X))


@every_estimator
def test_copies_and_files_give_the_same_bits(cls, tmp_path):
    estimator, X, y = fitted(cls)
    said = answers(estimator, X)
    estimator.save(tmp_path / "model")
    copies = {
        "load": tabmtl.load(tmp_path / "model"),
        "pickle": pickle.loads(pickle.dumps(estimator)),
        "deepcopy": copy.deepcopy(estimator),
    }
    for how, other in copies.items():
        assert type(other) is cls, how
        assert other.get_params() == estimator.get_params(), how
        assert same(said, answers(other, X)), how
        assert other.tasks_ == estimator.tasks_, how
        assert other.score_tasks(X, y) == estimator.score_tasks(X, y), how
        assert sorted(vars(other)) == sorted(vars(estimator)), how
    assert same(said, answers(estimator, X))


@every_estimator
def test_a_second_generation_file_holds_the_same_bytes(cls, tmp_path):
    fitted(cls)[0].save(tmp_path / "first")
    tabmtl.load(tmp_path / "first").save(tmp_path / "second")
    first, second = (
        {file.name: file.read_bytes() for file in tmp_path.joinpath(f).iterdir()} for f in ("first", "second")
    )
    assert first == second


@every_estimator
def test_an_unfitted_estimator_says_so(cls, tmp_path):
    estimator = tiny(cls)
    X = fitted(cls)[1]
    for ask in (
        estimator.predict,
        lambda X: estimator.score(X, targets_for(cls, X)),
        lambda X: estimator.save(tmp_path),
    ):
        with pytest.raises(NotFittedError, match=cls.__name__):
            ask(X)


@every_estimator
def test_scores_are_those_of_the_tasks(cls):
    estimator, X, y = fitted(cls)
    scores = estimator.score_tasks(X, y)
    assert list(scores) == y.columns
    if cls._target_kind is None:
        assert estimator.score(X, y) == pytest.approx(np.mean(list(scores.values())))
    else:
        assert estimator.score(X, y) <= 1
