"""Decisions of a model: part of its file, and of nothing that its fit learned."""

from dataclasses import replace

import numpy as np
import pytest

import tabmtl
from tabmtl import SharedTrees
from tabmtl.decisions import Calibrator, Decisions
from tabmtl.decisions.calibrators import Isotonic, Sigmoid
from tabmtl.testing import features, mixed_targets, same

X = features()
Y = mixed_targets(X)
SIGMOID = Calibrator(method="sigmoid", is_ordered=False, sigmoid=(Sigmoid(a=1.0, b=0.0),))
HALVED = Isotonic(x=np.array([0.0, 1.0]), y=np.array([0.0, 0.5]))


def fitted(**decisions):
    """Return a model whose probabilities of "late" are halved, or with other decisions."""
    model = SharedTrees(n_estimators=5, random_state=0).fit(X, Y)
    halved = Calibrator(method="isotonic", is_ordered=False, isotonic=(HALVED,))
    calibrators = [halved if task.name == "late" else None for task in model.tasks_]
    found = Decisions(**{"calibrators": tuple(calibrators)} | decisions)
    model.coder_ = replace(model.coder_, labels=replace(model.coder_.labels, decisions=found))
    return model


def test_answers_are_behind_the_calibrators_of_their_task_in_a_file_too(tmp_path):
    model, plain = fitted(), SharedTrees(n_estimators=5, random_state=0).fit(X, Y)
    for task, answer, before in zip(model.tasks_, model.answer(X), plain.answer(X), strict=True):
        assert same(answer[:, 1], before[:, 1] / 2) if task.name == "late" else same(answer, before)
    model.save(tmp_path / "model")
    assert all(map(same, tabmtl.load(tmp_path / "model").answer(X), model.answer(X)))
    assert all(map(same, model.fit(X, Y).answer(X), plain.answer(X)))


def test_files_of_models_before_there_were_decisions_load():
    saved = SharedTrees(n_estimators=5, random_state=0).fit(X, Y).saved()
    del saved.facts["coder"]["labels"]["decisions"]
    assert SharedTrees.from_saved(saved).coder_.labels.decisions is None


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (lambda: fitted(calibrators=()), "calibrators of 0 tasks"),
        (lambda: Calibrator(method="isotonic", is_ordered=False), "has the maps"),
        (
            lambda: Calibrator(method="sigmoid", is_ordered=False, sigmoid=(Sigmoid(a=1.0, b=0.0),)).check(3),
            "3 classes",
        ),
        (lambda: Calibrator(method="temperature", is_ordered=False, inverse_temperature=0.0), "above 0"),
        (lambda: Sigmoid(a=np.nan, b=0.0), "finite"),
        (lambda: Isotonic(x=np.array([0.5, 0.5]), y=np.array([0.0, 1.0])), "do not rise"),
    ],
)
def test_what_no_calibration_learns_is_refused(forge, words):
    with pytest.raises(ValueError, match=words):
        forge()
