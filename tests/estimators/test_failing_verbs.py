"""What changes a fitted estimator gives the old model or the new one: where it fails, and to who asks meanwhile."""

import sys
from concurrent.futures import ThreadPoolExecutor
from inspect import CO_GENERATOR
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from conformance import features, tiny

import tabmtl
from tabmtl import RMTGB, IndependentTasks, MMoE, MultiTaskEnsemble, SharedBottom, SharedTrees
from tabmtl.testing.comparisons import answers, same
from tabmtl.testing.subject import Subject

PACKAGE = str(Path(tabmtl.__file__).parent)
X_NEW = features(80, seed=2)
N_FAULTS = 5
VERBS = {
    "fit": lambda model, subject: model.fit(*subject.table()),
    "partial_fit": lambda model, subject: model.partial_fit(X_NEW, subject.targets(X_NEW)),
    "add_task": lambda model, subject: model.add_task(X_NEW, subject.targets(X_NEW).rename("new {}".format)),
    "remove_task": lambda model, subject: model.remove_task("late"),
    "calibrate": lambda model, subject: model.calibrate(X_NEW, subject.targets(X_NEW), method="temperature"),
    "tune_thresholds": lambda model, subject: model.tune_thresholds(X_NEW, subject.targets(X_NEW), tasks="late"),
    "conformalize": lambda model, subject: model.conformalize(X_NEW, subject.targets(X_NEW)),
}
FAMILIES = [
    SharedBottom,
    SharedTrees,
    IndependentTasks,
    pytest.param(MMoE, marks=pytest.mark.all_faces),
    pytest.param(RMTGB, marks=pytest.mark.all_faces),
    pytest.param(MultiTaskEnsemble, marks=pytest.mark.all_faces),
]


class Fault(MemoryError):
    """An error that no code of the package lives on with."""


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda cls: cls.__name__)
def subject(request):
    return Subject(tiny(request.param, n_estimators_task=8))


@pytest.fixture
def verb(request, subject):
    if not hasattr(subject.model, request.param):
        pytest.skip(f"{type(subject.model).__name__} has no {request.param}")
    return lambda model: VERBS[request.param](model, subject)


def count_calls(verb, estimator, faulty=0):
    """How many calls of functions of the package a verb makes; the faulty one, from 1, raises a `Fault`."""
    n, known = 0, sys.getprofile()

    def note(frame, event, _):
        nonlocal n
        code = frame.f_code
        # an error in a generator that is closed would be ignored
        if event == "call" and code.co_filename.startswith(PACKAGE) and not code.co_flags & CO_GENERATOR:
            n += 1
            if n == faulty:
                raise Fault

    sys.setprofile(note)
    try:
        verb(estimator)
    finally:
        sys.setprofile(known)
    return n


def twin(estimator):
    """An estimator of the same parts."""
    found = object.__new__(type(estimator))
    found.__dict__ |= vars(estimator)
    return found


@pytest.mark.usefixtures("three_folds")
@pytest.mark.parametrize("verb", VERBS, indirect=True)
def test_a_verb_that_fails_anywhere_changes_nothing(verb, subject):
    estimator, X, _ = subject.fitted()
    said, before = answers(estimator, X), {name: id(part) for name, part in vars(estimator).items()}
    # twice, for what the first one reads is kept by parts that twins share
    n_calls = [count_calls(verb, twin(estimator)) for _ in range(2)][-1]
    # the first call may be that of scikit-learn, which asks whether the verb is there
    for k in np.linspace(2, n_calls, N_FAULTS, dtype=int).tolist():
        with pytest.raises(Fault):
            count_calls(verb, estimator, k)
        assert {name: id(part) for name, part in vars(estimator).items()} == before, f"call {k} of {n_calls}"
    assert same(said, answers(estimator, X))


@pytest.mark.usefixtures("three_folds")
@pytest.mark.parametrize("verb", ["partial_fit", "add_task", "remove_task", "conformalize"], indirect=True)
def test_answers_beside_a_verb_are_those_before_or_after_it(verb, subject):
    estimator, X, _ = subject.fitted()
    before, is_over, interval = estimator.__answers__(X), Event(), sys.getswitchinterval()

    def ask():
        heard = [estimator.__answers__(X)]
        while not is_over.is_set():
            heard.append(estimator.__answers__(X))
        return heard

    sys.setswitchinterval(1e-5)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        try:
            verb(estimator)
        finally:
            sys.setswitchinterval(interval)
            is_over.set()
    said = before, estimator.__answers__(X)
    assert all(any(same(own, known) for known in said) for own in asked.result())
