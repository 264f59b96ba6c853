"""What a kind of targets may be, and how its mistakes are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from conformance import features, mixed_targets, tiny

from tabmtl import SharedTrees, Task, load
from tabmtl.models.shared_trees.targets import blocks_of
from tabmtl.targets import KINDS, Kind
from tabmtl.targets.regression import Regression


@dataclass(frozen=True)
class Scaled(Regression):
    """Squares of its own."""

    name: ClassVar[str] = "scaled"
    factor: float = 1.0


@dataclass(frozen=True)
class Nameless(Regression):
    """A kind that forgets to name itself."""


def test_a_kind_with_parameters_is_kept_in_files(tmp_path):
    X = features()
    tasks = {"delay": Scaled(factor=2.5)}
    model = tiny(SharedTrees, tasks=tasks).fit(X, mixed_targets(X))
    model.save(tmp_path / "model")
    loaded = load(tmp_path / "model", kinds=[Scaled])
    assert loaded.tasks_ == model.tasks_ and loaded.tasks_[2].kind == Scaled(factor=2.5)
    assert loaded.tasks == tasks
    for kinds in (Scaled, [Scaled()]):
        with pytest.raises(TypeError, match=r"kinds must be a list of classes of kinds, such as \[Poisson\]"):
            load(tmp_path / "model", kinds=kinds)


def test_a_kind_does_not_take_the_name_of_another(tmp_path):
    X = features()
    model = tiny(SharedTrees, tasks={"delay": Nameless()}).fit(X, mixed_targets(X))
    with pytest.raises(TypeError, match="Nameless has the name 'regression' of Regression"):
        model.save(tmp_path / "model")


def test_a_kind_is_a_dataclass_or_a_known_name():
    class Plain(Regression):
        name = "plain"

    assert Task(name="a", kind=Plain()).kind.name == "plain"  # inherits the fields of a dataclass
    for kind in ("regresion", ["binary"]):
        with pytest.raises(ValueError, match="task 'a': kind must be one of"):
            Task(name="a", kind=kind)


def test_outputs_of_one_kind_lie_together_whatever_its_parameters():
    kinds = [Scaled(factor=1.0), KINDS["binary"], Scaled(factor=2.0), Scaled(factor=1.0), KINDS["regression"]]
    tasks = [Task(name=f"t{t}", kind=kind) for t, kind in enumerate(kinds)]
    blocks = blocks_of(tasks)
    assert sorted(t for _, members, _ in blocks for t in members) == list(range(5))
    assert all(tasks[t].kind == kind for kind, members, _ in blocks for t in members)
    assert [(outputs.start, outputs.stop) for _, _, outputs in blocks] == [(0, 1), (1, 3), (3, 4), (4, 5)]
    assert blocks[-1][0] == KINDS["binary"]


def test_without_labels_all_classes_are_alike():
    nothing = np.zeros(0)
    assert KINDS["binary"].constant(nothing, nothing, ("a", "b")).tolist() == [[0.5, 0.5]]
    assert KINDS["multiclass"].constant(nothing, nothing, (1, 2, 3, 4)).tolist() == [[0.25] * 4]


class Plain(Kind):
    """A kind that was not made a dataclass."""

    name = "plain"
    link = unlink = loss = losses = derivatives = lightgbm_link = metrics = None


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Task(name="t", kind=Plain()), TypeError, r"Plain is no dataclass; write @dataclass\(frozen=True\)"),
        (lambda: Task(name="t", kind="binry"), ValueError, "kind must be one of .*near is 'binary'"),
        (
            lambda: Task(name="t", kind="tweedie:2.5"),
            ValueError,
            "task 't': the power .* 1 and 2, got 2.5; 1 is",
        ),
        (lambda: Task(name="t", kind="tweedie:big"), ValueError, "kind must be tweedie:power, numbers .*'tweedie:big'"),
        (lambda: Task(name="t", kind="quantile:90"), ValueError, "task 't': the level .* between 0 and 1, .* got 90"),
        (lambda: Task(name="t", kind="huber:0"), ValueError, "task 't': the delta .* above 0, in standard .* got 0.0"),
        (lambda: Task(name="t", kind="huber:nan"), ValueError, "must be a finite number above 0, .* got nan"),
        (lambda: Task(name="t", kind="poisson:1"), ValueError, "kind must be 'poisson', without parameters"),
        (
            lambda: Task(name="t", kind="binary", weight=-1.0),
            ValueError,
            "weight must be a finite number >= 0, got -1.0",
        ),
        (lambda: Task(name="t", kind="binary", classes=(0, 1, 2)), ValueError, "a binary task has two classes"),
        (lambda: Task(name="t", kind="regression", classes=(0, 1)), ValueError, "a regression task has no classes"),
    ],
)
def test_tasks_that_cannot_be(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_class_that_never_comes_changes_no_derivative_of_few_classes_or_many():
    rng, kind = np.random.default_rng(0), KINDS["multiclass"]
    scores, means = rng.normal(size=(50, 8)), np.eye(8)[rng.integers(0, 7, 50)]
    scores[:, 7] = -800
    (few, few_hessian), (many, many_hessian) = np.empty((2, 50, 7)), np.empty((2, 50, 8))
    kind.derivatives(scores[:, :7], means[:, :7], few, few_hessian)
    kind.derivatives(scores, means, many, many_hessian)
    np.testing.assert_allclose(many, np.column_stack([few, np.zeros(50)]), atol=1e-14)
    np.testing.assert_allclose(many_hessian[:, :7] / (8 / 7), few_hessian / (7 / 6), rtol=1e-12)
    np.testing.assert_allclose(kind.losses(scores, means), kind.losses(scores[:, :7], means[:, :7]), rtol=1e-12)
