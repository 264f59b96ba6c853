"""Weights of tasks in a step, and what is refused as a balance."""

import math
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from tabmtl import SharedBottom, Task
from tabmtl.training.balance import check_balance, weights_of

TASKS = [Task(name=name, kind="regression") for name in ("a", "b")]
X = np.random.default_rng(0).normal(size=(60, 3))
Y = pl.DataFrame({"a": X[:, 0], "b": -X[:, 0] + X[:, 1]})


def fitted(**params):
    return SharedBottom(epochs=2, dropout=0.0, random_state=0, **params).fit(X, Y)


@pytest.mark.parametrize(
    ("balance", "weights"), [({"b": 3.0, "a": 0.5}, [0.5, 3.0]), ((1, 2), [1, 2]), ("sum", [1, 1])]
)
def test_weights_are_those_of_the_tasks_in_their_order(balance, weights):
    assert weights_of(balance, TASKS) == weights


def test_a_weight_counts_as_that_of_its_task():
    tasks = [Task(name="a", kind="regression", weight=0.5), Task(name="b", kind="regression", weight=3.0)]
    model, expected = fitted(balance={"a": 0.5, "b": 3.0}), fitted(tasks=tasks)
    assert np.array_equal(model.predict(X).to_numpy(), expected.predict(X).to_numpy())
    assert not np.array_equal(model.predict(X).to_numpy(), fitted().predict(X).to_numpy())


@pytest.mark.parametrize(
    ("balance", "words"),
    [
        ({"a": 1.0}, r"missing are \['b'\]"),
        ({"a": 1.0, "b": 1.0, "typo": 2.0}, r"unknown are \['typo'\]"),
        ([1.0], "2 weights.*got 1"),
    ],
)
def test_weights_that_do_not_fit_the_tasks_are_refused(balance, words):
    with pytest.raises(ValueError, match=words):
        fitted(balance=balance)


@pytest.mark.parametrize(
    "balance", ["uncertainty", UnicodeError, 3, None, [1.0, -1.0], {"a": math.nan, "b": 1}, ["a", "b"], np.sum]
)
def test_what_is_no_balance_is_refused(balance):
    with pytest.raises(ValueError, match=r"balance.*got"):
        check_balance("balance", balance)
    with pytest.raises(ValueError, match="balance"):
        fitted(balance=balance)


def test_an_object_is_asked_for_every_step_and_epoch_and_left_out_of_a_file(reloaded):
    seen = []

    class Mean:
        def start(self, network, tasks, *, is_long):
            seen.append(("start", [task.name for task in tasks], is_long))
            return SimpleNamespace(backward=backward, after_step=lambda _: seen.append("after"), end_epoch=ended)

    def backward(forward, present):
        losses = forward()
        losses.mean().backward()
        seen.append(present.tolist())
        return losses.detach()

    def ended(losses):
        seen.append(bool(losses.isfinite().all()))

    model = fitted(balance=Mean(), batch_size=60, early_stopping=False)
    assert seen == [("start", ["a", "b"], False), *2 * [[True, True], "after", True]]
    again = reloaded(model)
    assert again.balance == "sum"
    assert np.array_equal(again.predict(X).to_numpy(), model.predict(X).to_numpy())
